"""What can still be read of a damaged outbox: row by row, around the pages that SQLite cannot read.

SQLite notices a page that is no page, a file that is too short and a text that is no text. It keeps no checksum of a
payload, so a row counts only when its payload decodes and names the same epoch and seq as its columns do.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from vitals.clock import Instant, to_datetime
from vitals.messages import NewerVersion, decode_events, decode_observations, decode_strips

NEAR: Final = 256
"""Rows are looked for one by one this far: more than one page of 4096 bytes can hold. Then the steps double."""
FARTHEST: Final = 1 << 40
PAGE: Final = 4096
"""SQLite's default since 2016."""
MAX_IN_MEMORY: Final = 256_000_000
"""A larger file whose first page is lost is left to a person: it would be read into the gateway's memory."""
_DECODE: Final[dict[str, Any]] = {"obs": decode_observations, "strip": decode_strips, "event": decode_events}
_COMPANIONS: Final = ("-wal", "-shm", "")
"""SQLite finds a log by the name of its file: all are renamed, the file itself last."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken; a full disk or a busy file is not."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def set_aside(path: Path, now: Instant) -> Path:
    """Rename the file and its log, or what there is of them, for a person to look at.

    Returns the new path. Raises OSError.
    """
    name = f"{path.name}.damaged-{to_datetime(now):%Y%m%dT%H%M%SZ}"
    aside = path.with_name(name)
    again = 1
    while aside.exists():
        again += 1
        aside = path.with_name(f"{name}-{again}")
    for companion in _COMPANIONS:
        old = Path(f"{path}{companion}")
        if old.exists():
            old.rename(f"{aside}{companion}")
    return aside


class Wreck:
    """A damaged outbox, opened for reading only.

    `schema` made it. Every outbox begins with the same page, so one whose first page is lost is read with another's.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        # Else SQLite reads nothing at all of a file that is shorter than its header says.
        self._db.execute("PRAGMA writable_schema = ON")
        try:
            self._db.execute("SELECT count(*) FROM row WHERE seq < 0").fetchone()
        except sqlite3.DatabaseError:
            if path.stat().st_size <= MAX_IN_MEMORY:
                self._db.close()
                self._db = _with_new_head(path, schema)

    def rows(self) -> Iterator[tuple[str, int, str, bytes, int]]:
        """(epoch, seq, topic, payload, created) of each sound row."""
        for row in self._walk("row", "epoch, seq, topic, payload, created"):
            if _sound(*row):
                yield row

    def refused(self) -> Iterator[tuple[str, int, str, bytes, int, str]]:
        """The same with the reason, from the table of refused rows."""
        for row in self._walk("refused", "epoch, seq, topic, payload, created, reason"):
            if isinstance(row[5], str) and _sound(*row[:5]):
                yield row

    def facts(self) -> list[tuple[str, str]]:
        """What the outbox had been told to remember, as far as it can be read."""
        try:
            found = self._db.execute("SELECT key, value FROM meta").fetchall()
        except sqlite3.DatabaseError:
            return []
        return [(key, value) for key, value in found if isinstance(key, str) and isinstance(value, str)]

    def close(self) -> None:
        self._db.close()
        Path(f"{self._path}-shm").unlink(missing_ok=True)  # SQLite's, and of no use without a reader
        log = Path(f"{self._path}-wal")
        if log.exists() and log.stat().st_size == 0:
            log.unlink()

    def _walk(self, table: str, columns: str) -> Iterator[Any]:
        """Rows in the order of their row ids; where one cannot be read, on behind it."""
        select = f"SELECT rowid, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid"
        at: int | None = 0
        while at is not None:
            try:
                for rowid, *values in self._db.execute(select, (at,)):
                    if rowid <= at:  # a broken tree can lead in a circle
                        raise sqlite3.DatabaseError("rows out of order")
                    at = rowid
                    yield tuple(values)
                return
            except sqlite3.DatabaseError:
                at = self._behind(select, at)

    def _behind(self, select: str, at: int) -> int | None:
        """The least row id from which reading goes on, None when there is none."""

        def reads(step: int) -> bool:
            try:
                self._db.execute(f"{select} LIMIT 1", (at + step,)).fetchone()
            except sqlite3.DatabaseError:
                return False
            return True

        bad, step = 0, 1
        while not reads(step):
            bad, step = step, step + 1 if step < NEAR else 2 * step
            if step > FARTHEST:
                return None
        while step - bad > 1:
            middle = (bad + step) // 2
            bad, step = (bad, middle) if reads(middle) else (middle, step)
        return at + step


def _with_new_head(path: Path, schema: str) -> sqlite3.Connection:
    with closing(sqlite3.connect(":memory:")) as pristine:
        pristine.executescript(schema)
        head = bytearray(pristine.serialize()[:PAGE])
    head[28:32] = bytes(4)  # size in pages: 0 means that of the file
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("PRAGMA writable_schema = ON")
    whole = path.read_bytes()
    db.deserialize(bytes(head) + whole[PAGE : len(whole) // PAGE * PAGE])
    return db


def _sound(epoch: object, seq: object, topic: object, payload: object, created: object) -> bool:
    if not (isinstance(topic, str) and isinstance(payload, bytes) and isinstance(created, int)):
        return False
    decode = _DECODE.get(topic.rpartition("/")[2])
    try:
        messages = decode(payload) if decode else []
    except NewerVersion as newer:  # put by a newer gateway: its rows are kept as they are
        return newer.rows == [(epoch, seq)]
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        return False
    return [(message.epoch, message.seq) for message in messages] == [(epoch, seq)]
