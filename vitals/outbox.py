"""The gateway's outbox: a reading stays on this disk until a receipt names it.

One SQLite file, one owner process (an advisory lock tells a second one so). A row is (epoch, seq): `seq` counts up
for ever, `epoch` is random at each opening and a row keeps its first one, so a restored backup of this file can
never be taken for new rows. Refused rows move to a table of their own with the reason, for a person to look at.

When the disk budget is reached rows age out, oldest first: strips, then refused rows, events, and the numbers that a
monitor sends each second. Spot readings never do: one that finds no place even then is turned away with `OutboxFull`,
and whoever holds it goes on holding it.
"""

import fcntl
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import IO, Final, NamedTuple

from vitals.clock import Clock, Instant, SystemClock
from vitals.errors import OutboxError
from vitals.log import Log
from vitals.messages import Outcome
from vitals.salvage import Wreck, is_damage, set_aside

SCHEMA_VERSION: Final = 1
ROOM_PARTS: Final = 64
"""A full outbox makes this part of its budget free at once, so that it is not full again a second later."""
AGED_AT_A_TIME: Final = 50
"""Rows between two looks at how much room there is."""
BATCH: Final = 500
"""Rows salvaged in one transaction."""
GIVE_BACK_BYTES: Final = 16_000_000
"""Free pages below this are kept for the next backlog."""
_AGES_OUT: Final = (
    "row WHERE topic LIKE '%/strip'",
    "refused WHERE true",
    "row WHERE topic LIKE '%/event'",
    "row WHERE topic LIKE '%/obs' AND instr(payload, CAST('\"kind\":\"monitor\"' AS BLOB))",
)
"""What may make room, in this order: that of the fields of `AgedOut`."""
LOG_BYTES: Final = 8_000_000
"""Size to which SQLite cuts its write-ahead log back; it comes on top of the budget."""
_log = Log("outbox")
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


class AgedOut(NamedTuple):
    """What made room for newer rows. `refused`: rows that had been refused; nobody waits for them any more."""

    strips: list[Row]
    refused: list[Row]
    events: list[Row]
    numbers: list[Row]

    @classmethod
    def nothing(cls) -> "AgedOut":
        return cls([], [], [], [])


class OutboxFull(sqlite3.OperationalError):
    """The budget is used up by readings that may not be dropped. To a caller, a disk that refuses."""


class Outbox:
    """Durable once `put` returns (WAL, synchronous=FULL: the bytes are on the disk, not in a cache).

    Used by one thread at a time. `account(aged)` is called within the transaction that ages rows out; the rows it
    returns say so and are kept in that same transaction, so that nothing goes without a word. `set_aside` says in
    words that a damaged file was replaced; empty when none was. `commits` counts transactions.
    """

    def __init__(self, path: Path, *, max_bytes: int = 0, clock: Clock | None = None) -> None:
        """Open or create; a damaged outbox is set aside and what can be read of it is taken over.

        `max_bytes` is the budget, 0 for none. Raises OutboxError when the file is no outbox of ours, when nothing
        can be written there, or when another process owns it.
        """
        self.path = path
        self.account: Callable[[AgedOut], Sequence[Row]] = lambda _aged: ()
        self.set_aside = ""
        self.commits = 0
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes
        self._above: dict[str, int] = {}
        self._counts = {"row": 0, "refused": 0}
        was_ours = self._lock_path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._own(path)
            if self._beside("salvaged").exists():
                self._tell(self._swap_in(), "what could be read of it was recovered")
        except OSError as error:
            raise self._unusable(error) from None
        try:
            self._db = self._open(path)
        except sqlite3.DatabaseError as error:
            # Only a file that this name's outbox was in before is renamed; any other may be somebody's.
            if not (is_damage(error) and was_ours):
                self._lock.close()
                if not was_ours:
                    self._lock_path.unlink()
                raise self._unusable(error) from None
            self._replace(error)
        self._begin()

    def _begin(self) -> None:
        self._broken = False
        self.epoch = secrets.token_hex(8)
        self._above = {}
        (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'row'").fetchone()
        self._next = int(last) + 1
        for table in ("row", "refused"):
            (self._counts[table],) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
        (page,) = self._db.execute("PRAGMA page_size").fetchone()
        self._page = int(page)

    @property
    def _lock_path(self) -> Path:
        return Path(f"{self.path}.lock")

    def _beside(self, ending: str) -> Path:
        return Path(f"{self.path}.{ending}")

    def _unusable(self, error: Exception) -> OutboxError:
        do = "Move the file away (keep it: it may hold readings) and start the gateway again."
        if isinstance(error, OSError | sqlite3.OperationalError):
            do = "Keep the file. See that its folder can be written, its disk has room and works; then start again."
        return OutboxError(
            f"The outbox {self.path} cannot be used.",
            expected=f"an outbox of version {SCHEMA_VERSION}, or no file",
            found=str(error),
            do=do,
        )

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

    @classmethod
    def _open(cls, path: Path) -> sqlite3.Connection:
        db = cls._connect(path)
        try:
            # Only now: nothing of another program's file has been touched before.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    @classmethod
    def _connect(cls, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            cls._check(db)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    @staticmethod
    def _check(db: sqlite3.Connection) -> None:
        """Make the tables of an empty file, or insist on ours, whole. Raises sqlite3.DatabaseError."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"a database of another kind or version ({version})")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            damage = sqlite3.DatabaseError(f"damaged: {verdict}")
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage

    # -- damage ----------------------------------------------------------------------------------------------

    def broken_by(self, error: sqlite3.Error) -> bool:
        """Whether it is time to `renew`: the file is damaged, or was and could not be replaced yet."""
        return self._broken or is_damage(error)

    def renew(self, error: sqlite3.Error) -> None:
        """SQLite found the open file damaged: set it aside and go on with a new one.

        Raises sqlite3.OperationalError when the disk does not even allow that; then try again.
        """
        self._broken = True
        self._db.close()
        try:
            self._replace(error)
        except OutboxError as refused:
            raise sqlite3.OperationalError(str(refused)) from None
        self._begin()

    def _replace(self, error: Exception) -> None:
        """The damaged file keeps its name until a new one holds all that can be read of it.

        A long backlog takes minutes to read: a start that is cut short meanwhile is simply made again.
        """
        _log.error("outbox damaged", file=self.path, error=error, do="check the disk")
        try:
            rows, refused_rows, whole = self._salvage()
            aside = self._swap_in()
            self._db = self._open(self.path)
        except (OSError, sqlite3.Error) as refused:
            raise self._unusable(refused) from None
        found = f"{rows} waiting and {refused_rows} refused rows were recovered from it"
        self._tell(aside, found + ("" if whole else ", then the disk was full: make room on it"))

    def _tell(self, aside: Path, found: str) -> None:
        self.set_aside = f"a damaged outbox was set aside as {aside.name}; {found}"
        do = "keep the file until somebody has looked; check the disk"
        _log.error("outbox set aside", file=aside, found=found, do=do)

    def _salvage(self) -> tuple[int, int, bool]:
        """Make the new file. (rows waiting, rows refused, whether all were written)."""
        part = self._beside("part")
        for leftover in (part, self._beside("part-journal")):
            leftover.unlink(missing_ok=True)
        self._db = self._connect(part)  # with no log beside it: it is renamed
        self._counts = {"row": 0, "refused": 0}
        whole = self._take_over(self.path)
        self._db.close()
        part.rename(self._beside("salvaged"))
        return *self.counts(), whole

    def _swap_in(self) -> Path:
        """Returns the damaged file's new path. Where a crash cuts this short, the next start goes on with it."""
        aside = set_aside(self.path, self._clock.now())
        self._beside("salvaged").rename(self.path)
        return aside

    def _take_over(self, damaged: Path) -> bool:
        """Every sound row of the damaged file, with its first epoch and seq. False when the disk was full before."""
        wreck = Wreck(damaged, _SCHEMA)
        whole = True
        try:
            for key, value in wreck.facts():
                self.remember(key, value)
            self._copy("row (epoch, seq, topic, payload, created) VALUES (?, ?, ?, ?, ?)", wreck.rows())
            self._copy(
                "refused (epoch, seq, topic, payload, created, reason) VALUES (?, ?, ?, ?, ?, ?)", wreck.refused()
            )
        except sqlite3.Error:  # of the new file: what of the old one cannot be read, the wreck leaves out
            whole = False
        finally:
            wreck.close()
        return whole

    def _copy(self, into: str, found: Iterator[tuple[object, ...]]) -> None:
        while batch := list(islice(found, BATCH)):
            with self._transaction():
                self._change(into.partition(" ")[0], f"INSERT OR IGNORE INTO {into}", batch)

    # -- rows ------------------------------------------------------------------------------------------------

    def stamp(self) -> tuple[str, int]:
        """The identity of the next row. A stamp that is never put leaves a hole in seq, which means nothing."""
        seq = self._next
        self._next += 1
        return self.epoch, seq

    def put(self, rows: Sequence[Row]) -> AgedOut:
        """Commit these rows in one transaction; on return they survive a power cut. See `commit`."""
        return self.commit(rows, ())

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Apply receipts: stored and duplicate rows go, refused ones are set aside, held ones stay."""
        self.commit((), outcomes)

    def commit(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> AgedOut:
        """Receipts and new rows in one transaction. Returns what aged out to make room.

        Raises sqlite3.Error when the disk refuses, OutboxFull when the budget does; then nothing has changed.
        """
        with self._transaction():
            self._apply(outcomes)
            self._insert(rows)
            aged = (
                self._make_room() if rows and self._max_bytes and self.used() > self._max_bytes else AgedOut.nothing()
            )
        self.commits += 1
        return aged

    def _change(self, table: str, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Also keeps count: to have SQLite count a long backlog is to read all of it."""
        changed = self._db.executemany(statement, rows).rowcount if rows else 0
        self._counts[table] += -changed if statement.startswith("DELETE") else changed

    def _insert(self, rows: Sequence[Row]) -> None:
        self._change("row", "INSERT INTO row (epoch, seq, topic, payload, created) VALUES (?, ?, ?, ?, ?)", rows)

    def _apply(self, outcomes: Sequence[Outcome]) -> None:
        gone = [(o.epoch, o.seq) for o in outcomes if o.outcome in ("stored", "duplicate")]
        refused = [(o.reason, o.epoch, o.seq) for o in outcomes if o.outcome == "refused"]
        self._change("row", "DELETE FROM row WHERE epoch = ? AND seq = ?", gone)
        self._change(
            "refused",
            "INSERT OR IGNORE INTO refused (epoch, seq, topic, payload, created, reason)"
            " SELECT epoch, seq, topic, payload, created, ? FROM row WHERE epoch = ? AND seq = ?",
            refused,
        )
        self._change("row", "DELETE FROM row WHERE epoch = ? AND seq = ?", [r[1:] for r in refused])

    def after(self, seq: int, limit: int) -> list[Row]:
        """Up to `limit` rows with a seq above `seq`, oldest first."""
        found = self._db.execute(
            "SELECT epoch, seq, topic, payload, created FROM row WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
        )
        return [Row(*values) for values in found]

    def counts(self) -> tuple[int, int]:
        """(rows waiting for a receipt, rows refused)."""
        return self._counts["row"], self._counts["refused"]

    def oldest(self) -> Instant | None:
        """When the row that has waited longest was made."""
        found = self._db.execute("SELECT created FROM row ORDER BY seq LIMIT 1").fetchone()
        return int(found[0]) if found else None

    def remember(self, key: str, value: str) -> None:
        """Keep one fact with the outbox (the pinned store)."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def recall(self, key: str) -> str:
        """The fact, or an empty string."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else ""

    # -- room ------------------------------------------------------------------------------------------------

    def used(self) -> int:
        """Bytes of the pages in use. The file may be larger: SQLite keeps the pages of deleted rows for new ones."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return (int(pages) - int(free)) * self._page

    def give_back(self) -> bool:
        """After a backlog, return its disk space to the system. Cheap: it waits until there is little to copy."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        if free * self._page < GIVE_BACK_BYTES or self.used() * 16 > free * self._page:
            return False
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return True

    def _make_room(self) -> AgedOut:
        goal = self._max_bytes - self._max_bytes // ROOM_PARTS
        aged = AgedOut.nothing()
        for where, gone in zip(_AGES_OUT, aged, strict=True):
            while (excess := self.used() - goal) > 0 and (rows := self._age_out(where, excess)):
                gone += rows
        self._insert(self.account(aged))
        if self.used() > self._max_bytes:
            raise OutboxFull(f"the budget of {self._max_bytes // 1_000_000} MB is used up by readings")
        return aged

    def _age_out(self, where: str, excess: int) -> list[Row]:
        """The oldest rows of a kind, no more than `excess` bytes ask for.

        seq only grows: below the last row taken there is none, and none is sought.
        """
        found = self._db.execute(
            f"SELECT rowid, epoch, seq, topic, payload, created FROM {where} AND rowid > ? ORDER BY rowid LIMIT ?",
            (self._above.get(where, 0), AGED_AT_A_TIME),
        ).fetchall()
        table = where.partition(" ")[0]
        sizes = accumulate(len(values[4]) for values in found)
        found = found[: 1 + sum(size < excess for size in sizes)]
        if found and table == "row":
            self._above[where] = found[-1][0]
        self._change(table, f"DELETE FROM {table} WHERE rowid = ?", [values[:1] for values in found])
        return [Row(*values[1:]) for values in found]

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; whatever goes wrong, no transaction stays open behind it."""
        self._db.execute("BEGIN IMMEDIATE")
        before = dict(self._counts)
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._counts, self._above = before, {}
            if self._db.in_transaction:  # a full disk makes SQLite roll back by itself
                self._db.execute("ROLLBACK")
            raise
