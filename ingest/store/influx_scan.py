"""The bucket read from end to end, a page at a time. What ingest writes meanwhile may or may not be in it.

A point is compared with what its own message comes to as a point: the schema stands in `points.py` alone.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final, TypeAlias

import msgspec

from ingest.store.contract import Address, EvaluationRow, EventRow, Floors, ObservationRow, Row, StripRow
from ingest.store.influx import Bucket
from ingest.store.influx_fields import fields_of
from ingest.store.influx_reader import STORE_QUERY
from ingest.store.influxql import Record, select
from ingest.store.points import LATEST, Draft, Tags, draft, strip_of
from ingest.store.scan import Found, Kind, Pack, Span
from vitals.clock import NS_PER_MS, Instant
from vitals.messages import EventMessage, FlaggedMessage, ObservationMessage

PAGE: Final = 2000
"""Rows of one answer, 2 to 4 MB."""
_BROKEN: Final = (msgspec.MsgspecError, ValueError, OverflowError, ZeroDivisionError, TypeError, KeyError)
_OBSERVATION: Final = msgspec.json.Decoder(ObservationMessage)
_EVENT: Final = msgspec.json.Decoder(EventMessage)
_FLAGGED: Final = msgspec.json.Decoder(FlaggedMessage)
_TIME: Final[dict[Kind, str]] = {"observation": "t", "strip": "t0", "event": "t", "evaluation": "t"}
_PACK: Final = '"stream", "first_index", "next_index", "gateway", "device", "metric"'
_ADDED: Final = frozenset({"time", "no"})
"""What a point gets when its line is written."""
Values: TypeAlias = dict[tuple[int, Instant], list[Record]]
"""The values of evaluations, by number and time."""


class InfluxScan:
    """Needs the bucket alone."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @property
    def store_id(self) -> str:
        return next((str(found["id"]) for found in self._bucket.query(STORE_QUERY)), "")

    def close(self) -> None:
        self._bucket.close()

    def total(self, kind: Kind, span: Span) -> int:
        start, stop, where = _bounds(span)
        query = select(f'count("{_TIME[kind]}")', kind, where, start=start, stop=stop)
        return sum(int(row["count"]) for row in self._bucket.query(query))

    def rows(self, kind: Kind, span: Span) -> Iterator[Found]:
        start, stop, where = _bounds(span)
        for page in pages(self._bucket, "*", kind, where, start, stop):
            inside = [r for r in page if span.since <= int(r.get(_TIME[kind]) or r["time"]) < span.until]
            values = self._values(inside, where) if kind == "evaluation" and inside else {}
            yield from (_found(kind, record, values) for record in inside)

    def packs(self) -> Iterator[Pack]:
        """Sorted on disk: a clock that was set back leaves the strips of a stream in another order of time."""
        with closing(sqlite3.connect("", isolation_level=None)) as db:  # a temporary file that SQLite deletes
            db.execute("CREATE TABLE pack (signal, stream, first, stop)")
            for page in pages(self._bucket, _PACK, "strip", (), 0, LATEST - 1):
                packs = [
                    (f"{r['gateway']}/{r['device']}/{r['metric']}", r["stream"], r["first_index"], r["next_index"])
                    for r in page
                ]
                db.execute("BEGIN")
                db.executemany("INSERT INTO pack VALUES (?,?,?,?)", packs)
                db.execute("COMMIT")
            for found in db.execute("SELECT * FROM pack ORDER BY signal, stream, first"):
                yield Pack(*found)

    def read_floors(self) -> Floors:
        """As the bucket has them; 0 where it was never pruned."""
        columns = ", ".join(f'"floor_{kind}"' for kind in Floors._fields)
        found = next(iter(self._bucket.query(select(columns, "store", start=LATEST))), {})
        return Floors(*(int(found.get(f"floor_{kind}") or 0) for kind in Floors._fields))

    def unevaluated(self, since: Instant, until: Instant = LATEST) -> Iterator[str]:
        """Ids of the readings of [since, until) that have no evaluation."""
        start, stop, _ = _bounds(Span(since, until))
        for page in pages(self._bucket, '"id", "t"', "observation", (), start, stop):
            ids = dict.fromkeys(str(r["id"]) for r in page if since <= r["t"] < until)
            # An evaluation stands in the millisecond of its reading, but for the few ns by which a taken time moves on.
            first, last = max(0, page[0]["time"] - 2 * NS_PER_MS), min(LATEST - 1, page[-1]["time"] + 2 * NS_PER_MS)
            for evaluations in pages(self._bucket, '"id"', "evaluation", (), first, last):
                for r in evaluations:
                    ids.pop(str(r["id"]), None)
            yield from ids

    def _values(self, page: list[Record], where: Tags) -> Values:
        found: Values = {}
        for r in self._bucket.query(select("*", "value", where, start=page[0]["time"], stop=page[-1]["time"])):
            found.setdefault((r["no"], r["time"]), []).append(r)
        return found


def pages(
    bucket: Bucket, columns: str, measurement: str, where: Tags, start: Instant, stop: Instant
) -> Iterator[list[Record]]:
    """All points within [start, stop] in order of time, each once."""
    last: set[tuple[object, ...]] = set()
    limit = PAGE
    while True:
        tail = f"ORDER BY time ASC LIMIT {limit}"
        found = bucket.query(select(columns, measurement, where, start=start, stop=stop, tail=tail))
        # Two pages share the points of their common nanosecond.
        fresh = [record for record in found if record["time"] != start or _whole(record) not in last]
        if fresh:
            yield fresh
        if len(found) < limit:
            return
        if found[-1]["time"] == start:
            limit *= 2
        start = found[-1]["time"]
        last = {_whole(record) for record in found if record["time"] == start}


def _whole(record: Record) -> tuple[object, ...]:
    return tuple(record.values())


def _bounds(span: Span) -> tuple[Instant, Instant, Tags]:
    """The time of a point differs from its row's by less than a millisecond, and some ns where that was taken."""
    where = (("room", span.room),) if span.room else ()
    return max(0, span.since - 2 * NS_PER_MS), min(LATEST - 1, span.until + 2 * NS_PER_MS), where


def _found(kind: Kind, r: Record, values: Values) -> Found:
    where = f"{kind} {r.get('key') or r.get('id')} of {r.get('gateway')}/{r.get('device')}"
    no = int(r.get("no") or 0)
    try:
        row = _ROWS[kind](r)
        problem = _different(r, draft(row), values.get((no, r["time"]), ()))
        return Found(where, row, problem, no, r["time"])
    except _BROKEN as error:
        return Found(where, None, f"cannot be decoded: {error}", no, r["time"])


_ROWS: Final[dict[Kind, Callable[[Record], Row]]] = {
    "observation": lambda r: ObservationRow(_address(r), _OBSERVATION.decode(r["message"])),
    "strip": lambda r: StripRow(_address(r), strip_of(r["block"], r["head"])),
    "event": lambda r: EventRow(_address(r), _EVENT.decode(r["message"])),
    "evaluation": lambda r: EvaluationRow(
        r["room"] or "", _FLAGGED.decode(r["message"]), ahead=r["state"] == "ahead"
    ),
}  # fmt: skip


def _address(r: Record) -> Address:
    return Address(r["gateway"] or "", r["room"] or "", r["device"] or "")


def _different(r: Record, one: Draft, values: Sequence[Record]) -> str:
    """What the point, and those of its values, say otherwise than its message; empty when they agree."""
    told = {value["metric"]: value for value in map(fields_of, one.values)}
    there = {str(value.get("metric")): value for value in values}
    if len(there) != len(values) or there.keys() != told.keys():
        return f"its values are of {sorted(there)}, its message has {sorted(told)}"
    pairs = [(fields_of(one.line), r), *((value, there[metric]) for metric, value in told.items())]
    return "; ".join(
        f"{name} is {_short(found.get(name))}, its message says {_short(expected.get(name))}"
        for expected, found in pairs
        for name in sorted(expected.keys() | found.keys() - _ADDED)
        if _said(found.get(name)) != _said(expected.get(name))
    )


def _said(value: object) -> object:
    return None if value == "" else value  # an empty text says as much as none


def _short(value: object) -> str:
    return repr(value if not isinstance(value, str) or len(value) < 80 else value[:80] + "...")
