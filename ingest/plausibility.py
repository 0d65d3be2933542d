"""What cannot be a reading, and what should be taken again, before any rule is asked.

Hard limits are wider than any living patient: outside, no number is shown. Soft limits ask for a repeat; rules still
run, since the sickest patients are outside too, but such a reading is never `N`.
"""

from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ingest.engine import CODES, Bools, Codes, Floats
from ingest.rules import Plausibility
from vitals.metrics import METRICS, Metric

_NAN: Final = (-np.inf, np.inf)
_HARD: Final = np.array([row.hard or _NAN for row in METRICS.values()])
_SOFT: Final = np.array([row.soft or _NAN for row in METRICS.values()])
_SYS, _DIA, _MAP = CODES["bp_sys"], CODES["bp_dia"], CODES["bp_map"]
Rows: TypeAlias = npt.NDArray[np.intp]


class Doubts(NamedTuple):
    """`invalid`: no reading, no number. `implausible`: shown, not evaluated. `repeat`: evaluated, never normal."""

    invalid: Bools
    implausible: Bools
    repeat: Bools


def judge(metric: Codes, value: Floats, reading: Rows, limits: Plausibility) -> Doubts:
    """`reading` numbers the observation each quantity belongs to: pressures are compared within one observation."""
    low, high = _HARD[metric].T
    invalid = (value < low) | (value > high)
    low, high = _SOFT[metric].T
    repeat = (value < low) | (value > high)
    implausible = np.zeros(len(value), np.bool_)
    if np.isin(metric, (_SYS, _DIA)).any():
        _pressures(metric, value, reading, limits, Doubts(invalid, implausible, repeat))
    return Doubts(invalid, implausible & ~invalid, repeat & ~invalid)


def _pressures(metric: Codes, value: Floats, reading: Rows, limits: Plausibility, doubts: Doubts) -> None:
    """Marks, in place, the pressures that contradict each other."""
    size = int(reading.max()) + 1
    systolic, diastolic, mean = (_of(metric == code, value, reading, size) for code in (_SYS, _DIA, _MAP))
    with np.errstate(invalid="ignore"):  # a missing pressure is NaN, and every comparison with it is False
        crossed = systolic <= diastolic
        outside = (mean < diastolic) | (mean > systolic)
        pulse = systolic - diastolic
        narrow = (pulse < limits.pulse_pressure_soft[0]) | (pulse > limits.pulse_pressure_soft[1])
        odd_mean = np.abs(mean - (diastolic + pulse / 3)) > limits.map_from_formula_soft
    pair = np.isin(metric, (_SYS, _DIA))
    pressure = pair | (metric == _MAP)
    doubts.invalid[pressure & crossed[reading]] = True
    doubts.invalid[(metric == _MAP) & outside[reading]] = True
    doubts.implausible[pair & outside[reading]] = True
    doubts.repeat[pair & narrow[reading]] = True
    doubts.repeat[(metric == _MAP) & odd_mean[reading]] = True


def _of(mask: Bools, value: Floats, reading: Rows, size: int) -> Floats:
    """The value of one metric by reading, NaN where the reading has none."""
    column = np.full(size, np.nan)
    column[reading[mask]] = value[mask]
    return column


def limits_text(metric: Metric, *, hard: bool) -> str:
    """The limits as a reason shows them."""
    limits = metric.hard if hard else metric.soft
    return "" if limits is None else f"{limits[0]:g} to {limits[1]:g} {metric.unit_shown}"
