"""What was measured before: stored values as readings, and both thinned to what a curve and a table can show."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol

import msgspec

from dashboards.readings import LEVELS, REASONS, Reading, TemperatureUnit, ms, possible, shown_unit, shown_value
from vitals.clock import Instant
from vitals.messages import Interpretation, Level
from vitals.metrics import METRICS
from vitals.model import Validity

MAX_POINTS: Final = 300
"""Readings kept of one key, and points of one curve."""
STEP_MS: Final = 6_000
"""A continuous value enters a curve at most this often: 30 minutes are 300 points."""
ROW_MS: Final = 60_000
"""What comes faster than this, and is judged as before, replaces its row: a thermometer that streams is one row a
minute, and never pushes a blood pressure off the table."""
MAX_ROWS: Final = 40


class Point(Protocol):
    """One stored value, as the store's history has it."""

    @property
    def t(self) -> Instant: ...

    @property
    def value(self) -> float | None: ...

    @property
    def validity(self) -> Validity: ...

    @property
    def interpretation(self) -> Interpretation | Literal[""]: ...


_LEVEL_OF: Final[dict[str, Level]] = {
    "A": "notice", "H": "abnormal", "L": "abnormal", "HH": "critical", "LL": "critical",
}  # fmt: skip


def from_history(
    key: str, points: Sequence[Point], temperature: TemperatureUnit, *, sim: bool = False
) -> list[Reading]:
    """Stored values of one metric as the history lists them: without rule or source, which the store does not give.

    The store does not say either what was simulated: `sim` when anything of the room is.
    """
    return [
        Reading(
            k=key,
            v=None if point.value is None else shown_value(key, point.value, temperature),
            u=shown_unit(key, temperature),
            ts=ms(point.t),
            rx=ms(point.t),
            id=f"{key}@{point.t}",
            dev="",
            f=point.interpretation or None,
            lv=_LEVEL_OF.get(point.interpretation, "normal"),
            reason="" if point.value is not None else REASONS[point.validity] or "invalid",
            sim=sim,
        )
        for point in points
        if possible(key, point.value)
    ]


def pressures(systolic: Sequence[Reading], diastolic: Sequence[Reading]) -> list[Reading]:
    """Systolic and diastolic of the same moment as one reading, with the worse flag; alone neither is one."""
    lower = {reading.ts: reading for reading in diastolic}
    found = []
    for upper in systolic:
        other = lower.get(upper.ts)
        if other is None or isinstance(upper.v, list) or isinstance(other.v, list):
            continue
        worse = max(upper, other, key=lambda reading: LEVELS.index(reading.lv))
        unchecked = worse.lv == "normal" and None in (upper.f, other.f)
        f = None if unchecked else worse.f
        found.append(msgspec.structs.replace(worse, k="bp", v=[upper.v, other.v], f=f, id=f"bp@{upper.ts}"))
    return found


def continuous(key: str) -> bool:
    return METRICS.get(key, METRICS["bp_sys"]).pace == "continuous"


class Thinner:
    """Decides for a stream of readings, oldest first, which are new and which replace the one before."""

    def __init__(self, step_ms: int = STEP_MS, row_ms: int = ROW_MS) -> None:
        self._step_ms, self._row_ms = step_ms, row_ms
        self._since: dict[str, Reading] = {}

    def judge(self, reading: Reading) -> Literal["new", "replace", "skip"]:
        """Continuous values are skipped within a step; the episodic replace what came within a minute."""
        first = self._since.get(reading.k)
        steady = continuous(reading.k)
        limit = self._step_ms if steady else self._row_ms
        same = first is not None and first.lv == reading.lv and first.hist == reading.hist
        if same and first is not None and not reading.hist and 0 <= reading.ts - first.ts < limit:
            return "skip" if steady else "replace"
        self._since[reading.k] = reading
        return "new"


def thin(found: Iterable[Reading], *, step_ms: int = STEP_MS) -> list[Reading]:
    """Oldest first: at most one value per key, level and step."""
    return _thinned(found, Thinner(step_ms))


def rows(found: Iterable[Reading]) -> tuple[list[Reading], int]:
    """The newest MAX_ROWS lines of a table, newest first, and how many lines there would be."""
    listed = [one for one in found if not continuous(one.k) or one.lv in ("abnormal", "critical")]
    lines = _thinned(listed, Thinner(ROW_MS))
    return lines[: -MAX_ROWS - 1 : -1], len(lines)


def _thinned(found: Iterable[Reading], thinner: Thinner) -> list[Reading]:
    kept: dict[int, Reading] = {}
    last: dict[str, int] = {}
    for place, reading in enumerate(found):
        word = thinner.judge(reading)
        if word == "skip":
            continue
        if word == "replace":
            kept.pop(last[reading.k])
        kept[place] = reading
        last[reading.k] = place
    return list(kept.values())
