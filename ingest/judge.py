"""From admitted messages to flagged ones: which visit a reading belongs to, whether it is late or seen before, and,
for a whole batch at once, what the rules say of it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from ingest.associations import Associations
from ingest.binding import Binding, bind
from ingest.ekg.lane import Rate
from ingest.evaluate import NO_PATIENT, Evaluator, Reading, not_evaluated
from ingest.rules import RuleSet
from ingest.seen import Seen
from ingest.store.contract import Address
from vitals.clock import NS, Instant
from vitals.log import Log
from vitals.messages import VERSION, FlaggedMessage, FlaggedValue, ObservationMessage, StripMessage, reading_id
from vitals.model import Quantity, Validity

LATE_S: Final = 60
"""Seconds between measuring and arriving from which on a reading is marked late."""
INTERNAL: Final = "internal error"
_log = Log("ingest.judge")


class Judged(msgspec.Struct, frozen=True):
    """`fresh`: to be shown: not seen before, and not of a strip that came late. `reading`: what was judged, None for a
    heart rate. `ahead`: of a clock that runs ahead. `failed`: our own fault kept it from being evaluated."""

    room: str
    message: FlaggedMessage
    fresh: bool
    reading: ObservationMessage | None = None
    ahead: bool = False
    failed: bool = False


class _Item(msgspec.Struct, frozen=True):
    """A reading to be judged; the values of its `message` are filled in when it is. `why` replaces the reason of values
    that have no number; `source`: see `Judged.reading`; `live`: to be shown, when it is new."""

    room: str
    message: FlaggedMessage
    reading: Reading
    binding: Binding
    source: ObservationMessage | None = None
    live: bool = True
    why: str = ""


class Judge:
    """Gathers readings and heart rates; `judge` evaluates what has gathered."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.associations = Associations()
        self._evaluator = Evaluator(rules)
        self._seen = Seen()
        self._items: list[_Item] = []

    def remember(self, ids: Sequence[str]) -> None:
        """Readings that were seen before the start, oldest first."""
        self._seen = Seen(ids)

    def drop_readings(self) -> None:
        """Their messages will be given again. Heart rates stay: their strips are not analysed twice."""
        self._items = [item for item in self._items if item.source is None]

    def reading(self, address: Address, message: ObservationMessage, now: Instant, clock_off_ms: int | None) -> None:
        """`clock_off_ms`: what the gateway knows of its own clock."""
        o = message.observation
        binding = bind(
            self.associations, address.room, message.t_determined, now, uncertainty_ms=message.uncertainty_ms,
            clock_off_ms=clock_off_ms, historical=o.historical,
        )  # fmt: skip
        flagged = FlaggedMessage(
            v=VERSION,
            id=message.id,
            gateway=address.gateway,
            device=address.device,
            driver=message.driver,
            kind=o.kind,
            t=message.t_determined,
            uncertainty_ms=message.uncertainty_ms,
            t_received=o.received_at,
            values={},
            t_device=o.t_device,
            context=o.context,
            method=o.method,
            quality=o.quality,
            historical=o.historical,
            simulated=message.simulated,
            late_s=0 if o.historical else _late(message.t_determined, now),
            assoc_version=binding.version,
            rules_hash=self.rules.hash,
        )
        reading = Reading(o.quantities, binding.association, o.context, o.method, o.quality)
        self._items.append(_Item(address.room, flagged, reading, binding, source=message))

    def rate(self, address: Address, strip: StripMessage, rate: Rate, now: Instant, clock_off_ms: int | None) -> None:
        """A heart rate. One of a strip that came late, or from a device's memory, is stored and never shown as live."""
        binding = bind(
            self.associations, address.room, rate.t, now, uncertainty_ms=0, clock_off_ms=clock_off_ms,
            historical=strip.historical,
        )  # fmt: skip
        validity = Validity.VALID if rate.value is not None else Validity.NOT_AVAILABLE
        flagged = FlaggedMessage(
            v=VERSION,
            id=reading_id("hr_ekg", address.gateway, address.device, strip.stream, strip.metric, strip.first_index),
            gateway=address.gateway,
            device=address.device,
            driver=strip.driver,
            kind="ekg",
            t=rate.t,
            uncertainty_ms=0,
            t_received=strip.t_received,
            values={},
            historical=strip.historical,
            simulated=strip.simulated,
            derived=True,
            late_s=0 if strip.historical else _late(rate.t, now),
            assoc_version=binding.version,
            rules_hash=self.rules.hash,
        )
        reading = Reading({"hr_ekg": Quantity(rate.value, "", "/min", validity)}, binding.association)
        self._items.append(_Item(address.room, flagged, reading, binding, live=rate.live, why=rate.reason))

    def judge(self) -> list[Judged]:
        """Evaluate what has gathered, as one batch of columns."""
        items, self._items = self._items, []
        answers = self._evaluate([item.reading for item in items])
        return [self._judged(item, values) for item, values in zip(items, answers, strict=True)]

    def _evaluate(self, readings: Sequence[Reading]) -> Sequence[dict[str, FlaggedValue] | None]:
        """None for a reading that our own fault keeps from being evaluated; its neighbours are."""
        try:
            return self._evaluator.evaluate(readings)
        except Exception:  # noqa: BLE001  a bug met by one reading must not hide the others
            _log.exception("evaluation failed", readings=len(readings), do="report it with this traceback")
        return [None] if len(readings) == 1 else [answer for one in readings for answer in self._evaluate([one])]

    def _judged(self, item: _Item, answer: dict[str, FlaggedValue] | None) -> Judged:
        values = not_evaluated(item.reading, INTERNAL) if answer is None else answer
        if item.why:
            values = {key: msgspec.structs.replace(value, not_evaluated=item.why) for key, value in values.items()}
        elif item.binding.why:
            values = {key: _unbound(value, item.binding.why) for key, value in values.items()}
        item.message.values.update(values)
        fresh = item.live and (item.source is None or self._seen.add(item.message.id, item.message.gateway))
        return Judged(item.room, item.message, fresh, item.source, item.binding.ahead, answer is None)


def _unbound(value: FlaggedValue, why: str) -> FlaggedValue:
    """Nobody is bound, and it is known why."""
    return msgspec.structs.replace(value, not_evaluated=why) if value.not_evaluated == NO_PATIENT else value


def _late(t: Instant, now: Instant) -> int:
    seconds = (now - t) // NS
    return seconds if seconds > LATE_S else 0
