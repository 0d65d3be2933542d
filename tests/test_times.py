"""The determined time: the device's word counts as far as its clock was read, and no further."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from drivers.core.times import determine
from vitals.clock import NS, from_datetime
from vitals.model import DeviceInfo, Observation

CHICAGO = ZoneInfo("America/Chicago")
NOW = from_datetime(datetime(2026, 11, 24, 15, 0, 0, tzinfo=UTC))  # 09:00 in Chicago


def reading(t_device: str) -> Observation:
    return Observation("bp", {}, NOW, t_device=t_device)


def test_a_clock_that_was_read_turns_device_time_into_ours() -> None:
    # The cuff's clock says 03:10:00 when ours says 15:00; it measured at 03:07:30, so two and a half minutes ago.
    info = DeviceInfo(clock="2020-01-01T03:10:00", clock_read_at=NOW)
    found = determine(reading("2020-01-01T03:07:30"), info, CHICAGO)
    assert (NOW - found.t) / NS == 150
    assert (found.uncertainty_ms, found.historical) == (1000, False)


def test_a_reading_of_yesterday_from_the_memory_is_historical() -> None:
    info = DeviceInfo(clock="2026-11-24T09:00:00", clock_read_at=NOW)
    found = determine(reading("2026-11-23T09:00:00"), info, CHICAGO)
    assert (NOW - found.t) / NS == 86_400
    assert found.historical


def test_a_time_stamp_ahead_of_the_devices_own_clock_is_bounded_by_arrival() -> None:
    info = DeviceInfo(clock="2020-01-01T00:00:05", clock_read_at=NOW)
    assert determine(reading("2026-11-24T09:00:00"), info, CHICAGO).t == NOW


@pytest.mark.parametrize(
    ("t_device", "uncertainty_ms"),
    [
        ("", 2_000),
        ("XXXX-04-17T20:41:59", 2_000),
        ("2026-11-24T08:59:00", 2_000),  # a minute ago on the clinic's wall: live
        ("2026-11-24T08:00:00", 3_600_000),  # an hour off, and nobody read the clock: it may be either
        ("2010-01-01T00:00:00", 86_400_000),  # a clock reset by a battery change
        ("0001-01-01T00:00:00", 86_400_000),
    ],
)
def test_without_a_read_clock_arrival_counts_and_disagreement_is_stated(t_device: str, uncertainty_ms: int) -> None:
    found = determine(reading(t_device), DeviceInfo(), CHICAGO)
    assert (found.t, found.uncertainty_ms, found.historical) == (NOW, uncertainty_ms, False)


def test_a_time_stamp_of_centuries_ago_is_a_broken_clock() -> None:
    info = DeviceInfo(clock="2026-11-24T09:00:00", clock_read_at=NOW)
    found = determine(reading("1600-01-01T00:00:00"), info, CHICAGO)
    assert (found.t, found.uncertainty_ms, found.historical) == (NOW, 86_400_000, True)
