"""What a store is, whatever keeps the rows. Every implementation passes tests/test_store_contract.py.

Three kinds of row are exactly what a gateway sent: a pure function of the message and its address, so that appending
twice changes nothing. The fourth, an evaluation, is ours: it is added beside a reading and never rewrites one.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from vitals.clock import Instant
from vitals.messages import EventMessage, FlaggedMessage, Interpretation, ObservationMessage, StripMessage
from vitals.model import Validity

MAX_STRIP_S: int = 60
"""A pack is one second; a longer one than this is refused, so that a search by time knows how far to look back."""
HISTORY_LIMIT: int = 10_000
"""Points one history answer holds at most: the newest. A chart shows 300."""


class Address(NamedTuple):
    """Who sent it and for which room, as the broker enforced it by the topic."""

    gateway: str
    room: str
    device: str


class ObservationRow(msgspec.Struct, frozen=True):
    """A reading. Its identity is the message's `id`."""

    address: Address
    message: ObservationMessage


class StripRow(msgspec.Struct, frozen=True):
    """A pack of samples. Its identity is (gateway, device, stream, metric, first_index)."""

    address: Address
    message: StripMessage


class EventRow(msgspec.Struct, frozen=True):
    """A fault or link change. Its identity is (gateway, epoch, seq)."""

    address: Address
    message: EventMessage


class EvaluationRow(msgspec.Struct, frozen=True):
    """What the rules said of a reading, or a value derived from strips.

    Its identity is (id, rules hash, association version): new rules or a reassigned visit add a row. It counts as a
    duplicate, and adds nothing, unless the reading kept under its id is `reading`, at its time and in its room: what
    was refused, or sent again with another time, must not appear beside it.
    """

    room: str
    message: FlaggedMessage
    reading: ObservationMessage | None = None
    """What was evaluated; None for a value derived from strips."""
    ahead: bool = False
    """Its time is of a clock that runs ahead: kept, and never the newest."""


Row: TypeAlias = ObservationRow | StripRow | EventRow | EvaluationRow


MAX_REASON: int = 256
"""Characters; a reason goes to the gateway, and is kept there for a person to read."""


class RowOutcome(NamedTuple):
    """What became of one row. `refused` is final and has a reason: its kind, or `kind: detail`.

    There are a few kinds, which are counted; details are the senders' and the server's, and without end.
    """

    outcome: Literal["stored", "duplicate", "refused"]
    reason: str = ""

    @property
    def kind(self) -> str:
        return self.reason.partition(": ")[0]


def refusal(kind: str, detail: object) -> RowOutcome:
    """`kind` has no colon."""
    return RowOutcome("refused", f"{kind}: {detail}"[:MAX_REASON])


IMPOSSIBLE = "cannot be stored"
REFUSED_BY_STORE = "refused by the store"


STORED = RowOutcome("stored")
DUPLICATE = RowOutcome("duplicate")
CONFLICT = RowOutcome("refused", "same id, other content")
"""The first one stays. Two different readings under one id are a fault of the sender, and must be seen."""
TOO_OLD = RowOutcome("refused", "older than what this store was pruned to")
"""It would come back for ever otherwise: whether it was there before, nobody knows any more."""


class Floors(NamedTuple):
    """Rows before these times were pruned, and none is taken that is not known. See `ingest/store/prune.py`."""

    observation: Instant = 0
    strip: Instant = 0
    event: Instant = 0


class HistoryPoint(NamedTuple):
    """`value` is None where the validity says that there is none. `interpretation` is empty when not evaluated."""

    t: Instant
    value: float | None
    validity: Validity
    interpretation: Interpretation | Literal[""]


class StripTail(NamedTuple):
    """Where the newest stored strip of one signal ends: what a restarted ingest needs to see the next gap."""

    gateway: str
    device: str
    room: str
    metric: str
    stream: str
    next_index: int
    t_end: Instant


class StoreDown(Exception):
    """The batch is not stored as a whole. Keep its messages and append it again: what of it was written stays once.

    `retry_s`: not before so many seconds, as the store itself asked.
    """

    def __init__(self, reason: str, *, retry_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_s = retry_s


class StoreReader(Protocol):
    """What the board may do."""

    @property
    def store_id(self) -> str:
        """Random at creation. Gateways pin it, so a store restored from elsewhere cannot swallow readings."""
        ...

    def latest(self, room: str) -> list[FlaggedMessage]:
        """The newest reading of each metric with its newest evaluation, oldest first.

        Historical ones never count, nor those of a clock that runs ahead.
        """
        ...

    def history(self, room: str, metric: str, since: Instant) -> list[HistoryPoint]:
        """Each reading of the metric once, in order of time, by its newest evaluation."""
        ...

    def strip(self, gateway: str, device: str, metric: str, start: Instant, stop: Instant) -> list[StripMessage]:
        """The packs that have a sample in [start, stop), in order of time, equal to the bit to what was sent."""
        ...

    def counts(self) -> dict[str, int]:
        """Rows of each kind: `observation`, `strip`, `event`, `evaluation`."""
        ...

    def close(self) -> None: ...


class Store(StoreReader, Protocol):
    """What ingest may do besides."""

    def append(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """Durable on return. One outcome a row, in order; a bad row never fails the others. Raises StoreDown."""
        ...

    def recent_ids(self, limit: int) -> list[str]:
        """Ids of the readings stored last, oldest first: a restarted ingest shows and alarms no reading twice."""
        ...

    def tails(self) -> list[StripTail]:
        """The newest strip of every signal."""
        ...


def below(row: Row, floors: Floors) -> bool:
    """Whether rows of its kind and time were pruned. Evaluations go with the readings."""
    if isinstance(row, StripRow):
        return row.message.t0 < floors.strip
    if isinstance(row, EventRow):
        return row.message.at < floors.event
    if isinstance(row, EvaluationRow):
        return row.message.t < floors.observation
    return row.message.t_determined < floors.observation


def strip_end(message: StripMessage) -> Instant:
    """The moment after the last sample. Raises ValueError, OverflowError or ZeroDivisionError on senseless rates."""
    return message.t0 + round(message.count / message.rate * 1_000_000_000)


def same_reading(message: ObservationMessage) -> bytes:
    """What must be equal when ids are equal: what was measured, not how often and by which way it was sent.

    A second download of a meter has another epoch, seq, time of arrival and skew estimate, and is the same reading.
    """
    o = message.observation
    return msgspec.json.encode((o.kind, o.record_no, o.t_device, sorted(o.quantities.items()), message.simulated))


def same_strip(message: StripMessage) -> bytes:
    """As `same_reading` for a pack of samples."""
    m = message
    content = (m.count, m.rate, m.dtype, m.scale, m.lead_off, m.simulated, m.block)
    # Added only where it is set: what was kept before there was the mark compares as ever.
    return msgspec.msgpack.encode((*content, True) if m.historical else content)
