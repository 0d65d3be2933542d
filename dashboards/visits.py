"""Whose readings a room's readings are: the association lease, written by the board alone.

Only simulated visits so far: a room whose settings name a demo patient has one from the board's start on. The lease
carries an opaque token, age and sex, never a name. It is renewed well before it expires, so a board that dies leaves
rooms unassigned within `LEASE_S` instead of bound for ever.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from vitals.clock import NS, Instant
from vitals.messages import VERSION, AssociationMessage, encode
from vitals.settings import Room
from vitals.topics import Topics

LEASE_S: Final = 120
RENEW_S: Final = 30
"""Three renewals may be lost before a lease ends."""


class Visit(msgspec.Struct, frozen=True):
    """One patient in one room. `token` is random for each start of the board and means nothing elsewhere."""

    room: str
    token: str
    version: int
    since: Instant
    name: str
    age_years: int | None
    sex: str
    simulated: bool


class Visits:
    """The visits of the board and their leases."""

    def __init__(
        self,
        rooms: Sequence[Room],
        topics: Topics,
        now: Instant,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._topics = topics
        self._rooms = {room.id: room for room in rooms if room.demo_patient}
        self._renew_at = now
        # Every start of the board is a new set of visits; seconds since the epoch grow and fit a version.
        version = now // NS
        self.by_room = {
            room.id: Visit(
                room=room.id,
                token=token(),
                version=version,
                since=now,
                name=room.demo_patient,
                age_years=room.demo_age_years,
                sex=room.demo_sex or "",
                simulated=True,
            )
            for room in self._rooms.values()
        }

    def due(self, now: Instant, *, force: bool = False) -> list[tuple[str, bytes]]:
        """(topic, payload) of every lease to publish retained now; all of them when forced (a new connection)."""
        if not force and now < self._renew_at:
            return []
        self._renew_at = now + RENEW_S * NS
        return [(self._topics.assoc(room), encode(self._lease(room, now))) for room in self.by_room]

    def _lease(self, room: str, now: Instant) -> AssociationMessage:
        visit, demo = self.by_room[room], self._rooms[room]
        return AssociationMessage(
            v=VERSION,
            version=visit.version,
            visit=visit.token,
            since=visit.since,
            expires=now + LEASE_S * NS,
            age_years=demo.demo_age_years,
            sex=demo.demo_sex,
        )
