"""What was refused for good, with its reason and its payload: one SQLite file beside the store, bounded.

A gateway keeps refused rows in its own outbox. A publisher without an outbox keeps nothing, and a count alone tells
nobody what was lost. Nothing here decides anything: when this file cannot be written, that is logged, and ingest goes
on. Patient data, as the store is.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ingest.store.contract import EvaluationRow, EventRow, ObservationRow, Row
from vitals.clock import Instant
from vitals.errors import StoreError
from vitals.log import Log
from vitals.messages import encode

MAX_REFUSALS: Final = 10_000
"""Then the oldest go, and are counted: a publisher gone mad must not fill the disk of the store."""
MAX_REFUSED_BYTES: Final = 64_000_000
"""Of all payloads together."""
MAX_KEPT: Final = 65_536
"""Bytes of one payload that are kept: of what is refused for its size, enough to see what it is."""
MAX_REASON: Final = 1000
APPLICATION_ID: Final = 0x76697472
"""`vitr` in the file's header."""
SCHEMA_VERSION: Final = 1
BUSY_S: Final = 1.0
_SCHEMA: Final = """
CREATE TABLE refusal (
  no INTEGER PRIMARY KEY, same BLOB NOT NULL UNIQUE, first INTEGER NOT NULL, last INTEGER NOT NULL,
  times INTEGER NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, size INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE total (refused INTEGER NOT NULL, dropped INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO total VALUES (0, 0, 0);
"""
_NEWEST: Final = "SELECT no FROM refusal ORDER BY last DESC, no DESC LIMIT ?"
"""Sorted without their payloads, which are up to 64 kB each."""
_log = Log("ingest.refusals")


class Refusal(NamedTuple):
    """`topic`: where it came from, as in MQTT below the site: `GATEWAY/ROOM/DEVICE/obs`."""

    topic: str
    payload: bytes
    reason: str


class Refused(NamedTuple):
    """As it is kept. `size`: bytes of the payload as it came; `times`: the very same, with the same reason."""

    first: Instant
    last: Instant
    times: int
    topic: str
    reason: str
    size: int
    payload: bytes


class Totals(NamedTuple):
    """`kept`: distinct ones in the file; `refused`: since it was made, repeats counted; `dropped`: for want of room."""

    kept: int
    refused: int
    dropped: int


def refused_row(row: Row, reason: str) -> Refusal:
    """A row that the store refused, as the message it came in."""
    if isinstance(row, EvaluationRow):
        m = row.message
        return Refusal(f"{m.gateway}/{row.room}/{m.device}/evaluation", _bytes(m), reason)
    leaf = "obs" if isinstance(row, ObservationRow) else "event" if isinstance(row, EventRow) else "strip"
    return Refusal("/".join((*row.address, leaf)), _bytes(row.message), reason)


def _bytes(message: msgspec.Struct) -> bytes:
    try:
        return encode(message)
    except (OverflowError, TypeError, ValueError):
        return repr(message).encode(errors="replace")  # what no encoding can hold is one reason to be refused


class Refusals:
    """For ingest: keeps, and never raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._failed = ""

    def keep(self, refusals: Sequence[Refusal], now: Instant) -> None:
        """Opened by the first one: where nothing is refused there is no file."""
        if not refusals:
            return
        try:
            if self._db is None:
                self._db = _open(self._path)
            self._keep(self._db, refusals, now)
            self._failed = ""
        except (sqlite3.Error, OSError, ValueError) as error:
            if self._failed != str(error):
                do = "look at the disk, or move that file away: ingest begins a new one"
                _log.error("refused messages not kept", file=self._path, reason=error, messages=len(refusals), do=do)
            self._failed = str(error)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _keep(self, db: sqlite3.Connection, refusals: Sequence[Refusal], now: Instant) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            for refusal in refusals:
                _put(db, refusal, now)
            _make_room(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


class RefusalsReader:
    """For people. Every method but `close` raises StoreError when the file is something else, or damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._readable():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
            _check(self._db)

    def totals(self) -> Totals:
        with self._readable():
            (kept,) = self._db.execute("SELECT count(*) FROM refusal").fetchone()
            return Totals(kept, *self._db.execute("SELECT refused, dropped FROM total").fetchone())

    def newest(self, limit: int) -> Iterator[Refused]:
        """The newest `limit` of them, oldest of those first."""
        columns = "first, last, times, topic, reason, size, payload"
        query = f"SELECT {columns} FROM refusal WHERE no IN ({_NEWEST}) ORDER BY last, no"
        with self._readable():
            for found in self._db.execute(query, (limit,)):
                yield Refused(*found)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"The file of refused messages {self._path} cannot be read.", expected="the file that ingest writes",
                found=str(error), do="Stop ingest and move it away: a new one is begun.",
            ) from None  # fmt: skip


def _put(db: sqlite3.Connection, refusal: Refusal, now: Instant) -> None:
    topic, payload, reason = refusal.topic, refusal.payload, refusal.reason[:MAX_REASON]
    parts = (topic.encode(errors="replace"), reason.encode(errors="replace"), payload)
    same = blake2b(b"".join(len(part).to_bytes(8, "big") + part for part in parts), digest_size=16).digest()
    kept = payload[:MAX_KEPT]
    again = db.execute("UPDATE refusal SET times = times + 1, last = ? WHERE same = ?", (now, same))
    db.execute("UPDATE total SET refused = refused + 1, bytes = bytes + ?", (0 if again.rowcount else len(kept),))
    if not again.rowcount:
        values = (same, now, now, 1, topic, reason, len(payload), kept)
        db.execute("INSERT INTO refusal VALUES (NULL,?,?,?,?,?,?,?,?)", values)


def _make_room(db: sqlite3.Connection) -> None:
    """The oldest go until both bounds hold."""
    while True:
        (count,) = db.execute("SELECT count(*) FROM refusal").fetchone()
        (size,) = db.execute("SELECT bytes FROM total").fetchone()
        surplus = max(count - MAX_REFUSALS, 1 if size > MAX_REFUSED_BYTES and count else 0)
        if surplus <= 0:
            return
        oldest = db.execute("SELECT no, length(payload) FROM refusal ORDER BY no LIMIT ?", (surplus,)).fetchall()
        db.executemany("DELETE FROM refusal WHERE no = ?", [(no,) for no, _ in oldest])
        freed = sum(length for _, length in oldest)
        db.execute("UPDATE total SET dropped = dropped + ?, bytes = bytes - ?", (len(oldest), freed))


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _check(db, create=True)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, *, create: bool = False) -> None:
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if tables == 0 and (version, application) == (0, 0) and create:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    elif (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise sqlite3.DatabaseError("a database of another kind or version")
    if create:
        db.execute("PRAGMA synchronous = NORMAL")
