"""A Bluetooth device that measures now and then and keeps each reading until a host has confirmed it.

What the cuff and the thermometer have in common: every `interval_s` a run, values shown to a host meanwhile, the
result indicated oldest first, the link ended when all is confirmed, and a wall clock that a host can set. Options
read here: `interval_s`, `first_s`, `clock_skew_s`, `battery`.
"""

from abc import ABC, abstractmethod
from collections import deque
from datetime import datetime, timedelta
from typing import Final

import msgspec
import numpy as np

from simulators.core.gatt import AttError, Characteristic, Property, Service
from simulators.core.physiology import State
from simulators.core.registry import Setup
from vitals.clock import NS, Instant, to_datetime
from vitals.driver import Option
from vitals.model import Chunk, Send
from vitals.wire import WireDateTime

CURRENT_TIME: Final = "2a2b"
MEMORY: Final = 30
"""Readings kept without a host; the oldest goes first, as in cuffs of this class."""
LISTEN_NS: Final = NS // 2
"""From the subscription to the first value: hosts may subscribe to the intermediate values last."""
LINGER_NS: Final = NS // 4
IDLE_NS: Final = 30 * NS
"""A host that connects and subscribes to nothing loses the link after this."""
RETRY_NS: Final = 5 * NS
UNCONFIRMED_NS: Final = 30 * NS
"""An indication that is not confirmed ends the link (Core Vol 3 Part F 3.3.3); it is sent again at the next one."""
INVALID_LENGTH: Final = 0x0D
OUT_OF_RANGE: Final = 0x80
_READ: Final = Property.READ

FIRST: Final = Option("first_s", float, "Seconds to the first reading; left out: drawn from the seed, 1 to 12.")
BATTERY: Final = Option("battery", int, "Percent that the battery service tells.", 87)
DAYS_OFF: Final = {"clock_skew_s": 3 * 86_400.0}
"""The trick `wrong_clock`: somebody set the wrong day."""
LOW_BATTERY: Final = {"battery": 7}
"""The trick `low_battery`. 0x180F tells a percentage and no more, so it is the number that is low."""


class Run(msgspec.Struct, frozen=True):
    """A measurement under way, and the patient at its end."""

    begun: Instant
    done: Instant
    state: State


class Handover(ABC):
    """Most of a `GattDevice`. All times are the host's instants; its own clock shows them in its zone."""

    measurement: str
    """The characteristic that indicates results."""
    intermediate: str
    """The characteristic that notifies values during a run."""
    step_ns: int
    """From one intermediate value to the next."""

    def __init__(self, setup: Setup, run_s: float) -> None:
        options = setup.options
        self._setup = setup
        self._rng = np.random.default_rng(setup.seed)
        self._interval = round(float(options["interval_s"]) * NS)
        self._length = round(run_s * NS)
        self._skew = timedelta(seconds=float(options["clock_skew_s"]))
        self._due = setup.start + round(self._first_s() * NS)
        self._now = setup.start
        self.stored: deque[bytes] = deque(maxlen=MEMORY)
        """Readings no host has confirmed, oldest first."""
        self._in_flight = 0
        self._told_at: Instant = 0
        """When the oldest indication on its way became the oldest."""
        self._run: Run | None = None
        self._next_step = 0
        self._connected_at: Instant | None = None
        self._subscribed_at: Instant | None = None
        self._watched = False
        """Whether the host wants intermediate values."""
        self._quiet_until = 0
        """The last confirmation or the end of the rest after a link: neither hang up nor advertise right then."""

    def _first_s(self) -> float:
        options = self._setup.options
        # Drawn also where it is given: what the seed gives next must not depend on an option.
        latest = min(12.0, float(options["interval_s"]))
        drawn = self._rng.uniform(min(1.0, latest), latest)
        return float(options.get("first_s", drawn))

    @abstractmethod
    def _take(self, state: State, at: Instant) -> bytes:
        """The result of a run that ends at `at`."""

    @abstractmethod
    def _glimpse(self, part: float, state: State) -> bytes:
        """The intermediate value when `part` of the run (0 to 1) is over."""

    def _may_start(self, until: Instant) -> bool:
        """Whether a run that is due begins now."""
        return True

    @property
    def _busy(self) -> bool:
        # A run is due until it is over.
        return bool(self.stored) or self._due <= self._now

    @property
    def _listening(self) -> bool:
        return self._subscribed_at is not None and self._now - self._subscribed_at >= LISTEN_NS

    @property
    def advertising(self) -> bool:
        return self._busy and self._now >= self._quiet_until

    @property
    def hanging_up(self) -> bool:
        if self._connected_at is None:
            return False
        if self._subscribed_at is None:
            return self._now - self._connected_at > IDLE_NS
        if self._in_flight and self._now - self._told_at > UNCONFIRMED_NS:
            return True
        return not self._busy and self._now - self._quiet_until > LINGER_NS

    def connected(self, at: Instant) -> None:
        self._connected_at, self._subscribed_at, self._watched, self._in_flight = at, None, False, 0

    def disconnected(self, at: Instant) -> None:
        self._connected_at, self._subscribed_at, self._watched, self._in_flight = None, None, False, 0
        self._quiet_until = at + (RETRY_NS if self.stored else LINGER_NS)

    def subscribed(self, channel: str, on: bool, at: Instant) -> None:
        if channel == self.measurement:
            self._subscribed_at = at if on else None
        elif channel == self.intermediate:
            self._watched = on

    def read(self, channel: str, at: Instant) -> bytes | None:
        if channel != CURRENT_TIME:
            return None
        wall = self._wall(at)
        return wire_time(wall).encode() + bytes([wall.isoweekday(), wall.microsecond * 256 // 1_000_000, 0])

    def respond(self, chunk: Chunk) -> list[Send]:
        """Only the clock can be set: wall time, of which year to second are taken. Raises AttError."""
        if chunk.channel != CURRENT_TIME or len(chunk.data) != 10:
            raise AttError(INVALID_LENGTH)
        given = WireDateTime(int.from_bytes(chunk.data[:2], "little"), *chunk.data[2:7])
        if not (given.in_range and given.year and given.month and given.day):
            raise AttError(OUT_OF_RANGE)
        shown = datetime(*given, tzinfo=self._setup.zone)
        self._skew = shown - to_datetime(chunk.received_at).replace(microsecond=0)
        return []

    def confirmed(self, send: Send, at: Instant) -> None:
        # A value that is not the oldest one was doubled or damaged on the way: it confirms nothing.
        if send.channel == self.measurement and self.stored and send.data == self.stored[0]:
            self.stored.popleft()
            self._in_flight = max(0, self._in_flight - 1)
            self._quiet_until = self._told_at = at

    def advance(self, until: Instant) -> list[Send]:
        self._now = until
        if self._run is None and self._due <= until and self._may_start(until):
            done = until + self._length
            self._run = Run(until, done, self._setup.patient.at(self._setup.patient_s(done)))
            self._next_step = until
        sends = self._running(self._run, until) if self._run is not None else []
        if self._listening:
            fresh = list(self.stored)[self._in_flight :]
            self._told_at = self._told_at if self._in_flight else until
            self._in_flight += len(fresh)
            sends += [Send(value, self.measurement) for value in fresh]
        return sends

    def _running(self, run: Run, until: Instant) -> list[Send]:
        sends = []
        while self._next_step < min(until, run.done):
            if self._watched:
                part = (self._next_step - run.begun) / self._length
                sends.append(Send(self._glimpse(part, run.state), self.intermediate))
            self._next_step += self.step_ns
        if until >= run.done:
            self._run = None
            self._due = max(self._due + self._interval, run.done + 1)
            self.stored.append(self._take(run.state, run.done))
        return sends

    def _wall(self, at: Instant) -> datetime:
        return (to_datetime(at) + self._skew).astimezone(self._setup.zone)

    def _stamp(self, at: Instant) -> WireDateTime | None:
        """The time stamp of a reading, if the option `stamp` wants one."""
        return wire_time(self._wall(at)) if self._setup.options["stamp"] else None


def wire_time(moment: datetime) -> WireDateTime:
    """A wall time as GATT Date Time."""
    return WireDateTime(moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second)


def about(model: str, setup: Setup) -> tuple[Service, ...]:
    """Device information, battery and clock. Raises ValueError for a battery beyond 0 to 100."""
    serial = f"SIM{setup.seed % 10**8:08d}"
    battery = int(setup.options["battery"])
    if not 0 <= battery <= 100:
        raise ValueError(f"battery {battery}: expected 0 to 100 percent")
    info = {"2a29": "exam-room-vitals simulated", "2a24": model, "2a25": serial, "2a26": "1.0"}
    return (
        Service("180a", tuple(Characteristic(uuid, _READ, text.encode()) for uuid, text in info.items())),
        Service("180f", (Characteristic("2a19", _READ | Property.NOTIFY, bytes([battery])),)),
        Service("1805", (Characteristic(CURRENT_TIME, _READ | Property.WRITE),)),
    )
