"""Glucose meters LifeScan OneTouch UltraMini and UltraEasy, by the serial cable: 9600 8N1.

The meter answers, it never begins. All integers little-endian.

    +----+--------+------+-----------+----+-------+
    | 02 | length | link | message   | 03 | CRC 2 |
    +----+--------+------+-----------+----+-------+
    length counts the whole frame; CRC-16/CCITT-FALSE over all before it, low byte first
    link: bit 0 S, 1 E, 2 ack, 3 disconnect, 4 more frames follow

    Host: disconnect (08)   Meter: disconnect                S and E of both sides begin anew with 0
    Host: command           Meter: ack (empty), answer       S is one's own bit, E the bit expected of the other
    Host: ack                                                each side turns its bit after a frame with a message

    05 0B 02 0000 0000 846A E873 00   serial number   answer 05 06, text
    05 20 02 0000 0000                clock           answer 05 06, u32
    05 1F F501 (record 501)           how many        answer 05 0F, u16, at most 500
    05 1F u16                         a record        answer 05 06, u32 time, u32 mg/dL; 0 is the newest

The commands that set the clock (05 20 01) and erase the memory (05 1A) exist in no line of this file.

How it is known: driver and tests of glucometerutils, glucometer-protocols, Tidepool's uploader, and readers for
microcontrollers and iOS that list whole frames. Strong for frames and commands; the meaning of very high and very low
values differs between readers.

Quirks, each with a vector:
- The first frame after a command is the ack and not the answer. An answer that is not acknowledged comes again, with
  the same S: it is acknowledged again and dropped.
- Times are seconds since 1970 of the meter's wall clock, in no zone. The clock is read, so that they can be moved.
- The number is mg/dL whatever the display shows, so the unit setting is not even asked for.
- FFFE is LO and FFFF is HI. Readers disagree about other values out of the meter's range of 20 to 600: they too are
  given as beyond the limit. Numbers above FFFF are in no source and give no reading.
- The record's index counts from the newest, so it moves with each test: it is no record number and none is given; time
  and value tell a record. A test taken while the memory is read moves all by one: one record comes twice and is
  dropped, the oldest falls behind the count that was read, and perhaps the new one before its beginning. So a round
  that meets the newest record of the round before ends there only if as many were passed as the meter has.
- A conversation that ends in the middle of a memory is taken up again where it ended, if the record read last is still
  in its place: else tests were taken since, and all is read. A record at which two conversations ended is left out, so
  that one that never answers does not keep back the others.
- A record newer than the one after it, or than the clock, was made before somebody set the clock back. That is told
  once a round, since it and all older ones are history then (drivers/core/times.py).
- A round is made again every 20 s while the meter is on the cable, up to the newest record of the round before. A few
  seconds without a word and the meter shows its idle screen, where a strip can be put in: a round takes about one
  second, so it rests for most of the time, and a test is here within half a minute. What a round costs its battery is
  in no source.
- No meter on the cable is no fault: the disconnect is sent until one answers.
- Control solution is not marked in this model's memory: it passes for blood.
- Every record is given as from memory (historical), newest first, after the clock as it was read in that round: by it
  the gateway tells what was tested just now (drivers/core/times.py).
"""

import re
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from drivers.core.framing import NOT_A_FRAME, TRUNCATED, WAIT, Framer, Piece, Rubbish
from vitals.clock import NS, Instant
from vitals.driver import Driver, Options, SerialSpec
from vitals.model import Chunk, DeviceInfo, Event, Fault, Observation, Quantity, Send, Validity
from vitals.wire import Cursor, crc16_ccitt_false

START: Final = re.compile(rb"\x02(?:[\x06-\x40]|\Z)")
STX: Final = 0x02
ETX: Final = 0x03
EMPTY: Final = 6
"""Length of a frame without a message."""
MAX_FRAME: Final = 64
"""The longest answer known is under 30 bytes; a damaged length must not hold up what follows."""

SENT, EXPECTED, ACK, DISCONNECT = (1 << bit for bit in range(4))

READ_SERIAL: Final = bytes.fromhex("050b0200000000846ae87300")
READ_CLOCK: Final = bytes.fromhex("05200200000000")
READ_RECORD: Final = bytes.fromhex("051f")
NO_RECORD: Final = 501
"""Asking for a record that cannot be is how the count is read."""
MAX_RECORDS: Final = 500
MAX_SERIAL: Final = 32
"""Characters; real ones have 9."""

OK: Final = b"\x05\x06"
COUNT: Final = b"\x05\x0f"

LOW, HIGH = 0xFFFE, 0xFFFF
LOWEST, HIGHEST = 20, 600

ANSWER_NS: Final = NS
"""The slowest reader known waits this long."""
TRIES: Final = 3
PROBE_NS: Final = 2 * NS
"""Between two disconnects to a cable without a meter."""
AHEAD_S: Final = 120
"""A record ahead of the clock by more than this was made by another one (the gateway's `AGREES_S`)."""
REST_NS: Final = 20 * NS
"""Between two rounds: see the quirks above."""

BAD_CHECKSUM: Final = "bad_checksum"
NO_ANSWER: Final = "no_answer"
BAD_ANSWER: Final = "bad_answer"
UNEXPECTED_FRAME: Final = "unexpected_frame"
DISCONNECTED: Final = "disconnected"
CLOCK_JUMPED: Final = "clock_jumped"

Stage: TypeAlias = Literal["probe", "serial", "clock", "count", "anchor", "record", "rest"]


class Round(NamedTuple):
    """A round that reached its end: whose memory, its newest record, and how many records of it are known."""

    serial: str
    newest: bytes
    known: int


class Frame(NamedTuple):
    """A frame whose length, end and checksum were found right."""

    link: int
    message: bytes


def build(link: int, message: bytes = b"") -> bytes:
    """A whole frame."""
    body = bytes((STX, EMPTY + len(message), link)) + message + bytes((ETX,))
    return body + crc16_ccitt_false(body).to_bytes(2, "little")


def parse(frame: bytes) -> Frame:
    """Of a frame that `measure` has accepted."""
    return Frame(frame[2], frame[3:-3])


def measure(data: bytes, at: int) -> int | str:
    """For the framer: see there."""
    if len(data) - at < 2:
        return WAIT
    size = data[at + 1]
    if not EMPTY <= size <= MAX_FRAME:
        return NOT_A_FRAME
    if len(data) - at < size:
        return WAIT
    end = at + size
    if data[end - 3] != ETX:
        return NOT_A_FRAME
    sound = crc16_ccitt_false(data[at : end - 2]) == int.from_bytes(data[end - 2 : end], "little")
    return size if sound else BAD_CHECKSUM


def wall_time(seconds: int) -> str:
    """The meter's wall time as ISO 8601 text."""
    return str(np.datetime64(seconds, "s"))


def glucose(number: int) -> Quantity:
    """HI, LO and numbers out of the meter's range are beyond its limit, never a value."""
    if number == LOW or number < LOWEST:
        raw = "LO" if number == LOW else str(number)
        return Quantity(float(LOWEST), raw, "mg/dL", Validity.BELOW_RANGE, "<")
    if number > HIGHEST:
        raw = "HI" if number == HIGH else str(number)
        return Quantity(float(HIGHEST), raw, "mg/dL", Validity.ABOVE_RANGE, ">")
    return Quantity(float(number), str(number), "mg/dL")


class _Session:
    def __init__(self) -> None:
        self._framer = Framer(START, measure, cap=MAX_FRAME)
        self._now: Instant = 0
        self._stage: Stage = "probe"
        self._due: Instant | None = None  # None: from the next tick on, since `start` is told no time
        self._sent = 0
        self._expected = 0
        self._asked = b""
        self._tries = 0
        self._acked = False
        self._info = DeviceInfo()
        self._info_told = False
        self._clock = 0  # seconds, as read
        self._count = 0
        self._index = 0
        self._before = b""  # the record before, to drop one that comes twice
        self._anchor = 0  # its index
        self._twice = 0
        self._newest = b""
        self._latest = 0  # what the next record's time cannot be after
        self._jump_told = False
        self._cut = ""  # serial number of the meter whose round was cut off, empty for none
        self._stuck = -1  # index at which a conversation ended
        self._done = Round("", b"", 0)

    def start(self) -> list[Event]:
        return [Send(build(DISCONNECT))]

    def receive(self, chunk: Chunk) -> list[Event]:
        self._now = chunk.received_at
        return self._take(self._framer.feed(chunk.data, chunk.received_at))

    def tick(self, now: Instant) -> list[Event]:
        self._now = now
        events = self._take(self._framer.tick(now))
        if self._due is None:
            self._due = now + PROBE_NS
        elif now >= self._due:
            events += self._late()
        return events

    def close(self) -> list[Event]:
        events = self._take(self._framer.close())
        if self._stage not in ("probe", "rest"):
            events.append(self._fault(DISCONNECTED, f"the line closed while the {self._stage} was read"))
        return [event for event in events if not isinstance(event, Send)]

    def _fault(self, code: str, detail: str, raw: bytes = b"") -> Fault:
        return Fault(code, detail, raw, self._now)

    # -- time ------------------------------------------------------------------------------------------------

    def _late(self) -> list[Event]:
        if self._stage in ("probe", "rest"):
            return self._probe()
        if self._tries < TRIES:
            self._tries += 1
            self._due = self._now + ANSWER_NS
            return [Send(self._asked)]
        self._cut_off()
        return [self._fault(NO_ANSWER, f"{TRIES} requests unanswered: {self._asked.hex()}")]

    def _probe(self) -> list[Event]:
        self._stage = "probe"
        self._due = self._now + PROBE_NS
        return [Send(build(DISCONNECT))]

    def _cut_off(self) -> None:
        """The conversation ended too early. A round goes on at the same record, the second time at the next one."""
        if self._stage == "anchor":
            self._cut = ""
        elif self._stage == "record":
            self._cut = self._info.serial
            self._index += self._stuck == self._index
            self._stuck = self._index
        self._rest(PROBE_NS)

    def _rest(self, pause: int) -> None:
        self._stage = "rest"
        self._due = self._now + pause

    # -- link ------------------------------------------------------------------------------------------------

    def _take(self, pieces: list[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if isinstance(piece, Rubbish):
                events.append(self._fault(piece.code, f"{piece.size} bytes belong to no frame", piece.head))
            else:
                events += self._frame(piece)
        return events

    def _frame(self, raw: bytes) -> list[Event]:
        frame = parse(raw)
        if frame.link & DISCONNECT:
            return self._disconnected(raw)
        if not frame.message and frame.link & ACK:
            self._acked = True
            return []
        if self._stage in ("probe", "rest") or not frame.message:
            return [self._fault(UNEXPECTED_FRAME, "a frame that answers no request", raw)]
        if bool(frame.link & SENT) != bool(self._expected):
            return [self._ack()]
        self._expected ^= 1
        return [self._ack(), *self._answer(frame.message, raw)]

    def _disconnected(self, raw: bytes) -> list[Event]:
        if self._stage == "probe":
            self._sent = self._expected = 0
            return self._ask("serial", READ_SERIAL)
        # The answer to the goodbye, or to a second disconnect that crossed the first answer.
        if self._stage == "rest" or (self._stage == "serial" and not self._acked):
            return []
        stage = self._stage
        self._cut_off()
        return [self._fault(DISCONNECTED, f"the meter ended the conversation while the {stage} was read", raw)]

    def _ack(self) -> Send:
        return Send(build(ACK | self._expected * EXPECTED | self._sent * SENT))

    def _ask(self, stage: Stage, message: bytes) -> list[Event]:
        self._stage = stage
        self._asked = build(self._expected * EXPECTED | self._sent * SENT, message)
        self._sent ^= 1
        self._tries = 1
        self._acked = False
        self._due = self._now + ANSWER_NS
        return [Send(self._asked)]

    def _ask_record(self, stage: Stage, index: int) -> list[Event]:
        return self._ask(stage, READ_RECORD + index.to_bytes(2, "little"))

    # -- answers ---------------------------------------------------------------------------------------------

    def _answer(self, message: bytes, raw: bytes) -> list[Event]:
        head, body = message[:2], message[2:]
        if self._stage == "serial" and head == OK and 0 < len(body) <= MAX_SERIAL and _is_text(body):
            self._info = DeviceInfo(serial=body.decode("ascii").strip())
            return self._ask("clock", READ_CLOCK)
        if self._stage == "clock" and head == OK and len(body) == 4:
            self._clock = Cursor(body).u32()
            clock = wall_time(self._clock)
            self._info = msgspec.structs.replace(self._info, clock=clock, clock_read_at=self._now)
            # Told, it would part the records to come from those already given, by which their time is known.
            self._info_told = self._info_told and self._resumes
            told = self._tell() if self._info.serial != self._done.serial else []
            return [*told, *self._ask_record("count", NO_RECORD)]
        if self._stage == "count" and head == COUNT and len(body) == 2 and Cursor(body).u16() <= MAX_RECORDS:
            return self._counted(Cursor(body).u16())
        if self._stage == "anchor" and head == OK:
            return self._next_record() if body == self._before else self._begin()
        if self._stage == "record" and head == OK and len(body) == 8 and body[6:] == b"\0\0":
            return self._record(body, raw)
        self._cut = ""
        fault = self._fault(BAD_ANSWER, f"no answer to {self._asked.hex()}", raw)
        if self._stage == "record":
            # The meter did answer; to ask again gives the same. The other records are worth having.
            self._index += 1
            return [fault, *self._next_record()]
        return [fault, *self._goodbye()]

    def _tell(self) -> list[Event]:
        if self._info_told:
            return []
        self._info_told = True
        return [self._info]

    @property
    def _resumes(self) -> bool:
        """Whether this meter's round was cut off after some of its records were given."""
        return self._info.serial == self._cut and bool(self._before)

    def _counted(self, count: int) -> list[Event]:
        same = self._info.serial == self._cut and count == self._count
        self._count = count
        if not same:
            return self._begin()
        return self._ask_record("anchor", self._anchor) if self._before else self._next_record()

    def _begin(self) -> list[Event]:
        """The round, from the newest record on. The clock is told again where a round that was cut off is given up."""
        self._info_told = self._info_told and not self._resumes
        self._index, self._twice, self._stuck = 0, 0, -1
        self._before = self._newest = b""
        self._cut = ""
        self._latest, self._jump_told = self._clock + AHEAD_S, False
        return self._next_record()

    def _record(self, body: bytes, raw: bytes) -> list[Event]:
        self._newest = self._newest or body
        if (self._info.serial, body) == self._done[:2] and self._passed + self._done.known >= self._count:
            return self._finish(self._count)
        self._anchor = self._index
        self._index += 1
        if body == self._before:
            self._twice += 1
            return self._next_record()
        self._before = body
        cursor = Cursor(body)
        seconds = cursor.u32()
        observation = Observation(
            "glu",
            t_device=wall_time(seconds),
            quantities={"glu": glucose(cursor.u32())},
            received_at=self._now,
            historical=True,
            raw=raw.hex(),
        )
        return [*self._tell(), *self._jumped(seconds), observation, *self._next_record()]

    def _jumped(self, seconds: int) -> list[Event]:
        ahead, self._latest = seconds > self._latest, seconds
        if not ahead or self._jump_told:
            return []
        self._jump_told = True
        return [self._fault(CLOCK_JUMPED, f"the record of {wall_time(seconds)} is ahead of what came after it")]

    def _next_record(self) -> list[Event]:
        return self._ask_record("record", self._index) if self._index < self._count else self._finish(self._passed)

    @property
    def _passed(self) -> int:
        """How many records this round has come past."""
        return self._index - self._twice

    def _finish(self, known: int) -> list[Event]:
        self._done = Round(self._info.serial, self._newest, known)
        self._cut = ""
        return self._goodbye()

    def _goodbye(self) -> list[Event]:
        self._rest(REST_NS)
        return [Send(build(DISCONNECT))]


def _is_text(data: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in data) and bool(data.strip())


def _new_session(options: Options) -> _Session:
    return _Session()


DRIVER: Final = Driver(
    name="glucometer_ultramini",
    title="Glucose meter, LifeScan OneTouch UltraMini or UltraEasy",
    transport="serial",
    spec=SerialSpec(baudrate=9600),
    metrics=("glu",),
    faults={
        NOT_A_FRAME: "bytes that belong to no frame",
        TRUNCATED: "a frame stopped in its middle: the line went quiet or closed",
        BAD_CHECKSUM: "a frame whose checksum does not fit; it is asked for again",
        NO_ANSWER: "the meter stopped answering in the middle of a conversation, which is taken up again",
        BAD_ANSWER: "the meter refused a request or answered something else",
        UNEXPECTED_FRAME: "a frame that answers no request",
        DISCONNECTED: "the conversation ended before all records were read; it is taken up again",
        CLOCK_JUMPED: "a record of the memory is ahead of newer ones or of the clock: the clock was set back since",
    },
    new_session=_new_session,
    evidence="strong",
)
