"""A synthetic EKG from the published dynamical model, driven by the patient's heart rate and breath.

McSharry, Clifford, Tarassenko, Smith, "A dynamical model for generating synthetic electrocardiogram signals",
IEEE Trans Biomed Eng 50(3), 289-294, 2003 (ECGSYN). Equations (1):

    x' = (1 - r) x - w y      y' = (1 - r) y + w x      r = sqrt(x^2 + y^2)
    z' = - sum over i in P,Q,R,S,T of  a_i d_i exp(-d_i^2 / 2 b_i^2)  -  (z - z0(t)),   d_i = (theta - theta_i) mod 2 pi
    z0(t) = A sin(2 pi f2 t), A = 0.15 mV, f2 the respiratory rate

Departures: the trajectory is started on its limit cycle (r = 1), where theta is the integral of w, so (x, y) need no
integration and z becomes a first-order linear filter; it is solved with the input held over steps of 2 ms or less. The
paper draws RR intervals from a spectrum with respiratory and Mayer peaks; here w = 2 pi hr(t) / 60 of the same
`Physiology` that the other devices show. Angles and widths stretch with the rate as in the authors' ecgsyn.m. The
output is scaled by a constant to an R wave of about 1 mV instead of to the extremes of each run.
"""

from collections import deque
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from simulators.core.physiology import Floats, Physiology

BLOCK_S: Final = 1.0
"""Computed ahead in one go: 16 streams cost a few calls a second instead of a thousand."""
STEP_LIMIT_S: Final = 0.002
PEAKS_KEPT: Final = 1_000
"""Ground truth for tests, bounded: the last quarter of an hour at 70 /min."""


class Lead(msgspec.Struct, frozen=True):
    """Table I of the paper, P Q R S T: angles (radians from R), `a` (amplitude), `b` (width); `gain` mV a unit of z."""

    theta: tuple[float, ...] = (-np.pi / 3, -np.pi / 12, 0.0, np.pi / 12, np.pi / 2)
    a: tuple[float, ...] = (1.2, -5.0, 30.0, -7.5, 0.75)
    b: tuple[float, ...] = (0.25, 0.1, 0.1, 0.1, 0.4)
    gain: float = 26.0
    """Brings R to about 1 mV: z alone peaks at about a b^2 / 2 pi = 0.048 less what Q and S take away."""
    wander_mv: float = 0.15
    """A of z0, the paper's."""
    noise_uv: float = 6.0
    """Standard deviation of the white noise of a decent front end."""


LEAD_II: Final = Lead()


class Ekg:
    """One stream of `rate_hz` samples a second from `start_s` of the patient's time on. Seeded noise, else exact."""

    def __init__(
        self, patient: Physiology, rate_hz: float, seed: int, start_s: float = 0.0, lead: Lead = LEAD_II
    ) -> None:
        self.rate_hz = rate_hz
        self.r_peaks: deque[float] = deque(maxlen=PEAKS_KEPT)
        """Patient times (s) at which the phase passed R, latest last; they run up to BLOCK_S ahead of `take`."""
        self._patient = patient
        self._lead = lead
        self._start_s = start_s
        self._rng = np.random.default_rng(seed)
        self._fine = max(1, int(np.ceil(1.0 / (rate_hz * STEP_LIMIT_S))))
        self._made = 0
        self._theta = float(self._rng.uniform(-np.pi, np.pi))
        # The z filter: z[n] = (1 - k) z[n-1] + k u[n-1], time constant 1 s as in the paper.
        self._k = 1.0 - np.exp(-1.0 / (rate_hz * self._fine))
        self._zi = np.zeros(1)
        self._uv = np.zeros(0)
        self._phases = np.zeros(0)

    def take(self, count: int) -> tuple[Floats, Floats]:
        """The next `count` samples, two arrays of shape (count,): microvolts, and phase of the beat (-pi..pi, R 0)."""
        parts = [(self._uv, self._phases)]
        have = len(self._uv)
        while have < count:
            parts.append(self._block())
            have += len(parts[-1][0])
        uv = np.concatenate([part[0] for part in parts])
        phases = np.concatenate([part[1] for part in parts])
        self._uv, self._phases = uv[count:], phases[count:]
        return uv[:count], phases[:count]

    def _block(self) -> tuple[Floats, Floats]:
        size = max(1, int(self.rate_hz * BLOCK_S))
        fine = self._fine
        step_s = 1.0 / (self.rate_hz * fine)
        t: Floats = self._start_s + (self._made * fine + np.arange(size * fine, dtype=np.float64)) * step_s
        self._made += size
        rate = self._patient.heart_rate(t)
        steps = 2 * np.pi * step_s / 60 * rate
        swept = np.concatenate(([0.0], np.cumsum(steps))) + self._theta
        self._note_peaks(t, swept, steps)
        self._theta = float((swept[-1] + np.pi) % (2 * np.pi) - np.pi)
        theta = (swept[:-1] + np.pi) % (2 * np.pi) - np.pi
        force: Floats = self._force(theta, rate)
        force += self._lead.wander_mv / self._lead.gain * np.sin(self._patient.breath(t))
        z, self._zi = lfilter([0.0, self._k], [1.0, self._k - 1.0], force, zi=self._zi)
        noise = self._rng.normal(0.0, self._lead.noise_uv, size)
        return np.asarray(z)[::fine] * self._lead.gain * 1000.0 + noise, theta[::fine]

    def _force(self, theta: Floats, rate: Floats) -> Floats:
        """The sum of equation (1), with angles and widths stretched by the heart rate as in ecgsyn.m."""
        stretch = np.sqrt(rate / 60.0)
        outer = np.sqrt(stretch)
        total = np.zeros_like(theta)
        angle_stretch = (outer, stretch, np.ones_like(stretch), stretch, outer)
        for angle, a, b, by in zip(self._lead.theta, self._lead.a, self._lead.b, angle_stretch, strict=True):
            delta = (theta - angle * by + np.pi) % (2 * np.pi) - np.pi
            total -= a * delta * np.exp(-0.5 * (delta / (b * stretch)) ** 2)
        return total

    def _note_peaks(self, t: Floats, swept: Floats, steps: Floats) -> None:
        turns = np.floor(swept / (2 * np.pi))
        crossed: npt.NDArray[np.intp] = np.nonzero(np.diff(turns) > 0)[0]
        for index in crossed:
            short = turns[index + 1] * 2 * np.pi - swept[index]
            fraction = float(short / steps[index])
            self.r_peaks.append(float(t[index]) + fraction / (self.rate_hz * self._fine))
