"""When a sample was taken: a line fitted to (sample index, time of arrival).

Latency only ever adds, so the truth is the lower edge of the arrivals: of each second of samples the earliest arrival
counts, and a least-squares line runs through those of the last minute. So jitter of the host does not bend the trace,
and a board whose crystal is off by a percent keeps its true rate. When the edge itself steps later and stays there,
samples were lost without a trace in the bytes (a serial buffer overran): that many are counted as a gap.

What this cannot tell apart: single samples lost evenly all the time, and a slow crystal. Either bends the line. It is
followed, since crystals are the common case, and `off_pace` says how far, so that it does not pass in silence.
"""

from collections import deque
from typing import Final

import numpy as np

from vitals.clock import NS, Instant

WINDOW: Final = 60
"""Seconds of samples the line is fitted to: a crystal does not drift measurably in less."""
SETTLE: Final = 10
"""Seconds before the slope is believed; until then the nominal rate holds."""
MAX_SLOPE_ERROR: Final = 0.02
"""Boards with a ceramic resonator are off by 0.5 %; a fit beyond 2 % is a disturbance, not a rate."""
STEP_S: Final = 0.25
"""A step later than this for `STEP_SECONDS` in a row is loss; host stalls catch up within that time."""
STEP_SECONDS: Final = 3


class TimeLine:
    """Maps a sample index to an `Instant`. One for each stream and rate."""

    def __init__(self, rate: float, *, by_samples: bool = False) -> None:
        """`by_samples`: time runs with the index from the first arrival, for replays faster than real time."""
        self._rate = rate
        self._by_samples = by_samples
        self._origin: Instant | None = None
        self._edge: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._second: tuple[int, int, float] | None = None
        self._offset = 0.0
        self._slope = 1.0 / rate
        self._excess = 0.0
        """Seconds a sample by which the fit is longer than nominal, believed or not."""
        self._late_seconds = 0

    def observe(self, end_index: int, received: Instant) -> int:
        """The sample before `end_index` had been taken when its bytes arrived. Returns samples found to be lost."""
        if self._origin is None:
            self._origin = received - round(end_index * NS / self._rate)
        if self._by_samples:
            return 0
        offset = (received - self._origin) / NS - end_index / self._rate
        number = int(end_index / self._rate)
        if self._second is None:
            self._second = (number, end_index, offset)
            self._offset = offset
        elif number != self._second[0]:
            lost = self._close_second(self._second)
            self._second = (number, end_index, offset)
            return lost
        elif offset < self._second[2]:
            self._second = (number, end_index, offset)
            if len(self._edge) < SETTLE:
                self._offset = min(self._offset, offset)
        return 0

    @property
    def off_pace(self) -> float | None:
        """Share by which samples came slower (+) or faster (-) than the nominal rate over the last `WINDOW` seconds.

        None until so many were seen. Samples counted as lost are not missing from it.
        """
        return self._excess * self._rate if len(self._edge) == WINDOW else None

    def at(self, index: int) -> Instant:
        """When sample `index` was taken. Raises ValueError before the first `observe`."""
        if self._origin is None:
            raise ValueError("no arrival observed yet")
        return self._origin + round((index * self._slope + self._offset) * NS)

    def _close_second(self, second: tuple[int, int, float]) -> int:
        _, index, offset = second
        expected = index * (self._slope - 1.0 / self._rate) + self._offset
        self._late_seconds = self._late_seconds + 1 if offset - expected > STEP_S else 0
        if self._late_seconds >= STEP_SECONDS:
            return self._step(offset - expected)
        if self._late_seconds == 0:
            self._edge.append((index, offset))
            self._fit()
        return 0

    def _fit(self) -> None:
        index, offset = np.array(self._edge).T
        if len(index) < SETTLE:
            self._offset = float(offset.min())
            return
        excess, self._offset = (float(v) for v in np.polyfit(index, offset, 1))
        self._excess = excess
        limit = MAX_SLOPE_ERROR / self._rate
        if abs(excess) > limit:
            excess, self._offset = 0.0, float(offset.min())
        self._slope = 1.0 / self._rate + excess

    def _step(self, late_s: float) -> int:
        """Count the loss and take it into the index from now on: the line itself goes on unbroken."""
        self._late_seconds = 0
        self._second = None
        return round(late_s * self._rate)
