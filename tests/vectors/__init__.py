"""Reads the vector files: `load("bp_gatt")`. Drivers and simulators are tested from the same table. See README.md."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent


class Step(NamedTuple):
    """One thing that happens to a session: bytes arrive, time passes (`tick_ms` since the step before), or the end."""

    data: bytes = b""
    channel: str = ""
    tick_ms: int = 0
    close: bool = False


class Vector(NamedTuple):
    """`events` are as in the file; `checked` are byte ranges in which every flipped bit must become a fault."""

    driver: str
    name: str
    source: str
    steps: tuple[Step, ...]
    events: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any]
    checked: tuple[tuple[int, int], ...]
    derived: bool
    note: str


_KEYS = {"name", "source", "steps", "event", "options", "checked", "derived", "note"}
_STEP_KEYS = {"hex", "channel", "tick_ms", "close"}


def stems() -> list[str]:
    """The drivers that have a vector file."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(stem: str) -> list[Vector]:
    """All vectors of a driver. Raises KeyError for a key that the format does not have."""
    raw = tomllib.loads((FOLDER / f"{stem}.toml").read_text(encoding="utf-8"))["vector"]
    return [_vector(stem, entry) for entry in raw]


def _vector(stem: str, raw: Mapping[str, Any]) -> Vector:
    if unknown := set(raw) - _KEYS:
        raise KeyError(f"{stem}: {raw.get('name')}: unknown keys {unknown}")
    return Vector(
        stem,
        raw["name"],
        raw["source"],
        tuple(_step(step) for step in raw["steps"]),
        tuple(raw.get("event", ())),
        raw.get("options", {}),
        tuple((begin, end) for begin, end in raw.get("checked", ())),
        raw.get("derived", False),
        raw.get("note", ""),
    )


def _step(raw: Mapping[str, Any]) -> Step:
    if unknown := set(raw) - _STEP_KEYS:
        raise KeyError(f"unknown keys in a step: {unknown}")
    return Step(
        bytes.fromhex(raw.get("hex", "")), raw.get("channel", ""), raw.get("tick_ms", 0), raw.get("close", False)
    )
