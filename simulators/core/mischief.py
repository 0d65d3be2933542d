"""What goes wrong on the way, by name and by seed, over any simulator; counted, so that a test can account for it.

Bytes: `split` cuts a send in two, `merge` joins it with the next, `drop` leaves it out, `flip` inverts one bit,
`repeat` sends it twice, `stall` holds everything back for a while and then lets it go at once.
"""

from typing import Final, Literal, TypeAlias

import numpy as np

from simulators.core.contract import Simulator
from vitals.clock import NS, Instant
from vitals.errors import SettingsError
from vitals.model import Chunk, Send

Trick: TypeAlias = Literal["split", "merge", "drop", "flip", "repeat", "stall"]
TRICKS: Final[tuple[Trick, ...]] = ("split", "merge", "drop", "flip", "repeat", "stall")
STALL_S: Final = 2.0
HELD_LIMIT: Final = 20_000
"""Sends held while stalled; a stall is 2 s, so only a simulator gone mad reaches it. More are dropped and counted."""


class Mischief:
    """Wraps `simulator`; `rates` gives the chance of each trick for one send (0 to 1).

    At most one trick happens to a send. Whatever else the simulator offers (a GATT device) is passed through.
    """

    def __init__(self, simulator: Simulator, seed: int, rates: dict[Trick, float], stall_s: float = STALL_S) -> None:
        self.counts: dict[str, int] = dict.fromkeys(("seen", "passed", "overflow", *TRICKS), 0)
        """`seen` = `passed` + split + merge + drop + flip + repeat + stall. A `stall` starts at its send."""
        self._simulator = simulator
        self._rng = np.random.default_rng(seed)
        self._names = [trick for trick in TRICKS if rates.get(trick)]
        self._edges = np.cumsum([rates[trick] for trick in self._names])
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
        trick = self._draw()
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

    def _draw(self) -> Trick | None:
        if not self._names:
            return None
        index = int(np.searchsorted(self._edges, self._rng.random(), side="right"))
        return self._names[index] if index < len(self._names) else None

    def _flipped(self, data: bytes) -> bytes:
        if not data:
            return data
        bit = int(self._rng.integers(0, len(data) * 8))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)


def parse_rates(text: str) -> dict[Trick, float]:
    """`drop=0.01, flip=0.02` as rates. Raises SettingsError."""
    rates: dict[Trick, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rate = item.partition("=")
        known = next((trick for trick in TRICKS if trick == name.strip()), None)
        try:
            value = float(rate)
        except ValueError:
            value = -1.0
        if known is None or not 0 <= value <= 1 or sum(rates.values()) + value > 1:
            raise SettingsError(
                "The mischief of a simulated device cannot be read.",
                expected=f"name=rate with rates that sum to at most 1; names: {', '.join(TRICKS)}", found=repr(item),
                do="Write it like drop=0.01, flip=0.02.",
            )  # fmt: skip
        rates[known] = value
    return rates
