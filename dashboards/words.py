"""Texts as they come in, made fit for a screen: short, and without characters that turn the writing around."""

from typing import Final

MAX_TEXT: Final = 200
"""No cell, chip or row needs more; what is longer is somebody's mistake."""

_TURNING: Final = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])

_UNITS: Final = {
    "mm[Hg]": "mmHg", "Cel": "°C", "[degF]": "°F", "[lb_av]": "lb", "uV": "µV", "1": "",
    "{beats}/min": "/min", "{breaths}/min": "/min",
}  # fmt: skip


def clean(text: str) -> str:
    """At most MAX_TEXT characters, none of them a bidirectional control."""
    short = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return short.translate(_TURNING)


def unit_read(code: str) -> str:
    """A UCUM code as people read it."""
    return _UNITS.get(code, code)
