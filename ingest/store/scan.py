"""Every row of a store, one after the other in bounded memory, and whether it is what it says."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from ingest.store.contract import EvaluationRow, EventRow, Floors, ObservationRow, Row, StripRow, strip_end
from vitals.clock import Instant

Kind: TypeAlias = Literal["observation", "evaluation", "strip", "event"]
KINDS: Final[tuple[Kind, ...]] = ("observation", "evaluation", "strip", "event")


class Span(NamedTuple):
    """`since` is in it, `until` is not. Of strips the time of the first sample counts. An empty room is every room."""

    since: Instant = 0
    until: Instant = 7_258_118_400_000_000_000
    room: str = ""


class Found(NamedTuple):
    """One row, or what of it cannot be read.

    `where`: which one, for people. `problem`: empty, or what is wrong with it. `no`: an evaluation's number.
    `at`: the time of its point in InfluxDB.
    """

    where: str
    row: Row | None
    problem: str = ""
    no: int = 0
    at: Instant | None = None


class Pack(NamedTuple):
    """Which samples of a signal a strip has: those from `first` up to but without `stop`."""

    signal: str
    stream: str
    first: int
    stop: int


class Scan(Protocol):
    """A store to be read from end to end. Every method but `close` may raise StoreDown."""

    @property
    def store_id(self) -> str: ...

    def total(self, kind: Kind, span: Span) -> int:
        """How many rows `rows` will come to, about: for a progress bar."""
        ...

    def rows(self, kind: Kind, span: Span) -> Iterator[Found]: ...

    def packs(self) -> Iterator[Pack]:
        """The strips without their samples; those of one stream in order of their samples."""
        ...

    def read_floors(self) -> Floors:
        """What the store was pruned to."""
        ...

    def close(self) -> None: ...


def differences(row: Row, columns: Mapping[str, Any]) -> str:
    """What the columns beside a message say otherwise than the message itself; empty when they agree."""
    told = _told(row)
    wrong = [name for name, value in columns.items() if told[name] != value]
    return "; ".join(f"{name} is {columns[name]!r}, its message says {told[name]!r}" for name in wrong)


def _told(row: Row) -> dict[str, Any]:
    if isinstance(row, StripRow):
        s = row.message
        return {
            "stream": s.stream, "metric": s.metric, "first_index": s.first_index, "next_index": s.first_index + s.count,
            "t0": s.t0, "t_end": strip_end(s), "count": s.count, "samples": len(s.samples()),
        }  # fmt: skip
    if isinstance(row, EventRow):
        return {"epoch": row.message.epoch, "seq": row.message.seq, "at": row.message.at, "code": row.message.code}
    if isinstance(row, ObservationRow):
        return {"id": row.message.id, "t": row.message.t_determined, "kind": row.message.observation.kind}
    e = row.message
    return {
        "id": e.id, "t": e.t, "rules_hash": e.rules_hash, "assoc_version": e.assoc_version,
        "gateway": e.gateway, "device": e.device, "values": values_of(row),
    }  # fmt: skip


def values_of(row: EvaluationRow) -> list[tuple[str, float | None, str, str]]:
    """(metric, value, validity, interpretation) of each value, sorted."""
    return sorted(
        (metric, v.value, v.validity.value, v.flag.interpretation if v.flag else "")
        for metric, v in row.message.values.items()
    )
