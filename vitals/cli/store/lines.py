"""Rows as line protocol, in the schema of docs/store.md: another InfluxDB that takes them is then the same store."""

import sqlite3
from pathlib import Path
from typing import IO, Final

from ingest.store.contract import EvaluationRow, Floors
from ingest.store.points import Draft, draft, floors_line, store_line
from ingest.store.scan import Found

STORE_FILE: Final = "store.line"


class PointLines:
    """A file of points. Raises ValueError for a row that no point can hold."""

    def __init__(self, path: Path, used: "UsedTimes") -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="\n")
        self._used = used

    def write(self, found: Found) -> int:
        """The points a row comes to. An evaluation is the last of its own, as in the store."""
        if found.row is None:
            return 0
        one = draft(found.row)
        at = self._used.free(one) if found.at is None else found.at
        number = f",no={found.no}i" if isinstance(found.row, EvaluationRow) else ""
        lines = [f"{line}{number} {at}\n" for line in (*one.values, one.line)]
        self._file.writelines(lines)
        return len(lines)

    def close(self) -> None:
        self._file.close()


class UsedTimes:
    """Which times a series has already: InfluxDB would merge two rows of one. Kept on disk, not in memory."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file that SQLite deletes
        self._db.execute("CREATE TABLE used (lane TEXT, ts INTEGER, PRIMARY KEY (lane, ts)) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def free(self, one: Draft) -> int:
        """The wished time, or the next one that is not taken."""
        time = one.wished
        while self._db.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (one.lane, time)).rowcount == 0:
            time += 1
        return time

    def close(self) -> None:
        self._db.close()


def write_name(path: Path, store_id: str, floors: Floors) -> None:
    """The point that names the store: gateways have pinned it, and go on sending to the copy. With it what the store
    was pruned to, so that nothing comes back there either."""
    path.write_text(f"{store_line(store_id)}\n{floors_line(floors)}\n", encoding="utf-8")
