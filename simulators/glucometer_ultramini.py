"""A simulated glucose meter, LifeScan OneTouch UltraMini, at the end of its serial cable; written from the sheet.

Every `interval_s` the patient's blood is tested, host or no host, and the result goes on top of a memory of 500. The
meter speaks when it is spoken to, integers little-endian:

    02 | length of the whole frame | link | message | 03 | CRC-16/CCITT-FALSE, low byte first

    link: bit 0 S, one's own bit; 1 E, the bit expected of the other; 2 ack; 3 disconnect

A command is acknowledged by an empty frame and then answered; an answer that the host does not acknowledge comes again
with the same S, and until then no further command is taken. Each side turns its bit after a frame with a message. A
disconnect is answered by one, and both bits are 0 again.

    05 0D 02                 version       05 06, length, text
    05 0B 02 + 8 bytes       serial        05 06, text
    05 20 02 0000 0000       clock         05 06, u32
    05 09 02 09 0000 0000    display unit  05 06, u32: 0 mg/dL, 1 mmol/L
    05 08 02 0000 0000       date style    05 06, u32
    05 1F u16                record        05 06, u32 time, u32 mg/dL; 0 is the newest; none of that index: 05 0F, count

Times are seconds since 1970 of the meter's wall clock. Values are mg/dL whatever the display shows; FFFE is LO, FFFF
HI. Nothing that changes the meter is carried out: to set the clock and to erase the memory are refused. What a real
meter says to a command it refuses is in no source.
"""

from collections import deque
from collections.abc import Iterable
from datetime import UTC, timedelta
from typing import Final, NamedTuple

import numpy as np

from simulators.core.handover import DAYS_OFF, FIRST
from simulators.core.registry import Setup, SimulatedKind
from vitals.clock import NS, Instant, to_datetime
from vitals.driver import Option
from vitals.model import Chunk, Send
from vitals.wire import crc16_ccitt_false

STX: Final = 0x02
ETX: Final = 0x03
S, E, ACK, DISCONNECT = 0x01, 0x02, 0x04, 0x08
SHORTEST: Final = 6
LONGEST: Final = 64
"""No frame is longer; a damaged length must not swallow what follows."""
LONGEST_SERIAL: Final = 32

UNITS: Final = ("mg/dL", "mmol/L")
LOWEST, HIGHEST = 20, 600
LOW, HIGH = 0xFFFE, 0xFFFF
CAPACITY: Final = 500
REFUSED: Final = b"\x05\x07"

REPEAT_NS: Final = NS
"""An answer that nobody acknowledged comes again after this."""
GAP_NS: Final = NS
"""What stopped in mid-frame this long ago is not going on."""
IDLE_NS: Final = 5 * NS
"""Without a word from the host the meter ends the conversation and shows its idle screen."""

_NOISE: Final = 0.03
"""Standard deviation of the meter, as a share of the value: 95 % within 6 %, where ISO 15197 allows 15 %."""
_OLD_SPREAD: Final = 20.0
"""Standard deviation of tests of other days, mg/dL: before and after meals."""
_OLD_GAP_H: Final = (3.0, 12.0)
"""Hours between tests of other days: a person tests a few times a day."""


class Result(NamedTuple):
    """One line of the memory: the meter's wall time in seconds since 1970, and the number as it is sent."""

    time: int
    number: int


def frame(link: int, message: bytes = b"") -> bytes:
    """A whole frame."""
    head = bytes([STX, SHORTEST + len(message), link]) + message + bytes([ETX])
    return head + crc16_ccitt_false(head).to_bytes(2, "little")


def number_sent(mg_dl: float) -> int:
    """What the meter keeps of a value: whole mg/dL, or that it lies beyond what the meter can tell."""
    if round(mg_dl) < LOWEST:
        return LOW
    return HIGH if round(mg_dl) > HIGHEST else round(mg_dl)


class UltraMini:
    """The meter (a `Simulator`). Raises ValueError for options that no meter has.

    `memory` (newest first) is taken as it is, in place of `records` older tests: the memory of another such meter,
    whose clock was set since.
    """

    def __init__(self, setup: Setup, memory: Iterable[Result] | None = None) -> None:
        options = setup.options
        self._setup = setup
        self._rng = np.random.default_rng(setup.seed)
        self._interval = round(float(options["interval_s"]) * NS)
        self._skew = timedelta(seconds=float(options["clock_skew_s"]))
        if self._interval <= 0:
            raise ValueError(f"interval_s {options['interval_s']}: expected more than 0")
        if str(options["unit"]) not in UNITS:
            raise ValueError(f"unknown unit {options['unit']!r}; known: {', '.join(UNITS)}")
        self._unit = UNITS.index(str(options["unit"]))
        # Nine characters, as real ones have.
        self.serial = str(options["serial"]) or f"SIM{setup.seed % 10**6:06d}"
        if len(self.serial) > LONGEST_SERIAL or not self.serial.isascii():
            raise ValueError(f"serial {self.serial!r}: expected at most {LONGEST_SERIAL} ASCII characters")
        first = float(options.get("first_s", self._rng.uniform(1.0, 12.0)))
        self._due = setup.start + round(first * NS)
        old = self._earlier(int(options["records"])) if memory is None else memory
        self.memory: deque[Result] = deque(old, maxlen=CAPACITY)
        """Newest first; a full memory loses its oldest."""
        self._heard = bytearray()
        self._heard_at: Instant = setup.start
        self._said_at: Instant = setup.start
        self._talking = False
        self._own = self._expected = 0
        self._unread = b""
        """The answer that the host has not acknowledged."""

    def respond(self, chunk: Chunk) -> list[Send]:
        if chunk.received_at - self._heard_at > GAP_NS:
            self._heard.clear()
        self._heard += chunk.data
        self._heard_at = chunk.received_at
        sends: list[Send] = []
        while (found := self._next_frame()) is not None:
            sends += [Send(data) for data in self._hear(found[2], found[3:-3], chunk.received_at)]
        return sends

    def advance(self, until: Instant) -> list[Send]:
        # A suspended computer: what would not fit the memory anyway is not made up.
        self._due = max(self._due, until - CAPACITY * self._interval)
        while self._due <= until:
            self.measure(self._due)
            self._due += self._interval
        if self._talking and until - self._heard_at > IDLE_NS:
            self._hang_up()
            return [Send(frame(DISCONNECT))]
        if self._unread and until - self._said_at > REPEAT_NS:
            self._said_at = until
            return [Send(self._unread)]
        return []

    def measure(self, at: Instant) -> None:
        """The patient's blood is tested at `at`."""
        value = self._setup.patient.at(self._setup.patient_s(at)).glu
        value *= 1 + float(self._rng.normal(0.0, _NOISE))
        self.memory.appendleft(Result(self._wall(at), number_sent(value)))

    def _earlier(self, count: int) -> list[Result]:
        """Tests of the days before the start, newest first."""
        if not 0 <= count <= CAPACITY:
            raise ValueError(f"records {count}: expected 0 to {CAPACITY}")
        ages = np.cumsum(self._rng.uniform(*_OLD_GAP_H, count)) * 3600
        values = [self._setup.patient.at(-float(age)).glu for age in ages] + self._rng.normal(0.0, _OLD_SPREAD, count)
        start = self._setup.start
        return [
            Result(self._wall(start - round(float(age) * NS)), number_sent(float(value)))
            for age, value in zip(ages, values, strict=True)
        ]

    def _wall(self, at: Instant) -> int:
        """The meter's wall clock, counted as if it were UTC."""
        local = (to_datetime(at) + self._skew).astimezone(self._setup.zone)
        return int(local.replace(tzinfo=UTC).timestamp()) & 0xFFFF_FFFF

    # -- link ------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        self._talking = False
        self._own = self._expected = 0
        self._unread = b""

    def _next_frame(self) -> bytes | None:
        """The next sound frame; bytes before it are skipped in silence, as a meter does."""
        while len(self._heard) >= SHORTEST:
            size = self._heard[1]
            if self._heard[0] != STX or not SHORTEST <= size <= LONGEST:
                del self._heard[0]
                continue
            if len(self._heard) < size:
                return None
            found = bytes(self._heard[:size])
            if found == frame(found[2], found[3:-3]):
                del self._heard[:size]
                return found
            del self._heard[0]
        return None

    def _hear(self, link: int, message: bytes, at: Instant) -> list[bytes]:
        if link & DISCONNECT:
            self._hang_up()
            self._talking = True
            return [frame(DISCONNECT)]
        if not message:
            if link & ACK and bool(link & E) == bool(self._own):
                self._unread = b""
            return []
        if not self._talking:
            return []  # asleep: only a disconnect begins a conversation
        again = bool(link & S) != bool(self._expected)
        if self._unread:
            # Asked again because the answer was lost; or asked for more while the answer before is not acknowledged.
            self._said_at = at
            return [self._ack(), self._unread] if again else [self._unread]
        if again:
            return []
        self._expected ^= 1
        self._unread = frame(self._expected * E | self._own * S, self._answer(message, at))
        reply = [self._ack(), self._unread]
        self._own ^= 1
        self._said_at = at
        return reply

    def _ack(self) -> bytes:
        return frame(ACK | self._expected * E | self._own * S)

    def _answer(self, message: bytes, at: Instant) -> bytes:
        match message[:3]:
            case b"\x05\x0d\x02":
                return b"\x05\x06\x0fP02.00.00 simul"
            case b"\x05\x0b\x02":
                return b"\x05\x06" + self.serial.encode("ascii")
            case b"\x05\x20\x02":
                return b"\x05\x06" + self._wall(at).to_bytes(4, "little")
            case b"\x05\x09\x02":
                return b"\x05\x06" + self._unit.to_bytes(4, "little")
            case b"\x05\x08\x02":
                return b"\x05\x06" + bytes(4)
        if message[:2] == b"\x05\x1f" and len(message) == 4:
            return self._record(int.from_bytes(message[2:], "little"))
        return REFUSED

    def _record(self, index: int) -> bytes:
        if index >= len(self.memory):
            return b"\x05\x0f" + len(self.memory).to_bytes(2, "little")
        time, number = self.memory[index]
        return b"\x05\x06" + time.to_bytes(4, "little") + number.to_bytes(4, "little")


SIMULATOR: Final = SimulatedKind(
    name="glucometer_ultramini",
    title="Glucose meter, LifeScan OneTouch UltraMini",
    transport="serial",
    factory=UltraMini,
    options=(
        Option("interval_s", float, "Seconds from one test to the next.", 600.0),
        FIRST,
        Option("records", int, "Tests of earlier days in the memory at the start, at most 500.", 0),
        Option("clock_skew_s", float, "How far the meter's clock is ahead.", 0.0),
        Option("unit", str, "mg/dL or mmol/L: what its display shows. Sent is mg/dL all the same.", "mg/dL"),
        Option("serial", str, "Serial number; empty: made from the seed.", ""),
    ),
    tricks={"wrong_clock": DAYS_OFF, "wrong_unit": {"unit": "mmol/L"}},
)
