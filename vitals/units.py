"""Unit conversions, with their traps. UCUM codes in, the metric's one unit out.

Factors: clinical sources agree on 180.156 g/mol for glucose (LOINC group LG7967-5); the rest are exact definitions.
Thresholds of glucose are never compared after conversion: the rules compare in the unit the meter reported.
"""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

GLUCOSE_MG_DL_PER_MMOL_L: Final = 18.0156
MMHG_PER_KPA: Final = 7.500617
KG_PER_LB: Final = 0.45359237

_CONVERSIONS: Final[dict[tuple[str, str], Callable[[float], float]]] = {
    ("kPa", "mm[Hg]"): lambda v: v * MMHG_PER_KPA,
    ("mm[Hg]", "kPa"): lambda v: v / MMHG_PER_KPA,
    ("[degF]", "Cel"): lambda v: (v - 32.0) * 5.0 / 9.0,
    ("Cel", "[degF]"): lambda v: v * 9.0 / 5.0 + 32.0,
    ("mmol/L", "mg/dL"): lambda v: v * GLUCOSE_MG_DL_PER_MMOL_L,
    ("mg/dL", "mmol/L"): lambda v: v / GLUCOSE_MG_DL_PER_MMOL_L,
    ("[lb_av]", "kg"): lambda v: v * KG_PER_LB,
    ("kg", "[lb_av]"): lambda v: v / KG_PER_LB,
}


def convert(value: float, source: str, target: str) -> float:
    """`value` in UCUM unit `source` as `target`. Raises ValueError for a pair that has no conversion."""
    if source == target:
        return value
    conversion = _CONVERSIONS.get((source, target))
    if conversion is None:
        raise ValueError(f"no conversion from {source!r} to {target!r}")
    return conversion(value)


def round_half_up(value: float, decimals: int) -> float:
    """As a person rounds: 38.05 to one decimal is 38.1. Works on the shortest decimal text of the float."""
    return float(Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP))
