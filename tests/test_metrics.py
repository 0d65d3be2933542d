"""The metric table against the published codes, typed here by hand, and the conversions with their traps."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitals.metrics import METRICS, UNITS_MDC
from vitals.units import convert, round_half_up

# MDC: IEEE 11073-10101, the 32-bit context-free number as published (partition x 65536 + term), and LOINC codes.
# Typed from the code lists named in ../shared/vocabulary.md, not computed.
CODES: dict[str, tuple[int | None, str, tuple[str, ...]]] = {
    "bp_sys": (150021, "MDC_PRESS_BLD_NONINV_SYS", ("8480-6",)),
    "bp_dia": (150022, "MDC_PRESS_BLD_NONINV_DIA", ("8462-4",)),
    "bp_map": (150023, "MDC_PRESS_BLD_NONINV_MEAN", ("8478-0",)),
    "cuff_pressure": (150300, "MDC_PRESS_CUFF", ()),
    "pulse_cuff": (149546, "MDC_PULS_RATE_NON_INV", ("8867-4",)),
    "pulse_oximeter": (149530, "MDC_PULS_OXIM_PULS_RATE", ("8867-4",)),
    "hr_ekg": (147842, "MDC_ECG_HEART_RATE", ("8867-4",)),
    "hr_device": (147842, "MDC_ECG_HEART_RATE", ("8867-4",)),
    "rr": (151562, "MDC_RESP_RATE", ("9279-1",)),
    "spo2": (150456, "MDC_PULS_OXIM_SAT_O2", ("2708-6", "59408-5")),
    "temp": (150364, "MDC_TEMP_BODY", ("8310-5",)),
    "glu": (160184, "MDC_CONC_GLU_CAPILLARY_WHOLEBLOOD", ("41653-7",)),
    "weight": (188736, "MDC_MASS_BODY_ACTUAL", ("29463-7",)),
    "ekg": (131328, "MDC_ECG_ELEC_POTL", ()),
    "resp_impedance": (None, "", ()),
    "ppg_ir": (150452, "MDC_PULS_OXIM_PLETH", ()),
    "ppg_red": (150452, "MDC_PULS_OXIM_PLETH", ()),
}
UNITS = {"mm[Hg]", "/min", "%", "Cel", "mg/dL", "kg", "uV", "1"}


def test_every_metric_is_known_here() -> None:
    assert set(METRICS) == set(CODES)


@pytest.mark.parametrize("key", CODES)
def test_codes(key: str) -> None:
    metric = METRICS[key]
    mdc, refid, loinc = CODES[key]
    assert (metric.key, metric.mdc_code, metric.refid, metric.loinc) == (key, mdc, refid, loinc)
    if metric.mdc is not None:
        partition, term = metric.mdc
        assert partition == 2
        assert (partition << 16) + term == mdc


def luhn(digits: str) -> int:
    """The check digit of a LOINC number (modulus 10): catches a slip of the typist, here and in the table."""
    total = sum(sum(divmod(int(digit) * (1 + (place % 2 == 0)), 10)) for place, digit in enumerate(reversed(digits)))
    return -total % 10


@pytest.mark.parametrize("code", sorted({code for metric in METRICS.values() for code in metric.loinc}))
def test_loinc_check_digit(code: str) -> None:
    digits, _, check = code.partition("-")
    assert luhn(digits) == int(check)


@pytest.mark.parametrize("key", CODES)
def test_units_are_ucum(key: str) -> None:
    assert METRICS[key].unit in UNITS
    assert METRICS[key].unit not in {"mmHg", "bpm", "C", "F"}


# "Wrong codes circulate": numbers seen in public code for these metrics.
WRONG = {"bp_dia": 150018, "hr_device": 150022, "hr_ekg": 150022, "rr": 151552, "bp_sys": 150020, "temp": 19308}


@pytest.mark.parametrize(("key", "code"), WRONG.items())
def test_not_the_wrong_codes(key: str, code: int) -> None:
    assert METRICS[key].mdc_code != code


def test_unit_codes() -> None:
    assert UNITS_MDC == {
        "mm[Hg]": 266016,
        "kPa": 265987,
        "%": 262688,
        "Cel": 268192,
        "[degF]": 266560,
        "mg/dL": 264274,
        "mmol/L": 266866,
        "kg": 263875,
        "[lb_av]": 263904,
    }
    assert {code >> 16 for code in UNITS_MDC.values()} == {4}, "units are partition 4"


@pytest.mark.parametrize("key", CODES)
def test_soft_limits_inside_hard(key: str) -> None:
    metric = METRICS[key]
    if metric.hard is not None:
        assert metric.hard[0] < metric.hard[1]
    if metric.soft is not None:
        assert metric.hard is not None
        assert metric.hard[0] <= metric.soft[0] < metric.soft[1] <= metric.hard[1]


@pytest.mark.parametrize("key", CODES)
def test_pace(key: str) -> None:
    metric = METRICS[key]
    assert metric.live_s > 0
    if metric.pace == "continuous":
        assert metric.gone_s > metric.live_s
    if metric.pace == "wave":
        assert metric.hard is None, "samples are counts: no limit of a value applies"


# -- conversions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "source", "target", "wanted", "places"),
    [
        # glucose, 18.0156: the traps of the clinical rules, as printed there
        (10.0, "mmol/L", "mg/dL", 180.16, 2),
        (11.1, "mmol/L", "mg/dL", 199.97, 2),
        (3.9, "mmol/L", "mg/dL", 70.26, 2),
        (3.0, "mmol/L", "mg/dL", 54.05, 2),
        (3.8, "mmol/L", "mg/dL", 68.5, 1),
        (2.9, "mmol/L", "mg/dL", 52.2, 1),
        (22.2, "mmol/L", "mg/dL", 399.95, 2),
        (33.3, "mmol/L", "mg/dL", 599.92, 2),
        # temperature, exact
        (100.4, "[degF]", "Cel", 38.0, 3),
        (102.2, "[degF]", "Cel", 39.0, 3),
        (95.0, "[degF]", "Cel", 35.0, 3),
        (102.3, "[degF]", "Cel", 39.056, 3),
        # pressure and mass, by definition
        (1.0, "kPa", "mm[Hg]", 7.500617, 6),
        (18.9, "kPa", "mm[Hg]", 141.762, 3),
        (1.0, "mm[Hg]", "kPa", 0.133322, 6),
        (1.0, "[lb_av]", "kg", 0.45359237, 8),
        (150.0, "[lb_av]", "kg", 68.0389, 4),
    ],
)
def test_conversion(value: float, source: str, target: str, wanted: float, places: int) -> None:
    assert round_half_up(convert(value, source, target), places) == wanted


def test_converting_before_comparing_misleads() -> None:
    """Why thresholds of glucose are compared in the meter's unit: 10.0 is not above 10.0, and 11.1 reaches 11.1."""
    assert convert(10.0, "mmol/L", "mg/dL") > 180
    assert convert(11.1, "mmol/L", "mg/dL") < 200


def test_news2_temperature_edge() -> None:
    """102.3 degF is 39.1 after rounding half up (score 2), 102.2 is 39.0 (score 1)."""
    assert round_half_up(convert(102.3, "[degF]", "Cel"), 1) == 39.1
    assert round_half_up(convert(102.2, "[degF]", "Cel"), 1) == 39.0


PAIRS = [("kPa", "mm[Hg]"), ("[degF]", "Cel"), ("mmol/L", "mg/dL"), ("[lb_av]", "kg")]


@pytest.mark.parametrize(("one", "other"), PAIRS)
@settings(deadline=None)
@given(value=st.floats(0.1, 1000))
def test_there_and_back(one: str, other: str, value: float) -> None:
    assert convert(convert(value, one, other), other, one) == pytest.approx(value, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("unit", ["mm[Hg]", "Cel", "nonsense"])
def test_same_unit_is_untouched(unit: str) -> None:
    assert convert(38.05, unit, unit) == 38.05


@pytest.mark.parametrize(("source", "target"), [("kPa", "Cel"), ("mmHg", "mm[Hg]"), ("F", "Cel"), ("", "kg")])
def test_no_such_conversion(source: str, target: str) -> None:
    with pytest.raises(ValueError, match="no conversion"):
        convert(1.0, source, target)


@pytest.mark.parametrize(
    ("value", "decimals", "wanted"),
    [
        (38.05, 1, 38.1),
        (38.04, 1, 38.0),
        (2.675, 2, 2.68),
        (0.5, 0, 1.0),
        (1.5, 0, 2.0),
        (2.5, 0, 3.0),
        (-0.5, 0, -1.0),
    ],
)
def test_round_half_up(value: float, decimals: int, wanted: float) -> None:
    assert round_half_up(value, decimals) == wanted


@settings(deadline=None)
@given(st.integers(-100_000, 100_000))
def test_round_half_up_as_on_paper(hundredths: int) -> None:
    """Two decimals to one, by integers: half goes away from zero."""
    sign = -1 if hundredths < 0 else 1
    tenths = sign * ((abs(hundredths) + 5) // 10)
    value = float(Decimal(hundredths) / 100)
    assert round_half_up(value, 1) == float(Decimal(tenths) / 10)
