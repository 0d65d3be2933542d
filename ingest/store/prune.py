"""What goes when a store is pruned, and what must stay so that nothing comes back.

First the floor is raised: from then on an append refuses what is older and not known. Then rows go. So a tool that is
killed half-way leaves a store that is in order, and pruning again finishes.

Strips, events, and readings that no device recorded have a time that never changes, so the floor alone keeps them from
coming back, also out of an outbox that was away for a year. A record of a meter's memory is different: read again, it
gets its time anew from the meter's clock, perhaps one above the floor. Of those the identity is kept, until `HORIZON`
before the floor: a meter whose clock was wrong by more than that could bring a record a second time.
"""

from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from ingest.store.contract import Floors
from vitals.clock import NS, NS_PER_MS, Instant
from vitals.messages import ObservationMessage

DAY: Final = 86_400 * NS
HORIZON: Final = 3 * 366 * DAY
"""How long before the floor the identities of a meter's records are kept: about 200 bytes each."""
MIN_AGE: Final = DAY
"""Younger rows are never pruned: a gateway may still have them in its outbox after a bad night."""
STEP: Final = 2000
"""Rows of one transaction: short, since ingest waits for it."""
PrunedKind: TypeAlias = Literal["observation", "strip", "event"]
_OBSERVATION: Final = msgspec.json.Decoder(ObservationMessage)
PRUNED_KINDS: Final[tuple[PrunedKind, ...]] = ("observation", "strip", "event")
Step: TypeAlias = Callable[[int], None]
"""Told how many more rows are done."""


class Pruner(Protocol):
    """One store opened for pruning, beside a running ingest."""

    def count(self, kind: PrunedKind, cutoff: Instant) -> int:
        """Rows of the kind before `cutoff`, without the evaluations that go with readings."""
        ...

    def unevaluated(self, cutoff: Instant) -> int:
        """Readings before `cutoff` of which no evaluation is stored; those below the floor do not count."""
        ...

    def raise_floors(self, floors: Floors) -> None:
        """Durable on return."""
        ...

    def remove(self, kind: PrunedKind, cutoff: Instant, step: Step) -> None: ...

    def forget(self, before: Instant) -> None:
        """Drop the identities of pruned readings that were taken before."""
        ...

    def close(self) -> None: ...


def floors_at(cutoff: Instant, kinds: tuple[PrunedKind, ...]) -> Floors:
    return Floors(**dict.fromkeys(kinds, cutoff))


def comes_again(message: bytes | str) -> bool:
    """Whether a device may hand this reading over a second time: it has a number or a whole device time, as
    `vitals.messages.observation_id` has it. A damaged one counts: its identity costs little."""
    try:
        o = _OBSERVATION.decode(message).observation
    except msgspec.MsgspecError:
        return True
    return o.record_no is not None or bool(o.t_device and "X" not in o.t_device)


def run(pruner: Pruner, cutoff: Instant, kinds: tuple[PrunedKind, ...], step: Step) -> None:
    """Prune. Repeating it changes nothing. Raises StoreDown.

    To the whole millisecond before `cutoff`: a point of InfluxDB stands in its row's millisecond, not at its time.
    """
    cutoff -= cutoff % NS_PER_MS
    pruner.raise_floors(floors_at(cutoff, kinds))
    for kind in kinds:
        pruner.remove(kind, cutoff, step)
    if "observation" in kinds:
        pruner.forget(cutoff - HORIZON)
