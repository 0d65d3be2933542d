"""Pruning the SQLite store. Its file does not shrink: the pages are used again."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from ingest.store.contract import Floors, StoreDown
from ingest.store.prune import STEP, PrunedKind, Step, comes_again
from ingest.store.scan import Span
from ingest.store.sqlite import PRUNED, open_for_tools, read_floors
from ingest.store.sqlite_scan import UNEVALUATED
from vitals.clock import Instant

PAUSE_S: Final = 0.02
"""Between two transactions: an ingest that waits for the file must get its turn."""


class _Time(msgspec.Struct):
    t: Instant


_TIME: Final = msgspec.json.Decoder(_Time)


class SqlitePruner:
    """Takes no lock of ingest's: only the file's own, for a moment each time."""

    def __init__(self, path: Path, *, pause: Callable[[], None] = lambda: time.sleep(PAUSE_S)) -> None:
        """Raises StoreError."""
        self._db, _ = open_for_tools(path, writing=True)
        self._db.execute("PRAGMA synchronous = FULL")
        self._pause = pause

    def close(self) -> None:
        self._db.close()

    def count(self, kind: PrunedKind, cutoff: Instant) -> int:
        sources = {"observation": f"observation WHERE NOT {PRUNED} AND t < ?", "strip": "strip WHERE t0 < ?",
                   "event": "event WHERE at < ?"}  # fmt: skip
        with _down():
            (count,) = self._db.execute(f"SELECT count(*) FROM {sources[kind]}", (cutoff,)).fetchone()
        return int(count)

    def unevaluated(self, cutoff: Instant) -> int:
        with _down():
            span = {"since": read_floors(self._db).observation, "until": cutoff}
            (count,) = self._db.execute(f"SELECT count(*) FROM {UNEVALUATED}", span).fetchone()
        return int(count)

    def raise_floors(self, floors: Floors) -> None:
        with self._transaction():
            raised = map(max, floors, read_floors(self._db))
            rows = [(f"floor/{kind}", str(floor)) for kind, floor in zip(Floors._fields, raised, strict=True)]
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def remove(self, kind: PrunedKind, cutoff: Instant, step: Step) -> None:
        if kind == "observation":
            self._values(cutoff)
            self._evaluations(cutoff)
            self._observations(cutoff, step)
            return
        column = {"strip": "t0", "event": "at"}[kind]
        self._each(
            f"SELECT rowid FROM {kind} WHERE rowid > ? AND {column} < {int(cutoff)} ORDER BY rowid LIMIT {STEP}",
            lambda rows: self._db.executemany(f"DELETE FROM {kind} WHERE rowid = ?", rows), step,
        )  # fmt: skip

    def forget(self, before: Instant) -> None:
        self._each(
            f"SELECT rowid FROM observation WHERE rowid > ? AND t < {int(before)} AND {PRUNED} ORDER BY rowid"
            f" LIMIT {STEP}",
            lambda rows: self._db.executemany("DELETE FROM observation WHERE rowid = ?", rows), lambda done: None,
        )  # fmt: skip

    def _observations(self, cutoff: Instant, step: Step) -> None:
        self._each(
            f"SELECT rowid, message FROM observation WHERE rowid > ? AND t < {int(cutoff)} AND NOT {PRUNED}"
            f" ORDER BY rowid LIMIT {STEP}",
            self._reduce, step,
        )  # fmt: skip

    def _reduce(self, rows: list[tuple[Any, ...]]) -> None:
        """Only what a device may hand over again leaves its identity; nothing of what was measured stays."""
        kept = {rowid for rowid, message in rows if comes_again(message)}
        self._db.executemany("UPDATE observation SET message = x'' WHERE rowid = ?", [(rowid,) for rowid in kept])
        gone = [(rowid,) for rowid, _ in rows if rowid not in kept]
        self._db.executemany("DELETE FROM observation WHERE rowid = ?", gone)

    def _evaluations(self, cutoff: Instant) -> None:
        """All are looked at: the time of one is that of its reading; of a heart rate it is in the message only."""

        def old(rows: list[tuple[Any, ...]]) -> None:
            gone = [(no,) for no, t, message in rows if (_time_of(message) if t is None else t) < cutoff]
            self._db.executemany("DELETE FROM evaluation WHERE no = ?", gone)

        query = (
            "SELECT e.no, o.t, e.message FROM evaluation e LEFT JOIN observation o ON o.id = e.id WHERE e.no > ?"
            f" ORDER BY e.no LIMIT {STEP}"
        )
        self._each(query, old, lambda done: None)

    def _values(self, cutoff: Instant) -> None:
        with _down():
            series = self._db.execute("SELECT DISTINCT room, metric, historical FROM value").fetchall()
        where = "room = ? AND metric = ? AND historical = ? AND t < ?"
        for one in series:
            while True:
                with self._transaction():
                    query = f"SELECT max(t) FROM (SELECT t FROM value WHERE {where} ORDER BY t LIMIT {STEP})"
                    (last,) = self._db.execute(query, (*one, cutoff)).fetchone()
                    if last is not None:
                        self._db.execute(f"DELETE FROM value WHERE {where}", (*one, last + 1))
                if last is None:
                    break
                self._pause()

    def _each(self, query: str, change: Callable[[list[tuple[Any, ...]]], object], step: Step) -> None:
        """In transactions of `STEP` rows, by the row's number."""
        last = -1
        while True:
            with self._transaction():
                rows = self._db.execute(query, (last,)).fetchall()
                change(rows)
            if not rows:
                return
            last = rows[-1][0]
            step(len(rows))
            self._pause()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _down():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _down() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreDown(f"the store's file cannot be pruned: {error}") from None


def _time_of(message: bytes) -> Instant:
    """Of what cannot be read any more nobody knows that it is old: it stays, and `verify` goes on saying so."""
    try:
        return _TIME.decode(message).t
    except msgspec.MsgspecError:
        return Span().until
