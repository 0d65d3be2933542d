"""The device's side of a captured conversation, played again: it says what it said, in its own time, and where the
capture shows that the host wrote something first, it waits until the host has written that again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from simulators.core.gatt import Characteristic, Property, Service
from vitals.clock import Instant
from vitals.model import Chunk, Send

BATCH: Final = 64
"""Chunks handed out at once when only the reader sets the pace."""
HEARD_LIMIT: Final = 4_096
"""Bytes of the host that wait for their turn; requests are under 100."""


class Line(NamedTuple):
    """One line of the script: what the device said, or (`by_host`) what the host wrote."""

    at: Instant
    data: bytes
    channel: str = ""
    by_host: bool = False


class Playback:
    """`script` gives the lines anew each time it is called. `speed` 1 is real time, 0 as fast as the reader takes it.

    Times given to it may be of any clock, as long as it is always the same.
    """

    def __init__(self, script: Callable[[], Iterable[Line]], speed: float, *, conversation: bool) -> None:
        self.conversation = conversation
        """The host asks. A host that connects anew begins anew, and so does the device."""
        self.said = 0
        """Chunks said so far."""
        self.waiting_for = b""
        """What the host must write before it goes on."""
        self.unexpected = b""
        """The last that the host wrote and the capture does not have."""
        self._script = script
        self._speed = speed
        self._heard: dict[str, bytearray] = {}
        self._rewind()

    def _rewind(self) -> None:
        self.said = 0
        self._lines = iter(self._script())
        self._next = next(self._lines, None)
        self._begun: Instant = 0
        self._begun_in_script: Instant = 0
        self._heard.clear()

    @property
    def done(self) -> bool:
        return self._next is None

    def connected(self, now: Instant) -> None:
        """A host is there: the clock of the script starts, or goes on."""
        if self.conversation:
            self._rewind()
        self._anchor(now)

    def _anchor(self, now: Instant) -> None:
        if self._next is not None:
            self._begun, self._begun_in_script = now, self._next.at

    def heard(self, data: bytes, channel: str = "") -> None:
        """The host wrote this (on serial: a slice of a stream)."""
        held = self._heard.setdefault(channel, bytearray())
        held += data
        del held[:-HEARD_LIMIT]

    def due(self, now: Instant) -> list[Send]:
        """What is to be said by now, at most `BATCH` chunks."""
        sends: list[Send] = []
        while self._next is not None and len(sends) < BATCH:
            if self._next.by_host:
                if not self._was_heard(self._next):
                    break
                self._anchor(now)
            elif self._speed and now < self._begun + (self._next.at - self._begun_in_script) / self._speed:
                break
            else:
                sends.append(Send(self._next.data, self._next.channel))
                self.said += 1
            self._next = next(self._lines, None)
        return sends

    def _was_heard(self, line: Line) -> bool:
        held = self._heard.setdefault(line.channel, bytearray())
        self.waiting_for = line.data
        at = held.find(line.data)
        if at < 0:
            return self._drop_strange(held, line.data)
        if at:
            self.unexpected = bytes(held[:at])
        del held[: at + len(line.data)]
        self.waiting_for = b""
        return True

    def _drop_strange(self, held: bytearray, wanted: bytes) -> bool:
        """Keep only what can still become the wanted bytes."""
        keep = next((n for n in range(min(len(held), len(wanted)), 0, -1) if held.endswith(wanted[:n])), 0)
        if strange := bytes(held[: len(held) - keep]):
            self.unexpected = strange
            del held[: len(strange)]
        return False


class CapturedDevice:
    """A captured Bluetooth device (a `GattDevice`): the characteristics the capture shows, all in one service.

    It speaks once the host has subscribed to every characteristic it will use, by indications, so that nothing is lost
    between it and the host: what a broken link left unconfirmed is said again.
    """

    name = "REPLAY"

    def __init__(
        self,
        playback: Playback,
        service: str,
        *,
        says: Sequence[str],
        reads: Mapping[str, bytes],
        writes: Sequence[str],
    ) -> None:
        self.advertised: tuple[str, ...] = (service,)
        properties: dict[str, Property] = dict.fromkeys(says, Property.INDICATE)
        for channels, bit in ((reads, Property.READ), (writes, Property.WRITE)):
            for channel in channels:
                properties[channel] = properties.get(channel, Property(0)) | bit
        table = tuple(Characteristic(uuid, bits, reads.get(uuid, b"")) for uuid, bits in properties.items())
        self.table: tuple[Service, ...] = (Service(service, table),)
        self._playback = playback
        self._needed = frozenset(says)
        self._subscribed: set[str] = set()
        self._listening = False
        self._unsaid: deque[Send] = deque()
        self._unconfirmed: deque[Send] = deque()
        self._connected = False

    @property
    def _over(self) -> bool:
        return self._playback.done and not self._unsaid and not self._unconfirmed

    @property
    def finished(self) -> bool:
        """Everything was said and confirmed, and the link is closed."""
        return self._over and not self._connected

    @property
    def advertising(self) -> bool:
        return not self._over

    @property
    def hanging_up(self) -> bool:
        return self._over

    def connected(self, at: Instant) -> None:
        self._connected = True

    def disconnected(self, at: Instant) -> None:
        self._connected = self._listening = False
        self._subscribed.clear()
        self._unsaid.extendleft(reversed(self._unconfirmed))
        self._unconfirmed.clear()

    def subscribed(self, channel: str, on: bool, at: Instant) -> None:
        (self._subscribed.add if on else self._subscribed.discard)(channel)
        if not self._listening and self._subscribed >= self._needed:
            self._listening = True
            if self._playback.conversation:
                self._unsaid.clear()
            self._playback.connected(at)

    def read(self, channel: str, at: Instant) -> bytes | None:
        return None

    def respond(self, chunk: Chunk) -> list[Send]:
        self._playback.heard(chunk.data, chunk.channel)
        return []

    def confirmed(self, send: Send, at: Instant) -> None:
        if self._unconfirmed:
            self._unconfirmed.popleft()

    def advance(self, until: Instant) -> list[Send]:
        if not self._listening:
            return []
        sends = [*self._unsaid, *self._playback.due(until)]
        self._unsaid.clear()
        self._unconfirmed.extend(sends)
        return sends
