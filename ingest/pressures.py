"""A blood pressure is judged as one: each of its pressures leaves a side open that the others answer.

No row says what diastolic is too low, none what mean is too high. Of one reading, the systolic and the mean rows
answer whether it is low, and the categories of systolic and diastolic whether it is high. A mean that the cuff did
not report is taken by the formula, diastolic + pulse pressure / 3, only to withhold `N`; it never raises a flag.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ingest.engine import CODES, Bools, Columns, Engine, Verdicts, Why

_SYS, _DIA, _MAP = CODES["bp_sys"], CODES["bp_dia"], CODES["bp_map"]
_ABSENT: Final = -1
Rows: TypeAlias = npt.NDArray[np.intp]


def answer_as_one(engine: Engine, columns: Columns, reading: Rows, verdicts: Verdicts) -> None:
    """Marks as decided, in place, what the other pressures of the same reading answer."""
    low_open = (columns.metric == _DIA) & (verdicts.why == Why.NO_LOW) & (verdicts.rule < 0)
    high_open = (columns.metric == _MAP) & (verdicts.why == Why.NO_HIGH) & (verdicts.rule < 0)
    if not (low_open.any() or high_open.any()):
        return
    size = int(reading.max()) + 1
    systolic, diastolic = (_rows_of(columns.metric == code, reading, size) for code in (_SYS, _DIA))
    is_high = np.array([rule.high for rule in engine.rules] + [False])
    high = (verdicts.rule >= 0) & is_high[verdicts.rule]
    low = (verdicts.rule >= 0) & ~is_high[verdicts.rule]
    decided = verdicts.why == Why.DECIDED
    not_high = (
        _of(decided & ~high, systolic)
        & _of((decided | (verdicts.why == Why.NO_LOW)) & ~high, diastolic)
    )  # fmt: skip
    not_low = _of(decided & ~low, systolic)
    fine_low = low_open & not_low[reading]
    fine_low[fine_low] = ~_low_mean(engine, columns, np.flatnonzero(fine_low), systolic[reading])
    verdicts.why[fine_low | (high_open & not_high[reading])] = Why.DECIDED


def _low_mean(engine: Engine, columns: Columns, diastolic: Rows, systolic: Rows) -> Bools:
    """Whether the mean by the formula is below a limit that holds for this patient."""
    lower, upper = columns.value[diastolic], columns.value[systolic[diastolic]]
    mean = np.floor(lower + (upper - lower) / 3)  # cut, as nobody sees it: 64.7 must not pass for 65
    taken = columns.take(diastolic)._replace(metric=np.full(len(mean), _MAP, np.int16), value=mean)
    low: Bools = engine.evaluate(taken).rule >= 0
    return low


def _rows_of(mask: Bools, reading: Rows, size: int) -> Rows:
    """By reading, the row of its pressure, or _ABSENT."""
    rows = np.full(size, _ABSENT, np.intp)
    rows[reading[mask]] = np.flatnonzero(mask)
    return rows


def _of(mask: Bools, rows: Rows) -> Bools:
    """The mask at these rows; False where there is none."""
    found: Bools = mask[rows] & (rows != _ABSENT)
    return found
