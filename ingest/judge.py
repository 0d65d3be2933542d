"""From admitted messages to flagged ones: which visit a reading belongs to, whether it is late or seen before, and,
for a whole batch at once, what the rules say of it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from ingest.associations import Associations
from ingest.ekg.streams import Rate
from ingest.evaluate import Evaluator, Reading
from ingest.rules import RuleSet
from ingest.store.contract import Address
from vitals.clock import NS, Instant
from vitals.messages import VERSION, FlaggedMessage, ObservationMessage, StripMessage, reading_id
from vitals.model import Quantity, Validity

LATE_S: Final = 60
"""Seconds between measuring and arriving from which on a reading is marked late."""
MAX_SEEN: Final = 100_000
"""Ids remembered, so that a resent reading is stored, answered, and neither shown nor alarmed again."""


class Judged(NamedTuple):
    """`fresh`: not seen before."""

    room: str
    message: FlaggedMessage
    fresh: bool


class _Item(NamedTuple):
    """A reading to be judged. `why` replaces the reason of values that have no number; `fresh`: not seen before."""

    room: str
    message: FlaggedMessage
    reading: Reading
    fresh: bool
    why: str = ""


class Judge:
    """Gathers readings and heart rates; `judge` evaluates what has gathered."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.associations = Associations()
        self._evaluator = Evaluator(rules)
        self._seen: dict[str, None] = {}
        self._items: list[_Item] = []

    def remember(self, ids: Sequence[str]) -> None:
        """Readings that were seen before the start."""
        self._seen = dict.fromkeys(ids[-MAX_SEEN:])

    def reading(self, address: Address, message: ObservationMessage, now: Instant) -> None:
        o = message.observation
        association = self.associations.at(address.room, message.t_determined, historical=o.historical)
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
            assoc_version=association.version if association else 0,
            rules_hash=self.rules.hash,
        )
        reading = Reading(o.quantities, association, o.context, o.method, o.quality)
        self._items.append(_Item(address.room, flagged, reading, self._fresh(message.id)))

    def rate(self, address: Address, strip: StripMessage, rate: Rate, now: Instant) -> None:
        association = self.associations.at(address.room, rate.t, historical=False)
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
            simulated=strip.simulated,
            derived=True,
            late_s=_late(rate.t, now),
            assoc_version=association.version if association else 0,
            rules_hash=self.rules.hash,
        )
        reading = Reading({"hr_ekg": Quantity(rate.value, "", "/min", validity)}, association)
        self._items.append(_Item(address.room, flagged, reading, True, rate.reason))

    def judge(self) -> list[Judged]:
        """Evaluate what has gathered, as one batch of columns."""
        items, self._items = self._items, []
        judged: list[Judged] = []
        for item, values in zip(items, self._evaluator.evaluate([item.reading for item in items]), strict=True):
            if item.why:
                values = {key: msgspec.structs.replace(value, not_evaluated=item.why) for key, value in values.items()}
            judged.append(Judged(item.room, msgspec.structs.replace(item.message, values=values), item.fresh))
        return judged

    def _fresh(self, key: str) -> bool:
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        return True


def _late(t: Instant, now: Instant) -> int:
    seconds = (now - t) // NS
    return seconds if seconds > LATE_S else 0
