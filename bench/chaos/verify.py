"""What the outboxes committed against what the store has. Pure, and written without any code under test.

Messages are read as plain dictionaries. A reading is known by its `id` (a device may hand over one record twice), a
pack of samples by gateway, device, stream, metric and first index, an event by gateway, epoch and seq.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

Leaf: TypeAlias = Literal["obs", "strip", "event"]
Key: TypeAlias = tuple[str | int, ...]
OWN_EVENTS: Final = frozenset({"ekg_gap"})
"""Events that ingest itself reports, under its session in place of an epoch."""


class Committed(NamedTuple):
    """One outbox row: its address is the topic's."""

    gateway: str
    room: str
    device: str
    leaf: Leaf
    payload: bytes


class Stored(NamedTuple):
    """One row of the store, in the order in which the store gives them (packs by time)."""

    gateway: str
    room: str
    device: str
    leaf: Leaf
    message: bytes


class Evaluation(NamedTuple):
    """What the rules said of a reading, or a value derived from strips."""

    id: str
    derived: bool


class Verdict(NamedTuple):
    """Keys of what is wrong; all but the counts must be empty."""

    committed: int
    stored: int
    own: int
    forgone: int
    lost: list[Key]
    doubled: list[Key]
    changed: list[Key]
    disordered: list[Key]
    strangers: list[Key]
    unevaluated: list[Key]

    @property
    def wrong(self) -> dict[str, list[Key]]:
        names = ("lost", "doubled", "changed", "disordered", "strangers", "unevaluated")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


class _Fact(NamedTuple):
    """`whole` is everything said, `core` what must be equal whenever the key is."""

    key: Key
    row: Key
    place: tuple[str, str, str]
    whole: dict[str, Any]
    core: object


def verify(
    committed: Iterable[Committed],
    stored: Iterable[Stored],
    evaluations: Sequence[Evaluation],
    forgone: Set[Key] = frozenset(),
) -> Verdict:
    """`forgone`: (gateway, epoch, seq) of rows that a restored backup took away: they may be stored or not."""
    promised: dict[Key, list[_Fact]] = defaultdict(list)
    given_up = 0
    owed: set[Key] = set()
    epochs: set[Key] = set()
    for row in committed:
        fact = _fact(row, row.payload)
        promised[fact.key].append(fact)
        epochs.add(fact.row[:2])
        if fact.row in forgone:
            given_up += 1
        else:
            owed.add(fact.key)
    kept = [_fact(row, row.message) for row in stored]
    theirs = [f for f in kept if f.whole.get("code") not in OWN_EVENTS or f.row[:2] in epochs]
    found = Counter(f.key for f in theirs)
    rows = Counter(f.row for f in theirs)
    return Verdict(
        committed=len(promised),
        stored=len(theirs),
        own=len(kept) - len(theirs),
        forgone=given_up,
        lost=sorted(owed - found.keys(), key=str),
        doubled=[key for key, times in (found + rows).items() if times > 1],
        changed=[f.key for f in theirs if f.key in promised and not _is_said(f, promised[f.key])],
        disordered=_disordered(theirs),
        strangers=[f.key for f in theirs if f.key not in promised],
        unevaluated=_unevaluated(found.keys(), evaluations),
    )


def unproved(committed: Iterable[Committed], stored: Iterable[Stored], gateways: Sequence[str]) -> list[str]:
    """A run proves nothing of what nobody committed, however well it ends: each gateway owes readings and packs."""
    of = {"was committed": {(r.gateway, r.leaf) for r in committed}, "is stored": {(r.gateway, r.leaf) for r in stored}}
    return [
        f"no {leaf} of {gateway} {what}: nothing is proved"
        for what, there in of.items()
        for gateway in gateways
        for leaf in ("obs", "strip")
        if (gateway, leaf) not in there
    ]


def _fact(row: Committed | Stored, message: bytes) -> _Fact:
    place = (row.gateway, row.room, row.device)
    said = msgspec.msgpack.decode(message) if row.leaf == "strip" else msgspec.json.decode(message)
    origin: Key = (row.gateway, said["epoch"], said["seq"])
    if row.leaf == "strip":
        key: Key = ("strip", row.gateway, row.device, said["stream"], said["metric"], said["first_index"])
        return _Fact(key, origin, place, said, said)
    if row.leaf == "event":
        return _Fact(("event", *origin), origin, place, said, said)
    reading = said["observation"]
    measured = {name: reading.get(name) for name in ("kind", "record_no", "t_device", "quantities")}
    return _Fact(("obs", said["id"]), origin, place, said, (measured, said.get("simulated")))


def _is_said(kept: _Fact, promised: Sequence[_Fact]) -> bool:
    """It is, to the letter, one of the rows of its key, and what all of them measured."""
    exact = any(kept.whole == fact.whole and kept.place == fact.place for fact in promised)
    return exact and all(kept.core == fact.core for fact in promised)


def _disordered(kept: Sequence[_Fact]) -> list[Key]:
    """Packs of one stream go on where the one before ended or later; records of one epoch come as they were made."""
    wrong: list[Key] = []
    reached: dict[Key, int] = {}
    for fact in kept:
        if fact.key[0] == "strip":
            stream = fact.key[:-1]
            first = fact.whole["first_index"]
            if first < reached.get(stream, 0):
                wrong.append(fact.key)
            reached[stream] = first + fact.whole["count"]
    records: dict[Key, list[tuple[int, int, Key]]] = defaultdict(list)
    for fact in kept:
        number = fact.whole.get("observation", {}).get("record_no")
        if number is not None:
            records[(*fact.place, *fact.row[1:2])].append((int(fact.row[2]), number, fact.key))
    for series in records.values():
        series.sort()
        wrong += [late[2] for early, late in pairwise(series) if late[1] < early[1]]
    return wrong


def _unevaluated(found: Iterable[Key], evaluations: Sequence[Evaluation]) -> list[Key]:
    """A reading that nobody judged, or a judgement of a reading that is not there."""
    readings = {key[1] for key in found if key[0] == "obs"}
    judged = {e.id for e in evaluations if not e.derived}
    return [("obs", str(key)) for key in sorted(readings ^ judged, key=str)]
