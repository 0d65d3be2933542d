"""What the board reads from InfluxDB. It needs the bucket alone: no ledger, nothing on disk."""

from typing import Final

import msgspec

from ingest.store.contract import HISTORY_LIMIT, MAX_STRIP_S, HistoryPoint
from ingest.store.influx import Bucket
from ingest.store.influxql import Record, select
from ingest.store.points import LATEST, strip_of
from vitals.clock import NS, NS_PER_MS, Instant
from vitals.messages import FlaggedMessage, StripMessage
from vitals.model import Validity

NEWEST: Final = 64
"""Points of a metric among which the newest is found: those of one millisecond are not in order of time, and a reading
that is evaluated anew has several."""
STORE_QUERY: Final = select('"id"', "store", start=LATEST)
_FLAGGED: Final = msgspec.json.Decoder(FlaggedMessage)


class InfluxReader:
    """Every method but `close` raises StoreDown. May be used by one thread at a time."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @property
    def store_id(self) -> str:
        """Empty when no ingest has yet written to the bucket."""
        return next((str(found["id"]) for found in self._bucket.query(STORE_QUERY)), "")

    def close(self) -> None:
        self._bucket.close()

    def latest(self, room: str) -> list[FlaggedMessage]:
        query = select(
            '"t", "id", "no"', "value", (("room", room), ("state", "live")),
            tail=f'GROUP BY "metric" ORDER BY time DESC LIMIT {NEWEST}',
        )  # fmt: skip
        by_metric: dict[str, list[Record]] = {}
        for point in self._bucket.query(query):
            by_metric.setdefault(point["metric"], []).append(point)
        known: dict[tuple[Instant, str], FlaggedMessage | None] = {}
        for points in by_metric.values():
            points.sort(key=lambda p: (p["t"], p["id"], p["no"]), reverse=True)
            # Values are written before their evaluation: one without it is half of a row that is still to come.
            next((p for p in points if self._evaluation(room, p, known)), None)
        found = {id(message): message for message in known.values() if message is not None}
        return sorted(found.values(), key=lambda m: (m.t, m.id))

    def _evaluation(
        self, room: str, point: Record, known: dict[tuple[Instant, str], FlaggedMessage | None]
    ) -> FlaggedMessage | None:
        """The evaluation a value belongs to; it has the value's time and reading.

        Not always its number: a write whose answer was lost may land after the one that repeated it.
        """
        at, reading = point["time"], point["id"]
        if (at, reading) not in known:
            where = (("room", room), ("id", reading))
            rows = self._bucket.query(select('"no", "message"', "evaluation", where, start=at, stop=at))
            newest = max(rows, key=lambda row: row["no"], default=None)
            known[at, reading] = _FLAGGED.decode(newest["message"]) if newest else None
        return known[at, reading]

    def history(self, room: str, metric: str, since: Instant) -> list[HistoryPoint]:
        query = select(
            '"t", "id", "no", "value", "validity", "interpretation"', "value", (("metric", metric), ("room", room)),
            start=max(0, since - since % NS_PER_MS), tail=f"ORDER BY time DESC LIMIT {HISTORY_LIMIT}",
        )  # fmt: skip
        rows = [row for row in self._bucket.query(query) if row["t"] >= since]
        # A reading evaluated twice has two rows; the later evaluation replaces the earlier.
        newest = {(row["t"], row["id"]): row for row in sorted(rows, key=lambda row: row["no"])}
        return [_history_point(newest[key]) for key in sorted(newest)]

    def strip(self, gateway: str, device: str, metric: str, start: Instant, stop: Instant) -> list[StripMessage]:
        query = select(
            '"t0", "t_end", "first_index", "block", "head"', "strip",
            (("device", device), ("gateway", gateway), ("metric", metric)),
            start=max(0, start - MAX_STRIP_S * NS - NS_PER_MS), stop=min(LATEST, stop + NS_PER_MS),
        )  # fmt: skip
        rows = [
            r for r in self._bucket.query(query) if start - MAX_STRIP_S * NS <= r["t0"] < stop and r["t_end"] > start
        ]
        rows.sort(key=lambda row: (row["t0"], row["first_index"]))
        return [strip_of(row["block"], row["head"]) for row in rows]

    def counts(self) -> dict[str, int]:
        columns = {"observation": "id", "strip": "key", "event": "key", "evaluation": "key"}
        return {name: self._count(name, column) for name, column in columns.items()}

    def _count(self, measurement: str, column: str) -> int:
        return sum(int(row["count"]) for row in self._bucket.query(select(f'count("{column}")', measurement)))


def _history_point(row: Record) -> HistoryPoint:
    value = row["value"]
    return HistoryPoint(
        row["t"], None if value is None else float(value), Validity(row["validity"]), row["interpretation"]
    )  # fmt: skip
