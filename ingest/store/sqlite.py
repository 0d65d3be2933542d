"""The embedded store: one SQLite file, one writer, readers in other processes (WAL).

`synchronous=FULL`: when `append` returns, the rows survive a power cut. Messages are kept whole, as JSON or
MessagePack; the columns beside them are only for finding them.
"""

import secrets
import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final

import msgspec

from ingest.store.contract import (
    CONFLICT,
    DUPLICATE,
    HISTORY_LIMIT,
    IMPOSSIBLE,
    MAX_STRIP_S,
    STORED,
    TOO_OLD,
    EvaluationRow,
    EventRow,
    Floors,
    HistoryPoint,
    ObservationRow,
    Row,
    RowOutcome,
    StoreDown,
    StripRow,
    StripTail,
    below,
    refusal,
    same_reading,
    same_strip,
    strip_end,
)
from ingest.store.lock import own
from vitals.clock import NS, Instant
from vitals.errors import StoreError
from vitals.messages import FlaggedMessage, ObservationMessage, StripMessage
from vitals.metrics import METRICS
from vitals.model import Validity

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x76697473
"""`vits` in the file's header: another program's database is told apart before anything is written."""
BUSY_S: Final = 5.0
"""Wait for another connection's lock (a backup, a checkpoint) before calling the store down."""
TOOL_BUSY_S: Final = 60.0
"""The same for a tool, which has time."""
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE observation (
  id TEXT PRIMARY KEY, gateway TEXT NOT NULL, room TEXT NOT NULL, device TEXT NOT NULL, t INTEGER NOT NULL,
  same BLOB NOT NULL, message BLOB NOT NULL);
CREATE TABLE strip (
  gateway TEXT NOT NULL, device TEXT NOT NULL, stream TEXT NOT NULL, metric TEXT NOT NULL,
  first_index INTEGER NOT NULL, room TEXT NOT NULL, next_index INTEGER NOT NULL, t0 INTEGER NOT NULL,
  t_end INTEGER NOT NULL, same BLOB NOT NULL, message BLOB NOT NULL,
  PRIMARY KEY (gateway, device, stream, metric, first_index));
CREATE INDEX strip_time ON strip (gateway, device, metric, t0);
CREATE TABLE event (
  gateway TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, room TEXT NOT NULL, device TEXT NOT NULL,
  at INTEGER NOT NULL, message BLOB NOT NULL, PRIMARY KEY (gateway, epoch, seq));
CREATE TABLE evaluation (
  no INTEGER PRIMARY KEY, id TEXT NOT NULL, rules_hash TEXT NOT NULL, assoc_version INTEGER NOT NULL,
  message BLOB NOT NULL, UNIQUE (id, rules_hash, assoc_version));
CREATE TABLE value (
  room TEXT NOT NULL, metric TEXT NOT NULL, historical INTEGER NOT NULL, t INTEGER NOT NULL, id TEXT NOT NULL,
  evaluation INTEGER NOT NULL, value REAL, validity TEXT NOT NULL, interpretation TEXT NOT NULL,
  PRIMARY KEY (room, metric, historical, t, id, evaluation)) WITHOUT ROWID;
"""
PRUNED: Final = "length(message) = 0"
"""Of a pruned reading: the row stays, without its message, so that the same record of a meter is known again."""
_FLOOR: Final = "SELECT value FROM meta WHERE key = ?"
AHEAD: Final = 2
"""In place of `historical`, which is 0 or 1: of a clock that runs ahead."""
_ROWS_OWN_FAULT: Final = (
    ValueError, OverflowError, ZeroDivisionError, TypeError,
    sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip
"""Values no column or encoding can hold. The rest of sqlite3.Error is the disk's, and says StoreDown."""
_FLAGGED: Final = msgspec.json.Decoder(FlaggedMessage)
_STRIP: Final = msgspec.msgpack.Decoder(StripMessage)


class SqliteStore:
    """Used by one thread at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open, or create for writing. Raises StoreError when the file is no store, or another process writes it."""
        self.path = path
        self._lock: IO[bytes] | None = None
        self._floors = Floors()
        self._fresh: dict[str, ObservationRow] = {}
        """Readings stored by the append under way: their evaluations come with them, and need no look-up."""
        if read_only and not path.exists():
            raise StoreError(
                f"There is no store {path} yet.", expected="the file that ingest writes", found="nothing",
                do="Start ingest first, or correct ingest.store.path.",
            )  # fmt: skip
        if not read_only:
            self._lock = own(path, "ingest.store.path")
        try:
            self._db = _open(path, read_only=read_only)
            (self._id,) = self._db.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
        except (sqlite3.DatabaseError, TypeError) as error:
            self._release()
            raise StoreError(
                f"The store {path} cannot be used.",
                expected=f"a store of version {SCHEMA_VERSION}, or no file", found=str(error),
                do="Move the file away (keep it: it may hold readings), or correct ingest.store.path.",
            ) from None  # fmt: skip

    @property
    def store_id(self) -> str:
        return str(self._id)

    def close(self) -> None:
        self._db.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()

    # -- writing ---------------------------------------------------------------------------------------------

    def append(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """One transaction. What a row itself makes impossible is its outcome; anything else is StoreDown."""
        try:
            self._fresh = {}
            self._db.execute("BEGIN IMMEDIATE")
            self._floors = read_floors(self._db)
            outcomes = [self._put(row) for row in rows]
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise StoreDown(f"{type(error).__name__}: {error}") from None
        return outcomes

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # The transaction is gone with the error that brought us here; nothing of it was committed.

    def _put(self, row: Row) -> RowOutcome:
        """A savepoint a row: a reading's values are all there or none is, and a bad row leaves no trace."""
        self._db.execute("SAVEPOINT row")
        try:
            outcome = self._insert(row)
        except _ROWS_OWN_FAULT as error:
            self._db.execute("ROLLBACK TO row")
            outcome = refusal(IMPOSSIBLE, error)
        self._db.execute("RELEASE row")
        return outcome

    def _insert(self, row: Row) -> RowOutcome:
        if below(row, self._floors):
            return self._pruned(row)
        if isinstance(row, ObservationRow):
            return self._observation(row)
        if isinstance(row, StripRow):
            return self._strip(row)
        if isinstance(row, EventRow):
            return self._event(row)
        return self._evaluation(row)

    def _pruned(self, row: Row) -> RowOutcome:
        """A row from before the floor: a reading may still be known by its id; an evaluation adds nothing."""
        if isinstance(row, EvaluationRow):
            return DUPLICATE
        if isinstance(row, ObservationRow):
            query = "SELECT same FROM observation WHERE id = ?"
            before = self._db.execute(query, (row.message.id,)).fetchone()
            if before:
                return DUPLICATE if before[0] == digest(same_reading(row.message)) else CONFLICT
        return TOO_OLD

    def _observation(self, row: ObservationRow) -> RowOutcome:
        m = row.message
        same = digest(same_reading(m))
        values = (m.id, *row.address, m.t_determined, same, msgspec.json.encode(m))
        done = self._db.execute("INSERT INTO observation VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", values)
        if done.rowcount == 1:
            self._fresh[m.id] = row
            return STORED
        (before,) = self._db.execute("SELECT same FROM observation WHERE id = ?", (m.id,)).fetchone()
        return DUPLICATE if before == same else CONFLICT

    def _strip(self, row: StripRow) -> RowOutcome:
        m, a = row.message, row.address
        same = digest(same_strip(m))
        key = (a.gateway, a.device, m.stream, m.metric, m.first_index)
        values = (*key, a.room, m.first_index + m.count, m.t0, strip_end(m), same, msgspec.msgpack.encode(m))
        done = self._db.execute("INSERT INTO strip VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", values)
        if done.rowcount == 1:
            return STORED
        where = "gateway = ? AND device = ? AND stream = ? AND metric = ? AND first_index = ?"
        (before,) = self._db.execute(f"SELECT same FROM strip WHERE {where}", key).fetchone()
        return DUPLICATE if before == same else CONFLICT

    def _event(self, row: EventRow) -> RowOutcome:
        m, a = row.message, row.address
        message = msgspec.json.encode(m)
        values = (a.gateway, m.epoch, m.seq, a.room, a.device, m.at, message)
        done = self._db.execute("INSERT INTO event VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", values)
        if done.rowcount == 1:
            return STORED
        where = "gateway = ? AND epoch = ? AND seq = ?"
        (before,) = self._db.execute(f"SELECT message FROM event WHERE {where}", values[:3]).fetchone()
        return DUPLICATE if before == message else CONFLICT

    def _evaluation(self, row: EvaluationRow) -> RowOutcome:
        m = row.message
        if row.reading is not None and not self._is_kept(row.room, m, row.reading):
            return DUPLICATE
        when = AHEAD if row.ahead else int(m.historical)
        done = self._db.execute(
            "INSERT INTO evaluation (id, rules_hash, assoc_version, message) VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
            (m.id, m.rules_hash, m.assoc_version, msgspec.json.encode(m)),
        )
        if done.rowcount != 1:
            return DUPLICATE
        no = done.lastrowid
        self._db.executemany(
            "INSERT INTO value VALUES (?,?,?,?,?,?,?,?,?)",
            [
                (row.room, metric, when, m.t, m.id, no, v.value, v.validity.value,
                 v.flag.interpretation if v.flag else "")
                for metric, v in m.values.items()
            ],
        )  # fmt: skip
        return STORED

    def _is_kept(self, room: str, message: FlaggedMessage, reading: ObservationMessage) -> bool:
        """Whether that reading, as it was judged, is the one kept under its id. The first time of a reading wins."""
        fresh = self._fresh.get(message.id)
        if fresh is not None and fresh.message is reading:
            return (room, message.t) == (fresh.address.room, reading.t_determined)
        kept = self._db.execute("SELECT room, t, same FROM observation WHERE id = ?", (message.id,)).fetchone()
        return kept is not None and kept == (room, message.t, digest(same_reading(reading)))

    # -- reading ---------------------------------------------------------------------------------------------

    def latest(self, room: str) -> list[FlaggedMessage]:
        newest: set[int] = set()
        for metric in METRICS:
            found = self._db.execute(
                "SELECT evaluation FROM value WHERE room = ? AND metric = ? AND historical = 0"
                " ORDER BY t DESC, id DESC, evaluation DESC LIMIT 1",
                (room, metric),
            ).fetchone()
            newest |= {found[0]} if found else set()
        marks = ",".join("?" * len(newest))
        rows = self._db.execute(f"SELECT message FROM evaluation WHERE no IN ({marks})", sorted(newest)).fetchall()
        return sorted((_FLAGGED.decode(row[0]) for row in rows), key=lambda m: (m.t, m.id))

    def history(self, room: str, metric: str, since: Instant) -> list[HistoryPoint]:
        # A reading evaluated twice has two rows; the later evaluation (ordered last) replaces the earlier.
        rows = self._db.execute(
            "SELECT t, id, value, validity, interpretation FROM value WHERE room = ? AND metric = ? AND t >= ?"
            " AND historical IN (0, 1, 2) ORDER BY t DESC, id DESC, evaluation ASC LIMIT ?",
            (room, metric, since, HISTORY_LIMIT),
        ).fetchall()
        points = {(t, key): HistoryPoint(t, value, Validity(v), i) for t, key, value, v, i in rows}
        return [points[key] for key in sorted(points)]

    def strip(self, gateway: str, device: str, metric: str, start: Instant, stop: Instant) -> list[StripMessage]:
        rows = self._db.execute(
            "SELECT message FROM strip WHERE gateway = ? AND device = ? AND metric = ?"
            " AND t0 < ? AND t0 >= ? AND t_end > ? ORDER BY t0, first_index",
            (gateway, device, metric, stop, start - MAX_STRIP_S * NS, start),
        )
        return [_STRIP.decode(row[0]) for row in rows]

    def counts(self) -> dict[str, int]:
        tables = ("observation", "strip", "event", "evaluation")
        found = {table: self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
        (known,) = self._db.execute(f"SELECT count(*) FROM observation WHERE {PRUNED}").fetchone()
        return found | {"observation": found["observation"] - known}

    def recent_ids(self, limit: int) -> list[str]:
        rows = self._db.execute("SELECT id FROM observation ORDER BY rowid DESC LIMIT ?", (limit,)).fetchall()
        return [row[0] for row in reversed(rows)]

    def tails(self) -> list[StripTail]:
        # One index look-up for each signal: the skip over distinct keys reads the index, not the blocks.
        rows = self._db.execute(
            "SELECT s.gateway, s.device, s.room, s.metric, s.stream, s.next_index, s.t_end FROM"
            " (SELECT DISTINCT gateway, device, metric FROM strip) k JOIN strip s ON s.rowid ="
            " (SELECT rowid FROM strip WHERE gateway = k.gateway AND device = k.device AND metric = k.metric"
            "  ORDER BY t0 DESC LIMIT 1)"
        )
        return [StripTail(*row) for row in rows]


def read_floors(db: sqlite3.Connection) -> Floors:
    """What the store was pruned to; the ledger of InfluxDB has the same rows in a table of the same name."""
    return Floors(*(int(found[0]) if (found := db.execute(_FLOOR, (f"floor/{kind}",)).fetchone()) else 0
                    for kind in Floors._fields))  # fmt: skip


def open_for_tools(path: Path, *, writing: bool = False) -> tuple[sqlite3.Connection, str]:
    """The file beside a running ingest, and the store's id; with `writing` in short transactions only.

    Raises StoreError when it is no store.
    """
    SqliteStore(path, read_only=True).close()
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rw' if writing else 'ro'}", uri=True, timeout=TOOL_BUSY_S,
        isolation_level=None,
    )  # fmt: skip
    (store_id,) = db.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
    return db, str(store_id)


def digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _open(path: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    address = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _check(db, create=not read_only)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, *, create: bool) -> None:
    """Create an empty file's schema, or insist on ours. Raises sqlite3.DatabaseError."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if tables == 0 and version == 0 and create:
        db.execute("PRAGMA journal_mode = WAL")
        # One transaction, so a kill in the middle leaves an empty file and not half a store.
        db.executescript(
            f"BEGIN; {_SCHEMA} INSERT INTO meta VALUES ('store_id', '{secrets.token_hex(8)}');"
            f" PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    elif application != APPLICATION_ID:
        raise sqlite3.DatabaseError("a database of another kind")
    elif version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"a store of version {version}")
    if create:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
