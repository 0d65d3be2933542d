"""What ingest remembers of the rows it gave to InfluxDB: one SQLite file on ingest's own disk.

InfluxDB has no unique keys. For each reading the ledger holds the time under which it was first written, for ever: the
first time wins. For the other rows, whose times cannot change, it holds how far each lane is written, so that only a
row at or before that mark must be looked for. Nothing here is written after InfluxDB was: a row that was promised and
not written is written again to the same series and time, which changes nothing.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from ingest.store.contract import Floors, StripTail
from ingest.store.lock import own
from vitals.clock import Instant
from vitals.errors import StoreError

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x7669746C
"""`vitl` in the file's header."""
BUSY_S: Final = 5.0
RELEASED: Final = -1
"""In place of the time of a reading that was refused."""
FIND: Final = 500
"""Ids of one statement; every SQLite takes 999 variables."""
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE reading (
  id TEXT PRIMARY KEY, lane TEXT NOT NULL, ts INTEGER NOT NULL, t INTEGER NOT NULL, room TEXT NOT NULL,
  same TEXT NOT NULL, stored INTEGER NOT NULL, UNIQUE (lane, ts));
CREATE TABLE mark (lane TEXT PRIMARY KEY, ts INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tail (
  gateway TEXT, device TEXT, room TEXT NOT NULL, metric TEXT, stream TEXT NOT NULL, next_index INTEGER NOT NULL,
  t_end INTEGER NOT NULL, t0 INTEGER NOT NULL, PRIMARY KEY (gateway, device, metric)) WITHOUT ROWID;
"""
_PROMISE: Final = """
INSERT INTO reading VALUES (?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET lane = excluded.lane, ts = excluded.ts,
  t = excluded.t, room = excluded.room, same = excluded.same, stored = excluded.stored
"""


class Kept(NamedTuple):
    """A reading as it was first promised. Until it is `stored`, it may or may not be in the bucket."""

    lane: str
    ts: Instant
    t: Instant
    room: str
    same: str
    stored: bool


class Ledger:
    """Used by one thread at a time. Every method may raise sqlite3.Error."""

    def __init__(self, path: Path, *, alone: bool = True) -> None:
        """Open or create. Raises StoreError when the file is no ledger, or another process has it.

        `alone` false is for tools beside a running ingest: then the file must be there.
        """
        self.path = path
        if not alone and not path.exists():
            raise StoreError(
                f"There is no ledger {path}.", expected="the file that ingest writes", found="nothing",
                do="Start ingest once, or correct ingest.state.",
            )  # fmt: skip
        self._lock = own(path, "ingest.state") if alone else None
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            self._unlock()
            raise unusable(path, error) from None

    def close(self) -> None:
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """All or nothing. `durable`: survives a power cut; else only a crash, which is enough for what can be found
        out again by asking the bucket."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # -- which store this is -----------------------------------------------------------------------------------

    @property
    def store_id(self) -> str:
        """Empty until the bucket was first reached."""
        return str(self._meta("store_id", ""))

    @property
    def settled(self) -> bool:
        """The bucket is known to bear our id, and to hold nothing that is not in here."""
        return bool(self._meta("settled", 0))

    def adopt(self, store_id: str, *, settled: bool) -> None:
        self._set("store_id", store_id)
        self._set("settled", int(settled))

    def floors(self) -> Floors:
        """What the bucket was pruned to. Another process may have done it since the last look."""
        return Floors(*(int(str(self._meta(f"floor/{kind}", 0))) for kind in Floors._fields))

    def raise_floors(self, floors: Floors) -> None:
        """Never back: what went below one is not known any more."""
        for kind, floor in zip(Floors._fields, map(max, floors, self.floors()), strict=True):
            self._set(f"floor/{kind}", floor)

    def _meta(self, key: str, default: object) -> object:
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else default

    def _set(self, key: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # -- readings ------------------------------------------------------------------------------------------------

    def find(self, keys: Iterable[str]) -> dict[str, Kept]:
        """Those of them that are known."""
        found: dict[str, Kept] = {}
        for some in _some(keys):
            query = f"SELECT id, lane, ts, t, room, same, stored FROM reading WHERE id IN ({_marks(some)})"
            found |= {key: Kept(*kept) for key, *kept in self._db.execute(query, some)}
        return found

    def promise(self, key: str, kept: Kept) -> Kept:
        """Note a reading before it is written, in place of an earlier promise that was not kept.

        A time that another one of its lane has is moved on by 1 ns.
        """
        while True:
            try:
                self._db.execute(_PROMISE, (key, *kept))
            except sqlite3.IntegrityError:
                kept = kept._replace(ts=kept.ts + 1)
            else:
                return kept

    def promise_all(self, readings: Sequence[tuple[str, Kept]]) -> list[Kept]:
        """As `promise`, for each in order; in one statement where no time is taken, which is nearly always."""
        self._db.execute("SAVEPOINT promises")
        try:
            self._db.executemany(_PROMISE, [(key, *kept) for key, kept in readings])
        except sqlite3.IntegrityError:
            self._db.execute("ROLLBACK TO promises")
            return [self.promise(key, kept) for key, kept in readings]
        finally:
            self._db.execute("RELEASE promises")
        return [kept for _, kept in readings]

    def restore(self, readings: Iterable[tuple[str, Kept]]) -> None:
        """Note readings found in the bucket, oldest first."""
        rows = [(key, *kept) for key, kept in readings]
        self._db.executemany("INSERT OR IGNORE INTO reading VALUES (?,?,?,?,?,?,?)", rows)

    def keep(self, keys: Iterable[str]) -> None:
        """They are in the bucket."""
        for some in _some(keys):
            self._db.execute(f"UPDATE reading SET stored = 1 WHERE id IN ({_marks(some)})", some)

    def forget(self, keys: Iterable[str], *, before: Instant) -> None:
        """Readings from before that time are not known any more."""
        self._db.executemany("DELETE FROM reading WHERE id = ? AND t < ?", [(key, before) for key in keys])

    def forget_before(self, before: Instant) -> None:
        self._db.execute("DELETE FROM reading WHERE t < ?", (before,))

    def release(self, keys: Iterable[str]) -> None:
        """They were refused: the promise stays open and binds nobody, to no time."""
        self._db.executemany("UPDATE reading SET t = ? WHERE id = ? AND NOT stored", [(RELEASED, key) for key in keys])

    def recent_ids(self, limit: int) -> list[str]:
        query = "SELECT id FROM reading WHERE stored ORDER BY rowid DESC LIMIT ?"
        return [row[0] for row in reversed(self._db.execute(query, (limit,)).fetchall())]

    # -- compared with the bucket --------------------------------------------------------------------------------

    def begin_check(self) -> None:
        """From here on this connection sees the ledger as it is now. Never used for writing afterwards."""
        self._db.execute("CREATE TEMP TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def damage(self) -> list[str]:
        """What SQLite's own check says; empty when the file is sound."""
        found = [str(line) for (line,) in self._db.execute("PRAGMA integrity_check(20)")]
        return [] if found == ["ok"] else found

    def seen(self, keys: Iterable[str]) -> None:
        """They are in the bucket."""
        self._db.executemany("INSERT OR IGNORE INTO temp.seen VALUES (?)", [(key,) for key in keys])

    def unseen(self, since: Instant, limit: int) -> tuple[int, list[str]]:
        """How many readings of `since` or later were stored and not seen, and the first of them."""
        source = "FROM reading WHERE stored AND t >= ? AND id NOT IN (SELECT id FROM temp.seen)"
        (count,) = self._db.execute(f"SELECT count(*) {source}", (since,)).fetchone()
        return count, [row[0] for row in self._db.execute(f"SELECT id {source} ORDER BY t LIMIT ?", (since, limit))]

    # -- the other rows ------------------------------------------------------------------------------------------

    def mark(self, lane: str) -> Instant:
        """The newest time promised in the lane; -1 where nothing was."""
        found = self._db.execute("SELECT ts FROM mark WHERE lane = ?", (lane,)).fetchone()
        return int(found[0]) if found else -1

    def raise_marks(self, newest: Mapping[str, Instant]) -> None:
        """To these times, by lane; never back."""
        upsert = "INSERT INTO mark VALUES (?, ?) ON CONFLICT (lane) DO UPDATE SET ts = max(ts, excluded.ts)"
        self._db.executemany(upsert, list(newest.items()))

    def numbers(self, count: int) -> int:
        """The first of `count` numbers never given before: evaluations in the order of their coming."""
        first = int(str(self._meta("next_no", 1)))
        self._set("next_no", first + count)
        return first

    def skip_numbers(self, last: int) -> None:
        self._set("next_no", max(last + 1, int(str(self._meta("next_no", 1)))))

    def note_tail(self, tail: StripTail, t0: Instant) -> None:
        """The newest strip of a signal, by its beginning."""
        self._db.execute(
            "INSERT INTO tail VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET room = excluded.room,"
            " stream = excluded.stream, next_index = excluded.next_index, t_end = excluded.t_end, t0 = excluded.t0"
            " WHERE excluded.t0 >= t0",
            (*tail, t0),
        )

    def tails(self) -> list[StripTail]:
        rows = self._db.execute("SELECT gateway, device, room, metric, stream, next_index, t_end FROM tail")
        return [StripTail(*row) for row in rows]


def unusable(path: Path, error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"The ledger {path} cannot be used.",
        expected=f"a ledger of version {SCHEMA_VERSION}, or no file", found=str(error),
        do="Move the file away: ingest then makes it anew from what the bucket holds. Or correct ingest.state.",
    )  # fmt: skip


def _some(keys: Iterable[str]) -> Iterator[list[str]]:
    """As many as one statement takes."""
    rest = list(keys)
    for first in range(0, len(rest), FIND):
        yield rest[first : first + FIND]


def _marks(keys: Sequence[str]) -> str:
    return ",".join("?" * len(keys))


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _check(db)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    """Create an empty file's schema, or insist on ours. Raises sqlite3.DatabaseError."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if tables == 0 and version == 0 and application == 0:
        db.execute("PRAGMA journal_mode = WAL")
        # One transaction, so a kill in the middle leaves an empty file and not half a ledger.
        db.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    elif application != APPLICATION_ID:
        raise sqlite3.DatabaseError("a database of another kind")
    elif version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"a ledger of version {version}")
    db.execute("PRAGMA journal_mode = WAL")
