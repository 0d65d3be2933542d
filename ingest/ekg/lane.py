"""One order of strips, its detector, and the heart rate once a second."""

from typing import Final, NamedTuple

from ingest.ekg.rate import HeartRate
from ingest.ekg.simple import QrsDetector
from vitals.clock import Instant
from vitals.messages import StripMessage
from vitals.units import round_half_up

EVERY_S: Final = 0.9
"""A rate for each strip of a second; shorter packs share one."""


class Rate(NamedTuple):
    """`value` None: why there is none stands in `reason`. `t` is the moment after the strip's last sample. `live`:
    it is of now, and not of a strip that came late or from a device's memory."""

    t: Instant
    value: float | None
    reason: str
    live: bool


class Lane:
    """`end`: where the newest strip ended, by our clock."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self.stream = ""
        self.next_index = 0
        self.end: Instant = 0
        self._kind: tuple[float, float | None] = (0.0, None)
        self._said_at = 0
        self._detector: QrsDetector | None = None
        self._rate = HeartRate(1.0)

    def resume(self, stream: str, next_index: int, end: Instant) -> None:
        """Where an earlier session was; its beats are not known any more."""
        self.stream, self.next_index, self.end = stream, next_index, end

    def take(self, strip: StripMessage, end: Instant, placed: Instant) -> Rate | None:
        """Analyse it; a rate, when it is time for one. `end`: of the strip, as it says; `placed`: by our clock."""
        kind = (strip.rate, strip.scale)
        if strip.stream != self.stream or kind != self._kind:
            self._begin(strip, kind)
        if strip.lead_off or strip.first_index != self.next_index:
            self._rate.reset()
            # Strips that come late may step back.
            self._said_at = min(self._said_at, strip.first_index - round(strip.rate))
        self.next_index = strip.first_index + strip.count
        self.end = placed
        if self._detector is not None:
            for beat in self._detector.push(strip.samples(), strip.first_index, strip.lead_off):
                self._rate.beat(beat)
        if self.next_index - self._said_at < EVERY_S * strip.rate:
            return None
        self._said_at = self.next_index
        return self._say(strip, end)

    def _begin(self, strip: StripMessage, kind: tuple[float, float | None]) -> None:
        self.stream, self._kind = strip.stream, kind
        self._detector = _detector(strip)
        self._rate = HeartRate(strip.rate)
        self.next_index = strip.first_index
        self._said_at = strip.first_index - round(strip.rate)

    def _say(self, strip: StripMessage, end: Instant) -> Rate:
        if strip.lead_off:
            return Rate(end, None, "lead off", self._live)
        if self._detector is None:
            return Rate(end, None, f"no heart rate at {strip.rate:g} samples a second", self._live)
        value, reason = self._rate.at(self.next_index)
        return Rate(end, None if value is None else round_half_up(value, 0), reason, self._live)


def _detector(strip: StripMessage) -> QrsDetector | None:
    try:
        return QrsDetector(strip.rate, strip.scale)
    except ValueError:
        return None
