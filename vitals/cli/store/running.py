"""What the subcommands of `vitals store` do."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ingest.store import prune as pruning
from ingest.store.contract import StoreDown
from ingest.store.opening import open_checked, open_pruner, open_scan, refusals_path, whereabouts
from ingest.store.prune import MIN_AGE, PRUNED_KINDS, Pruner
from ingest.store.refusals import RefusalsReader
from ingest.store.scan import KINDS, Kind, Scan, Span
from ingest.store.verify import Report, verify
from vitals.cli.store import exporting, refused_list
from vitals.clock import Instant, SystemClock, from_datetime, from_wall, iso
from vitals.errors import SettingsError, VitalsError
from vitals.settings import Settings

K = TypeVar("K", bound=str)
_AGE: Final = re.compile(r"(\d{1,5})(d|w|y)")
_DAYS: Final = {"d": 1, "w": 7, "y": 365}


def run_export(
    settings: Settings, out: Path, form: exporting.Format, wanted: list[str], since: str, until: str, room: str, *,
    samples: bool,
) -> None:  # fmt: skip
    """Raises VitalsError, also when a row was not as it should be."""
    if samples and form == "line":
        raise _wrong("--samples", "csv or parquet", "--format line")
    span = Span()._replace(room=room)
    if since:
        span = span._replace(since=_moment("--since", since, settings))
    if until:
        span = span._replace(until=_moment("--until", until, settings))
    kinds = _kinds(KINDS, wanted)
    with _asked(settings), closing(open_scan(settings)) as scan, _bar() as bar:
        step = _steps(bar, scan, kinds, span)
        whole = not (wanted or since or until or room)
        done = exporting.export(scan, out, form, kinds, span, samples=samples, step=step, whole=whole)
    for name, count in done.lines.items():
        print(f"{out / name}: {count} lines")
    if done.bad:
        print("\n".join(done.problems))
        raise VitalsError(
            f"{done.bad} rows of the store are not as they should be.", expected="every row written out as it is",
            found=f"the first {len(done.problems)} of them are above", do="Run `vitals store verify`, and keep both.",
        )  # fmt: skip


def run_verify(settings: Settings) -> None:
    """Raises VitalsError when something is wrong."""
    with _asked(settings), closing(open_checked(settings)) as store, _bar() as bar:
        report = verify(store, _steps(bar, store, KINDS, Span()))
    _tell(report)
    _tell_refused(refusals_path(settings))
    if report.wrong:
        sorts = ", ".join(f"{count} x {sort}" for sort, count in report.counts.items() if report.first[sort][0].wrong)
        raise VitalsError(
            f"The store ({whereabouts(settings)}) is not in order.", expected="every row as it was stored", found=sorts,
            do="See above, under each sort.",
        )  # fmt: skip
    print(f"{whereabouts(settings)}: in order")


def run_prune(
    settings: Settings, older_than: str, wanted: list[str], *, dry_run: bool, yes: bool, unevaluated: bool
) -> None:
    """Raises VitalsError."""
    now = SystemClock().now()
    cutoff = now - _age(older_than)
    kinds = _kinds(PRUNED_KINDS, wanted)
    with _asked(settings), closing(open_pruner(settings)) as pruner:
        counts = {one: pruner.count(one, cutoff) for one in kinds}
        for one, count in counts.items():
            print(f"{one}: {count} rows before {iso(cutoff)}")
        if dry_run:
            return
        _insist_on_some(pruner, cutoff, now)
        if "observation" in kinds and not unevaluated:
            _insist_on_evaluations(pruner, cutoff)
        if not yes:
            typer.confirm("Delete them for good?", abort=True)
        with _bar() as bar:
            task = bar.add_task("prune", total=sum(counts.values()))
            pruning.run(pruner, cutoff, kinds, lambda rows: bar.advance(task, rows))
    print(f"{whereabouts(settings)}: pruned; rows before {iso(cutoff)} are refused from now on")


def _insist_on_some(pruner: Pruner, cutoff: Instant, now: Instant) -> None:
    """A clock that jumped ahead by years must not empty a store from cron. Rows of the future are no sign of life: a
    device whose clock runs ahead leaves some."""
    old, until_now = (sum(pruner.count(one, until) for one in PRUNED_KINDS) for until in (cutoff, now))
    if until_now and old == until_now:
        raise VitalsError(
            "Nothing in the store is younger than that.", expected=f"rows of {iso(cutoff)} or later",
            found=f"{old} rows, all older",
            do="Look at this machine's clock. To give up the whole store, stop ingest and delete it.",
        )  # fmt: skip


def _insist_on_evaluations(pruner: Pruner, cutoff: Instant) -> None:
    """What was never evaluated, nobody may have seen."""
    if count := pruner.unevaluated(cutoff):
        raise VitalsError(
            f"{count} readings before {iso(cutoff)} have no evaluation.", expected="an evaluation of every reading",
            found="nothing was deleted",
            do="See which with `vitals store verify`, and mend that; or delete them too, with --unevaluated.",
        )  # fmt: skip


def run_refused(settings: Settings, limit: int, *, as_json: bool) -> None:
    """Raises StoreError."""
    path = refusals_path(settings)
    if not path.exists():
        if not as_json:
            print("nothing was refused")
        return
    with closing(RefusalsReader(path)) as reader:
        for one in reader.newest(limit):
            print(refused_list.as_json(one) if as_json else refused_list.as_text(one))
        if not as_json:
            kept, total, dropped = reader.totals()
            print(f"{total} refused, {kept} different ones are kept, {dropped} went for want of room")


# -- arguments ---------------------------------------------------------------------------------------------------


def _wrong(option: str, expected: str, found: str) -> SettingsError:
    return SettingsError(f"{option} cannot be used so.", expected=expected, found=found, do="See --help.")


def _kinds(known: tuple[K, ...], wanted: list[str]) -> tuple[K, ...]:
    """Those that were named, or all."""
    strange = [word for word in wanted if word not in known]
    if strange:
        raise _wrong("--kind", "one of: " + ", ".join(map(str, known)), repr(strange[0]))
    return tuple(one for one in known if not wanted or one in wanted)


def _age(text: str) -> int:
    """Nanoseconds."""
    match = _AGE.fullmatch(text)
    age = int(match[1]) * _DAYS[match[2]] * pruning.DAY if match else 0
    if age < MIN_AGE:
        raise _wrong("--older-than", "at least 1d, such as 400d, 60w or 7y", repr(text))
    return age


def _moment(option: str, text: str, settings: Settings) -> Instant:
    """A date or time of ISO 8601; without a zone it is the clinic's."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong(option, "such as 2026-11-24 or 2026-11-24T08:30Z", repr(text)) from None
    zone = ZoneInfo(settings.site.timezone)
    return from_wall(moment, zone) if moment.tzinfo is None else from_datetime(moment)


# -- telling -----------------------------------------------------------------------------------------------------


@contextmanager
def _asked(settings: Settings) -> Iterator[None]:
    try:
        yield
    except StoreDown as down:
        raise VitalsError(
            f"The store ({whereabouts(settings)}) does not answer.", expected="a store that can be read to its end",
            found=down.reason, do="Mend it, and start the command again: nothing is left half done that matters.",
        ) from None  # fmt: skip
    except OSError as error:
        raise VitalsError(
            "A file cannot be written.", expected="a disk with room for the export", found=str(error),
            do="Make room, or name another folder.",
        ) from None  # fmt: skip


def _bar() -> Progress:
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    return Progress(*columns, console=Console(file=sys.stderr), transient=True)


def _steps(bar: Progress, scan: Scan, kinds: tuple[Kind, ...], span: Span) -> Callable[[Kind], None]:
    """A bar for each kind; its total is a count beforehand, so a store that grows may pass it."""
    tasks = {kind: bar.add_task(kind, total=scan.total(kind, span)) for kind in kinds}
    return lambda kind: bar.advance(tasks[kind])


def _tell(report: Report) -> None:
    print(", ".join(f"{count} {kind} rows" for kind, count in report.rows.items()))
    for sort, findings in report.first.items():
        print(f"{'WRONG' if findings[0].wrong else 'note'}: {sort} ({report.counts[sort]})")
        for finding in findings:
            print(f"  {finding.what}")
        print(f"  do: {findings[0].do}")


def _tell_refused(path: Path) -> None:
    if not path.exists():
        return
    with closing(RefusalsReader(path)) as reader:
        kept, total, dropped = reader.totals()
    if total:
        print(f"note: {total} messages were refused ({kept} kept, {dropped} dropped): see `vitals store refused`")
