"""Where a streaming board gets its samples: from the patient's model, or from a recording."""

from typing import Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from simulators.core.ekg import Ekg
from simulators.core.physiology import Floats, Physiology

Counts: TypeAlias = npt.NDArray[np.int32]

RESP_COUNTS = 900.0
"""Peak of the respiration impedance trace, counts."""
IR_DC, PULSE_DEPTH = 810_000.0, 0.012
"""Infrared level of a finger in counts, and the part of it that pulses."""
WANDER_UV, MUSCLE_UV = 900.0, 220.0
"""What a moving patient adds to the EKG: electrodes that shift on the skin (peak), and muscles (standard deviation)."""
TRANSIT = 1.6
"""Radians of the beat from the R wave to the pulse at the finger."""


class Samples(msgspec.Struct, frozen=True, eq=False):
    """Equally long int32 arrays, one value a sample, in ADC counts. Channels a source lacks are zeros."""

    ekg: Counts
    resp: Counts
    ir: Counts
    red: Counts

    def __len__(self) -> int:
        return len(self.ekg)

    def first(self, count: int) -> "Samples":
        """The first `count` of them."""
        return Samples(self.ekg[:count], self.resp[:count], self.ir[:count], self.red[:count])


class SampleSource(Protocol):
    """Samples in order, each once."""

    rate_hz: float

    def take(self, count: int) -> Samples:
        """The next `count` samples; fewer at the end of a recording, none after it."""
        ...


class ModelSource:
    """An endless source: the patient's EKG, breath, and plethysmogram. `uv_per_count` is the board's declared scale."""

    def __init__(
        self, patient: Physiology, rate_hz: float, seed: int, uv_per_count: float, start_s: float = 0.0
    ) -> None:
        self.rate_hz = rate_hz
        self._patient = patient
        self._ekg = Ekg(patient, rate_hz, seed, start_s)
        self._muscle = np.random.default_rng(seed + 1)
        self._scale = uv_per_count
        self._start_s = start_s
        self._taken = 0

    def take(self, count: int) -> Samples:
        t = self._start_s + (self._taken + np.arange(count, dtype=np.float64)) / self.rate_hz
        self._taken += count
        uv, phase = self._ekg.take(count)
        uv = uv + self._disturbance(t)
        pulse = _pulse(phase)
        # R = (AC/DC red) / (AC/DC infrared); SpO2 = 110 - 25 R is the textbook calibration.
        spo2 = self._patient.at(float(np.floor(t[0]))).spo2 if count else 98.0
        ratio = (110.0 - spo2) / 25.0
        return Samples(
            ekg=_counts(uv / self._scale),
            resp=_counts(RESP_COUNTS * np.sin(self._patient.breath(t))),
            ir=_counts(IR_DC * (1.0 - PULSE_DEPTH * pulse)),
            red=_counts(0.8 * IR_DC * (1.0 - ratio * PULSE_DEPTH * pulse)),
        )

    def _disturbance(self, t: Floats) -> Floats:
        """Microvolt that motion adds. Drawn whether or not he moves, so that calm samples are what they would be."""
        muscle = self._muscle.normal(0.0, MUSCLE_UV, len(t)) * (0.3 + np.abs(np.sin(4.1 * t)))
        wander = WANDER_UV * (0.6 * np.sin(2.3 * t) + 0.4 * np.sin(9.7 * t + 1.0))
        return np.where(self._patient.moving(t), muscle + wander, 0.0)


class ArraySource:
    """A recording held in memory: `counts` int16 or int32, sent unchanged. Other channels are zeros."""

    def __init__(self, counts: npt.NDArray[np.int16] | Counts, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self._counts = np.asarray(counts, dtype=np.int32)
        self._at = 0

    def __len__(self) -> int:
        return len(self._counts)

    def take(self, count: int) -> Samples:
        piece = self._counts[self._at : self._at + count]
        self._at += len(piece)
        nothing = np.zeros(len(piece), dtype=np.int32)
        return Samples(piece, nothing, nothing, nothing)


def _pulse(phase: Floats) -> Floats:
    """A pulse wave with a dicrotic shoulder, 0 to about 1."""
    late = (phase - TRANSIT + np.pi) % (2 * np.pi) - np.pi
    return np.asarray(np.exp(-0.5 * (late / 0.55) ** 2) + 0.35 * np.exp(-0.5 * ((late - 1.3) / 0.6) ** 2))


def _counts(values: Floats) -> Counts:
    return np.rint(values).astype(np.int32)
