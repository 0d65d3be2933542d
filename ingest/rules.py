"""The rule file: read, laid over by a site's own, checked whole, and cut down to what a profile runs.

The format is described at the top of rules.toml. The hash of the file's bytes travels with every flag, so that an old
flag can be explained.
"""

import tomllib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from vitals.errors import SettingsError
from vitals.messages import Flag, Interpretation, Level
from vitals.metrics import METRICS, Metric
from vitals.units import convert

SHIPPED: Final = Path(__file__).with_name("rules.toml")
Profile: TypeAlias = Literal["clinic", "demo", "data-only"]
Side: TypeAlias = Literal["high", "low"]
Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
SECOND_UNITS: Final[dict[str, tuple[str, int]]] = {"mg/dL": ("mmol/L", 1)}
"""By a metric's unit: the other unit that devices report it in and limits are published in, and its decimals on a
display. A pair of limits is no conversion: 10.0 mmol/L is 180.16 mg/dL, and the pair is 180 and 10.0."""
Years: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=150)]

LEVELS: Final[tuple[Level, ...]] = ("normal", "notice", "abnormal", "critical")
_HIGH: Final[dict[Level, Interpretation]] = {"notice": "A", "abnormal": "H", "critical": "HH"}
_LOW: Final[dict[Level, Interpretation]] = {"notice": "A", "abnormal": "L", "critical": "LL"}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row. Its fields are explained at the top of rules.toml."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.]{1,64}$")]
    metrics: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    unit: str
    op: Literal[">", ">=", "<", "<="]
    value: float
    value_alt: float | None = None
    unit_alt: str = ""
    level: Literal["notice", "abnormal", "critical"]
    text: Text
    source: Text
    edition: Text
    evidence: Literal["S", "R", "P"]
    rank: int = 0
    asks: str = ""
    min_age_years: Years | None = None
    max_age_years: Years | None = None
    max_age_days: Annotated[int, msgspec.Meta(ge=0, le=731)] | None = None
    pregnant: bool | None = None
    sex: Literal["female", "male"] | None = None
    spo2_scale: Literal[1, 2] | None = None
    sites: tuple[str, ...] | None = None
    not_sites: tuple[str, ...] = ()
    enabled: bool = True
    approved_by: str = ""
    approved_on: str = ""

    @property
    def high(self) -> bool:
        return self.op in (">", ">=")

    @property
    def question(self) -> str:
        return self.asks or ("high" if self.high else "low")

    @property
    def order(self) -> tuple[int, int, float, str]:
        """Which of two matching rows is shown: level, rank, the more extreme limit; never their place in the file."""
        return LEVELS.index(self.level), self.rank, self.value if self.high else -self.value, self.id

    @property
    def population(self) -> tuple[object, ...]:
        """Equal for rows that hold for the same patients at the same sites."""
        ages = (self.min_age_years, self.max_age_years, self.max_age_days)
        return *ages, self.pregnant, self.sex, self.spo2_scale, self.sites, self.not_sites

    def flag(self, metric: str) -> Flag:
        """What the reading carries. The limit names its metric: the flag of a pressure may come from the other one."""
        row = METRICS[metric]
        return Flag(
            interpretation=(_HIGH if self.high else _LOW)[self.level],
            level=self.level,
            rule=self.id,
            text=self.text,
            limit=f"{row.title} {self.op} {self.value:g} {row.unit_shown}",
            metric=metric,
            op=self.op,
            threshold=self.value,
            source=f"{self.source} ({self.edition})",
            evidence=self.evidence,
        )


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a status bit of a device means for the rules. No metrics: all of them."""

    bit: Text
    metrics: tuple[str, ...]
    effect: Literal["not evaluated", "doubt"]
    text: Text


class Plausibility(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Soft limits of a blood pressure as a whole, mmHg."""

    pulse_pressure_soft: tuple[float, float]
    map_from_formula_soft: float


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Text
    round: dict[str, Annotated[int, msgspec.Meta(ge=0, le=6)]]
    asked: dict[str, tuple[Side, ...]] = {}
    plausibility: Plausibility
    quality: tuple[Quality, ...]
    rule: tuple[Rule, ...]


class RuleSet(msgspec.Struct, frozen=True):
    """The rules one profile runs. `all_rules` are those of the file: what they ask must be answered before `N`."""

    profile: Profile
    version: str
    hash: str
    rules: tuple[Rule, ...]
    all_rules: tuple[Rule, ...]
    quality: tuple[Quality, ...]
    plausibility: Plausibility
    decimals: dict[str, int]
    asked: dict[str, tuple[Side, ...]]


def load_rules(profile: Profile, site_file: Path | None = None, shipped: Path = SHIPPED) -> RuleSet:
    """Read and check everything. Raises SettingsError with all that is wrong in it."""
    tree, digest = _read(shipped)
    if site_file is not None:
        over, more = _read(site_file)
        tree, digest = _lay_over(tree, over, site_file), digest + more
    path = site_file or shipped
    try:
        file = msgspec.convert(tree, _File, strict=True)
    except msgspec.ValidationError as error:
        raise _wrong(path, _named(str(error), tree)) from None
    problems = check(file.rule, file.quality, [*file.round, *file.asked])
    if problems:
        raise _wrong(path, "; ".join(problems))
    return RuleSet(
        profile,
        file.version,
        blake2b(digest, digest_size=8).hexdigest(),
        tuple(rule for rule in file.rule if runs(rule, profile)),
        file.rule,
        file.quality,
        file.plausibility,
        file.round,
        file.asked,
    )


def runs(rule: Rule, profile: Profile) -> bool:
    """The release gate: in a clinic every running row has a source that was seen, or a named clinician's approval."""
    if not rule.enabled or profile == "data-only":
        return False
    return profile == "demo" or rule.evidence == "S" or bool(rule.approved_by)


def check(rules: Sequence[Rule], quality: Sequence[Quality], metrics: Sequence[str]) -> list[str]:
    """What types alone cannot say: every problem, so that one run shows all."""
    problems = [f"{row.bit}: unknown metric {m!r}" for row in quality for m in row.metrics if m not in METRICS]
    problems += [f"round or asked: unknown metric {m!r}" for m in metrics if m not in METRICS]
    ids = [rule.id for rule in rules]
    problems += [f"{name}: this id stands twice" for name in sorted({i for i in ids if ids.count(i) > 1})]
    for rule in rules:
        problems += [f"{rule.id}: {text}" for text in _check_rule(rule)]
    return problems


def _check_rule(rule: Rule) -> list[str]:
    problems = [f"unknown metric {metric!r}" for metric in rule.metrics if metric not in METRICS]
    for metric in set(rule.metrics) & METRICS.keys():
        row = METRICS[metric]
        if rule.unit != row.unit:
            problems.append(f"unit {rule.unit!r}, but {metric} is kept in {row.unit!r}")
        if row.hard and not row.hard[0] <= rule.value <= row.hard[1]:
            problems.append(
                f"limit {rule.value:g} is no possible value of {metric} ({row.hard[0]:g} to {row.hard[1]:g})"
            )
        problems += _check_alt(rule, row)
    if rule.min_age_years is not None and rule.max_age_years is not None and rule.min_age_years > rule.max_age_years:
        problems.append(f"min_age_years {rule.min_age_years} is above max_age_years {rule.max_age_years}")
    if rule.sites is not None and set(rule.sites) & set(rule.not_sites):
        problems.append("a site stands in sites and in not_sites")
    if bool(rule.approved_by) != bool(rule.approved_on):
        problems.append("approved_by and approved_on belong together")
    return problems


def _check_alt(rule: Rule, row: Metric) -> list[str]:
    """The limit in the second unit must be the same limit, rounded: a slip there would flag by another one."""
    if rule.value_alt is None and not rule.unit_alt:
        return []
    unit, decimals = SECOND_UNITS.get(row.unit, ("", 0))
    if rule.value_alt is None or not unit or rule.unit_alt != unit:
        return [f"value_alt and unit_alt belong together, and beside {row.unit!r} the unit is {unit or 'none'!r}"]
    if abs(convert(rule.value, row.unit, unit) - rule.value_alt) > 10.0**-decimals:
        return [f"{rule.value_alt:g} {unit} is not {rule.value:g} {row.unit}"]
    return []


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        raw = path.read_bytes()
        return tomllib.loads(raw.decode()), raw
    except FileNotFoundError:
        raise _wrong(path, "nothing") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise _wrong(path, str(error)) from None


def _lay_over(base: dict[str, Any], over: dict[str, Any], path: Path) -> dict[str, Any]:
    """A site's rows change the fields they name of the row with that id, or add a row."""
    merged = dict(base)
    for key, rows in over.items():
        if key not in ("rule", "quality"):
            table = base.get(key)
            merged[key] = {**table, **rows} if isinstance(table, dict) and isinstance(rows, dict) else rows
            continue
        name = "id" if key == "rule" else "bit"
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and isinstance(row.get(name), str) for row in rows
        ):
            raise _wrong(path, f"a [[{key}]] without its {name}")
        by_name = {row[name]: row for row in base[key]}
        for row in rows:
            by_name[row[name]] = {**by_name.get(row[name], {}), **row}
        merged[key] = list(by_name.values())
    return merged


def _named(text: str, tree: dict[str, Any]) -> str:
    """msgspec says `$.rule[...]`; say which one, by trying each alone."""
    rules = tree.get("rule")
    for row in rules if isinstance(rules, list) else []:
        try:
            msgspec.convert(row, Rule, strict=True)
        except msgspec.ValidationError as error:
            return f"{row.get('id', row) if isinstance(row, dict) else row}: {error}"
    return text


def _wrong(path: Path, found: str) -> SettingsError:
    return SettingsError(
        f"The rules file {path} cannot be used.", expected="rows as described at the top of ingest/rules.toml",
        found=found, do="Mend the rows it names; nothing was started.",
    )  # fmt: skip
