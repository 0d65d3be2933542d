"""What the SQLite store adds to being verified: the file's own check."""

from collections.abc import Iterator
from pathlib import Path

from ingest.store.contract import EvaluationRow, Floors, Row
from ingest.store.scan import Found
from ingest.store.sqlite_scan import SqliteScan
from ingest.store.verify import BACKUP, Finding


class CheckedSqlite(SqliteScan):
    def __init__(self, path: Path) -> None:
        """Raises StoreError."""
        super().__init__(path)
        self.floors: Floors = self.read_floors()

    def before(self) -> Iterator[Finding]:
        for line in self.damage():
            yield Finding("damaged file", line, BACKUP)

    def row(self, row: Row, found: Found) -> Iterator[Finding]:
        yield from ()  # the keys of the tables keep doubles out

    def has_reading(self, row: EvaluationRow) -> bool:
        return self.room_and_time(row.message.id) == (row.room, row.message.t)

    def after(self) -> Iterator[Finding]:
        yield from ()
