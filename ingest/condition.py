"""One alert condition: what each source said last, what is published, and when that may fall.

Several sources may tell of one thing (an EKG and an oximeter count one heart). The condition is as bad as the worst
of what they said last: a milder word of one never speaks for another. It falls only after all stayed milder for a
while (chatter is the usual fault of alarms).
"""

from typing import Final, NamedTuple, TypeAlias

import msgspec

from vitals.clock import NS, Instant
from vitals.messages import AlertMessage, Priority

INSIDE: Final = 15 * NS
READINGS_INSIDE: Final = 2
STANDS: Final = 300 * NS
"""For so long what a source said last counts beside the others: as long as a rate is shown at all (`gone_s`). A source
that was put away must not hold an alarm for ever."""
MAX_SOURCES: Final = 32
"""Metrics of devices in one condition; names without end must not fill the memory."""
ORDER: Final[dict[Priority | None, int]] = {None: 0, "low": 1, "med": 2, "high": 3}
LATE: Final = ", late "

Source: TypeAlias = tuple[str, str]
"""Device and metric: each has its own order of time. A rate from strips is always older than the device's own."""
Step: TypeAlias = AlertMessage | None
"""To be published: the alert as it is now, or None for its end."""


class Word(NamedTuple):
    """What a source said last. `t`: when it was measured, never later than `heard`: a clock that ran ahead once must
    not make all that follows look overtaken."""

    t: Instant
    heard: Instant
    alert: AlertMessage | None


class Condition:
    """`alert` is what is published now; while readings are milder, `milder` gathers the worst of them. `eased`: this
    session has lowered or ended it, so that what an earlier one left retained is no news."""

    def __init__(self) -> None:
        self.alert: AlertMessage | None = None
        self.milder: AlertMessage | None = None
        self.inside_since: Instant | None = None
        self.inside = 0
        self.spot = False
        self.eased = False
        self._words: dict[Source, Word] = {}
        self._said: AlertMessage | None = None
        """What all that was heard in time came to, at the last of it: where the alert is, or falls to."""

    @property
    def order(self) -> int:
        return order(self.alert)

    def hear(self, source: Source, word: Word) -> bool:
        """Take it, unless a newer one of that source came before."""
        before = self._words.get(source)
        if before is not None and word.t < before.t:
            return False
        if before is None and len(self._words) >= MAX_SOURCES:
            del self._words[min(self._words, key=lambda key: self._words[key].heard)]
        self._words[source] = word
        return True

    def worst(self, now: Instant) -> AlertMessage | None:
        """The worst that is said now; of equals the source that raised the alert, so that two do not alternate."""
        said = {s: w.alert for s, w in self._words.items() if w.alert is not None and now - w.heard <= STANDS}
        if not said:
            return None
        top = max(map(order, said.values()))
        said = {source: alert for source, alert in said.items() if order(alert) == top}
        raised_by = (self.alert.device, self.alert.metric) if self.alert is not None else ("", "")
        return said.get(raised_by) or next(iter(said.values()), None)

    def step(self, alert: AlertMessage | None, now: Instant) -> list[Step]:
        """Raise at once, tell another cause at once, fall when it stayed milder for long enough."""
        self._said = alert
        return self._step(alert, now)

    def overtaken(self, alert: AlertMessage | None, now: Instant) -> list[Step]:
        """A spot reading of which a newer one came first. What is worse is told all the same, and falls to what the
        newer one said as if the two had come in order: the order of arrival decides nothing that lasts."""
        if order(alert) <= self.order:
            return []
        return [*self._step(alert, now), *self._step(self._said, now)]

    def _step(self, alert: AlertMessage | None, now: Instant) -> list[Step]:
        if order(alert) >= self.order:
            self._outside()
            if alert is None or (self.alert is not None and _cause(alert) == _cause(self.alert)):
                return []
            self.alert = alert
            return [alert]
        if self.inside_since is None:
            self.inside_since, self.milder = now, alert
        elif order(alert) > order(self.milder):
            self.milder = alert
        self.inside += 1
        enough = self.spot and self.inside >= READINGS_INSIDE
        return self.ease(now) if enough or now - self.inside_since >= INSIDE else []

    def tick(self, now: Instant) -> list[Step]:
        """A continuous value must still be coming; a spot reading stands until the next."""
        due = self.spot and self.inside_since is not None and now - self.inside_since >= INSIDE
        return self.ease(now) if due else []

    def ease(self, now: Instant) -> list[Step]:
        """Down to the worst of the milder readings, and from there on to what was said last; or to the end."""
        milder = self.milder
        self.end()
        if milder is None:
            return [None]
        self.alert = milder
        return self._step(self._said, now) or [milder]

    def end(self) -> None:
        self.alert, self.eased = None, True
        self._outside()

    def forget(self) -> None:
        """What was said was of another patient."""
        self._words = {}
        self._said = None
        self._outside()

    def corrected(self, before: int, version: int) -> None:
        """The visit has a new version, and so has all that its readings said: what the alert may fall to as well."""

        def carried(alert: AlertMessage | None) -> AlertMessage | None:
            if alert is None or alert.assoc_version != before:
                return alert
            return msgspec.structs.replace(alert, assoc_version=version)

        self.alert, self.milder, self._said = carried(self.alert), carried(self.milder), carried(self._said)
        self._words = {source: word._replace(alert=carried(word.alert)) for source, word in self._words.items()}

    def adopt(self, alert: AlertMessage) -> list[Step]:
        """Take over what an earlier session left, if it is worse; what was heard since counts as one milder reading."""
        if order(alert) <= self.order:
            return []
        overwritten, self.alert = self.alert, alert
        if self._words:
            self.milder, self.inside = overwritten, 1
            self.inside_since = max(word.heard for word in self._words.values())
        return [] if overwritten is None else [alert]

    def _outside(self) -> None:
        self.milder, self.inside_since, self.inside = None, None, 0


def order(alert: AlertMessage | None) -> int:
    return ORDER[alert.priority if alert is not None else None]


def _cause(alert: AlertMessage) -> tuple[object, ...]:
    """An alert of equal priority with another cause must be told: a fast heart is not a slow one."""
    return alert.priority, alert.text.partition(LATE)[0], alert.limit, alert.op, alert.threshold
