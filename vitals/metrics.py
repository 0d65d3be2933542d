"""The metric table: one row per thing that is measured, with its codes, unit, and what can be a reading at all.

LOINC (c) Regenstrief, used under its licence. MDC: IEEE 11073-10101, context-free 32-bit codes; the test recomputes
partition x 65536 + term. Hard limits are wider than any living patient (outside: no reading); soft limits ask for
a repeat. Both are this project's proposals and a site may change them; sources are in docs/metrics.md.
"""

from typing import Final, Literal, TypeAlias

import msgspec


class Metric(msgspec.Struct, frozen=True):
    """One row. `loinc` may hold several codes that are sent together; `mdc` is (partition, term) or None.

    `live_s`, `gone_s`: seconds until a value counts as stale, then as gone, for values that come continuously;
    an episodic value is stale after `live_s` and never gone within a visit (`gone_s` 0).
    """

    key: str
    title: str
    unit: str
    unit_shown: str
    decimals: int
    loinc: tuple[str, ...] = ()
    mdc: tuple[int, int] | None = None
    refid: str = ""
    hard: tuple[float, float] | None = None
    soft: tuple[float, float] | None = None
    pace: Literal["continuous", "episodic", "wave"] = "episodic"
    live_s: int = 3600
    gone_s: int = 0

    @property
    def mdc_code(self) -> int | None:
        """The context-free code sent in messages."""
        return None if self.mdc is None else self.mdc[0] * 65536 + self.mdc[1]


_Limits: TypeAlias = tuple[float, float]


def _pressure(key: str, title: str, loinc: str, term: int, ref: str, hard: _Limits, soft: _Limits) -> Metric:
    return Metric(key, title, "mm[Hg]", "mmHg", 0, (loinc,), (2, term), f"MDC_PRESS_BLD_NONINV{ref}", hard, soft)


def _rate(key: str, title: str, term: int, refid: str) -> Metric:
    limits: tuple[_Limits, _Limits] = (10.0, 350.0), (30.0, 220.0)
    return Metric(key, title, "/min", "/min", 0, ("8867-4",), (2, term), refid, *limits, "continuous", 15, 300)


_ROWS: Final = (
    _pressure("bp_sys", "Systolic", "8480-6", 18949, "_SYS", hard=(20.0, 300.0), soft=(70.0, 250.0)),
    _pressure("bp_dia", "Diastolic", "8462-4", 18950, "_DIA", hard=(10.0, 250.0), soft=(30.0, 150.0)),
    _pressure("bp_map", "Mean pressure", "8478-0", 18951, "_MEAN", hard=(10.0, 300.0), soft=(40.0, 200.0)),
    Metric("cuff_pressure", "Cuff pressure", "mm[Hg]", "mmHg", 0, (), (2, 19228), "MDC_PRESS_CUFF", (0.0, 320.0)),
    Metric(
        "pulse_cuff", "Pulse (cuff)", "/min", "/min", 0, ("8867-4",), (2, 18474), "MDC_PULS_RATE_NON_INV",
        (10.0, 350.0), (30.0, 220.0),
    ),
    _rate("pulse_oximeter", "Pulse (oximeter)", 18458, "MDC_PULS_OXIM_PULS_RATE"),
    _rate("hr_ekg", "Heart rate (EKG)", 16770, "MDC_ECG_HEART_RATE"),
    _rate("hr_device", "Heart rate (device)", 16770, "MDC_ECG_HEART_RATE"),
    Metric(
        "rr", "Respiratory rate", "/min", "/min", 0, ("9279-1",), (2, 20490), "MDC_RESP_RATE",
        (0.0, 150.0), (4.0, 70.0), "continuous", 30, 300,
    ),
    Metric(
        "spo2", "SpO₂", "%", "%", 0, ("2708-6", "59408-5"), (2, 19384), "MDC_PULS_OXIM_SAT_O2",
        (1.0, 100.0), (70.0, 100.0), "continuous", 15, 300,
    ),
    Metric(
        "temp", "Temperature", "Cel", "\u00b0C", 1, ("8310-5",), (2, 19292), "MDC_TEMP_BODY",
        (20.0, 45.0), (34.0, 42.0), "episodic", 3600,
    ),
    Metric(
        "glu", "Glucose", "mg/dL", "mg/dL", 0, ("41653-7",), (2, 29112), "MDC_CONC_GLU_CAPILLARY_WHOLEBLOOD",
        (1.0, 2000.0), (20.0, 600.0), "episodic", 14400,
    ),
    Metric(
        "weight", "Weight", "kg", "kg", 1, ("29463-7",), (2, 57664), "MDC_MASS_BODY_ACTUAL", (0.2, 650.0), None,
    ),
    Metric("ekg", "EKG", "uV", "\u00b5V", 0, (), (2, 256), "MDC_ECG_ELEC_POTL", pace="wave"),
    Metric("resp_impedance", "Respiration impedance", "1", "counts", 0, pace="wave"),
    Metric("ppg_ir", "Plethysmogram, infrared", "1", "counts", 0, (), (2, 19380), "MDC_PULS_OXIM_PLETH", pace="wave"),
    Metric("ppg_red", "Plethysmogram, red", "1", "counts", 0, (), (2, 19380), "MDC_PULS_OXIM_PLETH", pace="wave"),
)  # fmt: skip

METRICS: Final[dict[str, Metric]] = {row.key: row for row in _ROWS}
"""Every metric by key. An observation that names another key is refused with a counted reason."""

UNITS_MDC: Final[dict[str, int]] = {
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
"""MDC code of each UCUM unit that has one of its own (rates have two, by what beats: see docs/metrics.md)."""
