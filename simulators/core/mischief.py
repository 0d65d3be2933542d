"""What goes wrong, by name and by seed, over any simulator; bytes are counted, so that a test can account for them.

On the way (any device): `split` cuts a send in two, `merge` joins it with the next, `drop` leaves it out, `flip`
inverts one bit, `repeat` sends it twice, `stall` holds everything back for a while and then lets it go at once. The
wrapper `Mischief` does these.

In the device (where it has such a thing): `wrong_clock` is days off, `wrong_unit` sends the other unit it may send,
`low_battery` says so, `lead_off` is an electrode that hangs loose, `motion` a patient who moves. Each `SimulatedKind`
declares in `tricks` what they mean for it; the device is made that way.

As text, in the option `mischief` of a simulated device and in scenarios:

    drop=0.01, flip=0.02@60+30, wrong_clock, lead_off@90+20/120

Tricks on the way need a rate: the chance for one send. `@start+length` is a window in seconds of the patient's time and
`/every` repeats it; without one the trick holds all the time, and what a device is made with (`wrong_clock`,
`wrong_unit`, `low_battery`) always does.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from simulators.core.contract import Simulator
from simulators.core.patient import parse_when
from simulators.core.physiology import Episode
from simulators.core.registry import Setup, SimulatedKind
from vitals.clock import NS, Instant
from vitals.errors import SettingsError
from vitals.model import Chunk, Send

ON_THE_WAY: Final = ("split", "merge", "drop", "flip", "repeat", "stall")
OF_THE_PATIENT: Final = ("lead_off", "motion")
"""Episodes of the patient that only this device sees."""
IN_THE_DEVICE: Final = ("wrong_clock", "wrong_unit", "low_battery", *OF_THE_PATIENT)
STALL_S: Final = 2.0
HELD_LIMIT: Final = 20_000
"""Sends held while stalled; a stall is 2 s, so only a simulator gone mad reaches it. More are dropped and counted."""


class Trick(msgspec.Struct, frozen=True):
    """One name of the text: `when` it goes on (its kind is the trick's name) and, on the way, the chance for a send."""

    when: Episode
    rate: float = 0.0

    @property
    def name(self) -> str:
        return self.when.kind


class Mischief:
    """Wraps `simulator`; only the tricks on the way count here. `start` is where the patient's time is 0.

    At most one trick happens to a send. Whatever else the simulator offers (a GATT device) is passed through.
    """

    def __init__(
        self, simulator: Simulator, seed: int, tricks: Sequence[Trick], start: Instant, stall_s: float = STALL_S
    ) -> None:
        self.counts: dict[str, int] = dict.fromkeys(("seen", "passed", "overflow", *ON_THE_WAY), 0)
        """`seen` = `passed` + split + merge + drop + flip + repeat + stall. A `stall` starts at its send."""
        self._simulator = simulator
        self._rng = np.random.default_rng(seed)
        self._tricks = [trick for trick in tricks if trick.name in ON_THE_WAY]
        self._start = start
        self._stall_ns = round(stall_s * NS)
        self._stalled_until = 0
        self._held: list[Send] = []
        self._joining: Send | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._simulator, name)

    def respond(self, chunk: Chunk) -> list[Send]:
        return self._through(self._simulator.respond(chunk), chunk.received_at)

    def advance(self, until: Instant) -> list[Send]:
        return self._through(self._simulator.advance(until), until)

    def _through(self, sends: list[Send], now: Instant) -> list[Send]:
        out: list[Send] = []
        for send in sends:
            self.counts["seen"] += 1
            out += self._one(send, now)
        if now < self._stalled_until:
            room = HELD_LIMIT - len(self._held)
            self.counts["overflow"] += max(0, len(out) - room)
            self._held += out[:room]
            return []
        held, self._held = self._held, []
        return held + out

    def _one(self, send: Send, now: Instant) -> list[Send]:
        if self._joining is not None:
            first, self._joining = self._joining, None
            if first.channel == send.channel:
                send = Send(first.data + send.data, send.channel)
            else:
                return [first, *self._one(send, now)]
        trick = self._draw(now)
        self.counts[trick or "passed"] += 1
        match trick:
            case "split":
                at = int(self._rng.integers(0, len(send.data) + 1))
                return [Send(send.data[:at], send.channel), Send(send.data[at:], send.channel)]
            case "merge":
                self._joining = send
                return []
            case "drop":
                return []
            case "flip":
                return [Send(self._flipped(send.data), send.channel)]
            case "repeat":
                return [send, send]
            case "stall":
                self._stalled_until = max(self._stalled_until, now + self._stall_ns)
        return [send]

    def _draw(self, now: Instant) -> str | None:
        left = float(self._rng.random())
        t = np.asarray((now - self._start) / NS)
        for trick in self._tricks:
            if trick.when.holds(t):
                left -= trick.rate
                if left < 0:
                    return trick.name
        return None

    def _flipped(self, data: bytes) -> bytes:
        if not data:
            return data
        bit = int(self._rng.integers(0, len(data) * 8))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)


def parse(text: str) -> tuple[Trick, ...]:
    """`drop=0.01, lead_off@90+20` as tricks. Raises SettingsError."""
    tricks: list[Trick] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            tricks.append(_trick(item))
            if sum(trick.rate for trick in tricks) > 1:
                raise ValueError("rates above 1 in all")
        except ValueError:
            raise SettingsError(
                "The mischief of a simulated device cannot be read.",
                expected=f"name=rate for {', '.join(ON_THE_WAY)}, with rates that sum to at most 1; "
                f"the name alone for {', '.join(IN_THE_DEVICE)}; a window after it where there is one",
                found=repr(item),
                do="Write it like drop=0.01, flip=0.02@60+30, wrong_clock, lead_off@90+20/120.",
            ) from None
    return tuple(tricks)


def _trick(item: str) -> Trick:
    head, windowed, window = item.partition("@")
    name, rated, rate = (part.strip() for part in head.partition("="))
    when = parse_when(name, window) if windowed else Episode(name)
    if name in ON_THE_WAY and 0 <= float(rate) <= 1:
        return Trick(when, float(rate))
    if not rated and (name in OF_THE_PATIENT or (name in IN_THE_DEVICE and not windowed)):
        return Trick(when)
    raise ValueError("no such trick, or not like this")


def require_possible(kind: SimulatedKind, tricks: Sequence[Trick]) -> None:
    """Raises SettingsError for a trick that devices of this kind cannot have."""
    possible = (*ON_THE_WAY, *kind.tricks)
    for trick in tricks:
        if trick.name not in possible:
            raise SettingsError(
                f"The simulated {kind.name} cannot have the mischief {trick.name!r}.",
                expected=f"one of: {', '.join(possible)}", found=repr(trick.name),
                do="Remove it, or give it to a device that can have it.",
            )  # fmt: skip


def applied(kind: SimulatedKind, setup: Setup, tricks: Sequence[Trick]) -> Setup:
    """The device made as its tricks say. Raises SettingsError for a trick that this kind cannot have."""
    require_possible(kind, tricks)
    options = dict(setup.options)
    for trick in tricks:
        options.update(kind.tricks.get(trick.name, {}))
    seen = [trick.when for trick in tricks if trick.name in OF_THE_PATIENT]
    patient = setup.patient.seen_with(*seen) if seen else setup.patient
    return msgspec.structs.replace(setup, options=options, patient=patient)
