"""The only place that reads the time. Everything else is given a `Clock`.

An `Instant` is an integer count of nanoseconds since 1970-01-01T00:00Z: exact, ordered, and what InfluxDB stores.
"""

import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol, TypeAlias

Instant: TypeAlias = int
"""Nanoseconds since the Unix epoch, UTC."""

NS: int = 1_000_000_000
NS_PER_MS: int = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    def now(self) -> Instant:
        """Wall time, UTC, in ns. May jump when the host's clock is set."""
        ...

    def monotonic(self) -> int:
        """Nanoseconds that never go backwards; for timeouts and backoff, never stored."""
        ...


class SystemClock:
    """The host's clock."""

    def now(self) -> Instant:
        return time.time_ns()

    def monotonic(self) -> int:
        return time.monotonic_ns()


class ManualClock:
    """A clock for tests: it moves only when told to."""

    def __init__(self, now: Instant = 1_764_000_000 * NS) -> None:
        self._now = now
        self._monotonic = 0

    def now(self) -> Instant:
        return self._now

    def monotonic(self) -> int:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        step = round(seconds * NS)
        self._now += step
        self._monotonic += step


def to_datetime(instant: Instant) -> datetime:
    """The instant as an aware datetime (microseconds; the rest is cut off)."""
    return _EPOCH + timedelta(microseconds=instant // 1000)


def from_datetime(moment: datetime) -> Instant:
    """An aware datetime as an instant. Naive ones are refused: they are no moment in time."""
    if moment.tzinfo is None:
        raise ValueError(f"expected a datetime with a zone, got the naive {moment!r}")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * NS + delta.microseconds * 1000


def from_wall(naive: datetime, zone: tzinfo) -> Instant:
    """A device's wall time, read in the clinic's zone, as an instant (the earlier one of a repeated hour)."""
    return from_datetime(naive.replace(tzinfo=zone))


def iso(instant: Instant) -> str:
    """`2026-11-24T08:58:01.250Z`, for people and logs."""
    return to_datetime(instant).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
