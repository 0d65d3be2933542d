"""What a bucket adds to being verified: the ledger against what is there, both ways."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

from ingest.store.contract import EvaluationRow, Floors, ObservationRow, Row, StoreDown
from ingest.store.influx import Bucket
from ingest.store.influx_scan import InfluxScan
from ingest.store.ledger import Ledger
from ingest.store.points import LATEST, Draft, draft
from ingest.store.scan import Found
from ingest.store.verify import MAX_LINES, Finding
from vitals.clock import Instant

REMAKE: Final = "Stop ingest, move the ledger (ingest.state) away, start it: the ledger is made anew from the bucket."
TWICE: Final = (
    "Something else wrote to the bucket, or two ingests did: stop the other one. Export the store, and report it with"
    " the lines of this row."
)
AGAIN_S: Final = 5.0
"""After so long an append of an InfluxDB that is well has ended."""
LOOKED_AT_AGAIN: Final = 1000
"""More than one append has: so many were not on their way."""
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
        self._once = _Once()
        self._newest: dict[str, Instant] = {}
        """By lane: of strips, events and evaluations, which the ledger remembers by their newest only."""

    def close(self) -> None:
        super().close()
        self._ledger.close()
        self._then.close()
        self._once.close()

    def before(self) -> Iterator[Finding]:
        with _down():
            for line in self._then.damage():
                yield Finding("damaged ledger", line, REMAKE)
        expected, found = self._then.store_id, self.store_id
        if expected != found:
            what = f"the ledger is of store {expected or '(none)'}, the bucket is {found or 'without a name'}"
            yield Finding("another bucket", what, "Bring the bucket back, or " + REMAKE[0].lower() + REMAKE[1:])

    def row(self, row: Row, found: Found) -> Iterator[Finding]:
        one = draft(row)
        if not self._once.add(one):
            yield Finding("row that is there twice", f"{found.where}: again at {found.at}", TWICE)
        elif isinstance(row, ObservationRow):
            yield from self._reading(one, found)
        else:
            self._newest[one.lane] = max(found.at or 0, self._newest.get(one.lane, 0))

    def _reading(self, one: Draft, found: Found) -> Iterator[Finding]:
        self._seen.append(one.key)
        if len(self._seen) >= _SEEN:
            self._note_seen()
        with _down():
            kept = self._ledger.find([one.key]).get(one.key)
        if kept is None:
            yield Finding("reading the ledger does not know", found.where, REMAKE)
        elif (kept.ts, kept.same) != (found.at, one.same):
            yield Finding("reading that is not as it was stored", f"{found.where}: not as in the ledger", REMAKE)

    def has_reading(self, row: EvaluationRow) -> bool:
        with _down():
            kept = self._ledger.find([row.message.id]).get(row.message.id)
        return kept is not None and kept.stored and (kept.room, kept.t) == (row.room, row.message.t)

    def unevaluated(self, since: Instant, until: Instant = LATEST) -> Iterator[str]:
        """Ingest may be between a reading and its evaluation: what has none is looked at again."""
        doubtful: list[tuple[str, Instant]] = []
        for key in super().unevaluated(since, until):
            with _down():
                kept = self._ledger.find([key]).get(key)
            if kept is None or len(doubtful) == LOOKED_AT_AGAIN:
                yield key
            else:
                doubtful.append((key, kept.t))
        if doubtful:
            time.sleep(AGAIN_S)
        for key, t in doubtful:
            yield from (found for found in super().unevaluated(t, t + 1) if found == key)

    def after(self) -> Iterator[Finding]:
        self._note_seen()
        for lane, newest in self._newest.items():
            with _down():
                mark = self._ledger.mark(lane)
            if mark < newest:
                yield Finding(
                    "mark of the ledger that is too low", f"{lane}: {mark}, there is a row at {newest}", REMAKE
                )
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


class _Once:
    """The identities that were met: InfluxDB has no unique keys. On disk, not in memory."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file that SQLite deletes
        self._db.execute("CREATE TABLE met (what BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, one: Draft) -> bool:
        """False where it was met before. A reading's id is its identity wherever it stands, another's key in its
        lane."""
        lane = "" if isinstance(one.row, ObservationRow) else one.lane
        what = blake2b(f"{one.measurement} {lane} {one.key}".encode(), digest_size=16).digest()
        return self._db.execute("INSERT OR IGNORE INTO met VALUES (?)", (what,)).rowcount == 1

    def close(self) -> None:
        self._db.close()


@contextmanager
def _down() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreDown(f"the ledger cannot be read: {error}") from None
