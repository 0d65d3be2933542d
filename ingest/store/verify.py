"""Whether a store holds what it says: every row decoded, compared with the columns beside it and with its digest."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from ingest.store.contract import EvaluationRow, Floors, Row
from ingest.store.scan import KINDS, Found, Kind, Pack, Scan, Span
from vitals.clock import Instant

MAX_LINES: Final = 20
"""Of one sort of finding that are written out; all are counted."""
BACKUP: Final = "Restore the store from a backup. What is sound can be saved before with `vitals store export`."

UNEVALUATED: Final = (
    "If the store was down a moment ago, let ingest catch up and verify again. Else what the rules said was lost or"
    " refused: look into `vitals store refused`, or restore from a backup."
)


class Finding(NamedTuple):
    """Something that is wrong, or (`wrong` false) that one should know. `do` is the same for all of a sort."""

    sort: str
    what: str
    do: str
    wrong: bool = True


class Checked(Scan, Protocol):
    """A scan that also knows how its store keeps itself."""

    @property
    def floors(self) -> Floors: ...

    def before(self) -> Iterator[Finding]:
        """Found without reading the rows."""
        ...

    def row(self, row: Row, found: Found) -> Iterator[Finding]:
        """What is wrong with how this row is known, or where it stands."""
        ...

    def has_reading(self, row: EvaluationRow) -> bool:
        """Whether the reading of an evaluation is there, at its time and in its room."""
        ...

    def unevaluated(self, since: Instant) -> Iterator[str]:
        """Ids of the readings of `since` or later that have no evaluation."""
        ...

    def after(self) -> Iterator[Finding]:
        """Found when all rows were seen."""
        ...


class Report:
    """`rows` by kind; findings of each sort, the first `MAX_LINES` of them in words."""

    def __init__(self) -> None:
        self.rows: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[Finding]] = {}
        self.wrong = 0

    def add(self, finding: Finding) -> None:
        self.counts[finding.sort] = self.counts.get(finding.sort, 0) + 1
        lines = self.first.setdefault(finding.sort, [])
        if len(lines) < MAX_LINES:
            lines.append(finding)
        self.wrong += finding.wrong


def verify(store: Checked, step: Callable[[Kind], None]) -> Report:
    """Read everything. `step` is called for each row. Raises StoreDown."""
    report = Report()
    for finding in store.before():
        report.add(finding)
    for kind in KINDS:
        floor = _floor(store.floors, kind)
        for found in store.rows(kind, Span(since=floor)):
            report.rows[kind] += 1
            step(kind)
            for finding in _row(store, found):
                report.add(finding)
        # Evaluations go before their readings, and have no time of their own to be counted by.
        if floor and kind != "evaluation" and (left := store.total(kind, Span(until=floor))):
            report.add(
                Finding("left by a pruning", f"{left} rows of kind {kind}", "Run the same prune again.", wrong=False)
            )
    for key in store.unevaluated(store.floors.observation):
        report.add(Finding("reading without an evaluation", f"observation {key}", UNEVALUATED))
    for finding in store.after():
        report.add(finding)
    for finding in gaps(store.packs()):
        report.add(finding)
    return report


def _floor(floors: Floors, kind: Kind) -> int:
    return floors.observation if kind == "evaluation" else int(getattr(floors, kind))


def _row(store: Checked, found: Found) -> Iterator[Finding]:
    if found.problem:
        yield Finding("row that is not as it was stored", f"{found.where}: {found.problem}", BACKUP)
    row = found.row
    if row is not None:
        yield from store.row(row, found)
    if isinstance(row, EvaluationRow) and not row.message.derived and not store.has_reading(row):
        yield Finding(
            "evaluation without its reading", found.where,
            "Somebody deleted or changed readings: restore from a backup, or prune what should go.",
        )  # fmt: skip


def gaps(packs: Iterator[Pack]) -> Iterator[Finding]:
    """Samples missing within a stream, by signal; and packs that hold the same samples twice."""
    newest: dict[str, tuple[str, int]] = {}
    missing: dict[str, tuple[int, int]] = {}
    for pack in packs:
        stream, stop = newest.get(pack.signal, ("", 0))
        if stream == pack.stream and pack.first > stop:
            count, samples = missing.get(pack.signal, (0, 0))
            missing[pack.signal] = (count + 1, samples + pack.first - stop)
        elif stream == pack.stream and pack.first < stop:
            yield Finding(
                "strips that overlap", f"{pack.signal}, stream {pack.stream}: index {pack.first} after {stop}",
                "Two packs claim the same samples: a fault of the gateway. Report it, with the export of that room.",
            )  # fmt: skip
        newest[pack.signal] = (pack.stream, max(stop, pack.stop) if stream == pack.stream else pack.stop)
    for signal, (count, samples) in sorted(missing.items()):
        yield Finding(
            "gaps in a signal", f"{signal}: {count} gaps, {samples} samples never came",
            "Nothing: lost samples are a gap, and are reported when they are missed.", wrong=False,
        )  # fmt: skip
