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
SINCE_GRACE: Final = 120 * NS
"""The same for the first visit of a room we hear of: nobody we know of left it just before."""
DAYS_A_YEAR: Final = 365.2425
MAX_YEARS: Final = 150
MAX_VERSION: Final = 1 << 53
MAX_VISIT: Final = 256
"""Characters of a visit token."""
TIMES: Final = (946_684_800 * NS, 7_258_118_400 * NS)
"""2000 to 2200, as of readings."""


MAX_ROOMS: Final = 1024
"""Rooms remembered. Only the board may name one; this bounds what a broker without access rules lets in."""


class _Term(NamedTuple):
    """A visit of the room: it began at `start`; `grace`: how long before that a reading may have been taken."""

    start: Instant
    grace: int
    association: AssociationMessage


class Associations:
    """By room. Fed with every association message; asked for each reading."""

    def __init__(self) -> None:
        self._rooms: dict[str, list[_Term]] = {}

    def has_place(self, room: str) -> bool:
        """Whether the room is known, or there is place for one more."""
        return room in self._rooms or len(self._rooms) < MAX_ROOMS

    def learn(self, room: str, association: AssociationMessage | None, *, now: Instant) -> bool:
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
            grace = SINCE_GRACE if last is None else BIND_GRACE
            # Retained, it may have begun long before we heard of it; a clock ahead of ours does not begin it later.
            terms.append(_Term(min(association.since, now), grace, association))
            del terms[:-KEPT]
        return last is not None

    def current(self, room: str, now: Instant) -> AssociationMessage | None:
        """The visit that has the room now."""
        terms = self._rooms.get(room)
        return terms[-1].association if terms and now < terms[-1].association.expires else None

    def at(self, room: str, t: Instant, *, historical: bool) -> AssociationMessage | None:
        """The association a reading of that moment belongs to, if any."""
        terms = self._rooms.get(room, [])
        for term in reversed(terms):
            if term.start <= t < term.association.expires:
                return term.association
        first = next((term for term in reversed(terms) if term.start > t >= term.start - term.grace), None)
        return first.association if first is not None and not historical else None


def problem(a: AssociationMessage) -> str:
    """What no board sends and the rules could not count with; empty when there is nothing."""
    if len(a.visit) > MAX_VISIT or not 0 <= a.version < MAX_VERSION:
        return "visit or version out of bounds"
    if not all(TIMES[0] <= t <= TIMES[1] for t in (a.since, a.expires)):
        return "since or expires out of bounds"
    years, days = a.age_years or 0, a.age_days or 0
    return "" if 0 <= years <= MAX_YEARS and 0 <= days <= MAX_YEARS * 366 else "age out of bounds"


def age_years(association: AssociationMessage) -> float:
    """Completed years; NaN when not known."""
    if association.age_years is not None:
        return float(association.age_years)
    return float("nan") if association.age_days is None else float(int(association.age_days / DAYS_A_YEAR))


def age_days(association: AssociationMessage) -> float:
    """Completed days; NaN when not known. Years are never turned into days."""
    return float("nan") if association.age_days is None else float(association.age_days)
