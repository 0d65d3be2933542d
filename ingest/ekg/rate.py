"""Heart rate from beats, as bedside monitors define it.

The mean of the last 12 RR intervals without the shortest and the longest; when each of the last three is above
1200 ms, the mean of the last four (Mindray, Philips MP2: clinical rules 10.2). Monitors wait for some beats too.
"""

from typing import Final

AVERAGED: Final = 12
SLOW_MS: Final = 1200.0
SLOW_AVERAGED: Final = 4
FIRST: Final = 3
"""RR intervals before a rate is shown: one missed beat among fewer would halve it."""
TRIMMED_FROM: Final = 5
"""Intervals from which on the shortest and longest are dropped: three must be left."""
SILENCE_S: Final = 4.0
"""Without a beat for so long there is no rate. (Not yet an asystole alarm: that needs the contact to be judged.)"""


class HeartRate:
    """Of one signal; indices are those of its samples."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._intervals: list[float] = []
        self._last: int | None = None

    def reset(self) -> None:
        """After a gap or lead-off: an interval across it means nothing."""
        self._intervals = []
        self._last = None

    def beat(self, index: int) -> None:
        """One beat further. A pause as long as the silence starts the count anew."""
        if self._last is not None:
            interval = (index - self._last) / self._rate * 1000.0
            if interval > SILENCE_S * 1000.0:
                self._intervals = []
            else:
                self._intervals = [*self._intervals[-(AVERAGED - 1) :], interval]
        self._last = index

    def at(self, index: int) -> tuple[float | None, str]:
        """(beats a minute, "") at this sample, or (None, why there is none)."""
        if self._last is not None and index - self._last > SILENCE_S * self._rate:
            return None, f"no beat seen for {SILENCE_S:g} s"
        if len(self._intervals) < FIRST:
            return None, "waiting for beats"
        return 60_000.0 / _mean(self._intervals), ""


def _mean(intervals: list[float]) -> float:
    if min(intervals[-3:]) > SLOW_MS:
        chosen = intervals[-SLOW_AVERAGED:]
    elif len(intervals) >= TRIMMED_FROM:
        chosen = sorted(intervals)[1:-1]
    else:
        chosen = intervals
    return sum(chosen) / len(chosen)
