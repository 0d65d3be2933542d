"""Misbehaving devices: what each trick does, and that every driver accounts for every frame it then gets.

A device, its mischief and its driver talk in memory and virtual time; a tap writes down what the device really said.
What "accounted for" means depends on what a protocol can know:

- `values` (Bluetooth): each value that arrives gives one reading or one fault, never silence and never two. A reading
  that lacks what the value had (its time) has a fault beside it. A reading the host did not get whole is handed over
  again, so in the end each one the device took is there; twice the same is one reading, by its identity.
- `conversation` (the host asks, frames are checked): in the end the same readings as without mischief, each once, none
  of another value. Bytes that are no whole frame of the device are in faults, to the byte. Each answer that arrives is
  acknowledged or a fault; each question given up and each refusal is a fault.
- `stream` (samples unasked, no counter, no checksum over them): bytes of decoded frames and bytes in faults are
  together what arrived. Samples read and samples counted as a gap are together what was sent, in the same order and of
  the same values but for the bits that were flipped inside them; each second of them has one reading. A frame that
  vanished whole leaves no trace in the bytes. Arrival times give away several in a row (`samples_lost`) and no more
  than a doubt where single ones vanish evenly (`off_pace`); both are the gateway's, and tests/test_timeline.py and
  tests/test_device_feed.py have them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from drivers.core.feed import DeviceFeed
from drivers.core.registry import load_all as load_drivers
from simulators import glucometer_ultramini as meter
from simulators.core.mischief import IN_THE_DEVICE, ON_THE_WAY, Mischief, applied, parse
from simulators.core.physiology import Episode, Physiology
from simulators.core.registry import Setup, SimulatedKind, complete
from simulators.core.registry import load_all as load_simulators
from tests.talking import Tap, host_of
from tests.test_every_driver import CAP, canonical, held, new_session
from vitals import settings
from vitals.clock import NS
from vitals.driver import BleSpec, Driver
from vitals.errors import SettingsError
from vitals.messages import observation_id
from vitals.metrics import METRICS
from vitals.model import Chunk, DeviceInfo, Event, Fault, Observation, SampleArray, Send
from vitals.topics import Topics

START = 1_764_000_000 * NS
STEP_NS = 50 * NS // 1000
LASTS_S = {"values": (120, 150), "conversation": (120, 150), "stream": (25, 5)}
"""Seconds of mischief, then of calm, to make up in: meters pause for 30 s, and a Bluetooth link without a confirmation
ends after 30 s. A stream has nothing to make up for, and thousands of frames in little time."""
KINDS = load_simulators()
DRIVERS = load_drivers(plugins=())
PAIRS = [pytest.param(DRIVERS[name], kind, id=name) for name, kind in sorted(KINDS.items()) if name in DRIVERS]
BUSY = {"interval_s": 20.0, "first_s": 2.0, "inflate_s": 4.0, "measure_s": 4.0, "records": 5}
"""Options, where a kind has them, that make many readings in a short time."""


def shape(driver: Driver) -> str:
    if driver.transport == "ble":
        return "values"
    return "stream" if any(METRICS[metric].pace == "wave" for metric in driver.metrics) else "conversation"


# --- one device, its mischief and its driver -------------------------------------------------------------------------


class Run(NamedTuple):
    """`steps`: each value, chunk or tick that reached the driver, with what it made of it."""

    tap: Tap
    counts: dict[str, int]
    steps: list[tuple[Chunk, list[Event]]]
    events: list[Event]

    @property
    def arrived(self) -> list[tuple[Chunk, list[Event]]]:
        return [step for step in self.steps if step[0].data]

    @property
    def heard(self) -> bytes:
        """All bytes of a line, in order."""
        return b"".join(chunk.data for chunk, _ in self.arrived)

    def faults(self, *codes: str) -> list[Fault]:
        return [fault for fault in self.of(Fault) if fault.code in codes]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def readings(self) -> list[Observation]:
        return [o for o in self.of(Observation) if not o.transient]


def make(kind: SimulatedKind, mischief: str, seed: int, **options: Any) -> tuple[Tap, Mischief]:
    names = {option.name for option in kind.options}
    wanted = {name: value for name, value in BUSY.items() if name in names} | options
    tricks = parse(mischief)
    setup = applied(kind, Setup(seed, Physiology(seed), START, complete(kind.name, kind.options, wanted)), tricks)
    tap = Tap(kind.factory(setup))
    return tap, Mischief(tap, seed, tricks, START)


def play(driver: Driver, kind: SimulatedKind, mischief: str = "", seed: int = 1, longer_s: int = 0) -> Run:
    tap, device = make(kind, mischief, seed)
    host = host_of(driver, device, START)
    for step in range(1, (sum(LASTS_S[shape(driver)]) + longer_s) * NS // STEP_NS + 1):
        host.turn(START + step * STEP_NS)
        assert step % 100 or held(host.session) < CAP
    host.end()
    assert {fault.code for _, events in host.arrived for fault in events if isinstance(fault, Fault)} <= set(
        driver.faults
    )
    return Run(tap, device.counts, host.arrived, [event for _, found in host.arrived for event in found])


@cache
def clean_run(name: str, seed: int, longer_s: int = 0) -> Run:
    return play(DRIVERS[name], KINDS[name], "", seed, longer_s)


def identity(driver: Driver, reading: Observation) -> str:
    return observation_id(reading, physical="the device", epoch=driver.name, seq=0)


# --- every frame is accounted for ------------------------------------------------------------------------------------

RATES = {"values": 0.5, "conversation": 0.2, "stream": 0.2}
"""The chance of a trick for one send: values are few, and one that a meter says often goes wrong twice in a row."""
TRICKS = (*ON_THE_WAY, "all")


def rough(driver: Driver, trick: str) -> str:
    """The mischief of the first part of a run."""
    names, rate = (ON_THE_WAY, RATES[shape(driver)] / 6) if trick == "all" else ((trick,), RATES[shape(driver)])
    return ", ".join(f"{name}={rate}@0+{LASTS_S[shape(driver)][0]}" for name in names)


SEEDS = (1, 2)


def test_every_driver_has_a_simulator() -> None:
    assert set(KINDS) == set(DRIVERS)


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize(("driver", "kind"), PAIRS)
def test_every_frame_is_accounted_for(driver: Driver, kind: SimulatedKind, trick: str) -> None:
    happened: Counter[str] = Counter()
    for seed in SEEDS:
        run = play(driver, kind, rough(driver, trick), seed)
        ACCOUNTS[shape(driver)](driver, kind, trick, seed, run)
        happened.update(run.counts)
    assert happened[trick] or (trick == "all" and happened["seen"] > happened["passed"]), "the run proves nothing"
    assert happened["overflow"] == 0


def account_values(driver: Driver, kind: SimulatedKind, trick: str, seed: int, run: Run) -> None:
    spec = driver.spec
    assert isinstance(spec, BleSpec)
    for chunk, events in run.arrived:
        if chunk.channel in spec.subscribe:
            account_value(chunk.data, events)
    kept = [send.data.hex() for send in run.tap.said if send.channel == spec.subscribe[0]]
    found = Counter(identity(driver, reading) for reading in run.readings)
    by_value = {reading.raw: identity(driver, reading) for reading in run.readings}
    assert len(set(kept)) > 4, f"too few readings to prove anything: make the simulated {kind.name} busy, see BUSY"
    assert set(kept) <= set(by_value), "each reading the device took was read whole in the end"
    assert len({by_value[value] for value in kept}) == len(set(kept)), "and is one reading"
    if trick in ("drop", "repeat", "stall"):
        assert set(by_value) == set(kept), "and nothing else was read"
        assert set(found) == {by_value[value] for value in kept}
        assert not run.of(Fault)


def account_value(data: bytes, events: list[Event]) -> tuple[list[Observation], list[Fault]]:
    readings = [event for event in events if isinstance(event, Observation)]
    faults = [event for event in events if isinstance(event, Fault)]
    assert len(readings) + (not readings and len(faults)) == 1, f"{data.hex()} gave {events}"
    assert len(faults) <= 1, f"{data.hex()} gave {faults}"
    return readings, faults


@pytest.mark.parametrize(("driver", "kind"), [pair for pair in PAIRS if shape(pair.values[0]) == "values"])
def test_every_bit_that_may_flip_in_a_value_is_accounted_for(driver: Driver, kind: SimulatedKind) -> None:
    assert isinstance(driver.spec, BleSpec)
    channel = driver.spec.subscribe[0]
    said = sorted({send.data for send in clean_run(driver.name, 1).tap.said if send.channel == channel})[:3]
    timeless = 0
    for data in said:
        ((whole,), _) = account_value(data, new_session(driver).receive(Chunk(data, START, channel)))
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            chunk = Chunk(bytes(flipped), START, channel)
            readings, faults = account_value(chunk.data, new_session(driver).receive(chunk))
            if readings and flipped[0] == data[0]:  # the flags, which say what there is, are as they were
                siteless = bool(whole.context.site) and not readings[0].context.site
                assert bool(faults) == (siteless or not readings[0].t_device), "what cannot be is not passed over"
                timeless += not readings[0].t_device
    assert len(said) == 3
    assert timeless >= 3 * 5, "the months, days, hours, minutes and seconds that are none"


def account_conversation(driver: Driver, kind: SimulatedKind, trick: str, seed: int, run: Run) -> None:
    clean = clean_run(driver.name, seed, NEXT_ROUND_S)
    due = START + (sum(LASTS_S["conversation"]) - NEXT_ROUND_S) * NS
    must = {identity(driver, reading) for reading in clean.readings if reading.received_at < due}
    found = Counter(identity(driver, reading) for reading in run.readings)
    assert len(must) > 10, f"too few readings to prove anything: make the simulated {kind.name} busy, see BUSY"
    assert must <= set(found), "the same readings, none missing"
    assert set(found) <= {identity(driver, reading) for reading in clean.readings}, "and none of another value"
    assert not clean.of(Fault)
    if trick in ("split", "repeat"):
        assert max(found.values()) == 1, "each once, though a conversation that breaks off begins anew"
    whole = {send.data: run.heard.count(send.data) for send in run.tap.said}
    sound = sum(len(frame) * times for frame, times in whole.items())
    assert sum(map(size, run.faults(*DAMAGE))) == len(run.heard) - sound, "each byte that is of no frame is in a fault"
    account_answers(run, whole)
    assert len(run.faults(*GIVEN_UP)) == given_up(run), "a fault for each question without an answer, and no other"


NEXT_ROUND_S = 70
"""Within it a meter is asked again for what is new."""
DAMAGE = ("bad_checksum", "not_a_frame", "truncated")
GIVEN_UP = ("no_answer", "disconnected")


def size(fault: Fault) -> int:
    """Bytes it stands for: what the detail says of a run of rubbish, or the frame itself."""
    told = re.match(r"(\d+) bytes belong to no frame", fault.detail)
    return int(told[1]) if told else len(fault.raw)


def account_answers(run: Run, whole: dict[bytes, int]) -> None:
    """`whole`: the device's frames and how often each arrived. Those with an answer are longer than the shortest."""
    shortest = min(map(len, whole))
    knock, *said = (send.data for send in run.of(Send))
    acknowledged = sum(data != knock and len(data) == shortest for data in said)
    unasked = [fault for fault in run.faults("unexpected_frame") if len(fault.raw) > shortest]
    answers = sum(times for frame, times in whole.items() if len(frame) > shortest)
    assert acknowledged + len(unasked) == answers, "each answer is taken, or a fault"


def given_up(run: Run) -> int:
    """How often the host began anew, or went away, after a question and not after an answer."""
    knock = run.of(Send)[0].data
    count, asking = 0, False
    for _, events in run.steps:
        said = [event.data for event in events if isinstance(event, Send)]
        for before, data in zip((b"", *said), said, strict=False):
            count += data == knock and asking and not before  # a goodbye follows an acknowledgement at once
            if len(data) > len(knock) or data == knock:
                asking = data != knock
    return count + asking


MISHEARD: dict[str, Callable[[bytes], bytes]] = {
    "glucometer_ultramini": lambda asked: meter.frame(asked[2], b"\x05\x99\x00"),
}
"""By driver of the shape `conversation`: a question as a frame, made into one that no such device knows."""


class HardOfHearing(Tap):
    """Each fifth question is misheard: refused, or taken for the knock at which a conversation begins anew.

    Never the first after a knock: to begin anew there looks like a late answer to the knock, and it is asked again.
    """

    def __init__(self, device: Any, mishear: Callable[[bytes], bytes], knock: bytes) -> None:
        super().__init__(device)
        self._mishear, self._knock = mishear, knock
        self._asked = self.misheard = 0
        self._before = knock

    def respond(self, chunk: Chunk) -> list[Send]:
        before, self._before = self._before, chunk.data
        if len(chunk.data) > len(self._knock):
            self._asked += 1
            if self._asked >= 5 and before != self._knock:
                self._asked = 0
                self.misheard += 1
                chunk = Chunk(self._mishear(chunk.data), chunk.received_at)
        return super().respond(chunk)


@pytest.mark.parametrize("code", ["bad_answer", "disconnected"])
@pytest.mark.parametrize(("driver", "kind"), [pair for pair in PAIRS if shape(pair.values[0]) == "conversation"])
def test_every_refusal_and_every_hanging_up_is_a_fault(driver: Driver, kind: SimulatedKind, code: str) -> None:
    assert driver.name in MISHEARD, f"tests/test_mischief.py, MISHEARD: add how to make {driver.name} refuse a question"
    (knock,) = (event for event in new_session(driver).start() if isinstance(event, Send))
    mishear = MISHEARD[driver.name] if code == "bad_answer" else lambda asked: knock.data
    device = HardOfHearing(make(kind, "", 1)[0], mishear, knock.data)
    host = host_of(driver, device, START)
    for step in range(1, 120 * NS // STEP_NS):
        host.turn(START + step * STEP_NS)
    faults = [event for _, events in host.arrived for event in events if isinstance(event, Fault)]
    assert device.misheard > 3
    assert [fault.code for fault in faults] == [code] * device.misheard


def account_stream(driver: Driver, kind: SimulatedKind, trick: str, seed: int, run: Run) -> None:
    clean = clean_run(driver.name, seed)
    assert not clean.of(Fault)
    assert len(clean.readings) == sum(LASTS_S["stream"]), "one reading each second"
    for metric in {array.metric for array in clean.of(SampleArray)}:
        account_bytes(metric, run, clean)
        account_readings(metric, run)
    if trick in ("split", "merge", "stall"):
        assert canonical(run.of(SampleArray)) == canonical(clean.of(SampleArray))
        assert [o.quantities for o in run.readings] == [o.quantities for o in clean.readings]
        return
    for metric in {array.metric for array in clean.of(SampleArray)}:
        account_samples(metric, trick, run, clean)
    assert bool(run.of(Fault)) == (trick in ("flip", "all"))


def account_bytes(metric: str, run: Run, clean: Run) -> None:
    sizes = {len(send.data) for send in clean.tap.said}
    assert len(sizes) == 1, "tests/test_mischief.py: this account is for frames of one size; add one for several"
    sent, read = (sum(len(a.samples) for a in r.of(SampleArray) if a.metric == metric) for r in (clean, run))
    frames, rest = divmod(read, sent // len(clean.tap.said))
    assert rest == 0, "frames are whole"
    assert sum(map(size, run.of(Fault))) == len(run.heard) - frames * sizes.pop(), "each other byte is in a fault"


def account_readings(metric: str, run: Run) -> None:
    arrays = [array for array in run.of(SampleArray) if array.metric == metric]
    indices = np.concatenate([array.first_index + np.arange(len(array.samples)) for array in arrays])
    seconds = np.unique(indices // arrays[0].rate)
    assert len(run.readings) == len(seconds), "one reading for each second that has samples"


def account_samples(metric: str, trick: str, run: Run, clean: Run) -> None:
    arrays = [array for array in run.of(SampleArray) if array.metric == metric]
    read = np.concatenate([array.samples for array in arrays])
    sent = np.concatenate([array.samples for array in clean.of(SampleArray) if array.metric == metric])
    each = len(sent) // len(clean.tap.said)
    counts = run.counts
    starts = np.array([array.first_index for array in arrays])
    ends = starts + [len(array.samples) for array in arrays]
    assert (starts[1:] >= ends[:-1]).all(), "indices only grow"
    gaps = int(ends[-1]) - len(read)
    unseen = (counts["repeat"] - counts["drop"]) * each
    # Bytes cut out of a frame, or two damaged frames in a row, are rounded to frames.
    rounding = 0 if trick in ("drop", "repeat") else counts["flip"] * each / 20
    assert ends[-1] - len(sent) == pytest.approx(unseen, abs=rounding), "read and missing are what was sent"
    assert gaps <= 2 * counts["flip"] * each, "no more is thrown away than was damaged"
    if trick == "drop":
        assert is_part_of(read, sent), "what is there is in order and untouched"
    if trick == "repeat":
        assert is_part_of(sent, read), "nothing is thrown away for being there twice"
    if trick == "flip":
        assert gaps > 0
        wrong = sum(
            int((array.samples != sent[array.first_index : array.first_index + len(array.samples)]).sum())
            for array in arrays
        )
        assert wrong + gaps <= 1.5 * counts["flip"] * each, "what is not damaged is in its place"


def is_part_of(part: Any, whole: Any) -> bool:
    """Whether `part` is `whole` with some samples left out."""
    rest: Iterator[int] = iter(whole.tolist())
    return all(value in rest for value in part.tolist())


ACCOUNTS: dict[str, Callable[[Driver, SimulatedKind, str, int, Run], None]] = {
    "values": account_values,
    "conversation": account_conversation,
    "stream": account_stream,
}


# --- tricks in the device --------------------------------------------------------------------------------------------

FEED = settings.Device(name="d", driver="d", room="1", address="C0:00:00:00:00:01")


def determined(driver: Driver, run: Run) -> list[Any]:
    """The messages of the readings, as the gateway makes them."""
    feed = DeviceFeed(FEED, driver, gateway="g", topics=Topics("s"), session="s", zone=UTC)
    feed.link_up(FEED.address, simulated=True, at=START)
    drafts = [draft for _, events in run.arrived for draft in feed.take(events).drafts]
    return [draft.message for draft in drafts if draft.urgent]


def prove_wrong_clock(driver: Driver, run: Run, clean: Run) -> None:
    found, wanted = determined(driver, run), determined(driver, clean)
    assert len(found) == len(wanted) > 4
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.observation.t_device != theirs.observation.t_device, "the device itself is days off"
        assert abs(ours.t_determined - theirs.t_determined) <= 1_000_000_000, "and we are not"
        assert ours.observation.historical == theirs.observation.historical
        assert ours.uncertainty_ms == theirs.uncertainty_ms


TOLERANCE = {"bp_sys": 0.9, "bp_dia": 0.9, "bp_map": 0.9, "pulse_cuff": 0.0, "temp": 0.08, "glu": 0.0}
"""Half a step of either unit: tenths of a kPa and whole mmHg, tenths of both degrees."""
ONE_UNIT_ON_THE_WIRE = {"glucometer_ultramini"}
"""Their unit is the display's alone."""


def prove_wrong_unit(driver: Driver, run: Run, clean: Run) -> None:
    assert len(run.readings) == len(clean.readings) > 4
    for ours, theirs in zip(run.readings, clean.readings, strict=True):
        for metric, quantity in ours.quantities.items():
            assert metric in TOLERANCE, f"tests/test_mischief.py, TOLERANCE: add half a step of {metric}"
            assert quantity.value == pytest.approx(theirs.quantities[metric].value, abs=TOLERANCE[metric])
    units = {q.raw_unit for reading in (*run.readings, *clean.readings) for q in reading.quantities.values()}
    expected = 1 if driver.name in ONE_UNIT_ON_THE_WIRE else 2
    assert len(units - {"/min"}) == expected, f"{units}; see ONE_UNIT_ON_THE_WIRE"


def prove_low_battery(driver: Driver, run: Run, clean: Run) -> None:
    levels = [{info.battery for info in r.of(DeviceInfo) if info.battery is not None} for r in (run, clean)]
    assert levels == [{7}, {87}]


def prove_lead_off(driver: Driver, run: Run, clean: Run) -> None:
    inside = range(11 * 125, 19 * 125)
    for array in run.of(SampleArray):
        if array.metric == "ekg":
            assert array.lead_off or not set(inside) & set(range(array.first_index, array.first_index + 1))
            assert not array.lead_off or 9 * 125 <= array.first_index <= 21 * 125
    assert not any(array.lead_off for array in clean.of(SampleArray))
    off = [o for o in run.readings if "lead_off" in o.quality]
    assert 9 <= len(off) <= 11, "once a second"
    assert all(o.quantities["hr_device"].value is None and o.quantities["spo2"].value for o in off)


def prove_motion(driver: Driver, run: Run, clean: Run) -> None:
    if shape(driver) == "values":
        assert {("body_movement" in o.quality) for o in run.readings[:1]} == {True}
        assert not any("body_movement" in o.quality for o in (*clean.readings, *run.readings[2:]))
        return
    ours, calm = (
        np.concatenate([a.samples for a in r.of(SampleArray) if a.metric == "ekg"]).astype(float) for r in (run, clean)
    )
    noise = np.abs(ours - calm)
    assert noise[: 5 * 125].max() == noise[15 * 125 :].max() == 0.0, "still before and after"
    assert noise[6 * 125 : 14 * 125].mean() > 50, "a quarter of a millivolt and more"


PROOFS: dict[str, Callable[[Driver, Run, Run], None]] = {
    "wrong_clock": prove_wrong_clock,
    "wrong_unit": prove_wrong_unit,
    "low_battery": prove_low_battery,
    "lead_off": prove_lead_off,
    "motion": prove_motion,
}
WINDOW = {"lead_off": "@10+10", "motion": "@5+10"}
DECLARED = [(name, trick) for name, kind in sorted(KINDS.items()) for trick in kind.tricks]


def test_every_trick_is_proved() -> None:
    assert set(PROOFS) == set(IN_THE_DEVICE) == {trick for _, trick in DECLARED}


@pytest.mark.parametrize(("name", "trick"), DECLARED)
def test_a_trick_in_the_device_shows_and_tells_no_lie(name: str, trick: str) -> None:
    run = play(DRIVERS[name], KINDS[name], trick + WINDOW.get(trick, ""))
    PROOFS[trick](DRIVERS[name], run, clean_run(name, 1))
    assert not run.of(Fault)


@pytest.mark.parametrize(("name", "kind"), sorted(KINDS.items()))
def test_a_trick_a_device_cannot_have_is_refused(name: str, kind: SimulatedKind) -> None:
    for trick in set(IN_THE_DEVICE) - set(kind.tricks):
        with pytest.raises(SettingsError, match="cannot have the mischief") as refused:
            make(kind, trick, 1)
        assert all(word in refused.value.expected for word in (*ON_THE_WAY, *kind.tricks))


# --- the tricks on the way themselves --------------------------------------------------------------------------------


class Clockwork:
    """One numbered send each 10 ms."""

    def __init__(self) -> None:
        self._sent = 0

    def respond(self, chunk: Chunk) -> list[Send]:
        return []

    def advance(self, until: int) -> list[Send]:
        due = (until - START) * 100 // NS
        sends = [Send(number.to_bytes(4, "big")) for number in range(self._sent, due)]
        self._sent = due
        return sends


def through(mischief: str, seconds: int = 40, seed: int = 2) -> tuple[list[tuple[float, bytes]], Mischief]:
    """(second, data) of each send."""
    wrapped = Mischief(Clockwork(), seed, parse(mischief), START, stall_s=0.5)
    out = []
    for step in range(1, seconds * 50 + 1):
        out += [(step / 50, send.data) for send in wrapped.advance(START + step * NS // 50)]
    return out, wrapped


CLEAN = [number.to_bytes(4, "big") for number in range(4000)]


def test_every_send_is_counted() -> None:
    text = "split=0.05, merge=0.05, drop=0.05, flip=0.05, repeat=0.05, stall=0.002"
    out, wrapped = through(text)
    counts = wrapped.counts
    assert counts["seen"] == len(CLEAN) == sum(counts[name] for name in ("passed", *ON_THE_WAY))
    assert all(counts[name] for name in ON_THE_WAY)
    assert through(text)[0] == out, "the same seed, the same mischief"
    assert through(text, seed=3)[0] != out


@pytest.mark.parametrize("trick", ["drop", "repeat", "flip", "split", "stall", "merge"])
def test_each_trick_does_what_it_says(trick: str) -> None:
    out, wrapped = through(f"{trick}=0.02@0+30")
    found, n = b"".join(data for _, data in out), wrapped.counts[trick]
    clean = b"".join(CLEAN)
    assert n > 10
    if trick == "drop":
        assert len(found) == len(clean) - 4 * n
    elif trick == "repeat":
        assert len(found) == len(clean) + 4 * n
    elif trick == "flip":
        assert sum((a ^ b).bit_count() for a, b in zip(found, clean, strict=True)) == n
    else:
        assert found == clean
        assert [data for _, data in out] != CLEAN or trick == "stall"
    if trick == "stall":
        assert len({second for second, _ in out}) < 40 * 50, "nothing came for a while"


def test_a_window_opens_closes_and_comes_again() -> None:
    out, wrapped = through("drop=1@5+2/10")
    lost = set(range(4000)) - {int.from_bytes(data, "big") for _, data in out}
    seconds = {number // 100 for number in lost}
    assert seconds <= {4, 5, 6, 14, 15, 16, 24, 25, 26, 34, 35, 36}
    assert len(lost) == wrapped.counts["drop"] == pytest.approx(4 * 200, abs=8)


@pytest.mark.parametrize(
    "text",
    [
        "drop", "drop=2", "drop=-1", "explode=0.1", "explode", "drop=0.6,flip=0.6", "drop=x", "drop=nan",
        "lead_off=0.5",
        "wrong_clock@1+2", "wrong_unit=1", "lead_off@", "lead_off@5", "lead_off@5+0", "motion@-1+5", "motion@1+9/8",
    ],
)  # fmt: skip
def test_unreadable_mischief_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="mischief"):
        parse(text)


def test_tricks_as_text() -> None:
    drop, off, clock = parse(" drop=0.25@60+30, lead_off@90+20/120 ,wrong_clock,")
    assert (drop.when, drop.rate) == (Episode("drop", 60.0, 30.0), 0.25)
    assert off.when == Episode("lead_off", 90.0, 20.0, 120.0)
    assert (clock.name, clock.when.holds(np.asarray(1e9))) == ("wrong_clock", True)
    assert parse("") == ()
