"""One seeded patient: pulse, pressure, breath, temperature and saturation that belong together.

A pure function of time: `Physiology(seed, profile).at(t)` may be asked for any `t` (seconds since the patient
appeared) in any order, so a cuff and an EKG of one room show the same heart. Slow wandering is a sum of sines with
seeded periods and phases; breath and pressure waves modulate the heart rate (respiratory sinus arrhythmia, a
baroreflex-like answer to pressure). Values are typical ones for a demonstration, no reference ranges.
"""

import math
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Quantity: TypeAlias = Literal["hr", "sys", "dia", "rr", "temp", "spo2", "glu"]

EFFECTS: Final[dict[str, dict[Quantity, float]]] = {
    "healthy": {},
    "hypertensive": {"sys": 42, "dia": 22, "hr": 4},
    "hypertensive_crisis": {"sys": 78, "dia": 52, "hr": 14},
    "hypotensive": {"sys": -34, "dia": -20, "hr": 22},
    "fever": {"temp": 2.3, "hr": 21, "rr": 5, "sys": -4},  # about 9 beats a degree (Liebermeister)
    "hypoxia": {"spo2": -11, "rr": 9, "hr": 16},
    "tachycardia": {"hr": 62, "sys": -8, "dia": -3},
    "bradycardia": {"hr": -30, "sys": -6},
    "hypoglycaemia": {"glu": -50, "hr": 16, "sys": 8},
    "hyperglycaemia": {"glu": 210, "hr": 8},
    "lead_off": {},
    "motion": {},
}
"""What a profile (always) or an episode (for a while) adds to an adult: mm[Hg], /min, Cel, %, mg/dL."""

RAMP_S: Final = 8.0
"""How long an episode takes to set in and to fade."""
_AGES: Final = (0.0, 1.0, 5.0, 10.0, 18.0, 40.0, 60.0, 80.0)
_BY_AGE: Final[dict[Quantity, tuple[float, ...]]] = {
    "hr": (135, 120, 100, 85, 74, 72, 71, 70),
    "sys": (72, 88, 95, 103, 115, 119, 128, 136),
    "dia": (45, 52, 57, 64, 72, 76, 78, 75),
    "rr": (40, 30, 23, 20, 16, 15, 15, 16),
    "temp": (36.9, 36.9, 36.8, 36.8, 36.7, 36.7, 36.6, 36.5),
    "spo2": (97.5, 97.5, 98, 98, 98, 97.5, 97, 96.5),
    "glu": (80, 88, 90, 92, 94, 98, 104, 108),
}
_WANDER: Final[dict[Quantity, float]] = {
    "hr": 3.0,
    "sys": 4.0,
    "dia": 2.5,
    "rr": 0.8,
    "temp": 0.12,
    "spo2": 0.5,
    "glu": 5.0,
}
"""Standard deviation of the slow wandering."""
_PERIODS_S: Final = (40.0, 900.0)
_SINES: Final = 6
_MAYER_HZ: Final = 0.1
"""Mayer waves: the 10 s rhythm of arterial pressure."""
_MAYER_MMHG: Final = 2.0
_BAROREFLEX: Final = -0.35
"""Beats a minute for each mm[Hg] that the pressure is above its own mean."""


class Episode(msgspec.Struct, frozen=True):
    """`kind` (a key of EFFECTS) from `start_s` on for `length_s` seconds of the patient's time.

    With `every_s` it comes again after that many seconds, for ever; 0: once.
    """

    kind: str
    start_s: float = 0.0
    length_s: float = math.inf
    every_s: float = 0.0

    def since(self, t: Floats) -> Floats:
        """Seconds since it last began; negative before the first time. Same shape as `t`."""
        since = t - self.start_s
        return np.where(since < 0, since, since % self.every_s) if self.every_s else since

    def times(self, t: Floats) -> Floats:
        """How often it came again before it last began. Same shape as `t`."""
        return np.maximum(np.floor((t - self.start_s) / self.every_s), 0.0) if self.every_s else np.zeros_like(t)

    def holds(self, t: Floats) -> npt.NDArray[np.bool_]:
        """Whether it goes on at `t`. Same shape."""
        since = self.since(t)
        return np.asarray((since >= 0) & (since < self.length_s))


class Profile(msgspec.Struct, frozen=True):
    """Who the patient is. `condition` is a key of EFFECTS that holds all the time."""

    age_years: float = 40.0
    sex: Literal["female", "male"] = "female"
    condition: str = "healthy"
    episodes: tuple[Episode, ...] = ()


class State(msgspec.Struct, frozen=True):
    """The patient at one moment: /min, mm[Hg], /min, Cel, %, mg/dL. `hr` is without the breath's ripple."""

    hr: float
    sys: float
    dia: float
    rr: float
    temp: float
    spo2: float
    glu: float
    lead_off: bool
    motion: bool

    @property
    def map(self) -> float:
        """Mean arterial pressure, mm[Hg]: a third of the way up from diastolic."""
        return self.dia + (self.sys - self.dia) / 3


class _Wander:
    """A sum of sines with random periods and phases, standard deviation `deviation`, and its integral."""

    def __init__(self, rng: np.random.Generator, deviation: float) -> None:
        periods = np.exp(rng.uniform(math.log(_PERIODS_S[0]), math.log(_PERIODS_S[1]), _SINES))
        self._omega = 2 * np.pi / periods
        self._phase = rng.uniform(0, 2 * np.pi, _SINES)
        self._amplitude = deviation * math.sqrt(2 / _SINES)

    def value(self, t: Floats) -> Floats:
        angle = np.multiply.outer(t, self._omega) + self._phase
        return np.asarray(self._amplitude * np.sin(angle).sum(axis=-1))

    def integral(self, t: Floats) -> Floats:
        angle = np.multiply.outer(t, self._omega) + self._phase
        swept = (np.cos(self._phase) - np.cos(angle)) / self._omega
        return np.asarray(self._amplitude * swept.sum(axis=-1))


def _weight(episode: Episode, t: Floats) -> Floats:
    """0 outside, 1 inside, linear over RAMP_S at both ends."""
    since = episode.since(t)
    return np.clip(np.minimum(since, episode.length_s - since) / RAMP_S, 0.0, 1.0)


def _weight_integral(episode: Episode, t: Floats) -> Floats:
    """The integral of `_weight` from 0 on, exact: its corners joined by straight lines."""
    length = episode.length_s
    ramp = min(RAMP_S, length / 2)
    top = ramp / RAMP_S

    def ramped(since: Floats) -> Floats:
        x = np.clip(since, 0.0, ramp)
        return x * x / (2 * RAMP_S) + top * np.maximum(since - ramp, 0.0)

    since = episode.since(t)
    last = ramped(since) - ramped(since - (length - ramp))
    return last + episode.times(t) * top * (length - ramp) if episode.every_s else last


class Physiology:
    """A patient who is the same for the same seed and profile. Raises ValueError for an unknown condition."""

    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        self.profile = profile = profile or Profile()
        for kind in (profile.condition, *(e.kind for e in profile.episodes)):
            if kind not in EFFECTS:
                raise ValueError(f"unknown condition {kind!r}; known: {', '.join(EFFECTS)}")
        self._seed = seed
        rng = np.random.default_rng(seed)
        self._wander: dict[Quantity, _Wander] = {
            q: _Wander(rng, deviation) for q, deviation in _WANDER.items() if q != "glu"
        }
        person = rng.normal(0, 1, 2)
        typical = {q: float(np.interp(profile.age_years, _AGES, by_age)) for q, by_age in _BY_AGE.items()}
        self._size = min(typical["sys"] / 120.0, 1.0)
        self._base = {q: value + self._effect(profile.condition, q) for q, value in typical.items()}
        self._base["hr"] += 3.0 * float(person[0]) + (2.0 if profile.sex == "female" else -2.0)
        self._base["sys"] += 4.0 * float(person[1]) + (-2.0 if profile.sex == "female" else 2.0)
        self._mayer_phase, self._breath_phase = (float(p) for p in rng.uniform(0, 2 * np.pi, 2))
        # Drawn last: a quantity added later leaves the patients of a seed as they were.
        self._wander["glu"] = _Wander(rng, _WANDER["glu"])
        # Respiratory arrhythmia fades with age: about 5 /min of ripple in the young, 1.5 in the old.
        self.rsa = float(np.interp(profile.age_years, (15.0, 75.0), (5.0, 1.5)))

    def _effect(self, kind: str, quantity: Quantity) -> float:
        """What a condition adds; a child's pressure rises and falls by less than an adult's."""
        effect = EFFECTS[kind].get(quantity, 0.0)
        return effect * self._size if quantity in ("sys", "dia") else effect

    def _slow(self, quantity: Quantity, t: Floats) -> Floats:
        value = self._base[quantity] + self._wander[quantity].value(t)
        for episode in self.profile.episodes:
            effect = self._effect(episode.kind, quantity)
            if effect:
                value = value + effect * _weight(episode, t)
        return value

    def _mayer(self, t: Floats) -> Floats:
        return _MAYER_MMHG * np.sin(2 * np.pi * _MAYER_HZ * t + self._mayer_phase)

    def _slow_hr(self, t: Floats) -> Floats:
        reflex = _BAROREFLEX * self._wander["sys"].value(t)
        return np.clip(self._slow("hr", t) + reflex, 25.0, 240.0)

    def breath(self, t: Floats) -> Floats:
        """Phase of the breath in radians, growing: the integral of the respiratory rate. Same shape as `t`."""
        swept = self._base["rr"] * t + self._wander["rr"].integral(t)
        for episode in self.profile.episodes:
            effect = self._effect(episode.kind, "rr")
            if effect:
                swept = swept + effect * _weight_integral(episode, t)
        return np.asarray(self._breath_phase + 2 * np.pi / 60 * swept)

    def heart_rate(self, t: Floats) -> Floats:
        """Instantaneous heart rate, /min, with breath and Mayer ripple, for an EKG. Same shape as `t`."""
        ripple = self.rsa * np.sin(self.breath(t)) + _BAROREFLEX * self._mayer(t - 2.5)  # the reflex lags
        return np.clip(self._slow_hr(t) + ripple, 20.0, 250.0)

    def lead_off(self, t: float) -> bool:
        """Whether an EKG electrode hangs loose at `t`."""
        return bool(self._holds("lead_off", np.asarray(t, dtype=np.float64)))

    def motion(self, t: float) -> bool:
        """Whether the patient moves at `t`, so that signals are disturbed."""
        return bool(self.moving(np.asarray(t, dtype=np.float64)))

    def moving(self, t: Floats) -> npt.NDArray[np.bool_]:
        """`motion` of many moments. Same shape as `t`."""
        return self._holds("motion", t)

    def seen_with(self, *episodes: Episode) -> "Physiology":
        """The same patient as a device sees him to whom `episodes` happen too."""
        profile = self.profile
        return Physiology(self._seed, msgspec.structs.replace(profile, episodes=(*profile.episodes, *episodes)))

    def _holds(self, kind: str, t: Floats) -> npt.NDArray[np.bool_]:
        holds = np.full(t.shape, self.profile.condition == kind)
        for episode in self.profile.episodes:
            if episode.kind == kind:
                holds |= episode.holds(t)
        return holds

    def at(self, t: float) -> State:
        """The patient at `t` seconds."""
        when = np.asarray(t, dtype=np.float64)
        mayer = float(self._mayer(when))
        dia = float(self._slow("dia", when)) + 0.6 * mayer
        return State(
            hr=float(self._slow_hr(when)),
            sys=max(float(self._slow("sys", when)) + mayer, dia + 15.0),
            dia=dia,
            rr=max(float(self._slow("rr", when)), 4.0),
            temp=float(self._slow("temp", when)),
            spo2=min(float(self._slow("spo2", when)), 100.0),
            glu=max(float(self._slow("glu", when)), 10.0),
            lead_off=self.lead_off(t),
            motion=self.motion(t),
        )
