"""What a lane already has around given times: few requests, whether the times lie seconds or months apart.

One statement cannot name several ranges of time: InfluxQL takes `OR` between them, and finds nothing.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from ingest.store.influx_plan import Taken
from ingest.store.influxql import Record, select
from ingest.store.points import BUMPS, Draft
from vitals.clock import NS, Instant

LOOK_PAGE: Final = 1000
"""Points of one answer, about 60 kB; what lies between the rows that are looked for is read as well."""
GAP: Final = 30 * 86_400 * NS
"""Times further apart are looked for one by one: a meter's memory is seldom that thin, and InfluxDB 3 bounds the files
that one query opens."""
STRIP_GAP: Final = 60 * NS
"""The same for strips, of which there is one a second."""


def look(query: Callable[[str], Sequence[Record]], lane: Sequence[Draft]) -> dict[Instant, Taken]:
    """What stands at the wished times of these rows, and up to BUMPS after each. Raises what `query` does."""
    first = lane[0]
    columns = '"key"' if first.measurement == "evaluation" else '"key", "same"'
    wished = sorted(one.wished for one in lane)
    taken: dict[Instant, Taken] = {}
    for start, stop in _ranges(wished, STRIP_GAP if first.measurement == "strip" else GAP):
        while start <= stop:
            points = query(select(
                columns, first.measurement, first.where, start=start, stop=stop,
                tail=f"ORDER BY time ASC LIMIT {LOOK_PAGE}",
            ))  # fmt: skip
            taken |= {p["time"]: (p["key"], p.get("same", ""), None) for p in points}
            if len(points) < LOOK_PAGE:
                break
            start = _further(wished, points[-1]["time"], stop)
    return taken


def half_written(one: Draft, taken: Mapping[Instant, Taken]) -> bool:
    """Whether a field of a point of that lane is missing. InfluxDB shows the fields of a point one by one while it
    writes them: a request that nobody waited for any more may still be landing."""
    return one.measurement != "evaluation" and any(not key or not same for key, same, _ in taken.values())


def _further(wished: Sequence[Instant], seen: Instant, stop: Instant) -> Instant:
    """Where to go on when all up to `seen` was read: at the next row, over what nobody asks for."""
    left = bisect_right(wished, seen - BUMPS)
    return max(wished[left], seen + 1) if left < len(wished) else stop + 1


def _ranges(times: Sequence[Instant], gap: int) -> Iterator[tuple[Instant, Instant]]:
    """Ranges that hold all of the sorted times, with the BUMPS after each."""
    start = last = times[0]
    for time in times[1:]:
        if time - last > gap:
            yield start, last + BUMPS
            start = time
        last = time
    yield start, last + BUMPS
