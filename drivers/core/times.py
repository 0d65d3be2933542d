"""The determined time of a spot reading: UTC with its uncertainty, fixed once, before the outbox.

A device clock has no zone and is often wrong. Where the driver read it, its difference to ours turns a device time
into UTC. Where nobody read it, the device time is kept as said and arrival counts, with the disagreement as the
uncertainty: a guess would put a reading into the wrong visit without anyone seeing it.
"""

from datetime import datetime, tzinfo
from typing import Final, NamedTuple

from vitals.clock import NS, Instant, from_wall
from vitals.model import DeviceInfo, Observation

CLOCK_READ_MS: Final = 1_000
"""A device clock is read to the second."""
ARRIVAL_MS: Final = 2_000
"""From the end of a measurement to its arrival, when the device sends at once."""
AGREES_S: Final = 120
"""An unread device clock within this of ours is taken as right enough: the reading is live."""
MAX_UNCERTAINTY_MS: Final = 24 * 3_600 * 1_000
OLDEST_S: Final = 10 * 366 * 86_400
"""No meter keeps readings for ten years: such a time stamp is a broken clock, and only arrival is known."""
HISTORICAL_S: Final = 3_600
"""Older than this on arrival: from the device's memory, not of the visit that is going on."""


class Determined(NamedTuple):
    t: Instant
    uncertainty_ms: int
    historical: bool


def determine(observation: Observation, info: DeviceInfo, zone: tzinfo) -> Determined:
    """Never raises: a device time that makes no sense leaves arrival time."""
    received = observation.received_at
    said = _parse(observation.t_device)
    if said is None:
        return Determined(received, ARRIVAL_MS, observation.historical)
    device_now = _parse(info.clock)
    if device_now is not None:
        age_s = (device_now - said).total_seconds()
        if age_s > OLDEST_S:
            return Determined(received, MAX_UNCERTAINTY_MS, True)
        t = info.clock_read_at - round(age_s * NS)
        # A time stamp ahead of the device's own clock: the clock was set back in between. Arrival bounds it.
        t = min(t, received)
        return Determined(t, CLOCK_READ_MS, observation.historical or received - t > HISTORICAL_S * NS)
    try:
        off_s = abs(from_wall(said, zone) - received) / NS
    except (OverflowError, ValueError):
        return Determined(received, MAX_UNCERTAINTY_MS, observation.historical)
    if off_s <= AGREES_S:
        return Determined(received, ARRIVAL_MS, observation.historical)
    return Determined(received, min(round(off_s * 1000), MAX_UNCERTAINTY_MS), observation.historical)


def _parse(text: str) -> datetime | None:
    if not text or "X" in text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None
