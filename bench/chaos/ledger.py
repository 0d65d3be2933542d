"""What an outbox ever committed, kept by a trigger inside its file: by SQLite, not by any code under test.

The trigger's insert is part of the outbox's own transaction, so a row is in both tables or in neither. What was
harvested is forgotten there after a while, so that the file shows whether the outbox itself grows.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, cast

from bench.chaos.verify import Committed, Key, Leaf

KEPT: Final = 5_000
"""Rows the trigger keeps: some minutes of a gateway, and a harvest comes twice a second."""
_TRIGGER: Final = f"""
CREATE TABLE chaos_ledger (no INTEGER PRIMARY KEY, epoch TEXT, seq INTEGER, topic TEXT, payload BLOB);
CREATE TRIGGER chaos_keep AFTER INSERT ON row BEGIN
  INSERT INTO chaos_ledger (epoch, seq, topic, payload) VALUES (new.epoch, new.seq, new.topic, new.payload);
  DELETE FROM chaos_ledger WHERE no <= (SELECT max(no) FROM chaos_ledger) - {KEPT};
END;
"""
_WAITING: Final = "SELECT epoch, seq FROM row"


class Ledger:
    """Of one gateway's outbox. `rows` grows by `harvest`; every method is one thread's at a time."""

    def __init__(self, outbox: Path, backups: Path) -> None:
        """The outbox file exists, and no gateway uses it yet."""
        self._outbox = outbox
        self._backups = backups
        self.older = backups / "older.db"
        """The backup before the newest one: what is restored."""
        self.rows: dict[tuple[str, int], Committed] = {}
        self.forgone: set[Key] = set()
        self.wrong: list[str] = []
        """An identity given to two rows; rows that were forgotten before they were harvested."""
        self.head = 0
        """Number of the newest row harvested."""
        with closing(sqlite3.connect(outbox)) as db:
            db.executescript(_TRIGGER)

    def harvest(self) -> int:
        """Take over what was committed since, and return how many rows wait for a receipt. Raises sqlite3.Error."""
        with closing(_open(self._outbox)) as db:
            found = db.execute(
                "SELECT no, epoch, seq, topic, payload FROM chaos_ledger WHERE no > ? ORDER BY no", (self.head,)
            )
            for no, epoch, seq, topic, payload in found:
                row = _committed(topic, payload)
                if self.rows.setdefault((epoch, seq), row) != row:
                    self.wrong.append(f"{row.gateway}: epoch {epoch}, seq {seq} was given to two rows")
                if no != self.head + 1:
                    self.wrong.append(f"{row.gateway}: rows {self.head + 1} to {no - 1} of the ledger were not seen")
                self.head = no
            (waiting,) = db.execute("SELECT count(*) FROM row").fetchone()
        return int(waiting)

    def delivered_after(self, head: int) -> bool:
        """Whether a row committed after `head` has had its receipt."""
        statement = (
            "SELECT 1 FROM chaos_ledger l WHERE no > ? AND NOT EXISTS"
            " (SELECT 1 FROM row r WHERE r.seq = l.seq AND r.epoch = l.epoch) LIMIT 1"
        )
        with closing(_open(self._outbox)) as db:
            return db.execute(statement, (head,)).fetchone() is not None

    def waiting(self) -> list[tuple[str, int]]:
        """(epoch, seq) of the rows without a receipt."""
        with closing(_open(self._outbox)) as db:
            return cast(list[tuple[str, int]], db.execute(_WAITING).fetchall())

    def refused(self) -> list[tuple[str, int]]:
        """(reason, how often) of the rows that ingest refused for good."""
        with closing(_open(self._outbox)) as db:
            return cast(
                list[tuple[str, int]], db.execute("SELECT reason, count(*) FROM refused GROUP BY reason").fetchall()
            )

    def back_up(self) -> None:
        """A consistent copy while the gateway runs; the one before is kept, and that one is restored."""
        newest = self._backups / "newest.db"
        if newest.exists():
            newest.replace(self.older)
        with closing(_open(self._outbox)) as db, closing(sqlite3.connect(newest)) as copy:
            db.backup(copy)

    def restore(self) -> bool:
        """Put the older backup in the place of the outbox, whose gateway is stopped. False: there is none, or no room.

        Rows without a receipt that the backup does not have are given up by whoever restores it, not by the outbox.
        """
        older = self.older
        if not older.exists():
            return False
        copy = self._outbox.with_name("restoring")
        try:
            shutil.copyfile(older, copy)
            self.harvest()
            with closing(_open(older)) as db:
                kept = {tuple(row) for row in db.execute(_WAITING)}
                (head,) = db.execute("SELECT coalesce(max(no), 0) FROM chaos_ledger").fetchone()
            taken = {(self._gateway(), *row) for row in self.waiting() if row not in kept}
        except (OSError, sqlite3.Error):  # a full disk takes no copy: the outbox stays as it is
            copy.unlink(missing_ok=True)
            return False
        for ending in ("-wal", "-shm"):
            Path(f"{self._outbox}{ending}").unlink(missing_ok=True)
        copy.replace(self._outbox)
        self.forgone |= taken
        self.head = head
        return True

    def _gateway(self) -> str:
        return next(iter(self.rows.values())).gateway


def _open(path: Path) -> sqlite3.Connection:
    """Able to write, since the first reader after a kill has to recover the file, and never writing a row."""
    db = sqlite3.connect(path, timeout=10)
    db.execute("PRAGMA query_only = ON")
    return db


def _committed(topic: str, payload: bytes) -> Committed:
    gateway, room, device, leaf = topic.split("/")[-4:]
    return Committed(gateway, room, device, cast(Leaf, leaf), payload)
