"""From readings to flagged values: columns, plausibility, device status, rules. Whole batches, in the order of
evaluation that the rules ask for: sentinel, plausibility, device status, population, threshold.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from ingest.associations import age_days, age_years
from ingest.engine import CODES, SEXES, UNKNOWN, Columns, Engine, Why, round_half_up
from ingest.plausibility import judge, limits_text
from ingest.pressures import answer_as_one
from ingest.rules import LEVELS, SECOND_UNITS, Quality, RuleSet
from vitals.messages import AssociationMessage, Flag, FlaggedValue
from vitals.metrics import METRICS
from vitals.model import Context, Quantity, Validity
from vitals.units import convert

NORMAL: Final = Flag(interpretation="N", level="normal")
DATA_ONLY: Final = "flagging is off (data-only profile)"
REPEAT: Final = "implausible, repeat"
CUFFLESS: Final = "cuffless"
NO_PATIENT: Final = "no patient bound"
_COMPARATORS: Final = {None: 0, "<": -1, ">": 1}
_WHY: Final[dict[int, str]] = {
    Why.NO_RULE: "no rule for this metric",
    Why.NO_LOW: "no rule for low values",
    Why.NO_HIGH: "no rule for high values",
    Why.OFF_SCALE: "off the device's scale",
    Why.OTHER_PATIENT: "no rule for this patient",
    Why.OTHER_SITE: "no rule for this site",
    Why.NO_SITE: "site not recorded",
    Why.NO_SEX: "sex not known",
    Why.NO_AGE: "age not known",
    Why.NO_PATIENT: NO_PATIENT,
}
_NOT_VALID: Final = {
    Validity.NOT_A_NUMBER: "no reading: the device finished without a value",
    Validity.NOT_AT_RESOLUTION: "no reading: not at this resolution",
    Validity.RESERVED: "no reading: reserved code",
    Validity.ABOVE_RANGE: "above the device's range",
    Validity.BELOW_RANGE: "below the device's range",
    Validity.NOT_AVAILABLE: "no reading: nothing was measured",
}


class Reading(msgspec.Struct, frozen=True):
    """What the rules need of one observation, and of the patient it belongs to."""

    quantities: dict[str, Quantity]
    association: AssociationMessage | None
    context: Context = Context()
    method: str = ""
    quality: tuple[str, ...] = ()


class _Verdict(msgspec.Struct, frozen=True):
    """What engine and plausibility say of one value: see `Verdicts` and `Doubts`."""

    rule: int
    why: int
    invalid: bool
    implausible: bool
    repeat: bool


class Evaluator:
    """The rules of one profile, ready to run."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self._engine = Engine(rules)
        self._quality: dict[str, Quality] = {row.bit: row for row in rules.quality}
        self._flags: dict[tuple[int, str], Flag] = {}
        self._ranks = {rule.id: rule.rank for rule in rules.rules}

    def evaluate(self, readings: Sequence[Reading]) -> list[dict[str, FlaggedValue]]:
        """One dict a reading, with every one of its metrics."""
        answers: list[dict[str, FlaggedValue]] = [
            {metric: _unjudged(metric, quantity) for metric, quantity in reading.quantities.items()}
            for reading in readings
        ]
        if self.rules.profile == "data-only":
            return [{m: _without(v, DATA_ONLY) for m, v in answer.items()} for answer in answers]
        cells = [(no, m) for no, answer in enumerate(answers) for m, v in answer.items() if v.value is not None]
        if not cells:
            return answers
        columns = self._columns(readings, cells)
        numbers = np.array([no for no, _ in cells], np.intp)
        doubts = judge(columns.metric, columns.value, numbers, self.rules.plausibility)
        verdicts = self._engine.evaluate(columns)
        answer_as_one(self._engine, columns, numbers, verdicts)
        rows = [column.tolist() for column in (*verdicts, *doubts)]  # one by one, an array's numbers are slow
        for (no, metric), *row in zip(cells, *rows, strict=True):
            answers[no][metric] = self._answer(answers[no][metric], metric, readings[no], _Verdict(*row))
        for answer in answers:
            self._highest_on_bp(answer)
        return answers

    def _columns(self, readings: Sequence[Reading], cells: Sequence[tuple[int, str]]) -> Columns:
        # Of one batch many readings are of few visits.
        associations = {id(reading.association): reading.association for reading in readings}
        place = {key: number for number, key in enumerate(associations)}
        people = np.array([_person(association) for association in associations.values()], np.float64)
        sites = [self._engine.site_code(reading.context.site) for reading in readings]
        quantities = [readings[no].quantities[metric] for no, metric in cells]
        rows = people[[place[id(readings[no].association)] for no, _ in cells]].T
        return Columns(
            metric=np.array([CODES[metric] for _, metric in cells], np.int16),
            value=np.array([q.value for q in quantities], np.float64),
            second=np.array([_second(METRICS[m].unit, q) for (_, m), q in zip(cells, quantities, strict=True)]),
            comparator=np.array([_COMPARATORS[q.comparator] for q in quantities], np.int16),
            age_years=rows[0],
            age_days=rows[1],
            sex=rows[2].astype(np.int16),
            pregnant=rows[3].astype(np.int16),
            scale=rows[4].astype(np.int16),
            site=np.array([sites[no] for no, _ in cells], np.int16),
            bound=rows[5] > 0,
        )

    def _answer(self, value: FlaggedValue, metric: str, reading: Reading, verdict: _Verdict) -> FlaggedValue:
        if verdict.invalid:
            row = METRICS[metric]
            outside = limits_text(row, hard=True)
            contradicts = row.hard is None or row.hard[0] <= (value.value or 0.0) <= row.hard[1]
            reason = "invalid: the pressures contradict each other" if contradicts else f"invalid: outside {outside}"
            return msgspec.structs.replace(
                value, value=None, comparator=None, validity=Validity.NOT_AVAILABLE, not_evaluated=reason
            )
        if verdict.implausible:
            return _without(value, f"{REPEAT}: mean pressure outside systolic and diastolic")
        stop, doubted = self._status(metric, reading)
        if stop:
            return _without(value, stop)
        rule = verdict.rule
        if rule < 0 and verdict.repeat:
            return _without(value, f"{REPEAT}: {_soft_reason(metric, value.value)}")
        if rule < 0 and verdict.why != Why.DECIDED:
            return _without(value, _WHY[verdict.why])
        flag = NORMAL if rule < 0 else self._flag(rule, metric)
        notes = ([f"repeat: {_soft_reason(metric, value.value)}"] if verdict.repeat else []) + doubted
        if notes:
            flag = msgspec.structs.replace(flag, text="; ".join([*([flag.text] if flag.text else []), *notes]))
        return msgspec.structs.replace(value, flag=flag)

    def _status(self, metric: str, reading: Reading) -> tuple[str, list[str]]:
        """(why no rule may run, what lowers the confidence), from the device's status bits and the method."""
        if reading.method == CUFFLESS and metric.startswith("bp_"):
            return "cuffless pressure is not categorised", []
        if not reading.quality:
            return "", []
        rows = [self._quality[bit] for bit in reading.quality if bit in self._quality]
        rows = [row for row in rows if not row.metrics or metric in row.metrics]
        stop = next((row.text for row in rows if row.effect == "not evaluated"), "")
        return stop, [f"lower confidence: {row.text}" for row in rows if row.effect == "doubt"]

    def _flag(self, rule: int, metric: str) -> Flag:
        key = (rule, metric)
        if key not in self._flags:
            self._flags[key] = self._engine.rules[rule].flag(metric)
        return self._flags[key]

    def _highest_on_bp(self, answer: dict[str, FlaggedValue]) -> None:
        """Pressures in different categories: the higher one is the blood pressure's, and stands on the systolic."""
        systolic = answer.get("bp_sys")
        if systolic is None or systolic.flag is None:
            return
        best = systolic.flag
        for metric in ("bp_dia", "bp_map"):
            other = answer.get(metric)
            if other is not None and other.flag is not None and self._order(other.flag) > self._order(best):
                best = other.flag
        if best is not systolic.flag:
            answer["bp_sys"] = msgspec.structs.replace(systolic, flag=best)

    def _order(self, flag: Flag) -> tuple[int, int]:
        return LEVELS.index(flag.level), self._ranks.get(flag.rule, 0)


def _second(unit: str, q: Quantity) -> float:
    """The value in the metric's second unit as the device showed it, where it reported in that; NaN elsewhere.

    Converted back and rounded to what a display of that unit shows: exactly the number that was reported.
    """
    second, decimals = SECOND_UNITS.get(unit, ("", 0))
    if q.value is None or q.raw_unit != second:
        return np.nan
    return float(round_half_up(np.array([convert(q.value, unit, second)]), decimals)[0])


def _person(association: AssociationMessage | None) -> tuple[float, ...]:
    """Age in years and days, sex, pregnant, SpO2 scale, bound: as one row of numbers."""
    if association is None:
        return float("nan"), float("nan"), UNKNOWN, UNKNOWN, 1, 0
    pregnant = UNKNOWN if association.pregnant is None else int(association.pregnant)
    sex = SEXES[association.sex]
    return age_years(association), age_days(association), sex, pregnant, association.spo2_scale, 1


def not_evaluated(reading: Reading, why: str) -> dict[str, FlaggedValue]:
    """The values as they came, and why no rule was run."""
    return {metric: _without(_unjudged(metric, quantity), why) for metric, quantity in reading.quantities.items()}


def _unjudged(metric: str, q: Quantity) -> FlaggedValue:
    """The quantity as it came; with the reason, where it has no number."""
    has_number = q.validity is Validity.VALID or q.comparator is not None
    return FlaggedValue(
        unit=METRICS[metric].unit,
        value=q.value if has_number else None,
        validity=q.validity,
        comparator=q.comparator,
        raw=q.raw,
        raw_unit=q.raw_unit,
        not_evaluated="" if has_number and q.value is not None else _NOT_VALID.get(q.validity, "no reading"),
    )


def _without(value: FlaggedValue, reason: str) -> FlaggedValue:
    """Not evaluated. A reason that is there already (no number) stays: it came first."""
    return value if value.not_evaluated else msgspec.structs.replace(value, not_evaluated=reason)


def _soft_reason(metric: str, value: float | None) -> str:
    row = METRICS[metric]
    if row.soft is not None and value is not None and not row.soft[0] <= value <= row.soft[1]:
        return f"outside {limits_text(row, hard=False)}"
    return "unusual difference between the pressures"
