"""Every EKG that comes in: which strip may be analysed, what was not received, and the heart rate once a second."""

from collections import OrderedDict
from typing import Final, NamedTuple

from ingest.ekg.coverage import Coverage
from ingest.ekg.rate import HeartRate
from ingest.ekg.simple import QrsDetector
from ingest.store.contract import Address, StripTail, strip_end
from vitals.clock import NS, Instant
from vitals.messages import StripMessage
from vitals.units import round_half_up

ANALYSED: Final = frozenset({"ekg"})
"""Metrics that carry beats. Other signals are stored and their gaps counted."""
MAX_SIGNALS: Final = 1024
"""Signals with a state of their own; the one longest silent gives way. The design load is 32 a gateway."""
EVERY_S: Final = 0.9
"""A rate for each strip of a second; shorter packs share one."""
CLOCK_SLACK: Final = NS
"""A new link-up's first sample may seem to lie before the old one's last by the error of the fitted times."""


class Rate(NamedTuple):
    """`value` None: why there is none stands in `reason`. `t` is the moment after the strip's last sample."""

    t: Instant
    value: float | None
    reason: str


class Lost(NamedTuple):
    """Seconds of a signal that did not come."""

    address: Address
    metric: str
    seconds: float


class _Signal:
    def __init__(self, address: Address) -> None:
        self.address = address
        self.coverage = Coverage()
        self.stream = ""
        self.kind: tuple[float, float | None] = (0.0, None)
        self.next_index = 0
        self.end: Instant = 0
        self.said_at = 0
        self.detector: QrsDetector | None = None
        self.rate = HeartRate(1.0)


class Streams:
    """By gateway, device and metric. A strip that came before, or too late, is never analysed twice."""

    def __init__(self) -> None:
        self._signals: OrderedDict[tuple[str, str, str], _Signal] = OrderedDict()

    def resume(self, tail: StripTail) -> None:
        """After a restart: gaps are seen against the newest stored strip."""
        address = Address(tail.gateway, tail.room, tail.device)
        self._signal(address, tail.metric).coverage.resume(tail.stream, tail.next_index, tail.t_end)

    def take(self, address: Address, strip: StripMessage, now: Instant) -> tuple[Rate | None, list[Lost]]:
        """A heart rate, when it is time for one, and what is now known to be lost."""
        signal = self._signal(address, strip.metric)
        end = strip_end(strip)
        lost = [Lost(address, strip.metric, s) for s in signal.coverage.add(strip, end, now)]
        if strip.metric not in ANALYSED or not _fits(signal, strip):
            return None, lost
        return _analyse(signal, strip, end), lost

    def due(self, now: Instant) -> list[Lost]:
        """Gaps that nothing filled in time."""
        return [
            Lost(signal.address, metric, seconds)
            for (_, _, metric), signal in self._signals.items()
            for seconds in signal.coverage.due(now)
        ]

    def missing(self) -> dict[str, float]:
        """Seconds not received since the start, by `gateway/device/metric`; those still open included."""
        found = {"/".join(key): s.coverage.missing_s + s.coverage.open_s for key, s in self._signals.items()}
        return {key: seconds for key, seconds in found.items() if seconds > 0}

    def _signal(self, address: Address, metric: str) -> _Signal:
        key = (address.gateway, address.device, metric)
        signal = self._signals.pop(key, None) or _Signal(address)
        signal.address = address
        self._signals[key] = signal
        if len(self._signals) > MAX_SIGNALS:
            self._signals.popitem(last=False)
        return signal


def _fits(signal: _Signal, strip: StripMessage) -> bool:
    if strip.stream == signal.stream:
        return strip.first_index >= signal.next_index
    return strip.t0 >= signal.end - CLOCK_SLACK


def _analyse(signal: _Signal, strip: StripMessage, end: Instant) -> Rate | None:
    kind = (strip.rate, strip.scale)
    if strip.stream != signal.stream or kind != signal.kind:
        signal.stream, signal.kind = strip.stream, kind
        signal.detector = _detector(strip)
        signal.rate = HeartRate(strip.rate)
        signal.next_index = strip.first_index
        signal.said_at = strip.first_index - round(strip.rate)
    if strip.lead_off or strip.first_index != signal.next_index:
        signal.rate.reset()
    signal.next_index = strip.first_index + strip.count
    signal.end = end
    if signal.detector is not None:
        for beat in signal.detector.push(strip.samples(), strip.first_index, strip.lead_off):
            signal.rate.beat(beat)
    if signal.next_index - signal.said_at < EVERY_S * strip.rate:
        return None
    signal.said_at = signal.next_index
    if strip.lead_off:
        return Rate(end, None, "lead off")
    if signal.detector is None:
        return Rate(end, None, f"no heart rate at {strip.rate:g} samples a second")
    value, reason = signal.rate.at(signal.next_index)
    return Rate(end, None if value is None else round_half_up(value, 0), reason)


def _detector(strip: StripMessage) -> QrsDetector | None:
    try:
        return QrsDetector(strip.rate, strip.scale)
    except ValueError:
        return None
