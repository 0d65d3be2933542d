"""The rules against their sources. Every expected level below was typed from the guideline tables, none computed."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboards.readings import shown_value
from ingest.engine import round_half_up
from ingest.evaluate import Evaluator, Reading
from ingest.rules import LEVELS, SHIPPED, RuleSet, load_rules
from tests.ingest_making import adult, bp, q
from vitals import units
from vitals.errors import SettingsError
from vitals.messages import AssociationMessage, FlaggedValue
from vitals.metrics import METRICS
from vitals.model import Context, Quantity, Validity

DEMO = Evaluator(load_rules("demo"))
CLINIC = Evaluator(load_rules("clinic"))
RATES = ("pulse_cuff", "pulse_oximeter", "hr_ekg", "hr_device")


def judge(
    quantities: dict[str, Quantity],
    who: AssociationMessage | None = adult(),  # noqa: B008  frozen
    *,
    by: Evaluator = DEMO,
    site: str = "",
    quality: tuple[str, ...] = (),
    method: str = "",
) -> dict[str, FlaggedValue]:
    (answer,) = by.evaluate([Reading(quantities, who, Context(site=site), method, quality)])
    return answer


def seen(value: FlaggedValue) -> str:
    """`H stage2`-like short form, or the reason in brackets."""
    if value.flag is None:
        return f"({value.not_evaluated})"
    return f"{value.flag.interpretation} {value.flag.rule}".strip()


def level(metric: str, value: float, who: AssociationMessage | None = adult(), **more: object) -> str:  # noqa: B008
    answer = judge({metric: q(value, METRICS[metric].unit)}, who, **more)[metric]
    return answer.flag.level if answer.flag else "-"


# ---- blood pressure: ACC/AHA 2017, AHA/ACC 2025 --------------------------------------------------------------

BP_VECTORS = [
    # systolic, diastolic, level of the blood pressure, words of the category
    (119, 79, "normal", ""),
    (120, 79, "notice", "elevated"),
    (121, 79, "notice", "elevated"),
    (125, 78, "notice", "elevated"),
    (129, 79, "notice", "elevated"),
    (125, 80, "notice", "stage 1"),
    (130, 79, "notice", "stage 1"),
    (131, 79, "notice", "stage 1"),
    (118, 79, "normal", ""),
    (118, 80, "notice", "stage 1"),
    (118, 81, "notice", "stage 1"),
    (118, 85, "notice", "stage 1"),
    (118, 89, "notice", "stage 1"),
    (139, 89, "notice", "stage 1"),
    (140, 89, "abnormal", "stage 2"),
    (141, 89, "abnormal", "stage 2"),
    (118, 90, "abnormal", "stage 2"),
    (118, 91, "abnormal", "stage 2"),
    (179, 119, "abnormal", "stage 2"),
    (180, 120, "abnormal", "stage 2"),
    (181, 100, "critical", "severe"),
    (150, 121, "critical", "severe"),
    (150, 120, "abnormal", "stage 2"),
    (91, 60, "normal", ""),
    (90, 60, "normal", ""),
    (89, 60, "abnormal", "low"),
    (81, 50, "abnormal", "low"),
    (80, 50, "abnormal", "low"),
    (79, 50, "critical", "very low"),
]


@pytest.mark.parametrize(("systolic", "diastolic", "expected", "words"), BP_VECTORS)
def test_blood_pressure_shows_the_higher_category(systolic: int, diastolic: int, expected: str, words: str) -> None:
    flag = judge(bp(systolic, diastolic))["bp_sys"].flag
    assert flag is not None
    assert flag.level == expected
    assert words in flag.text
    assert "hypertension" not in flag.text


def test_the_flag_of_the_pair_names_the_pressure_it_comes_from() -> None:
    answer = judge(bp(118, 95))
    assert answer["bp_sys"].flag == answer["bp_dia"].flag
    assert answer["bp_sys"].flag is not None
    assert answer["bp_sys"].flag.limit == "Diastolic >= 90 mmHg"
    assert answer["bp_sys"].value == 118


def test_diastolic_keeps_its_own_flag_under_a_high_systolic() -> None:
    answer = judge(bp(150, 75))
    assert (seen(answer["bp_sys"]), seen(answer["bp_dia"])) == ("H bp.sbp.stage2", "N")


@pytest.mark.parametrize(
    ("systolic", "expected"),
    [(139.4, "A bp.sbp.stage1"), (139.5, "H bp.sbp.stage2"), (140, "H bp.sbp.stage2"), (119.4, "N"),
     (119.5, "A bp.sbp.elevated"), (180.4, "H bp.sbp.stage2"), (180.5, "HH bp.sbp.severe"), (89.5, "N"),
     (89.4, "L bp.sbp.low"), (79.5, "L bp.sbp.low"), (79.4, "LL bp.sbp.very_low")],
)  # fmt: skip
def test_a_pressure_is_judged_as_the_whole_number_that_is_shown(systolic: float, expected: str) -> None:
    assert seen(judge({"bp_sys": q(systolic)})["bp_sys"]) == expected


def test_a_cuff_in_kpa_is_judged_as_it_is_shown() -> None:
    """18.6 and 10.3 kPa are 139.5 and 77.3 mmHg: the board prints 140/77. 18.5 is 138.8, printed 139."""
    for systolic, shown, expected in ((18.6, 140.0, "H bp.sbp.stage2"), (18.5, 139.0, "A bp.sbp.stage1")):
        value = units.convert(systolic, "kPa", "mm[Hg]")
        answer = judge(bp(value, units.convert(10.3, "kPa", "mm[Hg]")))["bp_sys"]
        assert answer.value == value, "the rule edits nothing"
        assert shown_value("bp_sys", value, "Cel") == shown
        assert seen(answer) == expected


def test_a_mean_by_the_formula_is_cut_and_not_rounded() -> None:
    """94/50: 64.7, below 65, so nobody says that this diastolic is normal."""
    assert seen(judge(bp(94, 50))["bp_dia"]) == "(no rule for low values)"
    assert seen(judge(bp(95, 50))["bp_dia"]) == "N"


@pytest.mark.parametrize(("mean", "expected"), [(64, "abnormal"), (65, "normal"), (66, "normal")])
def test_mean_pressure_floor(mean: int, expected: str) -> None:
    answer = judge(bp(95, 55, mean))
    assert answer["bp_map"].flag is not None and answer["bp_map"].flag.level == expected
    assert answer["bp_sys"].flag is not None and answer["bp_sys"].flag.level == expected


@pytest.mark.parametrize("by", [DEMO, CLINIC])
def test_no_side_that_nobody_asks_about_is_normal(by: Evaluator) -> None:
    """A mean of 160 alone, a diastolic of 31 alone, and beside a systolic that says nothing of it."""
    assert seen(judge({"bp_map": q(160)}, by=by)["bp_map"]) == "(no rule for high values)"
    assert seen(judge({"bp_map": q(60)}, by=by)["bp_map"]) == "L bp.map.low"
    assert seen(judge({"bp_dia": q(31)}, by=by)["bp_dia"]) == "(no rule for low values)"
    assert seen(judge(bp(118, 31), by=by)["bp_dia"]) == "(no rule for low values)"
    assert seen(judge(bp(200, 140, 160), by=by)["bp_map"]) == "(no rule for high values)"
    assert seen(judge({"spo2": q(98, "%")}, by=by)["spo2"]) == "N"


@pytest.mark.parametrize("by", [DEMO, CLINIC])
def test_the_pressures_of_one_reading_answer_for_each_other(by: Evaluator) -> None:
    assert [seen(value) for value in judge(bp(118, 76, 90), by=by).values()] == ["N", "N", "N"]
    assert [seen(value) for value in judge(bp(91, 60), by=by).values()] == ["N", "N"]
    low = judge(bp(85, 60, 68), by=by)
    assert (seen(low["bp_dia"]), low["bp_map"].flag is not None) == ("(no rule for low values)", True)
    high = judge(bp(150, 76, 100), by=by)
    assert (seen(high["bp_dia"]), seen(high["bp_map"])) == ("N", "(no rule for high values)")


def test_pressures_of_two_readings_do_not_answer_for_each_other() -> None:
    alone = [Reading({"bp_sys": q(118)}, adult()), Reading({"bp_dia": q(76)}, adult())]
    assert seen(DEMO.evaluate(alone)[1]["bp_dia"]) == "(no rule for low values)"


@pytest.mark.parametrize(
    ("systolic", "diastolic", "expected"),
    [
        (139, 89, "normal"), (140, 89, "abnormal"), (141, 89, "abnormal"),
        (139, 90, "abnormal"), (159, 109, "abnormal"), (160, 109, "critical"), (161, 90, "critical"),
        (150, 109, "abnormal"), (150, 110, "critical"), (150, 111, "critical"), (125, 78, "normal"),
        (89, 60, "abnormal"), (90, 60, "normal"), (91, 60, "normal"),
    ],
)  # fmt: skip
def test_pregnancy_has_its_own_limits(systolic: int, diastolic: int, expected: str) -> None:
    flag = judge(bp(systolic, diastolic), adult(30, pregnant=True))["bp_sys"].flag
    assert flag is not None and flag.level == expected


def test_unknown_pregnancy_is_not_inferred() -> None:
    assert seen(judge(bp(130, 75), adult(30, sex="female"))["bp_sys"]) == "A bp.sbp.stage1"


def test_in_a_clinic_a_low_pressure_in_pregnancy_is_never_normal_without_a_rule() -> None:
    """No S row covers it, so the answer is that nobody looked, and not `N`."""
    pregnant = adult(30, pregnant=True)
    assert seen(judge(bp(75, 45), pregnant, by=CLINIC)["bp_sys"]) == "(no rule for this patient)"
    assert level("bp_sys", 165, pregnant, by=CLINIC) == "critical"


@pytest.mark.parametrize(
    ("age", "systolic", "expected"),
    [(17, 185, "H bp.sbp.stage2"), (18, 185, "HH bp.sbp.severe"), (13, 130, "A bp.sbp.stage1"),
     (12, 150, "(no rule for this patient)"), (12, 85, "L bp.sbp.low.over10"), (9, 85, "(no rule for this patient)"),
     (17, 89, "L bp.sbp.low.over10"), (17, 90, "N"), (10, 90, "(no rule for this patient)"),
     (17, 110, "N"), (18, 89, "L bp.sbp.low"), (17, 79, "L bp.sbp.low.over10")],
)  # fmt: skip
def test_birthdays_decide(age: int, systolic: float, expected: str) -> None:
    assert seen(judge({"bp_sys": q(systolic)}, adult(age))["bp_sys"]) == expected


def test_cuffless_pressure_is_not_categorised() -> None:
    assert seen(judge(bp(190, 95), method="cuffless")["bp_sys"]) == "(cuffless pressure is not categorised)"


# ---- rates, saturation, breathing, from 16 years -------------------------------------------------------------


@pytest.mark.parametrize("metric", RATES)
@pytest.mark.parametrize(
    ("value", "expected"),
    [(39, "critical"), (40, "critical"), (41, "abnormal"), (49, "abnormal"), (50, "notice"), (59, "notice"),
     (60, "normal"), (61, "normal"), (72, "normal"), (99, "normal"), (100, "normal"), (101, "notice"), (110, "notice"),
     (111, "abnormal"), (130, "abnormal"), (131, "critical"), (132, "critical")],
)  # fmt: skip
def test_heart_rate(metric: str, value: int, expected: str) -> None:
    assert level(metric, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(89, "critical"), (90, "abnormal"), (91, "abnormal"), (92, "notice"), (93, "notice"), (94, "normal"),
     (95, "normal"), (100, "normal")],
)  # fmt: skip
def test_saturation_scale_1(value: int, expected: str) -> None:
    assert level("spo2", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(82, "critical"), (83, "critical"), (84, "abnormal"), (87, "abnormal"), (88, "normal"), (91, "normal"),
     (92, "normal"), (97, "normal")],
)  # fmt: skip
def test_saturation_scale_2(value: int, expected: str) -> None:
    assert level("spo2", value, adult(spo2_scale=2)) == expected


def test_in_a_clinic_the_proposed_critical_limit_of_saturation_is_not_run() -> None:
    assert level("spo2", 85, by=CLINIC) == "abnormal"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, "critical"), (8, "critical"), (9, "abnormal"), (11, "abnormal"), (12, "normal"), (13, "normal"),
     (20, "normal"), (21, "abnormal"), (24, "abnormal"), (25, "critical"), (26, "critical"), (11.5, "notice"),
     (20.5, "notice")],
)  # fmt: skip
def test_breathing(value: float, expected: str) -> None:
    assert level("rr", value) == expected


@pytest.mark.parametrize("metric", [*RATES, "spo2", "rr"])
def test_from_sixteen_years(metric: str) -> None:
    value = {"spo2": 97, "rr": 16}.get(metric, 72)
    assert level(metric, value, adult(16)) == "normal"
    assert seen(judge({metric: q(value)}, adult(15))[metric]) == "(no rule for this patient)"


# ---- temperature by site -------------------------------------------------------------------------------------

CORE = ("rectal", "ear", "tympanic", "temporal")


@pytest.mark.parametrize(
    ("sites", "value", "expected"),
    [
        (CORE, 37.9, "normal"), (CORE, 38.0, "abnormal"), (CORE, 38.1, "abnormal"),
        (("oral",), 37.7, "normal"), (("oral",), 37.8, "abnormal"), (("oral",), 37.9, "abnormal"),
        (("axillary",), 37.1, "normal"), (("axillary",), 37.2, "abnormal"), (("axillary",), 37.3, "abnormal"),
        (("", "body"), 37.9, "normal"), (("", "body"), 38.0, "abnormal"), (("", "body"), 38.1, "abnormal"),
        ((*CORE, "oral", "axillary", ""), 41.4, "abnormal"), ((*CORE, "oral", "axillary", ""), 41.5, "critical"),
        ((*CORE, "oral", "axillary", ""), 36.0, "normal"), ((*CORE, "oral", "axillary", ""), 35.9, "notice"),
        ((*CORE, "oral", "axillary", ""), 35.0, "notice"), ((*CORE, "oral", "axillary", ""), 34.9, "critical"),
        # Half up to 0.1 before comparing, both ways.
        (CORE, 37.94, "normal"), (CORE, 37.95, "abnormal"),
        (("oral",), 37.75, "abnormal"), (("oral",), 37.74, "normal"),
        (("oral",), 34.95, "notice"), (("oral",), 34.94, "critical"), (("oral",), 35.95, "normal"),
        # Skin is cooler than the body and is never a fever; what it is, no row says.
        (("finger", "toe", "skin"), 38.5, "-"), (("finger", "toe", "skin"), 34.5, "-"),
        (("finger", "toe", "skin"), 37.0, "-"),
    ],
)  # fmt: skip
def test_temperature(sites: tuple[str, ...], value: float, expected: str) -> None:
    for site in sites:
        assert level("temp", value, site=site) == expected, site


@pytest.mark.parametrize(("fahrenheit", "expected"), [(100.3, "normal"), (100.4, "abnormal"), (94.9, "critical")])
def test_temperature_in_fahrenheit_at_its_limit(fahrenheit: float, expected: str) -> None:
    celsius = units.convert(fahrenheit, "[degF]", "Cel")
    assert level("temp", celsius, site="rectal") == expected


def test_words_of_an_unknown_site_and_of_a_high_fever() -> None:
    unknown = judge({"temp": q(38.2, "Cel")})["temp"]
    assert unknown.flag is not None and "site not recorded" in unknown.flag.text
    assert seen(judge({"temp": q(39.5, "Cel")}, site="oral")["temp"]) == "H temp.fever.high"
    assert seen(judge({"temp": q(39.4, "Cel")}, site="oral")["temp"]) == "H temp.fever.oral"


def test_in_a_clinic_an_unknown_site_is_said_and_not_guessed() -> None:
    assert seen(judge({"temp": q(38.6, "Cel")}, by=CLINIC)["temp"]) == "(site not recorded)"
    assert seen(judge({"temp": q(34.0, "Cel")}, by=CLINIC)["temp"]) == "LL temp.hypo"


@pytest.mark.parametrize(
    ("days", "value", "expected"),
    [(60, 38.0, "HH temp.fever.infant"), (60, 37.9, "N"), (61, 38.0, "H temp.fever.core"),
     (28, 36.4, "L temp.hypo.newborn"),
     (28, 36.5, "N"), (29, 36.4, "N"), (28, 34.9, "LL temp.hypo")],
)  # fmt: skip
def test_infants_by_days(days: int, value: float, expected: str) -> None:
    infant = adult(None, age_days=days)
    assert seen(judge({"temp": q(value, "Cel")}, infant, site="rectal")["temp"]) == expected


# ---- glucose: pairs of limits, compared in the unit that was reported ----------------------------------------


def glucose(number: float, unit: str = "mg/dL", **more: object) -> Quantity:
    """As drivers give it: the metric's unit, beside what the meter said."""
    return Quantity(units.convert(number, unit, "mg/dL"), f"{number:g}", unit, **more)  # type: ignore[arg-type]


GLUCOSE_VECTORS = [
    # mg/dL, mmol/L (None: not a number such a meter shows beside the other), level
    (38, 2.1, "critical"), (39, 2.2, "critical"), (40, 2.3, "critical"), (41, None, "critical"),
    (53, 2.9, "critical"), (54, 3.0, "abnormal"), (55, 3.1, "abnormal"),
    (69, 3.8, "abnormal"), (70, 3.9, "normal"), (71, 4.0, "normal"),
    (104, 5.8, "normal"), (126, 7.0, "normal"), (180, 10.0, "normal"),
    (199, 11.0, "normal"), (200, 11.1, "notice"), (201, 11.2, "notice"),
    (399, 22.1, "notice"), (400, 22.2, "critical"), (401, 22.3, "critical"),
    (599, 33.2, "critical"), (600, 33.3, "critical"),
]  # fmt: skip


@pytest.mark.parametrize(("mg_dl", "mmol_l", "expected"), GLUCOSE_VECTORS)
def test_glucose_in_the_unit_the_meter_reported(mg_dl: int, mmol_l: float | None, expected: str) -> None:
    for reported in (glucose(mg_dl), *([glucose(mmol_l, "mmol/L")] if mmol_l else [])):
        flag = judge({"glu": reported})["glu"].flag
        assert flag is not None and flag.level == expected, reported.raw_unit
        assert flag.level == "normal" or "laboratory" in flag.text, "a meter does not diagnose"


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [
        (53, "mg/dL", "LL glu.level2"), (54, "mg/dL", "L glu.level1"), (70, "mg/dL", "N"),
        (2.9, "mmol/L", "LL glu.level2"), (3.0, "mmol/L", "L glu.level1"), (3.9, "mmol/L", "N"),
        # 199.97 and 399.95 mg/dL: converted first, both would be missed.
        (11.1, "mmol/L", "A glu.high"), (22.2, "mmol/L", "HH glu.crit_high"), (33.3, "mmol/L", "HH glu.hhs_range"),
        (600, "mg/dL", "HH glu.hhs_range"), (599, "mg/dL", "HH glu.crit_high"), (39, "mg/dL", "LL glu.low.any_age"),
    ],
)  # fmt: skip
def test_the_row_of_a_glucose(number: float, unit: str, expected: str) -> None:
    assert seen(judge({"glu": glucose(number, unit)})["glu"]) == expected


def test_a_unit_that_no_limit_is_published_in_is_compared_after_conversion() -> None:
    """A driver may report mol/L; its small number must not pass for mmol/L."""
    assert seen(judge({"glu": Quantity(104.0, "0.00577", "mol/L")})["glu"]) == "N"
    assert seen(judge({"glu": Quantity(50.0, "0.00278", "mol/L")})["glu"]) == "LL glu.level2"


@pytest.mark.parametrize("unit", ["mg/dL", "mmol/L"])
def test_hi_and_lo_of_a_meter_are_critical(unit: str) -> None:
    low, high = {"mg/dL": (20, 600), "mmol/L": (1.1, 33.3)}[unit]
    lo = glucose(low, unit, validity=Validity.BELOW_RANGE, comparator="<")
    hi = glucose(high, unit, validity=Validity.ABOVE_RANGE, comparator=">")
    assert [seen(judge({"glu": one})["glu"]) for one in (lo, hi)] == ["LL glu.low.any_age", "HH glu.hhs_range"]
    shown = judge({"glu": lo})["glu"]
    assert (shown.comparator, shown.validity) == ("<", Validity.BELOW_RANGE)


def test_glucose_of_nobody_and_of_the_youngest() -> None:
    assert seen(judge({"glu": glucose(104)}, None)["glu"]) == "(no patient bound)"
    assert seen(judge({"glu": glucose(45)}, None)["glu"]) == "(no patient bound)"
    assert seen(judge({"glu": glucose(39)}, None)["glu"]) == "LL glu.low.any_age"
    assert seen(judge({"glu": glucose(40)}, None)["glu"]) == "(no patient bound)"
    infant = adult(0, age_days=200)
    assert seen(judge({"glu": glucose(45)}, infant)["glu"]) == "(no rule for this patient)"
    assert seen(judge({"glu": glucose(39)}, infant)["glu"]) == "LL glu.low.any_age"
    assert seen(judge({"glu": glucose(45)}, adult(1))["glu"]) == "LL glu.level2"


ANYBODY = {
    "nobody bound": None, "age not known": adult(None), "newborn": adult(0, age_days=3), "infant": adult(0),
    "adult": adult(),
}  # fmt: skip
HI = Quantity(600.0, "HI", "mg/dL", Validity.ABOVE_RANGE, ">")


@pytest.mark.parametrize("by", [DEMO, CLINIC])
@pytest.mark.parametrize("who", ANYBODY.values(), ids=ANYBODY)
def test_where_meters_say_hi_is_critical_for_anybody(who: AssociationMessage | None, by: Evaluator) -> None:
    """The sheet: 600 mg/dL or 33.3 mmol/L and more, and HI, whatever the number beside it converts to."""
    hi_mmol = glucose(33.3, "mmol/L", validity=Validity.ABOVE_RANGE, comparator=">")
    for reported in (glucose(600), glucose(601), HI, glucose(33.3, "mmol/L"), glucose(33.4, "mmol/L"), hi_mmol):
        flag = judge({"glu": reported}, who, by=by)["glu"].flag
        assert flag is not None, reported
        assert (flag.interpretation, flag.level, flag.evidence) == ("HH", "critical", "S")
        assert "laboratory" in flag.text


def test_just_below_it_the_patient_decides() -> None:
    for below in (glucose(599), glucose(33.2, "mmol/L")):
        found = {name: seen(judge({"glu": below}, who)["glu"]) for name, who in ANYBODY.items()}
        assert found == {
            "nobody bound": "(no patient bound)", "age not known": "(age not known)",
            "newborn": "(no rule for this patient)", "infant": "(no rule for this patient)",
            "adult": "HH glu.crit_high",
        }  # fmt: skip


def test_the_row_for_anybody_makes_no_high_reading_normal(tmp_path: Path) -> None:
    """A site that asks whether an infant's glucose is low has not yet asked whether it is very high."""
    rows = "".join(f'[[rule]]\nid = "{name}"\nmin_age_years = 0\n' for name in ("glu.level2", "glu.level1"))
    high = '[[rule]]\nid = "glu.high"\nmin_age_years = 0\nop = ">="\nvalue = 500\nvalue_alt = 27.8\n'
    by = Evaluator(_site(tmp_path, rows + high, "demo"))
    assert seen(judge({"glu": glucose(450)}, adult(0), by=by)["glu"]) == "(no rule for this patient)"


def test_in_a_clinic_glucose_is_never_normal_until_somebody_approves_the_high_limit(tmp_path: Path) -> None:
    """Of the seen sources none gives a high limit that holds without the meal; low and very high ones do."""
    found = {n: seen(judge({"glu": glucose(n)}, by=CLINIC)["glu"]) for n in (53, 69, 104, 450, 600)}
    unasked = "(no rule for this patient)"
    assert found == {53: "LL glu.level2", 69: "L glu.level1", 104: unasked, 450: unasked, 600: "HH glu.hhs_range"}
    assert approve(tmp_path, "glu.crit_high") == ["(no rule for this patient)"] * 2 + ["HH glu.crit_high"]
    assert approve(tmp_path, "glu.high", "glu.crit_high") == ["N", "A glu.high", "HH glu.crit_high"]


def approve(tmp_path: Path, *names: str) -> list[str]:
    """104, 250 and 450 mg/dL in a clinic that approved these rows."""
    row = '[[rule]]\nid = "{}"\napproved_by = "Dr. Example"\napproved_on = "2026-11-24"\n'
    by = Evaluator(_site(tmp_path, "".join(row.format(name) for name in names)))
    return [seen(judge({"glu": glucose(n)}, by=by)["glu"]) for n in (104, 250, 450)]


def test_a_site_with_a_high_limit_for_infants_has_no_low_one_yet(tmp_path: Path) -> None:
    """The row for any age says what is very low, not what is normal: 45 in an infant stays unjudged."""
    high = ("glu.high", "glu.crit_high", "glu.hhs_range")
    rows = "".join(f'[[rule]]\nid = "{name}"\nmin_age_years = 0\n' for name in high)
    by = Evaluator(_site(tmp_path, rows, "demo"))
    assert seen(judge({"glu": glucose(45)}, adult(0), by=by)["glu"]) == "(no rule for this patient)"
    assert seen(judge({"glu": glucose(250)}, adult(0), by=by)["glu"]) == "A glu.high"


@pytest.mark.parametrize("number", [1e308, -5.0, 0.0])
def test_an_impossible_number_in_the_second_unit_hurts_nobody(number: float) -> None:
    answers = DEMO.evaluate(
        [Reading({"glu": Quantity(number, "x", "mmol/L")}, adult()), Reading({"glu": glucose(50)}, adult())]
    )
    assert answers[0]["glu"].not_evaluated.startswith("invalid")
    assert seen(answers[1]["glu"]) == "LL glu.level2"


# ---- what is not known ---------------------------------------------------------------------------------------


def test_nobody_bound() -> None:
    assert seen(judge(bp(118, 76), None)["bp_sys"]) == "(no patient bound)"
    assert seen(judge({"spo2": q(80, "%")}, None)["spo2"]) == "(no patient bound)"
    # Rows without a population hold for anyone, and one that is not passed at any age leaves no doubt.
    assert seen(judge({"temp": q(34.0, "Cel")}, None, site="oral")["temp"]) == "LL temp.hypo"
    assert seen(judge({"temp": q(38.2, "Cel")}, None, site="oral")["temp"]) == "H temp.fever.oral"
    assert seen(judge({"temp": q(37.0, "Cel")}, None, site="oral")["temp"]) == "N"
    # 36.4 is low for a newborn and not for others: undecided.
    assert seen(judge({"temp": q(36.4, "Cel")}, None, site="oral")["temp"]) == "(no patient bound)"


def test_age_not_known() -> None:
    assert seen(judge(bp(118, 76), adult(None))["bp_sys"]) == "(age not known)"
    assert seen(judge({"temp": q(36.4, "Cel")}, adult(0), site="rectal")["temp"]) == "(age not known)"
    assert seen(judge({"temp": q(36.4, "Cel")}, adult(2), site="rectal")["temp"]) == "N"


def test_a_metric_without_rules() -> None:
    assert seen(judge({"weight": q(70, "kg")})["weight"]) == "(no rule for this metric)"


def test_data_only_runs_nothing_and_changes_nothing() -> None:
    off = Evaluator(load_rules("data-only"))
    answer = judge({"bp_sys": q(500), "bp_dia": q(600)}, by=off)
    assert {value.value for value in answer.values()} == {500, 600}
    assert seen(answer["bp_sys"]) == "(flagging is off (data-only profile))"


@pytest.mark.parametrize("validity", [v for v in Validity if v is not Validity.VALID])
def test_no_number_no_flag(validity: Validity) -> None:
    value = judge({"spo2": Quantity(None, "2047", "%", validity)})["spo2"]
    assert (value.value, value.validity, value.flag) == (None, validity, None)
    assert value.not_evaluated


# ---- plausibility and status bits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value"),
    [("bp_sys", 19), ("bp_sys", 301), ("bp_dia", 9), ("bp_dia", 251), ("spo2", 0), ("spo2", 101), ("temp", 19.9),
     ("temp", 45.1), ("pulse_cuff", 9), ("pulse_cuff", 351), ("rr", 151), ("weight", 0.1), ("glu", 2001)],
)  # fmt: skip
def test_outside_the_hard_limits_no_number_is_shown(metric: str, value: float) -> None:
    answer = judge({metric: q(value)})[metric]
    assert (answer.value, answer.flag) == (None, None)
    assert answer.validity is not Validity.VALID
    assert answer.not_evaluated.startswith("invalid: outside ")
    assert answer.raw == f"{value:g}"


@pytest.mark.parametrize(
    ("metric", "value"), [("bp_sys", 20), ("bp_sys", 300), ("spo2", 1), ("temp", 20.0), ("temp", 45.0), ("rr", 150)]
)
def test_the_hard_limit_itself_is_a_reading_and_the_sickest_are_flagged(metric: str, value: float) -> None:
    answer = judge({metric: q(value)}, site="rectal")[metric]
    assert answer.value == value
    assert answer.flag is not None and answer.flag.level == "critical"
    assert "repeat" in answer.flag.text


def test_outside_the_soft_limits_is_never_normal() -> None:
    newborn = judge({"bp_sys": q(251)}, adult(0))["bp_sys"]
    assert seen(newborn) == "(implausible, repeat: outside 70 to 250 mmHg)"
    narrow = judge(bp(100, 86))
    assert seen(narrow["bp_dia"]) == "A bp.dbp.stage1"
    assert seen(judge(bp(119, 3 + 10))["bp_dia"]).startswith("(implausible, repeat")
    assert seen(judge(bp(92, 79))["bp_dia"]) == "(implausible, repeat: unusual difference between the pressures)"


def test_pressures_that_contradict_each_other() -> None:
    for systolic, diastolic in ((120, 120), (80, 120)):
        answer = judge(bp(systolic, diastolic))
        assert [value.value for value in answer.values()] == [None, None]
        assert "contradict" in answer["bp_sys"].not_evaluated
    for mean in (75, 121):
        answer = judge(bp(120, 76, mean))
        assert answer["bp_map"].value is None
        assert answer["bp_sys"].value == 120
        assert answer["bp_sys"].not_evaluated.startswith("implausible, repeat")
    assert judge(bp(120, 76, 76))["bp_map"].value == 76
    assert "repeat" in judge(bp(150, 76, 140))["bp_map"].not_evaluated


def test_pressures_of_two_readings_are_not_compared() -> None:
    answers = DEMO.evaluate([Reading({"bp_sys": q(100)}, adult()), Reading({"bp_dia": q(110)}, adult())])
    assert answers[0]["bp_sys"].value == 100 and answers[1]["bp_dia"].value == 110


def test_status_bits() -> None:
    assert seen(judge({"temp": q(31, "Cel")}, quality=("probe_off_suspected",))["temp"]) == "(probe off suspected)"
    assert seen(judge({"glu": q(100, "mg/dL")}, quality=("unit_doubtful",))["glu"]) == "(unit doubtful)"
    for bit in ("irregular_pulse", "body_movement", "cuff_too_loose", "improper_position"):
        answer = judge(bp(150, 80), quality=(bit, "some_other_bit"))
        assert answer["bp_sys"].flag is not None
        assert answer["bp_sys"].flag.level == "abnormal"
        assert "lower confidence: " in answer["bp_sys"].flag.text
        normal = judge(bp(118, 76), quality=(bit,))["bp_sys"].flag
        assert normal is not None and normal.interpretation == "N" and "lower confidence" in normal.text


# ---- off the device's scale ----------------------------------------------------------------------------------


def test_comparators_fire_only_what_is_certain() -> None:
    """HI above 120 mmHg passes >= 90 for certain; whether it passes the severe limit of 120 is certain as well."""
    assert seen(judge({"bp_dia": q(120, comparator=">")})["bp_dia"]) == "HH bp.dbp.severe"
    assert seen(judge({"rr": q(10, comparator="<")})["rr"]) == "L rr.low2"
    assert seen(judge({"rr": q(15, comparator=">")})["rr"]) == "(off the device's scale)"


# ---- properties ----------------------------------------------------------------------------------------------

ASCENDING = {
    "bp_sys": (119, 300), "bp_dia": (70, 250), "pulse_cuff": (70, 350), "hr_ekg": (70, 350), "rr": (15, 150),
    "temp": (37.0, 45.0), "glu": (100, 2000),
}  # fmt: skip
DESCENDING = {"bp_sys": (20, 110), "bp_map": (10, 80), "pulse_cuff": (10, 80), "rr": (0, 15), "spo2": (1, 100),
              "temp": (20.0, 37.0), "glu": (1, 150)}  # fmt: skip


@pytest.mark.parametrize("profile", ["demo", "clinic"])
@pytest.mark.parametrize("up", [True, False])
def test_severity_never_falls_towards_the_extreme(profile: str, up: bool) -> None:
    evaluator = DEMO if profile == "demo" else CLINIC
    for metric, (low, high) in (ASCENDING if up else DESCENDING).items():
        values = np.round(np.linspace(low, high, 400), 2)
        readings = [Reading({metric: q(float(v))}, adult(), Context(site="oral")) for v in values]
        # Beyond the soft limits a value without a row is not evaluated; that must not come after a flag.
        flags = [answer[metric].flag for answer in evaluator.evaluate(readings)]
        levels = [LEVELS.index(flag.level) if flag else 0 for flag in flags]
        assert levels == sorted(levels, reverse=not up), metric


quantity = st.one_of(
    st.tuples(st.just("bp_sys"), st.integers(15, 310)),
    st.tuples(st.sampled_from(RATES), st.integers(5, 360)),
    st.tuples(st.just("spo2"), st.integers(0, 101)),
    st.tuples(st.just("temp"), st.integers(190, 460).map(lambda n: n / 10)),
    st.tuples(st.just("glu"), st.integers(0, 2010)),
)
person = st.one_of(
    st.none(),
    st.builds(
        adult,
        st.one_of(st.none(), st.integers(0, 99)),
        sex=st.sampled_from([None, "female", "male"]),
        pregnant=st.sampled_from([None, True, False]),
        spo2_scale=st.sampled_from([1, 2]),
    ),
)
reading = st.builds(
    lambda m, who, site: Reading({m[0]: q(float(m[1]))}, who, Context(site=site)),
    quantity, person, st.sampled_from(["", "oral", "ear", "finger", "elsewhere"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(reading, min_size=1, max_size=30), data=st.data())
def test_a_reading_is_judged_alike_alone_and_in_any_company(batch: list[Reading], data: st.DataObject) -> None:
    together = DEMO.evaluate(batch)
    order = data.draw(st.permutations(range(len(batch))))
    shuffled = DEMO.evaluate([batch[i] for i in order])
    assert [together[i] for i in order] == shuffled
    assert [DEMO.evaluate([r])[0] for r in batch] == together


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(reading, min_size=1, max_size=30))
def test_a_rule_never_edits_a_value_and_everything_is_accounted_for(batch: list[Reading]) -> None:
    for r, answer in zip(batch, DEMO.evaluate(batch), strict=True):
        ((metric, given_),) = r.quantities.items()
        value = answer[metric]
        assert value.value in (given_.value, None)
        assert (value.raw, value.unit) == (given_.raw, METRICS[metric].unit)
        assert (value.flag is None) != (value.not_evaluated == "")


def test_the_order_of_rows_in_the_file_means_nothing(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    head, *rows = text.split("[[rule]]")
    turned = tmp_path / "rules.toml"
    turned.write_text("[[rule]]".join([head, *[row.rstrip() + "\n" for row in reversed(rows)]]))
    other = Evaluator(load_rules("demo", shipped=turned))
    for systolic, diastolic, *_ in BP_VECTORS:
        one, two = judge(bp(systolic, diastolic)), judge(bp(systolic, diastolic), by=other)
        assert [seen(v) for v in one.values()] == [seen(v) for v in two.values()]


@given(st.integers(2000, 4600))
def test_rounding_is_that_of_people(hundredths: int) -> None:
    value = hundredths / 100
    assert round_half_up(np.array([value]), 1)[0] == units.round_half_up(value, 1)


# ---- the file ------------------------------------------------------------------------------------------------


def test_release_gate() -> None:
    clinic, demo = load_rules("clinic"), load_rules("demo")
    assert all(rule.evidence == "S" or rule.approved_by for rule in clinic.rules)
    assert len(demo.rules) == len(demo.all_rules) > len(clinic.rules)
    assert load_rules("data-only").rules == ()


def test_no_row_names_a_diagnosis() -> None:
    for rule in load_rules("demo").all_rules:
        assert not any(word in rule.text.lower() for word in ("hypertension", "tachycardia", "bradycardia", "sepsis"))


def test_every_flag_explains_itself() -> None:
    flag = judge(bp(150, 76))["bp_sys"].flag
    assert flag is not None
    assert flag.rule == "bp.sbp.stage2"
    assert flag.limit == "Systolic >= 140 mmHg"
    assert flag.evidence == "S"
    assert "AHA/ACC 2025" in flag.source


def _site(tmp_path: Path, text: str, profile: str = "clinic") -> RuleSet:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return load_rules(profile, path)  # type: ignore[arg-type]


def test_a_site_approves_changes_and_adds_rows(tmp_path: Path) -> None:
    rules = _site(
        tmp_path,
        """
        [[rule]]
        id = "spo2.critical"
        value = 88
        approved_by = "Dr. Example"
        approved_on = "2026-11-24"
        [[rule]]
        id = "hr.low2"
        enabled = false
        """,
    )
    by = Evaluator(rules)
    assert level("spo2", 87, by=by) == "critical"
    assert level("spo2", 88, by=by) == "abnormal"
    assert level("pulse_cuff", 45, by=by) == "normal"
    assert rules.hash != load_rules("clinic").hash


GOOD_ROW = """
[[rule]]
id = "site.rule"
metrics = ["spo2"]
unit = "%"
op = "<"
value = 90
level = "critical"
text = "low"
source = "x"
edition = "x"
evidence = "S"
"""
GLUCOSE_ROW = GOOD_ROW.replace("spo2", "glu").replace('"%"', '"mg/dL"')


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (GOOD_ROW.replace("spo2", "spo3"), "unknown metric 'spo3'"),
        (GOOD_ROW.replace('"%"', '"/min"'), "is kept in '%'"),
        (GOOD_ROW.replace("value = 90", "value = 900"), "no possible value"),
        (GOOD_ROW.replace('"<"', '"=="'), "site.rule"),
        (GOOD_ROW.replace("value = 90", 'value = "90"'), "site.rule"),
        (GOOD_ROW.replace("critical", "panic"), "site.rule"),
        (GOOD_ROW + "valeu = 3", "valeu"),
        (GOOD_ROW + "min_age_years = 20\nmax_age_years = 10", "above max_age_years"),
        (GOOD_ROW + 'approved_by = "x"', "belong together"),
        (GOOD_ROW + 'sites = ["ear"]\nnot_sites = ["ear"]', "in sites and in not_sites"),
        (GOOD_ROW + 'value_alt = 3.0\nunit_alt = "mmol/L"', "unit is 'none'"),
        (GLUCOSE_ROW + 'value_alt = 3.9\nunit_alt = "kg/L"', "belong together"),
        (GLUCOSE_ROW + "value_alt = 3.9", "belong together"),
        (GLUCOSE_ROW + 'unit_alt = "mmol/L"', "belong together"),
        (GLUCOSE_ROW + 'value_alt = 6.0\nunit_alt = "mmol/L"', "6 mmol/L is not 90 mg/dL"),
        ("[[rule]]\nvalue = 3", "without its id"),
        ("rule = 3", "without its id"),
        ("[[quality]]\nbit = 'x'\nmetrics = ['nope']\neffect = 'doubt'\ntext = 'x'", "unknown metric 'nope'"),
        ("nonsense = 1", "nonsense"),
        ("[round]\nnope = 1", "unknown metric 'nope'"),
        ("not toml at all", "line 1"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, row: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _site(tmp_path, row)
    assert complaint in caught.value.found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        _site(tmp_path, GOOD_ROW.replace("spo2", "spo3") + GOOD_ROW.replace("site.rule", "b").replace('"%"', '"Cel"'))
    assert "spo3" in caught.value.found and "Cel" in caught.value.found


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        load_rules("clinic", tmp_path / "absent.toml")


def test_the_shipped_file_is_plain_toml() -> None:
    assert len(tomllib.loads(SHIPPED.read_text())["rule"]) == len(load_rules("demo").all_rules)
