"""A simulated Bluetooth blood pressure cuff: Blood Pressure Service 0x1810, written from the SIG's documents.

Every `interval_s` it wakes, advertises, and takes a reading once a host has subscribed (the cuff's pressure on 2A36
while it inflates), then indicates it on 2A35 and hangs up. A reading that no host confirmed stays in its memory and is
sent again at the next connection, oldest first, as real cuffs do; when nobody comes it measures all the same.

A failed run sends flags 16, all values NaN and status 0 although the display shows Err (public captures).
"""

from collections import deque
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from simulators.core.blood_pressure import NAN, Reading, encode_cuff_pressure, pressure, wire_time
from simulators.core.gatt import AttError, Characteristic, Property, Service
from simulators.core.physiology import State
from simulators.core.registry import Setup, SimulatedKind
from vitals.clock import NS, Instant, to_datetime
from vitals.driver import Option
from vitals.model import Chunk, Send, Validity
from vitals.wire import MedFloat, WireDateTime

MEASUREMENT: Final = "2a35"
CUFF_PRESSURE: Final = "2a36"
CURRENT_TIME: Final = "2a2b"
MEMORY: Final = 30
"""Readings kept without a host; the oldest goes first, as in cuffs of this class."""
PRESSURE_EVERY_NS: Final = NS // 5
LISTEN_NS: Final = NS // 2
"""From the subscription to the first value: hosts subscribe to 2A36 after 2A35."""
LINGER_NS: Final = NS // 4
IDLE_NS: Final = 30 * NS
"""A host that connects and subscribes to nothing loses the link after this."""
RETRY_NS: Final = 5 * NS
INVALID_LENGTH: Final = 0x0D
_READ: Final = Property.READ


class Cuff:
    """The device (a `GattDevice`). All times are the host's instants; its own clock shows them in its zone."""

    name = "SIM-BP"
    advertised = ("1810",)

    def __init__(self, setup: Setup) -> None:
        options = setup.options
        self._setup = setup
        self._rng = np.random.default_rng(setup.seed)
        self._interval = round(float(options["interval_s"]) * NS)
        self._inflate = round(float(options["inflate_s"]) * NS)
        self._advertise = round(float(options["advertise_s"]) * NS)
        self._kpa = options["unit"] == "kPa"
        self._skew = timedelta(seconds=float(options["clock_skew_s"]))
        first = float(options.get("first_s", self._rng.uniform(1.0, min(12.0, float(options["interval_s"])))))
        self._due = setup.start + round(first * NS)
        self._now = setup.start
        self.stored: deque[bytes] = deque(maxlen=MEMORY)
        """Readings no host has confirmed, oldest first."""
        self._in_flight = 0
        self._measuring: tuple[Instant, Instant, State] | None = None
        self._next_pressure = 0
        self._connected_at: Instant | None = None
        self._subscribed_at: Instant | None = None
        self._quiet_until = 0
        """The last confirmation or the end of the rest after a link: neither hang up nor advertise right then."""
        self.table = _table(f"SIM{setup.seed % 10**8:08d}")

    @property
    def advertising(self) -> bool:
        wanted = bool(self.stored) or self._due <= self._now
        return wanted and self._measuring is None and self._now >= self._quiet_until

    @property
    def hanging_up(self) -> bool:
        if self._connected_at is None:
            return False
        if self._subscribed_at is None:
            return self._now - self._connected_at > IDLE_NS
        busy = self._measuring is not None or bool(self.stored) or self._due <= self._now
        return not busy and self._now - self._quiet_until > LINGER_NS

    def connected(self, at: Instant) -> None:
        self._connected_at, self._subscribed_at, self._in_flight = at, None, 0

    def disconnected(self, at: Instant) -> None:
        self._connected_at, self._subscribed_at, self._in_flight = None, None, 0
        self._quiet_until = at + (RETRY_NS if self.stored else LINGER_NS)

    def subscribed(self, channel: str, on: bool, at: Instant) -> None:
        if channel == MEASUREMENT:
            self._subscribed_at = at if on else None

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
            raise AttError(0x80)
        shown = datetime(*given, tzinfo=self._setup.zone)
        self._skew = shown - to_datetime(chunk.received_at).replace(microsecond=0)
        return []

    def confirmed(self, send: Send, at: Instant) -> None:
        if send.channel == MEASUREMENT and self.stored:
            self.stored.popleft()
            self._in_flight = max(0, self._in_flight - 1)
            self._quiet_until = at

    def advance(self, until: Instant) -> list[Send]:
        self._now = until
        listening = self._subscribed_at is not None and until - self._subscribed_at >= LISTEN_NS
        unheard = self._connected_at is None and until - self._due > self._advertise
        if self._measuring is None and self._due <= until and (listening or unheard):
            done = until + self._inflate
            self._measuring = (until, done, self._setup.patient.at(self._setup.patient_s(done)))
            self._next_pressure = until
        sends = self._inflating(until) if self._measuring is not None else []
        if listening:
            fresh = list(self.stored)[self._in_flight :]
            self._in_flight += len(fresh)
            sends += [Send(value, MEASUREMENT) for value in fresh]
        return sends

    def _inflating(self, until: Instant) -> list[Send]:
        assert self._measuring is not None  # noqa: S101
        begun, done, state = self._measuring
        sends = []
        while self._next_pressure < min(until, done):
            part = (self._next_pressure - begun) / self._inflate
            sends.append(Send(encode_cuff_pressure(_curve(part, state), kpa=self._kpa), CUFF_PRESSURE))
            self._next_pressure += PRESSURE_EVERY_NS
        if until >= done:
            self._measuring = None
            self._due = max(self._due + self._interval, done + 1)
            self.stored.append(self._take(state, done).encode())
        return sends

    def _take(self, state: State, at: Instant) -> Reading:
        options = self._setup.options
        kpa = self._kpa
        stamp = wire_time(self._wall(at)) if options["stamp"] else None
        if self._rng.random() < float(options["fail_rate"]):
            return Reading(NAN, NAN, NAN, kpa, stamp, NAN, None, 0)
        moved = self._rng.random() < float(options["motion_rate"])
        # Oscillometry repeats to a few mmHg on one arm.
        error = self._rng.normal(0.0, 1.5, 2)
        sys, dia = state.sys + float(error[0]), state.dia + float(error[1])
        mean = dia + (sys - dia) / 3
        beats = round(state.hr)
        beyond = 1 if beats > 120 else 2 if beats < 45 else 0
        return Reading(
            pressure(sys, kpa=kpa), pressure(dia, kpa=kpa), pressure(mean, kpa=kpa), kpa, stamp,
            MedFloat(beats, 0, Validity.VALID),
            int(options["user"]) if "user" in options else None,
            int(moved) | beyond << 3,
        )  # fmt: skip

    def _wall(self, at: Instant) -> datetime:
        return (to_datetime(at) + self._skew).astimezone(self._setup.zone)


def _curve(part: float, state: State) -> float:
    """Cuff pressure over a run: up past systolic in the first 40 %, then down past diastolic."""
    top, bottom = state.sys + 30.0, max(state.dia - 15.0, 20.0)
    return top * part / 0.4 if part < 0.4 else top - (top - bottom) * (part - 0.4) / 0.6


def _table(serial: str) -> tuple[Service, ...]:
    info = {"2a29": "exam-room-vitals simulated", "2a24": "SIM-BP", "2a25": serial, "2a26": "1.0"}
    return (
        Service(
            "1810",
            (
                Characteristic(MEASUREMENT, Property.INDICATE),
                Characteristic(CUFF_PRESSURE, Property.NOTIFY),
                Characteristic("2a49", _READ, (0b11111).to_bytes(2, "little")),
            ),
        ),
        Service("180a", tuple(Characteristic(uuid, _READ, text.encode()) for uuid, text in info.items())),
        Service("180f", (Characteristic("2a19", _READ | Property.NOTIFY, bytes([87])),)),
        Service("1805", (Characteristic(CURRENT_TIME, _READ | Property.WRITE),)),
    )


SIMULATOR: Final = SimulatedKind(
    name="bp_gatt",
    title="Bluetooth blood pressure cuff (SIG profile)",
    transport="ble",
    factory=Cuff,
    options=(
        Option("interval_s", float, "Seconds from one reading to the next.", 300.0),
        Option("first_s", float, "Seconds to the first reading; left out: drawn from the seed, 1 to 12."),
        Option("inflate_s", float, "Seconds a run takes.", 8.0),
        Option("advertise_s", float, "Seconds it waits for a host before it measures all the same.", 60.0),
        Option("unit", str, "mmHg or kPa.", "mmHg"),
        Option("user", int, "User slot 0 to 255 to send along."),
        Option("stamp", bool, "Whether readings carry the cuff's wall time.", True),
        Option("clock_skew_s", float, "How far the cuff's clock is ahead.", 0.0),
        Option("fail_rate", float, "Share of runs that fail (all values NaN), 0 to 1.", 0.0),
        Option("motion_rate", float, "Share of runs with body movement reported, 0 to 1.", 0.0),
    ),
)
