"""The bucket read from end to end, a page at a time. What ingest writes meanwhile may or may not be in it."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from ingest.store.contract import (
    Address,
    EvaluationRow,
    EventRow,
    ObservationRow,
    Row,
    StripRow,
    same_strip,
)
from ingest.store.influx import Bucket
from ingest.store.influx_reader import STORE_QUERY
from ingest.store.influxql import Record, select
from ingest.store.points import LATEST, Tags, digest, strip_of
from ingest.store.scan import Found, Kind, Pack, Span, differences
from vitals.clock import NS_PER_MS, Instant
from vitals.messages import EventMessage, FlaggedMessage, ObservationMessage

PAGE: Final = 2000
"""Rows of one answer, 2 to 4 MB."""
_BROKEN: Final = (msgspec.MsgspecError, ValueError, OverflowError, ZeroDivisionError, TypeError, KeyError)
_OBSERVATION: Final = msgspec.json.Decoder(ObservationMessage)
_EVENT: Final = msgspec.json.Decoder(EventMessage)
_FLAGGED: Final = msgspec.json.Decoder(FlaggedMessage)
_COLUMNS: Final[dict[Kind, str]] = {
    "observation": '"id", "t", "kind", "message", "gateway", "room", "device"',
    "strip": '"key", "same", "stream", "first_index", "next_index", "count", "t0", "t_end", "block", "head",'
    ' "gateway", "room", "device", "metric"',
    "event": '"key", "same", "code", "t", "message", "gateway", "room", "device"',
    "evaluation": '"key", "id", "t", "no", "rules_hash", "assoc_version", "state", "message", "gateway", "room",'
    ' "device"',
}
_TIME: Final[dict[Kind, str]] = {"observation": "t", "strip": "t0", "event": "t", "evaluation": "t"}


class InfluxScan:
    """Needs the bucket alone."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._readers: dict[Kind, Callable[[Record], Found]] = {
            "observation": _observation, "strip": _strip, "event": _event, "evaluation": _evaluation,
        }  # fmt: skip

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
        read = self._readers[kind]
        start, stop, where = _bounds(span)
        for page in pages(self._bucket, _COLUMNS[kind], kind, where, start, stop):
            inside = [r for r in page if span.since <= int(r.get(_TIME[kind]) or r["time"]) < span.until]
            values = self._values(page) if kind == "evaluation" and inside else {}
            for record in inside:
                one = read(record)
                if isinstance(one.row, EvaluationRow) and not one.problem:
                    there = sorted(values.get((record["no"], record["time"]), []))
                    one = one._replace(problem=differences(one.row, {"values": there}))
                yield one

    def packs(self) -> Iterator[Pack]:
        columns = '"stream", "first_index", "next_index", "gateway", "device", "metric"'
        for page in pages(self._bucket, columns, "strip", (), 0, LATEST - 1):
            for r in page:
                signal = f"{r['gateway']}/{r['device']}/{r['metric']}"
                yield Pack(signal, r["stream"], r["first_index"], r["next_index"])

    def _values(self, page: list[Record]) -> dict[tuple[int, Instant], list[tuple[str, float | None, str, str]]]:
        columns = '"no", "value", "validity", "interpretation", "metric"'
        query = select(columns, "value", start=page[0]["time"], stop=page[-1]["time"])
        found: dict[tuple[int, Instant], list[tuple[str, float | None, str, str]]] = {}
        for r in self._bucket.query(query):
            value = None if r["value"] is None else float(r["value"])
            found.setdefault((r["no"], r["time"]), []).append((r["metric"], value, r["validity"], r["interpretation"]))
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


def _address(r: Record) -> Address:
    return Address(r["gateway"] or "", r["room"] or "", r["device"] or "")


def _observation(r: Record) -> Found:
    where = f"observation {r['id']} of {r['gateway']}/{r['device']}"
    return _read(
        where, r, lambda: ObservationRow(_address(r), _OBSERVATION.decode(r["message"])),
        {"id": r["id"], "t": r["t"], "kind": r["kind"]}, lambda row: True,
    )  # fmt: skip


def _strip(r: Record) -> Found:
    names = ("stream", "metric", "first_index", "next_index", "count", "t0", "t_end")
    columns = {name: r[name] for name in names} | {"samples": r["count"]}
    return _read(
        f"strip {r['key']} of {r['gateway']}/{r['device']}/{r['metric']}", r,
        lambda: StripRow(_address(r), strip_of(r["block"], r["head"])), columns,
        lambda row: (f"{row.message.first_index}/{row.message.stream}", digest(same_strip(row.message)))
        == (r["key"], r["same"]),
    )  # fmt: skip


def _event(r: Record) -> Found:
    return _read(
        f"event {r['key']} of {r['gateway']}/{r['device']}", r,
        lambda: EventRow(_address(r), _EVENT.decode(r["message"])), {"code": r["code"], "at": r["t"]},
        lambda row: (f"{row.message.seq}/{row.message.epoch}", digest(r["message"].encode())) == (r["key"], r["same"]),
    )  # fmt: skip


def _evaluation(r: Record) -> Found:
    names = ("id", "t", "rules_hash", "assoc_version", "gateway", "device")
    return _read(
        f"evaluation {r['no']} of {r['id']}", r,
        lambda: EvaluationRow(r["room"] or "", _FLAGGED.decode(r["message"]), ahead=r["state"] == "ahead"),
        {name: r[name] for name in names},
        lambda row: f"{row.message.assoc_version}/{row.message.rules_hash}/{row.message.id}" == r["key"],
    )._replace(no=int(r["no"] or 0))  # fmt: skip


def _read(
    where: str, r: Record, make: Callable[[], Row], columns: dict[str, Any], same: Callable[[Any], bool]
) -> Found:  # fmt: skip
    try:
        row = make()
        problem = differences(row, columns) or ("" if same(row) else "its identity or digest is of another content")
        return Found(where, row, problem, at=r["time"])
    except _BROKEN as error:
        return Found(where, None, f"cannot be decoded: {error}", at=r["time"])
