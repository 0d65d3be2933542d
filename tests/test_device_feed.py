"""From events to drafts: packs, faults with counts, states, identities; and the simulated mark that cannot come off."""

from datetime import UTC
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from drivers.core.draft import Draft
from drivers.core.feed import DeviceFeed
from vitals import settings
from vitals.clock import NS
from vitals.driver import BleSpec, Driver, SerialSpec
from vitals.messages import (
    DeviceBirth,
    DeviceStatus,
    EventMessage,
    ObservationMessage,
    StripMessage,
    decode_observations,
    decode_strips,
)
from vitals.model import Context, DeviceInfo, Fault, Observation, Quantity, SampleArray
from vitals.topics import Topics

T0 = 1_764_000_000 * NS
DRIVER = Driver("probe", "A probe", "serial", SerialSpec(), ("ekg", "temp"), {}, lambda options: None)  # type: ignore[arg-type, return-value]


def make(**device: Any) -> DeviceFeed:
    feed = DeviceFeed(
        settings.Device(name="dev", driver="probe", room="4", port="/dev/x", **device),
        DRIVER,
        gateway="gw",
        topics=Topics("clinic"),
        session="s",
        zone=UTC,
    )
    feed.link_up("/dev/x", simulated=False, at=T0)
    return feed


def ekg(first: int, count: int, at: int = T0) -> SampleArray:
    return SampleArray("ekg", first, 125.0, np.arange(first, first + count, dtype=np.int16), at, 5.0, "II")


def temp(**more: Any) -> Observation:
    return Observation("monitor", {"temp": Quantity(36.6, "36.60", "Cel")}, T0, **more)


def messages(drafts: list[Draft], kind: type) -> list[Any]:
    return [draft.message for draft in drafts if isinstance(draft.message, kind)]


def test_samples_become_one_second_strips_and_short_waves() -> None:
    feed = make()
    drafts, live = [], []
    for n in range(30):
        out = feed.take([ekg(n * 10, 10, T0 + n * NS // 12)])
        drafts += out.drafts
        live += out.live
    strips = messages(drafts, StripMessage)
    assert [(s.first_index, s.count) for s in strips] == [(0, 125), (125, 125)]
    assert strips[0].samples().tolist() == list(range(125))
    assert {topic for topic, _ in live} == {"vitals/v1/clinic/up/gw/4/dev/wave"}
    waves = [wave for _, payload in live for wave in decode_strips(payload)]
    assert sum(w.count for w in waves) == 300
    assert max(w.count for w in waves) <= 0.1 * 125
    assert all(w.epoch == "" for w in waves)


def test_packs_of_a_stream_are_in_order_of_time_though_the_first_arrived_late() -> None:
    """A host that stalled reads five seconds at once: each chunk then shows that the ones before were too late."""
    feed = make()
    stalled = [ekg(n * 156, min(156, 625 - n * 156), T0 + n * NS // 16) for n in range(5)]
    on_time = [ekg(n * 125, 125, T0 + (n - 4) * NS) for n in range(5, 10)]
    strips = messages(feed.take([*stalled, *on_time]).drafts, StripMessage)
    assert [s.first_index for s in strips] == [n * 125 for n in range(10)]
    assert all(late.t0 > early.t0 for early, late in pairwise(strips))
    assert abs(strips[-1].t0 - (T0 + 4 * NS)) < NS // 2, "and their time is right soon"


def test_a_new_link_up_is_a_new_stream() -> None:
    feed = make()
    first = messages(feed.take([ekg(0, 125)]).drafts, StripMessage)[0]
    feed.link_down()
    feed.link_up("/dev/x", simulated=False, at=T0)
    second = messages(feed.take([ekg(0, 125)]).drafts, StripMessage)[0]
    assert first.first_index == second.first_index == 0
    assert first.stream != second.stream


def test_what_waits_for_its_second_is_handed_on_at_link_down_and_after_a_pause() -> None:
    feed = make()
    feed.take([ekg(0, 60)])
    assert feed.tick(T0 + NS).drafts == []
    assert [m.count for m in messages(feed.tick(T0 + 3 * NS).drafts, StripMessage)] == [60]
    feed.take([ekg(60, 20)])
    assert [m.count for m in messages(feed.link_down().drafts, StripMessage)] == [20]


def test_a_gap_is_counted_in_the_strip_and_in_the_status() -> None:
    feed = make()
    feed.take([ekg(0, 100)])
    drafts = feed.take([ekg(130, 120)]).drafts
    assert [(m.first_index, m.lost_before) for m in messages(drafts, StripMessage)][-1:] == [(130, 30)]
    status = msgspec.json.decode(feed.retained()[1][1], type=DeviceStatus)
    assert status.lost_samples == 30


def streamed(pace: float, seconds: int = 150) -> DeviceFeed:
    """A feed after a board has sent so many seconds of EKG at `pace` times its stated rate, each second 5 chunks."""
    feed = make()
    for chunk in range(seconds * 5):
        feed.take([ekg(chunk * 25, 25, T0 + round((chunk + 1) * 0.2 / pace * NS))])
    return feed


@pytest.mark.parametrize(("pace", "told"), [(0.99, 1), (1.01, 1), (0.998, 0), (1.002, 0), (1.0, 0)])
def test_a_pace_that_may_hide_a_loss_is_told_once_and_counted_as_none(pace: float, told: int) -> None:
    feed = streamed(pace)
    assert feed.faults.totals.get("off_pace", 0) == told
    assert feed.lost_samples == 0
    assert "samples_lost" not in feed.faults.totals
    if told:
        (fault,) = feed.faults.flush()
        assert ("lost" if pace < 1 else "twice") in fault.detail
        feed.link_down()
        feed.link_up("/dev/x", simulated=False, at=T0)
        feed.take([ekg(0, 25, T0)])
        assert feed.faults.totals["off_pace"] == 1, "a new link-up needs a minute of its own"


def test_faults_are_coalesced_by_second_and_every_one_is_counted() -> None:
    feed = make()
    faults = [Fault("crc", "wrong", b"\x01\x02", T0 + n) for n in range(1000)]
    assert feed.take(faults).drafts == []
    (event,) = messages(feed.tick(T0 + 2 * NS).drafts, EventMessage)
    assert (event.code, event.count, event.raw) == ("crc", 1000, "0102")
    assert msgspec.json.decode(feed.retained()[1][1], type=DeviceStatus).faults == {"crc": 1000}


@pytest.mark.parametrize(("configured", "seen"), [(True, False), (False, True), (True, True)])
def test_simulated_by_setting_or_by_link_marks_every_message(configured: bool, seen: bool) -> None:
    feed = make(simulated=configured)
    feed.link_up("/dev/pts/3", simulated=seen, at=T0)
    drafts = feed.take([temp(), ekg(0, 125), Fault("x", "", b"", T0)]).drafts + feed.link_down().drafts
    assert len(drafts) == 3
    assert all(draft.message.simulated for draft in drafts)
    assert msgspec.json.decode(feed.retained()[0][1], type=DeviceBirth).simulated


def test_a_real_device_is_not_marked() -> None:
    assert not make().take([temp()]).drafts[0].message.simulated


def test_a_spot_reading_gets_its_identity_when_it_is_committed() -> None:
    (draft,) = make(site="axillary").take([temp()]).drafts
    assert draft.urgent
    row = draft.finish("e1", 7, T0)
    (message,) = decode_observations(row.payload)
    assert (message.epoch, message.seq, row.topic) == ("e1", 7, "vitals/v1/clinic/up/gw/4/dev/obs")
    assert message.observation.context == Context(site="axillary")
    (other,) = decode_observations(draft.finish("e1", 8, T0).payload)
    assert message.id != other.id


def test_a_recorded_reading_is_the_same_reading_however_often_it_is_sent() -> None:
    feed = make()
    ids = set()
    for seq in (1, 2):
        (draft,) = feed.take([temp(t_device="2026-11-24T08:00:00", record_no=12)]).drafts
        ids.add(decode_observations(draft.finish("epoch", seq, T0).payload)[0].id)
    (other,) = feed.take([temp(t_device="2026-11-24T08:00:00", record_no=13)]).drafts
    assert len(ids) == 1
    assert decode_observations(other.finish("epoch", 3, T0).payload)[0].id not in ids


def test_the_identity_does_not_depend_on_configured_name_or_room() -> None:
    ids = set()
    for room in ("1", "2"):
        feed = DeviceFeed(
            settings.Device(name=f"n{room}", driver="probe", room=room, port="/dev/x"), DRIVER, gateway=f"g{room}",
            topics=Topics("clinic"), session="s", zone=UTC,
        )  # fmt: skip
        feed.link_up("AA:BB", simulated=False, at=T0)
        feed.take([DeviceInfo(serial="77")])
        (draft,) = feed.take([temp(t_device="2026-11-24T08:00:00")]).drafts
        ids.add(decode_observations(draft.finish("e", 1, T0).payload)[0].id)
    assert len(ids) == 1


def test_transient_values_are_for_eyes_only() -> None:
    out = make().take([Observation("cuff_pressure", {}, T0, transient=True)])
    assert out.drafts == []
    assert [topic.rpartition("/")[2] for topic, _ in out.live] == ["live"]


def test_a_historical_device_never_goes_live() -> None:
    out = make(historical=True).take([temp(), ekg(0, 125)])
    assert out.live == []
    (observation,) = messages(out.drafts, ObservationMessage)
    assert observation.observation.historical


def test_a_clock_that_was_set_starts_a_new_stream_and_is_no_loss() -> None:
    feed = make()
    feed.clock(T0, 0)
    strips = messages(feed.take([ekg(0, 100)]).drafts, StripMessage)
    hour = 3600 * NS
    strips += messages(feed.clock(T0 + hour, NS).drafts, StripMessage)
    strips += messages(feed.take([ekg(100, 150, T0 + hour)]).drafts, StripMessage)
    assert [(s.first_index, s.count, s.lost_before) for s in strips] == [(0, 100, 0), (100, 25, 0), (125, 125, 0)]
    assert strips[0].stream != strips[1].stream == strips[2].stream
    assert feed.faults.totals == {"clock_stepped": 1}
    assert feed.lost_samples == 0


def test_a_clock_that_is_slewed_changes_nothing() -> None:
    feed = make()
    for second in range(60):
        assert feed.clock(T0 + second * (NS + 500_000), second * NS).drafts == []
    assert feed.faults.totals == {}


def test_a_cuff_is_the_same_cuff_with_and_without_its_serial_number() -> None:
    cuff = Driver("cuff", "A cuff", "ble", BleSpec("1810", ("2a35",)), ("temp",), {}, lambda options: None)  # type: ignore[arg-type, return-value]
    ids = set()
    for info in (DeviceInfo(), DeviceInfo(serial="77")):
        feed = DeviceFeed(
            settings.Device(name="c", driver="cuff", room="1"),
            cuff,
            gateway="g",
            topics=Topics("s"),
            session="s",
            zone=UTC,
        )
        feed.link_up("aa:bb:cc:dd:ee:ff", simulated=False, at=T0)
        feed.take([info])
        (draft,) = feed.take([temp(t_device="2026-11-24T08:00:00")]).drafts
        ids.add(decode_observations(draft.finish("e", 1, T0).payload)[0].id)
    assert len(ids) == 1


def test_strips_of_a_historical_device_say_so() -> None:
    assert all(m.historical for m in messages(make(historical=True).take([ekg(0, 125)]).drafts, StripMessage))
