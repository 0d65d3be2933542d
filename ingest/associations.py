"""Whose readings a room's readings are, as known at the time of the reading.

The board's association is a lease. A reading that arrives late is judged by the visit of its own moment, so the last
few visits of each room are kept.
"""

from typing import Final, NamedTuple

import msgspec

from vitals.clock import NS, Instant
from vitals.messages import AssociationMessage

KEPT: Final = 16
"""Visits of a room remembered: a day of a busy room. A reading older than all of them is nobody's."""
BIND_GRACE: Final = 10 * NS
"""A cuff that finished while the visit was being bound belongs to it, unless another visit had the room."""
DAYS_A_YEAR: Final = 365.2425


class _Term(NamedTuple):
    """`known`: `start` is when the visit began; otherwise it was retained before we came, and began some time ago."""

    start: Instant
    known: bool
    association: AssociationMessage


class Associations:
    """By room. Fed with every association message; asked for each reading."""

    def __init__(self) -> None:
        self._rooms: dict[str, list[_Term]] = {}

    def learn(self, room: str, association: AssociationMessage | None, *, now: Instant, retained: bool) -> bool:
        """Take a new, renewed, corrected or ended (None) association. True when the visit before is over."""
        terms = self._rooms.setdefault(room, [])
        last = terms[-1] if terms else None
        if last is not None and association is not None and association.visit == last.association.visit:
            # Renewed, or corrected: then the visit's earlier readings are judged by the new facts as well.
            if association.version >= last.association.version:
                terms[-1] = last._replace(association=association)
            return False
        if last is not None and last.association.expires > now:
            terms[-1] = last._replace(association=msgspec.structs.replace(last.association, expires=now))
        if association is not None:
            terms.append(_Term(now, not retained or last is not None, association))
            del terms[:-KEPT]
        return last is not None

    def at(self, room: str, t: Instant, *, historical: bool) -> AssociationMessage | None:
        """The association a reading of that moment belongs to, if any."""
        terms = self._rooms.get(room, [])
        for term in reversed(terms):
            if t >= term.association.expires:
                continue
            if t >= term.start:
                return term.association
            if not term.known and not historical:
                return term.association
        first = next((term for term in reversed(terms) if term.start > t >= term.start - BIND_GRACE), None)
        return first.association if first is not None and not historical else None


def age_years(association: AssociationMessage) -> float:
    """Completed years; NaN when not known."""
    if association.age_years is not None:
        return float(association.age_years)
    return float("nan") if association.age_days is None else float(int(association.age_days / DAYS_A_YEAR))


def age_days(association: AssociationMessage) -> float:
    """Completed days; NaN when not known. Years are never turned into days."""
    return float("nan") if association.age_days is None else float(association.age_days)
