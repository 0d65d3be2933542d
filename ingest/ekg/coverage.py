"""What was not received of a signal, counted and said.

A strip can come late: after an outage a fresh one overtakes the backlog. So a gap is open at first; strips that come
late fill it, and what is still missing when nothing has filled it for a while is reported. Samples the gateway itself
knows to be lost are reported at once.
"""

from typing import Final, NamedTuple

from vitals.clock import NS, Instant
from vitals.messages import StripMessage

SETTLE: Final = 20 * NS
"""Ingest's time without a strip that fills the gap. A gateway resends within some seconds of a reconnect."""
MAX_OPEN: Final = 64
"""Open gaps of one signal; a hostile one cannot make more."""
JITTER_S: Final = 0.5
"""Between two link-ups, time is compared, not indices: less than this is no gap."""
MAX_BETWEEN_S: Final = 4 * 3600
"""A device that was away for longer was put away: that is no missing EKG."""


class Missing(NamedTuple):
    """`start`, `stop`: sample indices of `stream`, or, between two link-ups (no stream), instants."""

    stream: str
    start: int
    stop: int
    per_second: float
    touched: Instant

    @property
    def seconds(self) -> float:
        return (self.stop - self.start) / self.per_second


class Taken(NamedTuple):
    """`lost`: seconds now known to be lost for good. `filled`: it had been missing, and came late."""

    lost: list[float]
    filled: bool


class Coverage:
    """One signal of one device. `missing_s`, `missing_samples`: reported since the start."""

    def __init__(self) -> None:
        self._open: list[Missing] = []
        self._stream = ""
        self._next = 0
        self._end: Instant = 0
        self.missing_s = 0.0
        self.missing_samples = 0

    def resume(self, stream: str, next_index: int, end: Instant) -> None:
        """Where the store's newest strip ended, after a restart of ingest."""
        self._stream, self._next, self._end = stream, next_index, end

    def add(self, strip: StripMessage, end: Instant, now: Instant) -> Taken:
        """Take a strip; `end` is the moment after its last sample."""
        found: list[float] = []
        filled = False
        first, stop = strip.first_index, strip.first_index + strip.count
        if strip.stream == self._stream and first >= self._next:
            lost = min(strip.lost_before, first - self._next)
            if lost:
                found.append(self._report(lost / strip.rate, lost))
            self._miss(Missing(strip.stream, self._next, first - lost, strip.rate, now))
        elif strip.t0 >= self._end and strip.stream != self._stream:
            gap = (strip.t0 - self._end) / NS
            if self._end and JITTER_S < gap <= MAX_BETWEEN_S:
                self._miss(Missing("", self._end, strip.t0, float(NS), now))
        else:
            filled = self._fill(strip, end, now)
        if strip.stream != self._stream and end > self._end:
            self._stream, self._next, self._end = strip.stream, stop, end
        elif strip.stream == self._stream:
            self._next = max(self._next, stop)
            self._end = max(self._end, end)
        return Taken(found + self._bound(), filled)

    def due(self, now: Instant) -> list[float]:
        """Seconds of each gap that nothing filled in time."""
        settled = [gap for gap in self._open if now - gap.touched > SETTLE]
        self._open = [gap for gap in self._open if now - gap.touched <= SETTLE]
        return [self._settle(gap) for gap in settled]

    @property
    def open_s(self) -> float:
        """Seconds that may still come."""
        return sum(gap.seconds for gap in self._open)

    def _miss(self, gap: Missing) -> None:
        if gap.stop > gap.start:
            self._open.append(gap)

    def _fill(self, strip: StripMessage, end: Instant, now: Instant) -> bool:
        """Whether any of it had been missing."""
        rest: list[Missing] = []
        filled = False
        for gap in self._open:
            start, stop = (strip.t0, end) if not gap.stream else (strip.first_index, strip.first_index + strip.count)
            if gap.stream not in ("", strip.stream) or stop <= gap.start or start >= gap.stop:
                rest.append(gap)
                continue
            filled = True
            least = 0.0 if gap.stream else JITTER_S
            rest += [piece for piece in (gap._replace(stop=start), gap._replace(start=stop)) if piece.seconds > least]
        # The backlog is draining: whatever is still open may be next.
        self._open = [gap._replace(touched=now) for gap in rest]
        return filled

    def _bound(self) -> list[float]:
        """Beyond the bound the oldest gaps count as settled: reported early, never forgotten."""
        excess = self._open[:-MAX_OPEN]
        del self._open[:-MAX_OPEN]
        return [self._settle(gap) for gap in excess]

    def _settle(self, gap: Missing) -> float:
        samples = gap.stop - gap.start if gap.stream else 0
        return self._report(gap.seconds, samples)

    def _report(self, seconds: float, samples: int) -> float:
        self.missing_s += seconds
        self.missing_samples += samples
        return seconds
