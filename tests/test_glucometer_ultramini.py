"""The glucose meter: what no vector of the driver can show, the simulated meter, and the two of them together."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.core.times import DeviceTimes
from drivers.glucometer_ultramini import DRIVER, build, parse
from simulators.core import mischief
from simulators.core.contract import Simulator
from simulators.core.physiology import Physiology, Profile
from simulators.core.registry import Setup, complete, find
from simulators.glucometer_ultramini import Result, UltraMini, frame
from tests import vectors
from tests.shared import shared_vectors
from vitals.clock import NS, from_datetime
from vitals.model import Chunk, DeviceInfo, Event, Fault, Observation, Send, Validity

AT = from_datetime(datetime(2026, 11, 24, 15, 30, tzinfo=UTC))
CHICAGO = ZoneInfo("America/Chicago")
READS = {"", "050b0200000000846ae87300", "05200200000000"}

# --- the driver writes nothing to a meter ----------------------------------------------------------------------------


def is_a_question(message: str) -> bool:
    return message in READS or (len(message) == 8 and message.startswith("051f"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 31), st.binary(max_size=14), st.integers(0, 40)), max_size=30))
def test_nothing_is_written_whatever_the_meter_says(frames: list[tuple[int, bytes, int]]) -> None:
    session = DRIVER.new_session({})
    events = session.start()
    now = AT
    for link, message, pause_s in frames:
        events += session.receive(Chunk(build(link, message), now))
        now += pause_s * NS
        events += session.tick(now)
    events += session.close()
    for event in events:
        if isinstance(event, Send):
            assert is_a_question(parse(event.data).message.hex())


# --- the simulated meter ---------------------------------------------------------------------------------------------


def make(
    memory: Iterable[Result] | None = None, *, seed: int = 1, condition: str = "healthy", **options: Any
) -> UltraMini:
    kind = find("glucometer_ultramini")
    patient = Physiology(seed, Profile(condition=condition))
    chosen = complete(kind.name, kind.options, {"first_s": 86_400.0, **options})
    return UltraMini(Setup(seed, patient, AT, chosen, CHICAGO), memory)


def wall(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def memory_of(vector: vectors.Vector) -> list[Result]:
    """What the vector's meter holds, from the events expected of its reader."""
    readings = [event for event in vector.events if event["type"] == "observation"]
    numbers = [{"LO": "65534", "HI": "65535"}.get(r["quantities"]["glu"]["raw"]) for r in readings]
    return [
        Result(wall(reading["t_device"]), int(number or reading["quantities"]["glu"]["raw"]))
        for reading, number in zip(readings, numbers, strict=True)
    ]


CONVERSATIONS = [
    vector
    for vector in vectors.load("glucometer_ultramini")
    if vector.name in ("empty_memory", "two_records", "one_record_at_once", "high_and_low")
]


@pytest.mark.parametrize("vector", CONVERSATIONS, ids=[vector.name for vector in CONVERSATIONS])
def test_it_says_the_bytes_worked_out_by_hand(vector: vectors.Vector) -> None:
    # The clock of the vectors says 15:30; in Chicago it is 09:30.
    meter = make(memory_of(vector), serial="C108SA1BC", clock_skew_s=6 * 3600.0)
    asked = [bytes.fromhex(event["hex"]) for event in vector.events if event["type"] == "send"]
    said = b"".join(send.data for data in asked for send in meter.respond(Chunk(data, AT)))
    wanted = b"".join(step.data for step in vector.steps)
    assert said == wanted or said == wanted + frame(8), "where the vector leaves out the answer to the goodbye"


def ask(meter: UltraMini, *messages: bytes, at: int = AT) -> list[bytes]:
    """The answers, in a conversation of their own."""
    answers = []
    meter.respond(Chunk(frame(8), at))
    for turn, message in enumerate(messages):
        ack, answer = meter.respond(Chunk(frame(turn % 2 | turn % 2 << 1, message), at))
        assert (ack.data[2] & 4, ack.data[3]) == (4, 3)
        answers.append(answer.data[3:-3])
        meter.respond(Chunk(frame(4 | (turn + 1) % 2 << 1 | (turn + 1) % 2), at))
    return answers


@pytest.mark.shared
@pytest.mark.parametrize("vector", shared_vectors("lifescan_onetouch_ultramini"))
def test_it_understands_what_other_readers_ask(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["hex"])[3:-3]
    if vector["kind"] == "packet" and message:
        (answer,) = ask(make([Result(1, 100)]), message)
        assert answer[:2] == (b"\x05\x0f" if message == b"\x05\x1f\xf5\x01" else b"\x05\x06")


CLOCK, COUNT, NEWEST = bytes.fromhex("05200200000000"), bytes.fromhex("051ff501"), bytes.fromhex("051f0000")


def test_it_tests_its_patient_and_keeps_the_local_wall_time() -> None:
    meter = make(first_s=60.0, interval_s=300.0, clock_skew_s=-90.0)
    meter.advance(AT + 59 * NS)
    assert ask(meter, COUNT) == [bytes.fromhex("050f0000")]
    meter.advance(AT + 361 * NS)
    count, newest = ask(meter, COUNT, NEWEST)
    assert count == bytes.fromhex("050f0200")
    assert int.from_bytes(newest[2:6], "little") == wall("2026-11-24T09:36:00") - 90
    assert int.from_bytes(newest[6:10], "little") == pytest.approx(Physiology(1).at(360.0).glu, rel=0.15)
    (clock,) = ask(meter, CLOCK, at=AT + 400 * NS)
    assert int.from_bytes(clock[2:], "little") == wall("2026-11-24T09:36:40") - 90


def test_the_unit_of_its_display_is_not_that_of_its_numbers() -> None:
    unit = bytes.fromhex("0509020900000000")
    shows = {name: ask(make(first_s=1.0, unit=name), unit) for name in ("mg/dL", "mmol/L")}
    assert [answer[2] for (answer,) in shows.values()] == [0, 1]
    memories = []
    for name in shows:
        meter = make(first_s=1.0, unit=name)
        meter.advance(AT + NS)
        memories.append(list(meter.memory))
    assert memories[0] == memories[1]


@pytest.mark.parametrize(("glucose", "sent"), [(601, 0xFFFF), (600, 600), (20, 20), (19, 0xFFFE)])
def test_beyond_its_range_it_sends_words(glucose: int, sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulators.glucometer_ultramini._NOISE", 0.0)
    meter = make()
    state = meter._setup.patient.at(0.0)
    monkeypatch.setattr(meter._setup.patient, "at", lambda t: type(state)(**{**_fields(state), "glu": float(glucose)}))
    meter.measure(AT)
    assert meter.memory[0].number == sent


def _fields(state: Any) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__struct_fields__}


def test_a_memory_of_older_tests() -> None:
    meter = make(records=300)
    times = [result.time for result in meter.memory]
    assert times == sorted(times, reverse=True)
    now = wall("2026-11-24T09:30:00")
    assert 3 * 3600 <= now - times[0] <= 12 * 3600, "none that could pass for one of this visit"
    assert 60 * 86_400 < now - times[-1] < 120 * 86_400
    assert meter.memory == make(records=300).memory != make(records=300, seed=2).memory
    full = make(records=500, first_s=1.0)
    oldest = full.memory[-1]
    full.advance(AT + NS)
    assert (len(full.memory), oldest in full.memory) == (500, False)


def test_it_cannot_be_changed() -> None:
    meter = make(records=3)
    before = list(meter.memory)
    erase, set_clock = bytes.fromhex("051a"), bytes.fromhex("05200100000000")
    assert not any(answer.startswith(b"\x05\x06") for answer in ask(meter, erase, set_clock))
    assert list(meter.memory) == before
    assert int.from_bytes(ask(meter, CLOCK)[0][2:], "little") == wall("2026-11-24T09:30:00")


def test_an_answer_that_is_not_acknowledged_comes_again_until_it_gives_up() -> None:
    meter = make()
    meter.respond(Chunk(frame(8), AT))
    _, answer = meter.respond(Chunk(frame(0, CLOCK), AT))
    assert meter.advance(AT + NS) == []
    assert meter.advance(AT + 2 * NS) == [answer]
    assert meter.respond(Chunk(frame(1, COUNT), AT + 2 * NS)) == [answer], "it takes no other question meanwhile"
    assert meter.respond(Chunk(frame(0, CLOCK), AT + 2 * NS))[1:] == [answer], "asked again"
    assert meter.advance(AT + 8 * NS) == [Send(frame(8))]
    assert meter.advance(AT + 20 * NS) == []
    assert meter.respond(Chunk(frame(0, CLOCK), AT + 20 * NS)) == [], "asleep"
    meter.respond(Chunk(frame(8), AT + 21 * NS))
    meter.respond(Chunk(frame(0, CLOCK), AT + 21 * NS))
    meter.respond(Chunk(frame(7), AT + 21 * NS))
    assert meter.advance(AT + 23 * NS) == [], "acknowledged"


def test_it_finds_a_frame_behind_rubbish_and_half_frames() -> None:
    meter = make()
    assert meter.respond(Chunk(b"\xff\x02\x03\x02" + frame(8), AT)) == [Send(frame(8))]
    assert meter.respond(Chunk(b"\x02\x30", AT)) == []
    assert meter.respond(Chunk(frame(8), AT + 2 * NS)) == [Send(frame(8))]
    damaged = bytearray(frame(8))
    damaged[-1] ^= 1
    assert meter.respond(Chunk(bytes(damaged), AT + 3 * NS)) == []


@pytest.mark.parametrize(
    "options",
    [{"unit": "g/L"}, {"interval_s": 0.0}, {"records": 501}, {"records": -1}, {"serial": "x" * 33}, {"serial": "ü"}],
)
def test_no_such_meter(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


# --- driver and simulated meter --------------------------------------------------------------------------------------


def converse(meter: Simulator, *, seconds: float, step_s: float = 0.02) -> list[Event]:
    """A line between the two, of which the meter is told each `step_s`."""
    session = DRIVER.new_session({})
    todo = session.start()
    events: list[Event] = []
    for turn in range(round(seconds / step_s)):
        now = AT + round(turn * step_s * NS)
        sends = [event for event in todo if isinstance(event, Send)]
        events += todo
        said = [answer for send in sends for answer in meter.respond(Chunk(send.data, now))] + meter.advance(now)
        todo = [event for send in said for event in session.receive(Chunk(send.data, now))]
        todo += session.tick(now)
    return events


def readings(events: list[Event]) -> list[tuple[str, str]]:
    """(device time, number as sent) in order of arrival."""
    return [
        (event.t_device, event.quantities["glu"].raw) for event in events if isinstance(event, Observation)
    ]  # fmt: skip


def held(meter: UltraMini) -> list[tuple[str, str]]:
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001  the meter's clock has no zone
    words = {0xFFFF: "HI", 0xFFFE: "LO"}
    return [((epoch + timedelta(seconds=t)).isoformat(), words.get(n, str(n))) for t, n in meter.memory]


def test_a_full_memory_is_read_once_with_each_answer_acknowledged() -> None:
    meter = make(records=500, condition="hypoglycaemia")
    events = converse(meter, seconds=60)
    assert readings(events) == held(meter)
    assert not any(isinstance(event, Fault) for event in events)
    sent = sum(isinstance(event, Send) for event in events)
    # Two goodbyes a round; serial, clock, count and each record: a question and an acknowledgement; two rounds more.
    assert sent == 2 + 2 * 503 + 2 * (2 + 2 * 4)


@pytest.mark.parametrize("tricks", ["drop=0.05", "flip=0.05", "repeat=0.05", "split=0.1, merge=0.1", "stall=0.01"])
def test_what_goes_wrong_on_the_line_loses_and_doubles_no_record(tricks: str) -> None:
    meter = make(records=60)
    events = converse(mischief.Mischief(meter, 5, mischief.parse(tricks), AT), seconds=180)
    assert set(readings(events)) == set(held(meter))
    faults = {event.code for event in events if isinstance(event, Fault)}
    if tricks in ("drop=0.05", "repeat=0.05"):
        assert faults <= {"no_answer", "disconnected", "unexpected_frame"}
    if tricks == "flip=0.05":
        assert "bad_checksum" in faults


def test_a_test_on_the_cable_is_here_within_half_a_minute_and_the_meter_rests_meanwhile() -> None:
    meter = make(first_s=2.0, interval_s=1_000.0)
    events = converse(meter, seconds=30)
    ((when, number),) = readings(events)
    assert [(when, number)] == held(meter)
    (info,) = (event for event in events if isinstance(event, DeviceInfo) if event.clock > when)
    assert info.serial == meter.serial
    busy = sum(isinstance(event, Send) for event in events)
    assert busy <= 24, "two rounds of a few questions"


def test_a_test_while_the_memory_is_read_is_found_in_the_next_round() -> None:
    meter = make(records=500, first_s=4.0, interval_s=1_000.0)
    oldest = held(meter)[-1]
    events = converse(meter, seconds=60)
    assert sorted(readings(events)) == sorted(held(meter)), "the oldest made room before it was read"
    assert oldest not in readings(events)
    assert readings(events)[-1] == held(meter)[0]


@pytest.mark.parametrize("first_s", [0.01 * n for n in range(4, 60, 2)])
def test_whenever_a_test_is_taken_no_record_is_left_out(first_s: float) -> None:
    meter = make(records=20, first_s=first_s, interval_s=1_000.0)
    events = converse(meter, seconds=60)
    assert set(readings(events)) == set(held(meter))
    assert len(readings(events)) <= 41, "the memory is read at most once more"


class Broken(UltraMini):
    """Says nothing, or hangs up, when it is asked for the record `at`; `times` times, then no more."""

    at, times, hangs_up = 5, 1_000_000, False

    def respond(self, chunk: Chunk) -> list[Send]:
        if parse(chunk.data).message != bytes.fromhex("051f") + self.at.to_bytes(2, "little") or not self.times:
            return super().respond(chunk)
        self.times -= 1
        if not self.hangs_up:
            return []
        self._hang_up()
        return [Send(frame(8))]


def break_(meter: UltraMini, **how: Any) -> Broken:
    broken: Broken = meter  # type: ignore[assignment]
    broken.__class__ = Broken
    for name, value in how.items():
        setattr(broken, name, value)
    return broken


@pytest.mark.parametrize("at", [0, 5, 11])
@pytest.mark.parametrize(("hangs_up", "fault"), [(False, "no_answer"), (True, "disconnected")])
def test_a_record_that_never_answers_keeps_back_no_other_and_none_comes_twice(
    at: int, hangs_up: bool, fault: str
) -> None:
    meter = break_(make(records=12), at=at, hangs_up=hangs_up)
    events = converse(meter, seconds=120)
    wanted = held(meter)
    del wanted[at]
    assert readings(events) == wanted
    faults = [event.code for event in events if isinstance(event, Fault)]
    assert set(faults) == {fault}
    assert len(faults) == 2 or at == 0, "the newest is asked for in each round"
    told = sum(isinstance(event, DeviceInfo) for event in events)
    assert told == (1 if at else 3), "again only while nothing has been given"


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_record_that_answers_in_the_next_conversation_is_not_left_out(hangs_up: bool) -> None:
    meter = break_(make(records=12), times=1 if hangs_up else 3, hangs_up=hangs_up)
    assert readings(converse(meter, seconds=60)) == held(meter)


def test_where_tests_were_taken_since_all_is_read() -> None:
    """Each index is another record then, and times are known from the newest on."""
    meter = break_(make(records=12), times=1, hangs_up=True)
    before, respond = held(meter), meter.respond

    def with_tests(chunk: Chunk) -> list[Send]:
        sends = respond(chunk)
        if not meter.times and held(meter) == before:
            for minute in range(2):
                meter.memory.pop()
                meter.measure(AT + minute * 60 * NS)
        return sends

    meter.respond = with_tests  # type: ignore[method-assign]
    events = converse(meter, seconds=60)
    assert readings(events) == before[:5] + held(meter), "a memory of equal length, moved by two"
    assert [event.clock for event in events if isinstance(event, DeviceInfo)] == [
        "2026-11-24T09:30:00", "2026-11-24T09:30:02"
    ]  # fmt: skip


@pytest.mark.parametrize("at", [0, 5])
def test_another_meter_is_read_from_its_beginning(at: int) -> None:
    first, second = break_(make(records=12), at=at, times=2, hangs_up=True), make(records=12, seed=2)

    class Two:
        def respond(self, chunk: Chunk) -> list[Send]:
            return (first if first.times or first._talking else second).respond(chunk)

        def advance(self, until: int) -> list[Send]:
            return []

    events = converse(Two(), seconds=20)
    assert readings(events) == held(first)[:at] + held(second)
    told = [event.serial for event in events if isinstance(event, DeviceInfo)]
    assert (set(told[:-1]), told[-1]) == ({first.serial}, second.serial)


def test_a_record_behind_a_cut_is_placed_by_the_ones_before_it() -> None:
    """Newest first: 9:20; 14:00 by a clock that was set back since; 9:00 by that clock, hours before."""
    times = ("2026-11-24T09:20:00", "2026-11-24T14:00:00", "2026-11-24T09:00:00")
    meter = break_(make([Result(wall(time), 45) for time in times]), at=2, times=1, hangs_up=True)
    known, live = DeviceTimes(CHICAGO), []
    for event in converse(meter, seconds=20):
        if isinstance(event, DeviceInfo):
            known.told(event)
        elif isinstance(event, Observation):
            live.append((event.t_device, not known.determine(event).historical))
    assert live == list(zip(times, (True, False, False), strict=True))


@pytest.mark.parametrize(
    ("times", "faults"),
    [
        (("09:32:00", "09:00:00"), 0), (("09:32:01", "09:00:00"), 1), (("09:00:00", "09:00:00"), 0),
        (("09:00:00", "09:00:01"), 1), (("09:00:00", "09:10:00", "09:20:00"), 1),
    ],
)  # fmt: skip
def test_a_clock_that_was_set_back_is_told_once(times: tuple[str, ...], faults: int) -> None:
    """The meter's clock says 9:30:00; two minutes are what clocks drift."""
    meter = make([Result(wall(f"2026-11-24T{time}"), 100 + n) for n, time in enumerate(times)])
    codes = [event.code for event in converse(meter, seconds=60) if isinstance(event, Fault)]
    assert codes == ["clock_jumped"] * faults


@pytest.mark.parametrize(
    ("condition", "validity"), [("hyperglycaemia", Validity.VALID), ("hypoglycaemia", Validity.VALID)]
)
def test_the_value_is_the_patients(condition: str, validity: Validity) -> None:
    meter = make(first_s=1.0, condition=condition)
    (reading,) = (e for e in converse(meter, seconds=25) if isinstance(e, Observation))
    quantity = reading.quantities["glu"]
    truth = Physiology(1, Profile(condition=condition)).at(1.0).glu
    assert quantity.value == pytest.approx(truth, rel=0.15)
    assert (quantity.validity, quantity.raw_unit) == (validity, "mg/dL")
