"""From a flagged message to what a cell shows: pure functions, no state.

Conversion and rounding for display happen here and nowhere else; the page only prints. A value that is not a number
keeps its reason, and a flag keeps its rule, limit, source and evidence, so that every number can be checked by hand.
"""

from typing import Any, Final, Literal, TypeAlias

import msgspec

from dashboards.words import clean, unit_read
from vitals.clock import NS_PER_MS, Instant
from vitals.messages import Flag, FlaggedMessage, FlaggedValue, Interpretation, Level
from vitals.metrics import METRICS
from vitals.model import Comparator, Validity
from vitals.units import convert, round_half_up

TemperatureUnit: TypeAlias = Literal["Cel", "[degF]"]
Quality: TypeAlias = Literal["ok", "artefact"]

LATE_SHOWN_S: Final = 60
"""A reading that reached us later than this after it was taken says so on its cell."""
UNSURE_MS: Final = 120_000
"""A time known worse than this (the device's clock disagrees with ours) makes nothing current."""
MAX_BITS: Final = 16
"""Status bits kept of one reading."""
TIME_MAX: Final = 2**62
"""Nanoseconds; far beyond, a time is no time, and no JSON number either."""

LEVELS: Final[tuple[Level, ...]] = ("normal", "notice", "abnormal", "critical")

BP_PARTS: Final = {"bp_sys": "sys", "bp_dia": "dia", "bp_map": "map"}

_NOISE: Final = ("artefact", "artifact", "motion", "movement", "nois", "erratic", "questionable", "poor_signal",
                 "unreliable", "too_loose", "improper")  # fmt: skip
"""Parts of the status-bit names that say the signal, not the patient, made the number."""

REASONS: Final[dict[Validity, str]] = {
    Validity.VALID: "",
    Validity.NOT_A_NUMBER: "no result",
    Validity.NOT_AT_RESOLUTION: "no result",
    Validity.RESERVED: "invalid",
    Validity.ABOVE_RANGE: "above range",
    Validity.BELOW_RANGE: "below range",
    Validity.NOT_AVAILABLE: "not measured",
}


class Why(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the rule said, for the detail panel."""

    rule: str = ""
    text: str = ""
    limit: str = ""
    source: str = ""
    evidence: str = ""


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One quantity of a composite: systolic keeps its own flag beside diastolic."""

    v: float | None
    f: Interpretation | None = None
    lv: Level = "normal"
    why: Why | None = None
    ne: str = ""


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value as the page gets it (`obs` of the message contract).

    `lv` is the flag's level, `f` its HL7 code (None: not evaluated, `ne` says why). `reason` stands where there is
    no value. `raw` is what the device reported, when that differs from what is shown.
    """

    k: str
    v: float | list[float | None] | None
    u: str
    ts: int
    rx: int
    id: str
    dev: str
    by: str = ""
    q: Quality = "ok"
    f: Interpretation | None = None
    lv: Level = "normal"
    why: Why | None = None
    ne: str = ""
    cmp: Comparator | None = None
    reason: str = ""
    method: str = ""
    site: str = ""
    quality: tuple[str, ...] = ()
    raw: str = ""
    sim: bool = False
    hist: bool = False
    late: int = 0
    derived: bool = False
    unc: int = 0
    unsure: bool = False
    parts: dict[str, Part] | None = None
    rules: str = ""
    av: int = 0


def ms(instant: Instant) -> int:
    """Whole milliseconds, as the page counts time."""
    return instant // NS_PER_MS


def shown_unit(key: str, temperature: TemperatureUnit) -> str:
    """The unit a label names."""
    if key == "bp":
        return METRICS["bp_sys"].unit_shown
    return "°F" if key == "temp" and temperature == "[degF]" else METRICS[key].unit_shown


def shown_value(key: str, value: float, temperature: TemperatureUnit) -> float:
    """The number as it is printed: converted for display only, then rounded as a person rounds."""
    metric = METRICS[key]
    if key == "temp":
        value = convert(value, "Cel", temperature)
    return round_half_up(value, metric.decimals)


_SIGNS: Final = {"<": "<", "<=": "≤", ">": ">", ">=": "≥"}
_PRESSURE_NAMES: Final = {"bp_dia": "diastolic ", "bp_map": "mean "}


def limit_shown(metric: str, op: str, threshold: float | None, temperature: TemperatureUnit) -> str:
    """`≥ 100.4` in the unit the number beside it has; empty when the flag names no limit of a known metric."""
    if threshold is None or metric not in METRICS or op not in _SIGNS:
        return ""
    value = shown_value(metric, threshold, temperature)
    return f"{_PRESSURE_NAMES.get(metric, '')}{_SIGNS[op]} {value:.{METRICS[metric].decimals}f}"


def readings(message: FlaggedMessage, temperature: TemperatureUnit, now: Instant) -> list[Reading]:
    """Every cell this message fills. Systolic, diastolic and mean make one reading, `bp`.

    A reading from the future is as old as its arrival: otherwise a clock that is ahead would keep it fresh too long.
    """
    if message.t > now:
        message = msgspec.structs.replace(message, t=now)
    known = {key: value for key, value in message.values.items() if key in METRICS}
    pressures = {key: value for key, value in known.items() if key in BP_PARTS}
    found = [_single(message, key, value, temperature) for key, value in known.items() if key not in BP_PARTS]
    if pressures:
        found.append(_pressure(message, pressures, temperature))
    return found


def plausible(message: FlaggedMessage) -> tuple[FlaggedMessage, int]:
    """The message with every value that cannot be one taken out, and how many those were.

    Raises ValueError when its times or counts are beyond any.
    """
    times = (message.t, message.t_received, message.uncertainty_ms, message.late_s, message.assoc_version)
    if not all(0 <= number <= TIME_MAX for number in times):
        raise ValueError(f"expected times and counts of 0 to {TIME_MAX}, found {times}")
    wrong = {key for key, value in message.values.items() if not possible(key, value.value)}
    if not wrong:
        return message, 0
    refused = FlaggedValue("", validity=Validity.RESERVED, not_evaluated="beyond what can be measured")
    values = {key: refused if key in wrong else value for key, value in message.values.items()}
    return msgspec.structs.replace(message, values=values), len(wrong)


def possible(key: str, value: float | None) -> bool:
    """Whether the metric can have this value at all; its hard limits are wider than any living patient."""
    if value is None or key not in METRICS:
        return True
    low, high = METRICS[key].hard or (-1e9, 1e9)
    return low <= value <= high


def _single(message: FlaggedMessage, key: str, value: FlaggedValue, temperature: TemperatureUnit) -> Reading:
    number = None if value.value is None else shown_value(key, value.value, temperature)
    flag = value.flag
    return Reading(
        k=key,
        v=number,
        u=shown_unit(key, temperature),
        f=flag.interpretation if flag else None,
        lv=flag.level if flag else "normal",
        why=_why(flag, temperature),
        ne=clean(value.not_evaluated),
        cmp=value.comparator,
        reason=_reason(value),
        q=_quality(message, flag),
        raw=_raw(value),
        **_common(message),
    )


def _pressure(message: FlaggedMessage, values: dict[str, FlaggedValue], temperature: TemperatureUnit) -> Reading:
    """One blood pressure: its flag is the worst of its parts, and it counts as checked only when all parts were."""
    parts = {BP_PARTS[key]: _part(key, value, temperature) for key, value in values.items()}
    worst = max(values.values(), key=lambda value: LEVELS.index(value.flag.level) if value.flag else -1)
    unchecked = [value.not_evaluated for value in values.values() if value.not_evaluated]
    flag = worst.flag
    if flag is not None and flag.level == "normal" and unchecked:
        flag = None
    systolic, diastolic = (parts[name].v if name in parts else None for name in ("sys", "dia"))
    reasons = [reason for reason in map(_reason, values.values()) if reason]
    return Reading(
        k="bp",
        v=None if systolic is None and diastolic is None else [systolic, diastolic],
        u=shown_unit("bp", temperature),
        f=flag.interpretation if flag else None,
        lv=flag.level if flag else "normal",
        why=_why(flag, temperature),
        ne=clean("; ".join(dict.fromkeys(unchecked))),
        reason=reasons[0] if reasons and systolic is None else "",
        q=_quality(message, flag),
        raw=clean(", ".join(_raw(value) for value in values.values() if value.raw)),
        parts=parts,
        **_common(message),
    )


def _part(key: str, value: FlaggedValue, temperature: TemperatureUnit) -> Part:
    flag = value.flag
    return Part(
        v=None if value.value is None else shown_value(key, value.value, temperature),
        f=flag.interpretation if flag else None,
        lv=flag.level if flag else "normal",
        why=_why(flag, temperature),
        ne=clean(value.not_evaluated),
    )


def _common(message: FlaggedMessage) -> dict[str, Any]:
    """The fields every reading of one message shares."""
    return {
        "ts": ms(message.t),
        "rx": ms(message.t_received),
        "id": message.id,
        "dev": clean(message.device),
        "by": clean(message.gateway),
        "method": clean(message.method),
        "site": clean(message.context.site),
        "quality": tuple(clean(bit) for bit in message.quality[:MAX_BITS]),
        "sim": message.simulated,
        "hist": message.historical,
        "late": message.late_s if message.late_s >= LATE_SHOWN_S else 0,
        "derived": message.derived,
        "unc": message.uncertainty_ms,
        "unsure": message.uncertainty_ms > UNSURE_MS,
        "rules": message.rules_hash,
        "av": message.assoc_version,
    }


def _why(flag: Flag | None, temperature: TemperatureUnit) -> Why | None:
    """Normal needs no explaining on the wire when the rule left none."""
    if flag is None or not (flag.rule or flag.text or flag.limit):
        return None
    limit = limit_shown(flag.metric, flag.op, flag.threshold, temperature) or flag.limit
    return Why(*map(clean, (flag.rule, flag.text, limit, flag.source, flag.evidence)))


def _raw(value: FlaggedValue) -> str:
    """What the device said, in units as people read them."""
    return clean(f"{value.raw} {unit_read(value.raw_unit)}".strip())


def _reason(value: FlaggedValue) -> str:
    """Why there is no number. A comparator is a number's worth of knowledge (`>600`)."""
    if value.value is not None:
        return ""
    return REASONS[value.validity] or "invalid"


def _quality(message: FlaggedMessage, flag: Flag | None) -> Quality:
    """Artefact only where nothing was judged: a flagged value is never greyed out by a status bit."""
    noisy = any(part in bit for bit in message.quality for part in _NOISE)
    return "artefact" if noisy and flag is None else "ok"
