"""A store written out, row by row, into a folder of files."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ingest.store.scan import Found, Kind, Scan, Span
from vitals.cli.store import lines
from vitals.cli.store.formats import CsvLines, Lines, ParquetLines, arrow
from vitals.cli.store.tables import cells, table
from vitals.errors import VitalsError

Format: TypeAlias = Literal["csv", "parquet", "line"]
PART: Final = ".part"
MAX_SHOWN: Final = 20
"""Rows that could not be written out and are named; all are counted."""
_FILES: Final[dict[str, type[CsvLines] | type[ParquetLines]]] = {"csv": CsvLines, "parquet": ParquetLines}


class Exported:
    """`lines` by file. `problems`: rows left out, or written though they are not as they were stored."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.problems: list[str] = []
        self.bad = 0

    def add_problem(self, what: str) -> None:
        self.bad += 1
        if len(self.problems) < MAX_SHOWN:
            self.problems.append(what)


def new_folder(out: Path) -> None:
    """Raises VitalsError when it has something in it: an export never mixes with another."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        taken = next(out.iterdir(), None)
    except OSError as error:
        raise VitalsError(
            f"{out} cannot be used for an export.", expected="a folder we may write", found=str(error),
            do="Name another folder.",
        ) from None  # fmt: skip
    if taken is not None:
        raise VitalsError(
            f"{out} is not empty.", expected="a new or empty folder", found=taken.name,
            do="Name another folder, or empty this one.",
        )  # fmt: skip


def export(
    scan: Scan, out: Path, form: Format, kinds: tuple[Kind, ...], span: Span, *, samples: bool,
    step: Callable[[Kind], None], whole: bool,
) -> Exported:  # fmt: skip
    """Write the rows of `span`. `whole`: nothing was left out by choice. Raises StoreDown, VitalsError or OSError."""
    if form == "parquet":
        arrow()
    new_folder(out)
    done = Exported()
    with closing(lines.UsedTimes()) as used:
        for kind in kinds:
            if form == "line":
                _points(scan, out, kind, span, used, step, done)
            else:
                _table(scan, out, form, kind, span, samples=samples, step=step, done=done)
    if form == "line" and whole:
        lines.write_name(out / lines.STORE_FILE, scan.store_id, scan.read_floors())
    return done


def _table(
    scan: Scan, out: Path, form: Format, kind: Kind, span: Span, *, samples: bool, step: Callable[[Kind], None],
    done: Exported,
) -> None:  # fmt: skip
    made = table(kind, samples=samples)
    path = out / f"{made.name}.{form}"
    part = Path(f"{path}{PART}")
    count = 0
    with closing(_open(part, form, kind, samples=samples)) as file:
        for found in scan.rows(kind, span):
            step(kind)
            if found.problem:
                done.add_problem(f"{found.where}: {found.problem}")
            if found.row is None:
                continue
            for line in cells(found.row, found.no, samples=samples):
                file.write(line)
                count += 1
    part.rename(path)
    done.lines[path.name] = count


def _open(path: Path, form: Format, kind: Kind, *, samples: bool) -> Lines:
    return _FILES[form](path, table(kind, samples=samples))


def _points(
    scan: Scan, out: Path, kind: Kind, span: Span, used: lines.UsedTimes, step: Callable[[Kind], None], done: Exported
) -> None:
    path = out / f"{kind}.line"
    part = Path(f"{path}{PART}")
    count = 0
    with closing(lines.PointLines(part, used)) as file:
        for found in scan.rows(kind, span):
            step(kind)
            count += _point(file, found, done)
    part.rename(path)
    done.lines[path.name] = count


def _point(file: lines.PointLines, found: Found, done: Exported) -> int:
    if found.problem:
        done.add_problem(f"{found.where}: {found.problem}")
    try:
        return file.write(found)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
        done.add_problem(f"{found.where}: no point can hold it: {error}")
        return 0
