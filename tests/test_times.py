"""The determined time: the device's word counts as far as its clock was read, and no further."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from drivers.core.feed import DeviceFeed
from drivers.core.times import Determined, DeviceTimes
from drivers.glucometer_ultramini import DRIVER
from vitals import settings
from vitals.clock import NS, Instant, from_datetime
from vitals.messages import ObservationMessage
from vitals.model import DeviceInfo, Observation
from vitals.topics import Topics

CHICAGO = ZoneInfo("America/Chicago")
NOW = from_datetime(datetime(2026, 11, 24, 15, 0, 0, tzinfo=UTC))  # 09:00 in Chicago
A_DAY_MS = 86_400_000


def reading(
    t_device: str, *, memory: bool = False, received: Instant = NOW, record_no: int | None = None
) -> Observation:
    return Observation("glu", {}, received, t_device=t_device, historical=memory, record_no=record_no)


def device(clock: str, read_at: Instant = NOW) -> DeviceTimes:
    times = DeviceTimes(CHICAGO)
    times.told(DeviceInfo(clock=clock, clock_read_at=read_at))
    return times


def ago(found: Determined) -> float:
    """Seconds before NOW."""
    return (NOW - found.t) / NS


def test_a_clock_that_was_read_turns_device_time_into_ours() -> None:
    # The cuff's clock says 03:10:00 when ours says 15:00; it measured at 03:07:30, so two and a half minutes ago.
    found = device("2020-01-01T03:10:00").determine(reading("2020-01-01T03:07:30"))
    assert ago(found) == 150
    assert (found.uncertainty_ms, found.historical) == (1000, False)


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize(
    ("t_device", "seconds", "historical"),
    [
        ("2020-01-01T03:10:00", 0, False),
        ("2020-01-01T03:09:00", 60, False),
        ("2020-01-01T02:10:00", 3_600, False),
        ("2020-01-01T02:09:59", 3_601, True),
        ("2019-12-31T03:10:00", 86_400, True),
    ],
)
def test_what_was_taken_within_the_last_hour_by_the_devices_own_clock_is_live(
    t_device: str, seconds: int, historical: bool, memory: bool
) -> None:
    found = device("2020-01-01T03:10:00").determine(reading(t_device, memory=memory))
    assert (ago(found), found.historical) == (seconds, historical)


def test_the_hour_is_counted_on_arrival_and_not_when_the_clock_was_read() -> None:
    times = device("2026-11-24T09:00:00", NOW - 7_200 * NS)
    taken_since = times.determine(reading("2026-11-24T10:59:00", memory=True))
    assert (ago(taken_since), taken_since.historical) == (60, False)
    times = device("2026-11-24T09:00:00", NOW - 7_200 * NS)
    assert times.determine(reading("2026-11-24T09:00:00")).historical


@pytest.mark.parametrize("memory", [True, False])
def test_a_time_ahead_of_the_devices_own_clock_is_of_a_clock_set_since(memory: bool) -> None:
    found = device("2020-01-01T00:00:05").determine(reading("2026-11-24T09:00:00", memory=memory))
    assert (ago(found), found.uncertainty_ms, found.historical) == (1, A_DAY_MS, True)
    found = device("2026-11-24T09:00:00").determine(reading("2026-11-24T09:02:01", memory=memory))
    assert (ago(found), found.uncertainty_ms, found.historical) == (1, A_DAY_MS, True)


def test_a_clock_that_drifted_since_it_was_read_makes_no_history() -> None:
    found = device("2026-11-24T09:00:00").determine(reading("2026-11-24T09:02:00"))
    assert (ago(found), found.uncertainty_ms, found.historical) == (0, 120_000, False)


def test_a_memory_whose_clock_was_set_back_keeps_its_order() -> None:
    """Newest first: two of the clock as it is, three of before it was set back, one of an earlier setting still."""
    times = device("2026-11-24T09:00:00")
    said = [
        "2026-11-24T08:30:00", "2026-11-20T09:00:00",
        "2026-11-22T10:00:00", "2026-11-22T09:59:00", "2026-11-21T10:00:00",
        "2027-01-01T00:00:00",
    ]  # fmt: skip
    found = [times.determine(reading(t_device, memory=True)) for t_device in said]
    days_4 = 4 * 86_400
    assert [ago(one) for one in found] == [
        1_800, days_4,
        days_4 + 1, days_4 + 61, days_4 + 1 + 86_400,  # put just before, with their own distances
        days_4 + 2 + 86_400,
    ]  # fmt: skip
    assert [one.uncertainty_ms for one in found] == [1_000, 1_000, *[A_DAY_MS] * 4]
    assert [one.historical for one in found] == [False, *[True] * 5]


def test_what_lies_behind_a_jump_is_historical_however_young_it_says_it_is() -> None:
    times = device("2026-11-24T09:00:00")
    said = ["2026-11-24T08:50:00", "2026-11-24T08:55:00", "2026-11-24T08:54:00"]
    found = [times.determine(reading(t_device, memory=True)) for t_device in said]
    assert [one.historical for one in found] == [False, True, True]


def test_all_records_ahead_of_the_clock_keep_their_order_too() -> None:
    times = device("2026-11-24T03:00:00")  # set back by six hours after the newest test
    found = [times.determine(reading(f"2026-11-24T0{hour}:00:00", memory=True)) for hour in (8, 5, 1)]
    assert [ago(one) for one in found] == [1, 1 + 3 * 3600, 1 + 7 * 3600]
    assert all(one.historical for one in found)


def test_the_next_round_begins_again_at_the_clock() -> None:
    times = device("2026-11-24T03:00:00")
    assert times.determine(reading("2026-11-24T08:00:00", memory=True)).historical
    times.told(DeviceInfo(clock="2026-11-24T03:10:00", clock_read_at=NOW))
    fresh = times.determine(reading("2026-11-24T03:09:00", memory=True))
    assert (ago(fresh), fresh.uncertainty_ms, fresh.historical) == (60, 1_000, False)


def test_readings_that_are_sent_at_once_or_numbered_may_come_in_any_order() -> None:
    for more in ({"memory": False}, {"memory": True, "record_no": 3}):
        times = device("2026-11-24T09:00:00")
        found = [times.determine(reading(f"2026-11-24T08:{minute}:00", **more)) for minute in (20, 40)]
        assert [ago(one) for one in found] == [2_400, 1_200]
        assert not any(one.historical for one in found)


@pytest.mark.parametrize(
    ("t_device", "uncertainty_ms"),
    [
        ("", 2_000),
        ("XXXX-04-17T20:41:59", 2_000),
        ("2026-11-24T08:59:00", 2_000),  # a minute ago on the clinic's wall: live
        ("2026-11-24T08:00:00", 3_600_000),  # an hour off, and nobody read the clock: it may be either
        ("2010-01-01T00:00:00", A_DAY_MS),  # a clock reset by a battery change
        ("0001-01-01T00:00:00", A_DAY_MS),
    ],
)
@pytest.mark.parametrize("memory", [True, False])
def test_without_a_read_clock_arrival_counts_and_disagreement_is_stated(
    t_device: str, uncertainty_ms: int, memory: bool
) -> None:
    found = DeviceTimes(CHICAGO).determine(reading(t_device, memory=memory))
    assert found == (NOW, uncertainty_ms, memory), "a memory record is historical then"


@pytest.mark.parametrize("clock", ["9999-12-31T23:59:59", "0001-01-01T00:00:00"])
@pytest.mark.parametrize("t_device", ["9999-12-31T23:59:59", "0001-01-01T00:00:00", "1600-01-01T00:00:00"])
def test_no_clock_is_too_wrong(clock: str, t_device: str) -> None:
    found = device(clock, NOW - 60 * NS).determine(reading(t_device))
    assert found.t <= NOW
    assert found.historical == (clock != t_device)


def test_a_time_stamp_of_centuries_ago_is_a_broken_clock() -> None:
    found = device("2026-11-24T09:00:00").determine(reading("1600-01-01T00:00:00"))
    assert (ago(found), found.uncertainty_ms, found.historical) == (1, A_DAY_MS, True)


@pytest.mark.parametrize("replay", [False, True])
def test_the_gateway_makes_a_test_taken_now_live_and_a_replay_of_old_data_never(replay: bool) -> None:
    row = settings.Device(name="m", driver="glucometer_ultramini", room="1", port="/dev/x", historical=replay)
    feed = DeviceFeed(row, DRIVER, gateway="g", topics=Topics("s"), session="s", zone=CHICAGO)
    feed.link_up("/dev/x", simulated=False, at=NOW)
    info = DeviceInfo(serial="C108SA1BC", clock="2020-01-01T03:10:00", clock_read_at=NOW)
    fresh, old = reading("2020-01-01T03:09:00", memory=True), reading("2019-12-31T03:09:00", memory=True)
    messages = [draft.message for draft in feed.take([info, fresh, old]).drafts]
    assert [m.observation.historical for m in messages if isinstance(m, ObservationMessage)] == [replay, True]
