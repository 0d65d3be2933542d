"""InfluxQL: the statements asked of InfluxDB, and its answers. The one language that its versions 1, 2 and 3 share."""

from typing import Any, Final, TypeAlias

import msgspec

from ingest.store.points import EARLIEST, LATEST, Tags
from vitals.clock import Instant

Record: TypeAlias = dict[str, Any]
"""One point: columns and tags by name, its time in ns as `time`. A float may come as an int: 118 for 118.0."""


class NoAnswer(Exception):
    """The bytes are no answer of InfluxDB, or its answer is an error; the text says which."""


class _Series(msgspec.Struct):
    columns: list[str] = []
    values: list[list[Any]] = []
    tags: dict[str, str] = {}


class _Result(msgspec.Struct):
    series: list[_Series] = []
    error: str = ""


class _Answer(msgspec.Struct):
    results: list[_Result]


_ANSWER: Final = msgspec.json.Decoder(_Answer)


def select(
    columns: str,
    measurement: str,
    where: Tags = (),
    *,
    start: Instant = EARLIEST,
    stop: Instant = LATEST,
    tail: str = "",
) -> str:
    """`SELECT columns FROM measurement` within [start, stop], `where` tags or text fields are equal."""
    equal = "".join([f' AND "{name}" = {_quoted(value)}' for name, value in where])
    return f'SELECT {columns} FROM "{measurement}" WHERE time >= {start} AND time <= {stop}{equal} {tail}'.rstrip()


def delete_before(measurement: str, cutoff: Instant) -> str:
    return f'DELETE FROM "{measurement}" WHERE time < {cutoff}'


def records(body: str) -> list[Record]:
    """The points of an answer, in its order. Raises NoAnswer."""
    try:
        results = _ANSWER.decode(body).results
    except msgspec.MsgspecError:
        raise NoAnswer(f"no answer of InfluxDB: {body[:80]!r}") from None
    found: list[Record] = []
    for result in results:
        if result.error:
            raise NoAnswer(result.error)
        for series in result.series:
            found += [{**series.tags, **dict(zip(series.columns, row, strict=True))} for row in series.values]
    return found


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
