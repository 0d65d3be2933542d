"""Every EKG that comes in: which strip may be analysed, what was not received, and the heart rate once a second."""

from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from ingest.ekg.coverage import Coverage
from ingest.ekg.lane import Lane, Rate
from ingest.store.contract import Address, StripTail, strip_end
from vitals.clock import NS, Instant
from vitals.messages import StripMessage

ANALYSED: Final = frozenset({"ekg"})
"""Metrics that carry beats. Other signals are stored and their gaps counted."""
MAX_SIGNALS: Final = 256
"""Signals of one gateway with a state of their own; its own longest silent one gives way, never another gateway's. The
design load is 32. (Ingest takes so many gateways: `ingest/quota.py`.)"""
CLOCK_SLACK: Final = NS
"""A new link-up's first sample may seem to lie before the old one's last by the error of the fitted times."""


class Lost(NamedTuple):
    """Seconds of a signal that did not come."""

    address: Address
    metric: str
    seconds: float
    simulated: bool


class _Signal:
    """`live` follows the newest strip; `late` what arrives behind it; `memory` what a device had recorded."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.simulated = False
        self.coverage = Coverage()
        self.live = Lane(live=True)
        self.late = Lane(live=False)
        self.memory = Lane(live=False)


class Streams:
    """By gateway, device and metric. A strip that came before is never analysed twice."""

    def __init__(self) -> None:
        self._gateways: dict[str, OrderedDict[tuple[str, str], _Signal]] = {}

    def resume(self, tail: StripTail) -> None:
        """After a restart: gaps, and strips that were analysed before, are seen against the newest stored strip."""
        signal = self._signal(Address(tail.gateway, tail.room, tail.device), tail.metric)
        signal.coverage.resume(tail.stream, tail.next_index, tail.t_end)
        signal.live.resume(tail.stream, tail.next_index, tail.t_end)

    def take(self, address: Address, strip: StripMessage, now: Instant) -> tuple[Rate | None, list[Lost]]:
        """A heart rate, when it is time for one, and what is now known to be lost."""
        signal = self._signal(address, strip.metric)
        signal.simulated = strip.simulated
        end = strip_end(strip)
        strip, placed = _placed(strip, end, now)
        analysed = strip.metric in ANALYSED
        if strip.historical:
            # A recording has no gaps against the live signal.
            return signal.memory.take(strip, end, placed) if analysed and _new(signal.memory, strip) else None, []
        taken = signal.coverage.add(strip, placed, now)
        lost = [Lost(address, strip.metric, seconds, strip.simulated) for seconds in taken.lost]
        if not analysed:
            return None, lost
        if _fits(signal.live, strip):
            return signal.live.take(strip, end, placed), lost
        return signal.late.take(strip, end, placed) if taken.filled else None, lost

    def due(self, now: Instant) -> list[Lost]:
        """Gaps that nothing filled in time."""
        return [
            Lost(signal.address, metric, seconds, signal.simulated)
            for signals in self._gateways.values()
            for (_, metric), signal in signals.items()
            for seconds in signal.coverage.due(now)
        ]

    def missing(self) -> dict[str, float]:
        """Seconds not received since the start, by `gateway/device/metric`; those still open included."""
        found = {
            "/".join((gateway, *key)): s.coverage.missing_s + s.coverage.open_s
            for gateway, signals in self._gateways.items()
            for key, s in signals.items()
        }
        return {key: seconds for key, seconds in found.items() if seconds > 0}

    def _signal(self, address: Address, metric: str) -> _Signal:
        key = (address.device, metric)
        signals = self._gateways.setdefault(address.gateway, OrderedDict())
        signal = signals.pop(key, None) or _Signal(address)
        signal.address = address
        signals[key] = signal
        if len(signals) > MAX_SIGNALS:
            signals.popitem(last=False)
        return signal


def _placed(strip: StripMessage, end: Instant, now: Instant) -> tuple[StripMessage, Instant]:
    """No strip ends after it came. A clock that ran ahead once, and was put right, must not make all that follows look
    old: its strips are placed at their arrival."""
    return (strip, end) if end <= now else (msgspec.structs.replace(strip, t0=strip.t0 - (end - now)), now)


def _fits(lane: Lane, strip: StripMessage) -> bool:
    return strip.first_index >= lane.next_index if strip.stream == lane.stream else strip.t0 >= lane.end - CLOCK_SLACK


def _new(lane: Lane, strip: StripMessage) -> bool:
    """Of a recording: any other one, or further on in the same."""
    return strip.stream != lane.stream or strip.first_index >= lane.next_index
