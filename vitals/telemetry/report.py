"""The vocabulary of a service's report: measures with their samples, and the reasons why it is not well."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

MAX_VALUES: Final = 32
"""Values of one open label, such as the reasons of refusals: closed lists today, and bounded if one grows."""
MAX_LISTED: Final = 5
"""Names in one notice."""
Fact: TypeAlias = str | int | float | bool | None


class Measure(NamedTuple):
    """One family of series as Prometheus names it. A counter's name ends in `_total`, and it starts with the process.

    A label is a name out of the settings, or a word out of a list in the code: never anything of a patient.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


class Buckets(NamedTuple):
    """A histogram's state. `counts` has one more than `bounds`: what is above the last. Not cumulative."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """Counts values by the first bound that is not below them."""

    def __init__(self, *bounds: float) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[sum(bound < value for bound in self._bounds)] += 1
        self._total += value

    def state(self) -> Buckets:
        return Buckets(self._bounds, tuple(self._counts), self._total)


class Sample(NamedTuple):
    """`labels` are the values for the measure's labels, in their order."""

    measure: Measure
    value: float | Buckets
    labels: tuple[str, ...] = ()


class Reason(NamedTuple):
    """Why a service is not well, and what a person does about it."""

    what: str
    do: str


class Report(NamedTuple):
    """A service's state at one moment. It is well when there is no reason. `facts` are for `/health` and doctor.

    `notices`: what went wrong since the start and is over, or harms others only. It makes no service unwell, since a
    restart mends nothing of it, but it must not stay in a counter that nobody reads.
    """

    reasons: list[Reason]
    samples: list[Sample]
    facts: dict[str, Fact]
    notices: Sequence[Reason] = ()


NO_BROKER: Final = "no broker: "
"""How each part's reason begins while it has no connection."""


def listed(counts: Mapping[str, float]) -> str:
    """The largest few, for a notice: `too frequent (12), malformed (3)`."""
    most = sorted(counts, key=lambda name: (-counts[name], name))
    rest = f", and {len(most) - MAX_LISTED} more" if len(most) > MAX_LISTED else ""
    return ", ".join(f"{name} ({counts[name]:.0f})" for name in most[:MAX_LISTED]) + rest


def by_label(measure: Measure, counts: Mapping[str, float]) -> Iterable[Sample]:
    """A sample for each value of the one label; beyond `MAX_VALUES` they are added up as `other`."""
    names = sorted(counts)
    for name in names[:MAX_VALUES]:
        yield Sample(measure, counts[name], (name,))
    if rest := names[MAX_VALUES:]:
        yield Sample(measure, sum(counts[name] for name in rest), ("other",))
