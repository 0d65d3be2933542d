"""One batch decided: which rows are new and at what time, which are there already, which wait for another's fate."""

from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias, TypeVar

import msgspec

from ingest.store.contract import (
    CONFLICT,
    DUPLICATE,
    Address,
    EvaluationRow,
    ObservationRow,
    Row,
    RowOutcome,
    StripRow,
)
from ingest.store.ledger import RELEASED, Kept, Ledger
from ingest.store.points import BUMPS, Draft, draft, reading_digest, reading_lane
from vitals.clock import Instant
from vitals.messages import ObservationMessage

CROWDED = RowOutcome("refused", f"more than {BUMPS} rows want one nanosecond")
"""Further than that nobody has looked. Only who makes identities for the purpose gets there."""
R = TypeVar("R", ObservationRow, StripRow)
Taken: TypeAlias = tuple[str, str, int | None]
"""Key and digest of the row at a time; its number when it is of this batch."""
Seen: TypeAlias = dict[str, dict[int, Taken]]
"""By lane: what stands at which time."""


def promised_as(before: Kept, one: Draft) -> bool:
    """Whether writing this reading now would write the very point that was promised."""
    return (before.lane, before.t, before.same) == (one.lane, one.t, one.same)


def as_promised(one: Draft, kept: Mapping[str, Kept], firsts: Mapping[str, Instant]) -> Draft:
    """A reading or its evaluation, at the time that the same reading was promised and may yet be written at.

    A write that nobody waited for can land later than the one that repeats it: at another time it would be a double.
    `firsts`: the time of each reading's first copy in the batch. Only that one is moved; what has a third time is a
    later download's, and stays beside the reading.
    """
    row = one.row
    if isinstance(row, ObservationRow):
        lane, reading = one.lane, row.message
    elif isinstance(row, EvaluationRow) and row.reading is not None:
        lane, reading = _lane_of_reading(row), row.reading
    else:
        return one
    before = kept.get(reading.id)
    if before is None or before.stored or before.t in (RELEASED, reading.t_determined):
        return one
    if firsts.get(reading.id) != reading.t_determined:
        return one
    if (before.lane, before.same) != (lane, reading_digest(reading)):
        return one
    dated = msgspec.structs.replace(reading, t_determined=before.t)
    if isinstance(row, ObservationRow):
        return draft(ObservationRow(row.address, dated))
    return draft(msgspec.structs.replace(row, message=msgspec.structs.replace(row.message, t=before.t), reading=dated))


def _lane_of_reading(row: EvaluationRow) -> str:
    return reading_lane(Address(row.message.gateway, row.room, row.message.device))


def _is_of(row: EvaluationRow, reading: ObservationMessage, other: Row) -> bool:
    """Whether it is of the very message of that row, from the same place: nearly always, and quick to see."""
    message = row.message
    return (
        other.message is reading
        and isinstance(other, ObservationRow)
        and message.t == reading.t_determined
        and other.address == (message.gateway, row.room, message.device)
    )


class Plan:
    """`outcomes` of rows that need no writing, `times` of those that do."""

    def __init__(self, drafts: Mapping[int, Draft], kept: Mapping[str, Kept], seen: Seen, ledger: Ledger) -> None:
        """Decide in the order of the batch, and promise the times; within a transaction of the ledger."""
        self.outcomes: dict[int, RowOutcome] = {}
        self.times: dict[int, int] = {}
        self._drafts = drafts
        self._kept = kept
        self._seen = seen
        self._newest: dict[str, int] = {}
        self._ledger = ledger
        self._readings: dict[str, tuple[int, Kept]] = {}
        self._evaluated: list[int] = []
        """Evaluations to be written, in the order of their numbers."""
        self._leaders: dict[int, int] = {}
        """Rows whose outcome holds only if that other row of the batch is stored."""
        promised: list[int] = []
        for number, one in drafts.items():
            if isinstance(one.row, ObservationRow):
                if self._reading(number, one):
                    promised.append(number)
            elif not isinstance(one.row, EvaluationRow):
                self._place(number, one)
            elif self._is_kept(number, one.row) and self._place(number, one):
                self._evaluated.append(number)
        keys = [drafts[number].key for number in promised]
        notes = ledger.promise_all([(key, self._readings[key][1]) for key in keys])
        self.times |= {number: kept.ts for number, kept in zip(promised, notes, strict=True)}
        ledger.raise_marks(self._newest)
        self._first_no = ledger.numbers(len(self._evaluated))

    # -- deciding ------------------------------------------------------------------------------------------------

    def _reading(self, number: int, one: Draft) -> bool:
        """True for one whose time is to be promised."""
        if one.key in self._readings:
            leader, kept = self._readings[one.key]
            self._settled(number, leader, kept.same == one.same)
            return False
        before = self._kept.get(one.key)
        if before and before.stored:
            self._settled(number, None, before.same == one.same)
            return False
        if before is not None and promised_as(before, one):
            self._readings[one.key] = (number, before)
            self.times[number] = before.ts
            return False
        self._readings[one.key] = (number, Kept(one.lane, one.wished, one.t, one.room, one.same, False))
        self.times[number] = one.wished
        return True

    def _place(self, number: int, one: Draft) -> bool:
        """The first free time from the wished one, unless the row itself is met on the way: then False."""
        taken = self._seen.setdefault(one.lane, {})
        time = one.wished
        while time in taken:
            key, same, leader = taken[time]
            if key == one.key:
                self._settled(number, leader, same == one.same)
                return False
            time += 1
        if time > one.wished + BUMPS:
            self.outcomes[number] = CROWDED
            return False
        taken[time] = (one.key, one.same, number)
        self._newest[one.lane] = max(time, self._newest.get(one.lane, -1))
        self.times[number] = time
        return True

    def _settled(self, number: int, leader: int | None, same: bool) -> None:
        self.outcomes[number] = DUPLICATE if same else CONFLICT
        if leader is not None:
            self._leaders[number] = leader

    def _is_kept(self, number: int, row: EvaluationRow) -> bool:
        """Whether the reading, as it was judged, is the one kept under its id. The first time of a reading wins."""
        if row.reading is None:
            return True
        leader, kept = self._readings.get(row.message.id, (None, self._kept.get(row.message.id)))
        if leader is not None:
            self._leaders[number] = leader
            if _is_of(row, row.reading, self._drafts[leader].row):
                return True
        as_judged = (_lane_of_reading(row), row.message.t, reading_digest(row.reading))
        if kept and (kept.stored or leader is not None) and (kept.lane, kept.t, kept.same) == as_judged:
            return True
        self.outcomes[number] = DUPLICATE
        return False

    # -- writing ---------------------------------------------------------------------------------------------------

    def written(self, kind: type[R]) -> Iterator[tuple[int, Draft, R]]:
        for n in self.times:
            row = self._drafts[n].row
            if isinstance(row, kind):
                yield n, self._drafts[n], row

    def rows(self) -> dict[int, str]:
        """The line of each row that is no evaluation."""
        drafts, later = self._drafts, set(self._evaluated)
        return {n: f"{drafts[n].line} {t}" for n, t in self.times.items() if n not in later}

    def values(self, refused: Collection[int]) -> dict[int, str]:
        """The values of each evaluation whose reading was not refused."""
        return {
            n: "\n".join([f"{line},no={no}i {self.times[n]}" for line in one.values])
            for n, one, no in self._evaluations(refused) if one.values
        }  # fmt: skip

    def evaluations(self, refused: Collection[int]) -> dict[int, str]:
        """The evaluations themselves, without those whose values were refused."""
        return {n: f"{one.line},no={no}i {self.times[n]}" for n, one, no in self._evaluations(refused)}

    def _evaluations(self, refused: Collection[int]) -> Iterator[tuple[int, Draft, int]]:
        for no, n in enumerate(self._evaluated, self._first_no):
            if not refused or (n not in refused and self._leaders.get(n) not in refused):
                yield n, self._drafts[n], no

    def met(self) -> Iterator[tuple[int, Draft, StripRow]]:
        """Strips that were there already, equal to what came: written by an append whose answer was lost."""
        for n, one in self._drafts.items():
            if isinstance(one.row, StripRow) and self.outcomes.get(n) == DUPLICATE and n not in self._leaders:
                yield n, one, one.row

    # -- afterwards --------------------------------------------------------------------------------------------------

    def orphans(self, refused: Collection[int]) -> dict[int, int]:
        """Rows whose outcome hung on a row that was refused, and that row."""
        return {n: leader for n, leader in self._leaders.items() if leader in refused} if refused else {}

    def again(self, orphans: Collection[int]) -> list[int]:
        """Those of them to decide anew, in order: not an evaluation whose only reading was refused."""
        others = {self._drafts[n].key for n in orphans if isinstance(self._drafts[n].row, ObservationRow)}
        return sorted(n for n in orphans if self._may_still_be(self._drafts[n].row, others))

    @staticmethod
    def _may_still_be(row: Row, readings: Collection[str]) -> bool:
        return not isinstance(row, EvaluationRow) or row.reading is None or row.message.id in readings
