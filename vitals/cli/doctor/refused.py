"""What ingest refused for good: it lies in a file beside the store, and nobody else asks for it."""

from collections.abc import Iterator
from contextlib import closing
from typing import Final

from ingest.store.opening import refusals_path
from ingest.store.refusals import RefusalsReader, Refused
from vitals import settings as conf
from vitals.cli.doctor.finding import Finding, fault, ok, warning
from vitals.clock import iso
from vitals.errors import StoreError

MAX_REASONS: Final = 5
LOOKED_AT: Final = 100
"""The newest ones, whose reasons are named: a payload is up to 64 kB, and all are in `vitals store refused`."""
_CHECK: Final = "refused messages"


def checks(settings: conf.Settings) -> Iterator[Finding]:
    path = refusals_path(settings)
    if not path.exists():
        yield ok(_CHECK, "none")
        return
    try:
        with closing(RefusalsReader(path)) as reader:
            kept, total, dropped = reader.totals()
            newest = list(reader.newest(LOOKED_AT))
    except StoreError as error:
        yield fault(_CHECK, f"{error.problem} {error.found}", expected=error.expected, do=error.do)
        return
    if not total:
        yield ok(_CHECK, "none")
        return
    gone = f", of which {dropped} went for want of room" if dropped else ""
    last = f"the last at {iso(newest[-1].last)}: {_reasons(newest)}" if newest else "none of them kept"
    yield warning(
        _CHECK, f"{total} ({kept} different ones kept{gone}), which were not stored; {last}", expected="none",
        do="Look at them with `vitals store refused`, and mend the sender. When all were dealt with, stop ingest and"
        f" move {path} away.",
    )  # fmt: skip


def _reasons(newest: list[Refused]) -> str:
    """The kinds of the reasons, newest first: the details are senders' words."""
    kinds = dict.fromkeys(one.reason.partition(":")[0] for one in reversed(newest))
    more = ", ..." if len(kinds) > MAX_REASONS else ""
    return ", ".join(list(kinds)[:MAX_REASONS]) + more
