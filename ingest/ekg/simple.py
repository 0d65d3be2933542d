"""A streaming QRS detector for one signal, after Pan and Tompkins (1985).

Chain: band-pass 5-15 Hz (Butterworth, state kept) -> derivative -> square -> moving sum over 150 ms -> peaks against
an adaptive threshold with refractory period and searchback. Departures from the paper: the peak must stand for
200 ms before it is judged, the T-wave test compares the steepest slope of the pass band, and the beat is placed at
the largest deflection of the pass band.

Work is done in hops of a tenth of a second counted from the start of a segment, so the beats do not depend on how
the samples were sliced. A gap, lead-off or another stream starts a new segment. Memory is a few seconds of samples;
each hop is a fixed amount of work whatever the input. Delay: a beat is reported within 0.6 s of its R peak; one
found by searchback when the next is overdue.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import signal

Samples: TypeAlias = npt.NDArray[np.int16] | npt.NDArray[np.int32]
Floats: TypeAlias = npt.NDArray[np.float64]

MIN_RATE: Final = 50.0
"""Samples a second: below this the band of 5-15 Hz carries no usable QRS."""
MAX_RATE: Final = 4000.0
HOP_S: Final = 0.1
WINDOW_S: Final = 0.150
"""Moving sum: as wide as a wide QRS."""
REFRACTORY_S: Final = 0.200
"""No heart beats again sooner."""
T_WAVE_S: Final = 0.360
"""Until then a deflection of less than half the slope is the T wave of the beat before."""
LEARN_S: Final = 2.0
"""Signal needed before the first threshold."""
RELEARN_S: Final = 4.0
"""Without a beat for so long the levels are learnt anew: an artefact may have set them out of reach."""
KEPT_S: Final = 3.0
"""Signal kept: learning, window and the peak's surroundings."""
SEARCHBACK: Final = 1.66
"""Times the mean RR without a beat: then the best peak above half the threshold counts."""
MAX_PENDING: Final = 64
"""Peaks kept for searchback: over 12 s of the densest possible."""
FLOOR_UV: Final = 50.0
"""Deflections of the pass band below this are no QRS (IEC 60601-2-27: 0.15 mV peak to peak is ignored)."""


class QrsDetector:
    """One signal. `scale` is microvolt a count, None where nobody knows it: then there is no floor."""

    def __init__(self, rate: float, scale: float | None = None) -> None:
        """Raises ValueError for a rate the method is not made for."""
        if not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(f"expected {MIN_RATE:g} to {MAX_RATE:g} samples a second, got {rate:g}")
        self.rate = rate
        self._sos = np.asarray(signal.butter(2, (5.0, 15.0), "bandpass", fs=rate, output="sos"))
        self._rest = np.asarray(signal.sosfilt_zi(self._sos))
        self._hop = max(1, round(HOP_S * rate))
        self._window = max(2, round(WINDOW_S * rate))
        self._refractory = round(REFRACTORY_S * rate)
        self._kept = round(KEPT_S * rate)
        self._floor = 0.0 if not scale else FLOOR_UV / abs(scale)
        self.next_index: int | None = None
        self._reset(0)

    def _reset(self, start: int) -> None:
        self._start = start
        self._waiting: Floats = np.empty(0)
        self._state: Floats | None = None
        self._band: Floats = np.zeros(self._kept)
        self._energy: Floats = np.zeros(self._kept)
        self._done = 0
        self._learned = 0
        self._candidate: tuple[int, float] | None = None
        self._pending: list[tuple[int, float]] = []
        self._signal_level = 0.0
        self._noise_level = 0.0
        self._last: tuple[int, float] | None = None
        self._recent: list[int] = []

    def push(self, samples: Samples, first_index: int, lead_off: bool = False) -> list[int]:
        """The beats found, as sample indices of their R peaks, in order. Samples must not be older than the last."""
        if first_index != self.next_index or lead_off:
            self._reset(first_index + (len(samples) if lead_off else 0))
        self.next_index = first_index + len(samples)
        if lead_off:
            return []
        self._waiting = np.concatenate((self._waiting, samples.astype(np.float64)))
        beats: list[int] = []
        hops = len(self._waiting) // self._hop
        for number in range(hops):
            beats += self._process(self._waiting[number * self._hop : (number + 1) * self._hop])
        self._waiting = self._waiting[hops * self._hop :]
        return [self._start + beat for beat in beats]

    def _process(self, hop: Floats) -> list[int]:
        """One hop through the chain. Positions are counted from the start of the segment."""
        if self._state is None:
            # Begin at rest on the first sample, so that an offset does not ring.
            self._state = self._rest * hop[0]
        band, self._state = signal.sosfilt(self._sos, hop, zi=self._state)
        self._band = np.concatenate((self._band[len(hop) :], band))
        # The moving sum is taken anew over each window: a running one would gather rounding errors for hours.
        slope = np.diff(self._band[-(len(hop) + self._window) :])
        squared = slope * slope
        energy = np.convolve(squared, np.ones(self._window), "valid")[-len(hop) :]
        self._energy = np.concatenate((self._energy[len(hop) :], energy))
        first = self._done
        self._done += len(hop)
        if self._done < LEARN_S * self.rate:
            return []
        overdue = self._done - max(self._learned, self._last[0] if self._last else 0) > RELEARN_S * self.rate
        if self._signal_level == 0.0 or overdue:
            return self._learn()
        return self._scan(energy, first)

    def _learn(self) -> list[int]:
        """First levels, from what was seen so far; then the same signal is searched with them."""
        seen = self._energy[-min(self._done, self._kept) :]
        # The first quarter second is the filter settling.
        calm = seen[round(0.25 * self.rate) :]
        self._signal_level = float(calm.max()) / 2
        self._noise_level = float(calm.mean()) / 2
        self._learned = self._done
        self._candidate = None
        self._pending = []
        return self._scan(calm, self._done - len(calm)) if self._signal_level > 0 else []

    def _scan(self, energy: Floats, first: int) -> list[int]:
        beats: list[int] = []
        # Peaks are at least a refractory period apart: the rivals within reach are settled one after the other.
        step = max(1, self._refractory // 2)
        for begin in range(0, len(energy), step):
            part = energy[begin : begin + step]
            best = int(np.argmax(part))
            beats += self._offer(first + begin + best, float(part[best]), first + begin + len(part))
        return beats

    def _offer(self, at: int, height: float, now: int) -> list[int]:
        """Keep the higher of two peaks within the refractory period; judge one that stood long enough."""
        beats: list[int] = []
        if self._candidate is not None and at - self._candidate[0] > self._refractory:
            beats += self._judge(*self._candidate)
            self._candidate = None
        if self._candidate is None or height > self._candidate[1]:
            self._candidate = (at, height)
        return beats + self._search_back(now)

    def _judge(self, at: int, height: float) -> list[int]:
        """Beat, T wave or noise; the levels follow."""
        threshold = self._noise_level + 0.25 * (self._signal_level - self._noise_level)
        if height <= threshold:
            self._noise_level += 0.125 * (height - self._noise_level)
            self._pending.append((at, height))
            del self._pending[:-MAX_PENDING]
            return []
        return self._accept(at, height, 0.125)

    def _accept(self, at: int, height: float, weight: float) -> list[int]:
        found = self._locate(at)
        if found is None:
            return []
        beat, steepness, deflection = found
        if deflection < self._floor:
            return []
        if self._last is not None:
            since = beat - self._last[0]
            if since < self._refractory:
                return []
            if since < T_WAVE_S * self.rate and steepness < 0.5 * self._last[1]:
                self._noise_level += 0.125 * (height - self._noise_level)
                return []
            self._recent = [*self._recent[-7:], since]
        # A single artefact counts at most as twice the usual beat, or the beats after it would drown.
        self._signal_level += weight * (min(height, 4 * self._signal_level) - self._signal_level)
        self._last = (beat, steepness)
        self._pending = [peak for peak in self._pending if peak[0] > at]
        return [beat]

    def _locate(self, at: int) -> tuple[int, float, float] | None:
        """(R peak, steepest slope, deflection) under the moving sum that ended at `at`."""
        end = len(self._band) - (self._done - at) + 1
        begin = max(0, end - self._window - 1)
        piece = self._band[begin:end]
        if len(piece) < 2:
            return None  # Fell out of what is kept: only a searchback after a long silence asks so late.
        peak = int(np.argmax(np.abs(piece)))
        return at - (len(piece) - 1) + peak, float(np.abs(np.diff(piece)).max()), float(np.abs(piece[peak]))

    def _search_back(self, now: int) -> list[int]:
        if self._last is None or len(self._recent) < 2:
            return []
        usual = sum(self._recent) / len(self._recent)
        if now - self._last[0] < SEARCHBACK * usual or not self._pending:
            return []
        late = [peak for peak in self._pending if peak[0] - self._last[0] > self._refractory]
        threshold = 0.5 * (self._noise_level + 0.25 * (self._signal_level - self._noise_level))
        self._pending = []
        if not late:
            return []
        at, height = max(late, key=lambda peak: peak[1])
        return self._accept(at, height, 0.25) if height > threshold else []
