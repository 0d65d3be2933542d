"""Where an EKG trace has its zero: electrodes and boards add an offset of many millivolt that would leave the screen.

The offset is a constant, not a filter, so the shape of the trace is untouched. A trace near zero keeps the zero it has.
One that is not is centred on its first pack, corrected once after a second, and moved again only when it has left its
place for seconds. A move is a break in the line.
"""

from collections import deque
from typing import Final

import numpy as np
import numpy.typing as npt

FIRST_S: Final = 1.0
FIRST_OFF_UV: Final = 300.0
"""3 mm at the standard gain: a first pack inside a beat is put right, a smaller error is not worth a break."""
OFF_UV: Final = 1_500.0
"""A trace whose median is this far from its zero has left the middle of a small tile."""
WINDOW_S: Final = 4.0


class Centre:
    """The offset of one trace, in the unit of the samples. `uv`: microvolt a sample count; None: not calibrated."""

    def __init__(self, uv: float | None) -> None:
        self.offset = 0.0
        self._uv = uv
        self._medians: deque[tuple[int, float]] = deque()
        self._extremes: deque[tuple[float, float]] = deque()
        self._held = 0
        self._seen = 0
        self._settled = False

    def place(self, samples: npt.NDArray[np.float64], rate: float) -> tuple[npt.NDArray[np.float64], bool]:
        """The samples about zero, and whether the zero was moved for them."""
        if not len(samples):
            return samples, False
        first = self._seen == 0
        self._remember(samples, rate)
        off = self._middle() - self.offset
        moved = self._must_move(abs(off), rate, first=first)
        if moved:
            self.offset += off
            self._medians.clear()
            self._extremes.clear()
            self._held = 0
        return samples - self.offset, moved and not first

    def _middle(self) -> float:
        """One of the medians, not the mean of two: half-way between the old place and the new is neither."""
        medians = sorted(median for _, median in self._medians)
        return medians[len(medians) // 2]

    def _remember(self, samples: npt.NDArray[np.float64], rate: float) -> None:
        self._seen += len(samples)
        self._held += len(samples)
        self._medians.append((len(samples), float(np.median(samples))))
        self._extremes.append((float(samples.min()), float(samples.max())))
        while self._held - self._medians[0][0] >= WINDOW_S * rate:
            self._held -= self._medians.popleft()[0]
            self._extremes.popleft()

    def _must_move(self, off: float, rate: float, *, first: bool) -> bool:
        if first:
            return off > self._limit(OFF_UV, 1.0)
        if self.offset and not self._settled and self._seen >= FIRST_S * rate:
            self._settled = True
            return off > self._limit(FIRST_OFF_UV, 0.2)
        return self._held >= (WINDOW_S - 1) * rate and off > self._limit(OFF_UV, 1.0)

    def _limit(self, microvolt: float, share: float) -> float:
        """In the samples' unit; without a calibration, a share of the height the trace has had."""
        if self._uv is not None:
            return microvolt / self._uv
        lowest, highest = zip(*self._extremes, strict=True)
        height: float = max(highest) - min(lowest)
        return share * max(1.0, height)
