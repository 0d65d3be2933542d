"""The rule engine: columns of numpy arrays in, for each reading the row that is shown or the reason why there is none.

Three-valued: a row whose population is not known and whose limit is passed leaves the reading undecided; one whose
limit is not passed does not match whoever the patient is. A rule never edits a value.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ingest.rules import Rule, RuleSet
from vitals.metrics import METRICS

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.int16]

CODES: Final[dict[str, int]] = {key: code for code, key in enumerate(METRICS)}
"""Metric codes of the columns."""
SEXES: Final = {None: -1, "female": 0, "male": 1}
UNKNOWN: Final = -1
NO_SITE: Final = 0
"""Code of a site that was not recorded."""
ROUNDING_SLACK: Final = 1e-6
"""38.05 x 10 is 380.49999999999994: what is half but for the float's last digits rounds up."""


class Why(IntEnum):
    """Why a reading has neither a matching row nor `N`. Of several reasons the greatest is told."""

    DECIDED = 0
    NO_RULE = 1
    NO_LOW = 2
    NO_HIGH = 3
    OFF_SCALE = 4
    OTHER_PATIENT = 5
    OTHER_SITE = 6
    NO_SITE = 7
    NO_SEX = 8
    NO_AGE = 9
    NO_PATIENT = 10


_NO_SIDE: Final = {"low": Why.NO_LOW, "high": Why.NO_HIGH}
"""A side that no row of the file asks about: beyond it nobody knows what is normal."""


class Columns(NamedTuple):
    """One row a quantity. Ages are NaN, codes UNKNOWN, where nobody knows; `comparator` is -1 "<", 0 none, 1 ">".

    `second` is the value in the metric's second unit (rules.SECOND_UNITS), where the device reported in that; else NaN.
    """

    metric: Codes
    value: Floats
    second: Floats
    comparator: Codes
    age_years: Floats
    age_days: Floats
    sex: Codes
    pregnant: Codes
    scale: Codes
    site: Codes
    bound: Bools

    def take(self, rows: npt.NDArray[np.intp]) -> "Columns":
        """These rows only."""
        return Columns(
            self.metric[rows],
            self.value[rows],
            self.second[rows],
            self.comparator[rows],
            self.age_years[rows],
            self.age_days[rows],
            self.sex[rows],
            self.pregnant[rows],
            self.scale[rows],
            self.site[rows],
            self.bound[rows],
        )


class Verdicts(NamedTuple):
    """`rule` indexes `Engine.rules`, -1 for none; `why` is DECIDED where one matched or all questions are answered."""

    rule: Codes
    why: Codes


class Engine:
    """The rules of one profile, in the order in which a later one outshines an earlier one."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules: Sequence[Rule] = sorted(rules.rules, key=lambda rule: rule.order)
        self._decimals = rules.decimals
        self.sites: Final[dict[str, int]] = {"": NO_SITE}
        for rule in rules.all_rules:
            for site in (*(rule.sites or ()), *rule.not_sites):
                self.sites.setdefault(site, len(self.sites))
        # A site no rule names is one code: it differs from every named one and from "not recorded".
        self.other_site: Final = len(self.sites)
        self._tables = [_site_table(rule, self.sites) for rule in self.rules]
        self._of_metric: dict[int, list[tuple[int, Rule]]] = {}
        self._questions: dict[int, dict[str, Why]] = {}
        for metric, code in CODES.items():
            self._of_metric[code] = [(no, rule) for no, rule in enumerate(self.rules) if metric in rule.metrics]
            asked = {rule.question: Why.OTHER_PATIENT for rule in rules.all_rules if metric in rule.metrics}
            sides = {side: _NO_SIDE[side] for side in rules.asked.get(metric, ("high", "low"))} if asked else {}
            self._questions[code] = sides | asked

    def site_code(self, site: str) -> int:
        return self.sites.get(site, self.other_site)

    def evaluate(self, columns: Columns) -> Verdicts:
        """The whole batch, metric by metric."""
        size = len(columns.metric)
        verdicts = Verdicts(np.full(size, -1, np.int16), np.full(size, Why.NO_RULE, np.int16))
        for code in np.unique(columns.metric):
            rows = np.flatnonzero(columns.metric == code)
            rule, why = self._metric(int(code), columns.take(rows))
            verdicts.rule[rows] = rule
            verdicts.why[rows] = why
        return verdicts

    def _metric(self, code: int, columns: Columns) -> Verdicts:
        size = len(columns.value)
        shown = np.full(size, -1, np.int16)
        if not self._questions[code]:
            return Verdicts(shown, np.full(size, Why.NO_RULE, np.int16))
        open_for = {question: np.full(size, why, np.int16) for question, why in self._questions[code].items()}
        undecided = np.zeros(size, np.int16)
        populations: dict[tuple[object, ...], tuple[Bools, Bools, Codes]] = {}
        values = self._rounded(code, columns.value)
        for no, rule in self._of_metric[code]:
            met, known = _compare(rule, values, columns.second, columns.comparator)
            if rule.population not in populations:
                populations[rule.population] = _population(rule, columns, self._tables[no])
            fits, maybe, why = populations[rule.population]
            np.copyto(shown, no, where=met & fits)
            # Passed, or off the scale so that nobody knows, while it is open whether the row applies; or the reverse.
            np.maximum(undecided, why, out=undecided, where=maybe & (met | ~known))
            np.maximum(undecided, Why.OFF_SCALE, out=undecided, where=fits & ~known)
            reasons = open_for[rule.question]
            np.maximum(reasons, why, out=reasons, where=reasons > 0)
            reasons[fits] = Why.DECIDED
        for reasons in open_for.values():
            np.maximum(undecided, reasons, out=undecided)
        return Verdicts(shown, np.where(shown >= 0, Why.DECIDED, undecided).astype(np.int16))

    def _rounded(self, code: int, values: Floats) -> Floats:
        decimals = self._decimals.get(list(METRICS)[code])
        return values if decimals is None else round_half_up(values, decimals)


def round_half_up(values: Floats, decimals: int) -> Floats:
    """As a person rounds, for values a device can report (resolution down to a millionth of the unit)."""
    scale = 10.0**decimals
    rounded: Floats = np.floor(values * scale + 0.5 + ROUNDING_SLACK) / scale
    return rounded


def _compare(rule: Rule, values: Floats, second: Floats, comparator: Codes) -> tuple[Bools, Bools]:
    """(limit passed, known whether it is). "> 600" passes ">= 400" for certain and leaves "< 700" open.

    A row with a limit in the second unit is compared in the unit that was reported.
    """
    operation = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}[rule.op]
    limit: Floats | float = rule.value
    if rule.value_alt is not None:
        other = np.isnan(second)
        values, limit = np.where(other, values, second), np.where(other, rule.value, rule.value_alt)
    met: Bools = operation(values, limit)
    known: Bools = np.isfinite(values)
    side = 1 if rule.high else -1
    # The reading lies beyond its own limit: on the rule's side a limit not passed may still be; a limit passed is
    # passed, as is one equal to the meter's. On the other side what is passed at the limit may not be, further on.
    met = met | ((comparator == side) & (values == limit))
    known = known & ~((comparator == side) & ~met) & ~((comparator == -side) & met)
    return met & known, known


def _population(rule: Rule, c: Columns, table: Bools) -> tuple[Bools, Bools, Codes]:
    """(applies, open whether it applies, the reason where it does not or is open)."""
    size = len(c.value)
    why = np.full(size, Why.OTHER_PATIENT, np.int16)
    # Not known to be pregnant is not taken as pregnant, and not inferred: the adult rows apply.
    patient = np.ones(size, np.bool_) if rule.pregnant is None else (c.pregnant == 1) == rule.pregnant
    if rule.spo2_scale is not None:
        patient &= c.scale == rule.spo2_scale
    missing = np.zeros(size, np.bool_)
    for fits, unknown, reason in _personal(rule, c):
        patient &= fits | unknown
        missing |= unknown
        np.maximum(why, reason, out=why, where=unknown)
    np.copyto(why, Why.NO_PATIENT, where=missing & ~c.bound)
    place = table[c.site]
    if not table.all():
        np.copyto(why, np.where(c.site == NO_SITE, Why.NO_SITE, Why.OTHER_SITE).astype(np.int16), where=~place)
    np.copyto(why, Why.OTHER_PATIENT, where=~patient)
    return patient & ~missing & place, patient & missing & place, why


def _personal(rule: Rule, c: Columns) -> list[tuple[Bools, Bools, Why]]:
    """For each fact the row needs: (fits, unknown, reason)."""
    needs: list[tuple[Bools, Bools, Why]] = []
    if rule.min_age_years is not None or rule.max_age_years is not None:
        fits = (c.age_years >= (rule.min_age_years or 0)) & (c.age_years <= _or_old(rule.max_age_years))
        needs.append((fits, np.isnan(c.age_years), Why.NO_AGE))
    if rule.max_age_days is not None:
        # Two completed years and more are too old for a limit in days (the file allows 731 at most).
        old = c.age_years >= 2
        needs.append(((c.age_days <= rule.max_age_days) & ~old, np.isnan(c.age_days) & ~old, Why.NO_AGE))
    if rule.sex is not None:
        needs.append((c.sex == SEXES[rule.sex], c.sex == UNKNOWN, Why.NO_SEX))
    return needs


def _site_table(rule: Rule, sites: dict[str, int]) -> Bools:
    """By site code: does the row hold there? The last code is every site that no row names."""
    names = [*sites, None]
    return np.array([(rule.sites is None or name in rule.sites) and name not in rule.not_sites for name in names])


def _or_old(years: int | None) -> float:
    return np.inf if years is None else float(years)
