"""From marks and what was seen of them to a table. Pure."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, NamedTuple

WITHIN_NS: Final = 3_500_000_000
"""A value comes again after 4 s: what has not been seen by then is lost."""


class Seen(NamedTuple):
    """`what` names a mark (room and value, say); `at` is monotonic ns."""

    what: Hashable
    at: int


class Row(NamedTuple):
    """One line of the table. `delays_ms` is sorted; `lost` of `sent` were never seen. `bar_ms` is for its p99."""

    label: str
    delays_ms: list[float]
    sent: int
    bar_ms: int | None = None

    @property
    def lost(self) -> int:
        return self.sent - len(self.delays_ms)

    def percentile(self, share: float) -> float:
        """The least delay that `share` of all that was sent kept to; what was lost kept to none."""
        rank = max(1, math.ceil(share * self.sent))
        return self.delays_ms[rank - 1] if rank <= len(self.delays_ms) else math.inf

    @property
    def verdict(self) -> str:
        """`150: met`, `150: not met`, or nothing where there is no bar."""
        if self.bar_ms is None:
            return ""
        return f"{self.bar_ms}: {'met' if self.percentile(0.99) <= self.bar_ms else 'not met'}"


def match(label: str, sent: Sequence[Seen], seen: Iterable[Seen], bar_ms: int | None = None) -> Row:
    """The delay from each of `sent` to the first sight of the same thing after it, each sight counted once."""
    sights: dict[Hashable, list[int]] = defaultdict(list)
    for what, at in sorted(seen, key=lambda one: one.at):
        sights[what].append(at)
    delays = []
    for what, at in sorted(sent, key=lambda one: one.at):
        waiting = sights[what]
        while waiting and waiting[0] < at:
            waiting.pop(0)
        if waiting and waiting[0] - at <= WITHIN_NS:
            delays.append((waiting.pop(0) - at) / 1e6)
    return Row(label, sorted(delays), len(sent), bar_ms)


def level(height: float, tallest: float, levels: Sequence[int]) -> int:
    """Which of the levels a spike `height` pixels tall shows, when the tallest of them measures `tallest`."""
    return min(levels, key=lambda one: abs(one / levels[-1] - height / tallest))


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table; ms."""
    lines = ["| from the byte until | p50 | p90 | p99 | max | n | lost | bar |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row.percentile(share):.0f}" for share in (0.5, 0.9, 0.99, 1.0)]
        lines.append(f"| {row.label} | {' | '.join(cells)} | {row.sent} | {row.lost} | {row.verdict} |")
    return lines
