"""The six places of a tile, and what the page must know of each metric to print it."""

from typing import Any, Final

from dashboards.readings import TemperatureUnit, shown_unit
from vitals.metrics import METRICS

CELLS: Final[tuple[tuple[str, str, str, tuple[str, ...]], ...]] = (
    ("bp", "BP", "BP", ("bp",)),
    ("pulse", "Pulse", "Pulse", ("hr_ekg", "pulse_oximeter", "pulse_cuff", "hr_device")),
    ("spo2", "SpO₂", "SpO₂", ("spo2",)),
    ("temp", "Temp", "Temp", ("temp",)),
    ("rr", "Resp", "Resp", ("rr",)),
    ("glu", "Glucose", "Gluc", ("glu",)),
)
"""The six places of a tile: (cell, label, label of a small tile, keys in order of preference)."""
METHODS: Final = {"hr_ekg": "EKG", "pulse_oximeter": "SpO₂", "pulse_cuff": "cuff", "hr_device": "device"}
"""How a rate was taken, in a word: rates of different methods are never merged, so the tile names which it shows."""


def label(key: str) -> str:
    """What the tile calls a metric: the words of chips, so that nobody must know two names of a thing."""
    shown = "bp" if key.startswith("bp_") else key
    return next((name for _, name, _, keys in CELLS if shown in keys), METRICS[key].title if key in METRICS else key)


def metrics(temperature: TemperatureUnit) -> dict[str, dict[str, Any]]:
    """Title, unit and decimals of each key the page can meet: it knows no metric by itself."""
    table: dict[str, dict[str, Any]] = {
        key: {
            "title": row.title,
            "u": shown_unit(key, temperature),
            "d": row.decimals,
            "pace": row.pace,
            "by": METHODS.get(key, ""),
        }
        for key, row in METRICS.items()
    }
    return table | {"bp": {"title": "Blood pressure", "u": "mmHg", "d": 0, "pace": "episodic", "by": ""}}
