"""Files of an export. Each is written under a name that ends in `.part`, and takes its own when it is whole."""

import base64
import csv
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, Protocol

from vitals.cli.store.tables import CellKind, Cells, Table
from vitals.errors import VitalsError

GROUP: Final = 10_000
"""Lines of one row group of a Parquet file, which are in memory at once: about 20 MB."""
_FORMULA: Final = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")
"""What makes a spreadsheet take a text for a formula; the wide ones do so in some locales."""
_MARKS: Final = frozenset("\t\r\n'")


class Lines(Protocol):
    """A file under way."""

    def write(self, cells: Cells) -> None: ...

    def close(self) -> None: ...


def harmless(text: str) -> str:
    """A text that no spreadsheet runs: where it could, with an apostrophe before it, which is to be taken off again.

    One that begins with an apostrophe gets another, so that taking one off always gives the text.
    """
    return f"'{text}" if text[:1] in _MARKS or text.lstrip()[:1] in _FORMULA else text


class CsvLines:
    """UTF-8 with a byte order mark, without which Excel reads another alphabet."""

    def __init__(self, path: Path, table: Table) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8-sig", newline="")
        self._writer = csv.writer(self._file)
        self._kinds = [column.kind for column in table.columns]
        self._writer.writerow([column.name for column in table.columns])

    def write(self, cells: Cells) -> None:
        self._writer.writerow([_shown(kind, cell) for kind, cell in zip(self._kinds, cells, strict=True)])

    def close(self) -> None:
        self._file.close()


_CSV: Final[dict[CellKind, Callable[[Any], str]]] = {
    "text": harmless,
    "int": str,
    "float": lambda value: repr(float(value)),
    "bool": lambda value: "true" if value else "false",
    "bytes": lambda value: base64.b64encode(value).decode(),
}


def _shown(kind: CellKind, cell: Any) -> str:
    return "" if cell is None else _CSV[kind](cell)


class ParquetLines:
    """Columns with their types; zstd."""

    def __init__(self, path: Path, table: Table) -> None:
        """Raises VitalsError without pyarrow."""
        pa, pq = arrow()
        kinds = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
                 "bytes": pa.binary()}  # fmt: skip
        self._schema = pa.schema([(column.name, kinds[column.kind]) for column in table.columns])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._record_batch = pa.record_batch
        self._waiting: list[Cells] = []

    def write(self, cells: Cells) -> None:
        self._waiting.append(cells)
        if len(self._waiting) >= GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            columns = [list(column) for column in zip(*self._waiting, strict=True)]
            self._writer.write_batch(self._record_batch(columns, schema=self._schema))
            self._waiting = []


def arrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet part: 170 MB, which only who wants Parquet should have to install."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise VitalsError(
            "Parquet needs the optional part `parquet`.", expected="the package pyarrow", found=str(error),
            do="pip install 'exam-room-vitals[parquet]', or take --format csv.",
        ) from None  # fmt: skip
    return pyarrow, pyarrow.parquet
