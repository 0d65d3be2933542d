"""Pruning a bucket, and the ledger beside it.

Rows go by `DELETE` of InfluxQL, which InfluxDB 1 and 2 have. InfluxDB 3 has none: there the
retention does it that the database was made with.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ingest.store.contract import Floors, StoreDown
from ingest.store.influx import Bucket
from ingest.store.influx_scan import InfluxScan, pages
from ingest.store.influxql import delete_before, select
from ingest.store.ledger import Ledger
from ingest.store.points import LATEST, floors_line
from ingest.store.prune import PrunedKind, Step, comes_again
from ingest.store.scan import Span
from vitals.clock import NS, Instant
from vitals.errors import StoreError

_MEASUREMENTS: Final[dict[PrunedKind, tuple[str, ...]]] = {
    "observation": ("value", "evaluation", "observation"),
    "strip": ("strip",),
    "event": ("event",),
}
SLICE: Final = 30 * 86_400 * NS
"""One `DELETE` takes no more than this: InfluxDB rewrites what it touches, and is asked by ingest meanwhile."""


class InfluxPruner:
    """Ingest may run: the ledger is shared by short transactions."""

    def __init__(self, bucket: Bucket, ledger: Path) -> None:
        """Raises StoreError when the ledger is none, or of another bucket; StoreDown."""
        self._bucket = bucket
        self._ledger = Ledger(ledger, alone=False)
        scan = InfluxScan(bucket)
        if self._ledger.store_id != scan.store_id:
            raise StoreError(
                "The ledger is not of this bucket.", expected=f"store {self._ledger.store_id}",
                found=scan.store_id or "a bucket that names no store",
                do="Start ingest once, and do what it says; see docs/store.md.",
            )  # fmt: skip
        self._scan = scan

    def close(self) -> None:
        self._ledger.close()
        self._bucket.close()

    def count(self, kind: PrunedKind, cutoff: Instant) -> int:
        return self._scan.total(kind, Span(until=cutoff))

    def unevaluated(self, cutoff: Instant) -> int:
        with _down():
            floor = self._ledger.floors().observation
        return sum(1 for _ in self._scan.unevaluated(floor, cutoff))

    def raise_floors(self, floors: Floors) -> None:
        # Nothing is as old as this: where deleting is not possible at all, that shows before a floor is raised.
        self._bucket.delete(delete_before("store", 0))
        with _down(), self._ledger.transaction(durable=True):
            self._ledger.raise_floors(floors)
        # In the bucket too: a ledger made anew from it must know.
        self._bucket.write([floors_line(self._ledger.floors())])

    def remove(self, kind: PrunedKind, cutoff: Instant, step: Step) -> None:
        if kind == "observation":
            self._drop_ids(cutoff)
        for start in self._slices(kind, cutoff):
            before = self._scan.total(kind, Span(until=cutoff))
            for measurement in _MEASUREMENTS[kind]:
                self._bucket.delete(delete_before(measurement, min(cutoff, start + SLICE)))
            step(before - self._scan.total(kind, Span(until=cutoff)))

    def forget(self, before: Instant) -> None:
        with _down(), self._ledger.transaction(durable=True):
            self._ledger.forget_before(before)

    def _slices(self, kind: PrunedKind, cutoff: Instant) -> Iterator[Instant]:
        """From the oldest row of the kind on. Empty where nothing is."""
        first = [
            row["time"] for name in _MEASUREMENTS[kind]
            for row in self._bucket.query(select('"t0", "t"', name, stop=cutoff, tail="ORDER BY time ASC LIMIT 1"))
        ]  # fmt: skip
        start = min(first, default=cutoff)
        while start < cutoff:
            yield start
            start += SLICE

    def _drop_ids(self, cutoff: Instant) -> None:
        """Of readings that no device can hand over again: the floor is enough for them."""
        for page in pages(self._bucket, '"id", "message"', "observation", (), 0, min(cutoff, LATEST - 1)):
            gone = [str(r["id"]) for r in page if not comes_again(r["message"])]
            with _down(), self._ledger.transaction(durable=False):
                self._ledger.forget(gone, before=cutoff)


@contextmanager
def _down() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreDown(f"the ledger cannot be pruned: {error}") from None
