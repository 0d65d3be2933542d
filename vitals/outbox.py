"""The gateway's outbox: a reading stays on this disk until a receipt names it.

One SQLite file, one owner process (an advisory lock tells a second one so). A row is (epoch, seq): `seq` counts up
for ever, `epoch` is random at each opening and a row keeps its first one, so a restored backup of this file can
never be taken for new rows. Refused rows move to a table of their own with the reason, for a person to look at.
"""

import fcntl
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from vitals.clock import Instant
from vitals.errors import OutboxError
from vitals.messages import Outcome

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE row (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, epoch TEXT NOT NULL, topic TEXT NOT NULL,
  payload BLOB NOT NULL, created INTEGER NOT NULL);
CREATE TABLE refused (
  seq INTEGER NOT NULL, epoch TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL,
  created INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (epoch, seq));
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Row(NamedTuple):
    """One message on its way: where it goes and its encoded bytes, which already carry epoch and seq."""

    epoch: str
    seq: int
    topic: str
    payload: bytes
    created: Instant


class Outbox:
    """Durable once `put` returns (WAL, synchronous=FULL: the bytes are on the disk, not in a cache).

    Used by one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        """Open or create. Raises OutboxError when the file is no outbox, is damaged, or another process owns it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = self._own(path)
        try:
            self._db = self._open(path)
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise OutboxError(
                f"The outbox {path} cannot be used.",
                expected=f"an outbox of version {SCHEMA_VERSION}, or no file",
                found=str(error),
                do="Move the file away (keep it: it may hold readings) and start the gateway again.",
            ) from None
        self.epoch = secrets.token_hex(8)
        (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'row'").fetchone()
        self._next = int(last) + 1

    @staticmethod
    def _own(path: Path) -> IO[bytes]:
        lock = Path(f"{path}.lock").open("wb")  # noqa: SIM115  held for the life of the outbox
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise OutboxError(
                f"The outbox {path} is in use.",
                expected="one gateway for one outbox",
                found="another process that holds its lock",
                do="Stop the other gateway, or give this one its own gateway.outbox.",
            ) from None
        return lock

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            db.close()
            raise sqlite3.DatabaseError(f"a database of another kind or version ({version})")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            db.close()
            raise sqlite3.DatabaseError(f"damaged: {verdict}")
        # Only now: nothing of another program's file has been touched before.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db

    def stamp(self) -> tuple[str, int]:
        """The identity of the next row. A stamp that is never put leaves a hole in seq, which means nothing."""
        seq = self._next
        self._next += 1
        return self.epoch, seq

    def put(self, rows: Sequence[Row]) -> None:
        """Commit these rows in one transaction; on return they survive a power cut."""
        with self._transaction():
            self._db.executemany("INSERT INTO row (epoch, seq, topic, payload, created) VALUES (?, ?, ?, ?, ?)", rows)

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        """Apply receipts: stored and duplicate rows go, refused ones are set aside, held ones stay. Rows gone."""
        gone = [(o.epoch, o.seq) for o in outcomes if o.outcome in ("stored", "duplicate")]
        refused = [(o.reason, o.epoch, o.seq) for o in outcomes if o.outcome == "refused"]
        before = self._db.total_changes
        with self._transaction():
            self._db.executemany("DELETE FROM row WHERE epoch = ? AND seq = ?", gone)
            settled = self._db.total_changes - before
            self._db.executemany(
                "INSERT OR IGNORE INTO refused (epoch, seq, topic, payload, created, reason)"
                " SELECT epoch, seq, topic, payload, created, ? FROM row WHERE epoch = ? AND seq = ?",
                refused,
            )
            self._db.executemany("DELETE FROM row WHERE epoch = ? AND seq = ?", [r[1:] for r in refused])
        return settled

    def after(self, seq: int, limit: int) -> list[Row]:
        """Up to `limit` rows with a seq above `seq`, oldest first."""
        found = self._db.execute(
            "SELECT epoch, seq, topic, payload, created FROM row WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
        )
        return [Row(*values) for values in found]

    def counts(self) -> tuple[int, int]:
        """(rows waiting for a receipt, rows refused)."""
        (waiting,) = self._db.execute("SELECT count(*) FROM row").fetchone()
        (refused,) = self._db.execute("SELECT count(*) FROM refused").fetchone()
        return int(waiting), int(refused)

    def remember(self, key: str, value: str) -> None:
        """Keep one fact with the outbox (the pinned store)."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def recall(self, key: str) -> str:
        """The fact, or an empty string."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else ""

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; whatever goes wrong, no transaction stays open behind it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk makes SQLite roll back by itself
                self._db.execute("ROLLBACK")
            raise
