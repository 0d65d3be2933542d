"""What `bench.latency` prints, and the place of a page where it keeps it. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.figures import Row, table

BEGIN: Final = "<!-- figures of bench.latency: written by the command, not by hand -->"
END: Final = "<!-- end of the figures of bench.latency -->"


class Measured(NamedTuple):
    """One configuration. `notes` are facts of its run; without rows they say why there are none."""

    name: str
    rows: Sequence[Row]
    notes: Sequence[str]


def part(measured: Measured) -> list[str]:
    """Markdown of one configuration."""
    lines = ["", f"**{measured.name}**, ms", ""]
    if measured.rows:
        lines += [*table(measured.rows), ""]
    return lines + [f"- {note}" for note in measured.notes]


def replaced(page: str, lines: Sequence[str], begin: str = BEGIN, end: str = END) -> str:
    """The page with `lines` between its markers. Raises ValueError when it does not have both, once, in order."""
    head, begun, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not (begun and ended) or begin in rest or end in head + tail:
        raise ValueError(f"no place for the figures: expected one line {begin!r} and after it one line {end!r}")
    return "\n".join([head + begin, *lines, end]) + tail
