"""What a bucket adds to being verified: the ledger against what is there, both ways."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ingest.store.contract import EvaluationRow, Floors, ObservationRow, StoreDown
from ingest.store.influx import Bucket
from ingest.store.influx_scan import InfluxScan
from ingest.store.ledger import Ledger
from ingest.store.points import reading_digest
from ingest.store.scan import Found
from ingest.store.verify import MAX_LINES, Finding

REMAKE: Final = "Stop ingest, move the ledger (ingest.state) away, start it: the ledger is made anew from the bucket."
_SEEN: Final = 500


class CheckedInflux(InfluxScan):
    """Ingest may run: readings it stores meanwhile are not missed, since the ledger is taken as it was at the start."""

    def __init__(self, bucket: Bucket, ledger: Path) -> None:
        """Raises StoreError when there is no ledger."""
        super().__init__(bucket)
        self._ledger = Ledger(ledger, alone=False)
        self._then = Ledger(ledger, alone=False)
        with _down():
            self._then.begin_check()
            self.floors: Floors = self._then.floors()
        self._seen: list[str] = []

    def close(self) -> None:
        super().close()
        self._ledger.close()
        self._then.close()

    def before(self) -> Iterator[Finding]:
        with _down():
            for line in self._then.damage():
                yield Finding("damaged ledger", line, REMAKE)
        expected, found = self._then.store_id, self.store_id
        if expected != found:
            what = f"the ledger is of store {expected or '(none)'}, the bucket is {found or 'without a name'}"
            yield Finding("another bucket", what, "Bring the bucket back, or " + REMAKE[0].lower() + REMAKE[1:])

    def reading(self, row: ObservationRow, found: Found) -> Finding | None:
        key = row.message.id
        self._seen.append(key)
        if len(self._seen) >= _SEEN:
            self._note_seen()
        with _down():
            kept = self._ledger.find([key]).get(key)
        if kept is None:
            return Finding("reading the ledger does not know", found.where, REMAKE)
        if (kept.ts, kept.same) != (found.at, reading_digest(row.message)):
            return Finding("reading that is not as it was stored", f"{found.where}: not as in the ledger", REMAKE)
        return None

    def has_reading(self, row: EvaluationRow) -> bool:
        with _down():
            kept = self._ledger.find([row.message.id]).get(row.message.id)
        return kept is not None and kept.stored and (kept.room, kept.t) == (row.room, row.message.t)

    def after(self) -> Iterator[Finding]:
        self._note_seen()
        with _down():
            count, first = self._then.unseen(self.floors.observation, MAX_LINES)
        for key in first:
            yield Finding(
                "reading the bucket does not have", f"{key} ({count} in all)",
                "Sent again, it would be called a duplicate. Restore the bucket. Or, to take such readings anew: "
                + REMAKE[0].lower() + REMAKE[1:],
            )  # fmt: skip

    def _note_seen(self) -> None:
        with _down():
            self._then.seen(self._seen)
        self._seen = []


@contextmanager
def _down() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreDown(f"the ledger cannot be read: {error}") from None
