"""What was dropped for want of room, counted by device and signal, each time with an event that says so."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from drivers.core.draft import Draft
from vitals.clock import Instant
from vitals.messages import VERSION, EventMessage, NewerVersion, StripMessage, decode_strips
from vitals.outbox import AgedOut

CODE: Final = "strips_aged_out"
NUMBERS: Final = "numbers_aged_out"


class Dropped(NamedTuple):
    """Strips of one device. `seconds` by metric; a strip that cannot be read counts as a strip of no length."""

    strips: int
    seconds: dict[str, float]
    simulated: bool


def tally(strips: Iterable[tuple[str, StripMessage | bytes]]) -> dict[str, Dropped]:
    """(topic, strip) by topic."""
    found: dict[str, Dropped] = {}
    for topic, strip in strips:
        count, seconds, simulated = found.get(topic, Dropped(0, {}, False))
        message = _read(strip) if isinstance(strip, bytes) else strip
        if message is not None:
            length = message.count / message.rate if message.rate else 0.0
            seconds[message.metric] = seconds.get(message.metric, 0.0) + length
            simulated = simulated or message.simulated
        found[topic] = Dropped(count + 1, seconds, simulated)
    return found


def merge(first: dict[str, Dropped], second: dict[str, Dropped]) -> dict[str, Dropped]:
    """Both, added up."""
    found = dict(first)
    for topic, more in second.items():
        before = found.get(topic, Dropped(0, {}, False))
        seconds = {m: before.seconds.get(m, 0.0) + more.seconds.get(m, 0.0) for m in before.seconds | more.seconds}
        found[topic] = Dropped(before.strips + more.strips, seconds, before.simulated or more.simulated)
    return found


def _read(payload: bytes) -> StripMessage | None:
    """None for what a bad card made of it: that must not keep the gateway from making room."""
    try:
        strips = decode_strips(payload)
    except (msgspec.DecodeError, NewerVersion, UnicodeError, RecursionError):
        return None
    return strips[0] if strips else None


def events(dropped: dict[str, Dropped], why: str, now: Instant) -> list[Draft]:
    """One for each device."""
    drafts = []
    for topic, (strips, seconds, simulated) in dropped.items():
        lengths = ", ".join(f"{length:.1f} s of {metric}" for metric, length in sorted(seconds.items()))
        detail = f"{strips} strips dropped, {why}: {lengths}"
        event = EventMessage(VERSION, "", 0, CODE, detail, now, count=strips, simulated=simulated)
        drafts.append(Draft(f"{topic.removesuffix('strip')}event", event, urgent=False))
    return drafts


def aged_out_events(aged: AgedOut, now: Instant) -> list[Draft]:
    """For each device, what the outbox dropped of it. Refused rows and events are only counted."""
    drafts = events(tally((row.topic, row.payload) for row in aged.strips), "the outbox was full", now)
    for topic, count in Counter(row.topic for row in aged.numbers).items():
        simulated = any(row.topic == topic and b'"simulated":true' in row.payload for row in aged.numbers)
        detail = f"{count} readings of a monitor dropped, the outbox was full"
        event = EventMessage(VERSION, "", 0, NUMBERS, detail, now, count=count, simulated=simulated)
        drafts.append(Draft(f"{topic.removesuffix('obs')}event", event, urgent=False))
    return drafts


class Losses:
    """Since the start of the gateway. `seconds` by device/metric; `rows`: all that was dropped and is no strip."""

    def __init__(self) -> None:
        self.strips = 0
        self.seconds: dict[str, float] = {}
        self.rows = 0

    def aged_out(self, aged: AgedOut) -> None:
        self.add(tally((row.topic, row.payload) for row in aged.strips))
        self.rows += len(aged.refused) + len(aged.events) + len(aged.numbers)

    def add(self, dropped: dict[str, Dropped]) -> None:
        for topic, (strips, seconds, _) in dropped.items():
            self.strips += strips
            device = topic.split("/")[-2]
            for metric, length in seconds.items():
                key = f"{device}/{metric}"
                self.seconds[key] = self.seconds.get(key, 0.0) + length
