"""What no vector of the glucose meter can show: nothing is ever written to it, and a full memory is read to its end."""

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.glucometer_ultramini import ACK, DISCONNECT, DRIVER, build, parse
from vitals.clock import NS
from vitals.model import Chunk, Event, Fault, Observation, Send

AT = 1_764_000_000_000_000_000
READS = {"", "050b0200000000846ae87300", "05200200000000"}


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


class Meter:
    """A meter with a full memory, from the protocol sheet: turns its bit, sends an answer again that is not acked."""

    def __init__(self, records: list[tuple[int, int]]) -> None:
        self.records = records  # newest first
        self.sent = self.expected = 0
        self.answer = b""
        self.heard = 0

    def hear(self, data: bytes) -> bytes:
        link, message = data[2], data[3:-3]
        self.heard += 1
        if link & DISCONNECT:
            self.sent = self.expected = 0
            return build(DISCONNECT)
        if link & ACK:
            assert link >> 1 & 1 == self.sent, "the reader expects the bit that comes next"
            return b""
        if link & 1 != self.expected:
            return self.answer
        assert link >> 1 & 1 == self.sent
        self.expected ^= 1
        bits = self.expected << 1 | self.sent
        self.answer = build(bits | ACK) + build(bits, self.say(message))
        self.sent ^= 1
        return self.answer

    def say(self, message: bytes) -> bytes:
        if message[1] == 0x0B:
            return b"\x05\x06C108SA1BC"
        if message[1] == 0x20:
            return b"\x05\x06" + (1_764_000_000).to_bytes(4, "little")
        index = int.from_bytes(message[2:], "little")
        if index >= len(self.records):
            return b"\x05\x0f" + len(self.records).to_bytes(2, "little")
        time, value = self.records[index]
        return b"\x05\x06" + time.to_bytes(4, "little") + value.to_bytes(4, "little")


def converse(meter: Meter, *, seconds: int, lose_every: int = 0) -> list[Event]:
    session = DRIVER.new_session({})
    todo = session.start()
    events: list[Event] = []
    said = 0
    for tick in range(seconds * 4):
        now = AT + tick * NS // 4
        while todo:
            event = todo.pop(0)
            events.append(event)
            if not isinstance(event, Send):
                continue
            answer = meter.hear(event.data)
            said += bool(answer)
            if answer and not (lose_every and said % lose_every == 0):
                todo += session.receive(Chunk(answer, now))
        todo += session.tick(now)
    return events


MEMORY = [(1_763_900_000 - hour * 3600, 80 + hour % 90) for hour in range(500)]


def values(events: list[Event]) -> list[float]:
    found = [event.quantities["glu"].value for event in events if isinstance(event, Observation)]
    return [value for value in found if value is not None]


def test_a_full_memory_is_read_once() -> None:
    events = converse(Meter(MEMORY), seconds=100)
    assert values(events) == [float(value) for _, value in MEMORY]
    assert not any(isinstance(event, Fault) for event in events)


def test_lost_answers_lose_no_record() -> None:
    events = converse(Meter(MEMORY), seconds=120, lose_every=7)
    assert values(events) == [float(value) for _, value in MEMORY]


def test_a_test_while_the_memory_is_read_is_found_in_the_next_round() -> None:
    class Busy(Meter):
        def say(self, message: bytes) -> bytes:
            if self.heard == 400:
                self.records = [(1_763_999_000, 250), *self.records[:-1]]
            return super().say(message)

    events = converse(Busy(MEMORY), seconds=60)
    assert sorted(values(events)) == sorted([250.0, *(float(value) for _, value in MEMORY[:-1])])
