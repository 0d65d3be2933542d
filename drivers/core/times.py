"""The determined time of a spot reading, fixed once, before the outbox: UTC with its uncertainty; and is it live?

A device clock has no zone and is often wrong. Where the driver read it, its difference to ours turns a device time
into UTC, and a reading taken within the last hour by that clock is live, wherever it was kept meanwhile; an older one
is historical. Where nobody read it, the device time is kept as said and arrival counts, with the disagreement as the
uncertainty: a guess would put a reading into the wrong visit without anyone seeing it. What comes out of a memory is
historical then.

A memory is read newest first, and back through it time can only fall. Where it rises the clock was set back after that
record was made, and by how much nobody knows: the record is put just before the one that is newer, which is the latest
it can be, with the largest uncertainty, and is historical; older ones keep their distance to it. So records keep their
order. The device's clock as it was read is the newest of all: a record ahead of it is such a case.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from vitals.clock import NS, Instant, from_wall
from vitals.model import DeviceInfo, Observation

CLOCK_READ_MS: Final = 1_000
"""A device clock is read to the second."""
ARRIVAL_MS: Final = 2_000
"""From the end of a measurement to its arrival, when the device sends at once."""
AGREES_S: Final = 120
"""An unread device clock within this of ours is taken as right enough, and the reading as just taken. So is a time this
far ahead of the device's own clock: clocks read days ago drift, and ingest binds what is surer than this."""
MAX_UNCERTAINTY_MS: Final = 24 * 3_600 * 1_000
OLDEST_S: Final = 10 * 366 * 86_400
"""No meter keeps readings for ten years: such a time stamp is a broken clock, and only arrival is known."""
HISTORICAL_S: Final = 3_600
"""Older than this on arrival: from the device's memory, not of the visit that is going on."""
_YEAR_ONE: Final = datetime(1, 1, 1, tzinfo=UTC)


class Determined(NamedTuple):
    t: Instant
    uncertainty_ms: int
    historical: bool


class _Mark(NamedTuple):
    """A moment by both clocks; the device's counts from the year 1."""

    said: timedelta
    t: Instant
    uncertainty_ms: int = CLOCK_READ_MS


class DeviceTimes:
    """Of one device: told what it says of its clock, asked for each of its readings in the order they were read."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._clock: _Mark | None = None
        self._newer: _Mark | None = None
        """The record of the memory that was read before, which is the newer one."""

    def told(self, info: DeviceInfo) -> None:
        """The clock as it was read just now, if it was; a memory is read from its newest record on after that."""
        said = _parse(info.clock)
        self._clock = None if said is None else _Mark(said, info.clock_read_at)
        self._newer = None

    def determine(self, observation: Observation) -> Determined:
        """Never raises: a device time that makes no sense leaves arrival time."""
        said = _parse(observation.t_device)
        if said is None:
            return Determined(observation.received_at, ARRIVAL_MS, observation.historical)
        if self._clock is None:
            return self._unread(observation, said)
        # Records with a number may come in any order.
        in_memory = observation.historical and observation.record_no is None
        received = observation.received_at
        if in_memory and self._newer is not None:
            mark = _back(said, self._newer, slack_s=0)
        else:
            mark = _back(said, _now(self._clock, received), slack_s=AGREES_S)
        self._newer = mark if in_memory else self._newer
        lost = mark.uncertainty_ms == MAX_UNCERTAINTY_MS
        return Determined(mark.t, mark.uncertainty_ms, lost or received - mark.t > HISTORICAL_S * NS)

    def _unread(self, observation: Observation, said: timedelta) -> Determined:
        received = observation.received_at
        try:
            off_s = abs(from_wall((_YEAR_ONE + said).replace(tzinfo=None), self._zone) - received) / NS
        except (OverflowError, ValueError):
            return Determined(received, MAX_UNCERTAINTY_MS, observation.historical)
        off_ms = ARRIVAL_MS if off_s <= AGREES_S else min(round(off_s * 1000), MAX_UNCERTAINTY_MS)
        return Determined(received, off_ms, observation.historical)


def _now(clock: _Mark, at: Instant) -> _Mark:
    """What the device's clock says at `at`, having been read before."""
    return _Mark(clock.said + timedelta(microseconds=(at - clock.t) // 1000), at)


def _back(said: timedelta, newer: _Mark, *, slack_s: int) -> _Mark:
    """What is older than `newer`; where it cannot be, the clock was set and only that order is known."""
    age_s = (newer.said - said).total_seconds()
    if not -slack_s <= age_s <= OLDEST_S:
        return _Mark(said, newer.t - NS, MAX_UNCERTAINTY_MS)
    ahead_ms = round(max(-age_s, 0.0) * 1000)
    return _Mark(said, newer.t - round(max(age_s, 0.0) * NS), max(newer.uncertainty_ms, ahead_ms))


def _parse(text: str) -> timedelta | None:
    if not text or "X" in text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) - _YEAR_ONE
    except ValueError:
        return None
