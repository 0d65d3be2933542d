"""Alert conditions of all rooms: raised by flags and by lost devices, cleared when their cause is over. Events in,
changes out.

One condition a room and metric. Critical is of high priority, abnormal of medium, a technical one low. Only readings
of the visit the room has now count; one that nobody can be bound to may raise what is critical for anyone.
Acknowledgement, latching and escalation are not here yet.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ingest.associations import SINCE_GRACE
from ingest.binding import MAX_UNCERTAINTY_MS
from ingest.condition import LATE, Condition, Step, Word, order
from vitals.clock import Instant
from vitals.messages import VERSION, AlertMessage, AssociationMessage, Flag, FlaggedMessage, Level, Priority
from vitals.metrics import METRICS

MAX_CONDITIONS: Final = 4096
"""Rooms times metrics; beyond it the oldest records that are not raised are forgotten."""
_PRIORITY: Final[dict[Level, Priority]] = {"critical": "high", "abnormal": "med"}
_TOGETHER: Final = {
    "bp_sys": "bp", "bp_dia": "bp", "bp_map": "bp",
    "hr_ekg": "pulse", "hr_device": "pulse", "pulse_oximeter": "pulse", "pulse_cuff": "pulse",
}  # fmt: skip
"""Values that tell of one thing make one alert: two boards counting the same fast heart are not two alarms."""
_EPISODIC: Final = frozenset(key for key, metric in METRICS.items() if metric.pace == "episodic")


class Change(NamedTuple):
    """An alert raised or changed; `alert` None: it ended."""

    room: str
    id: str
    alert: AlertMessage | None


class Alerts:
    """`simulated`: whether simulated readings alarm (only a demo says so)."""

    def __init__(self, *, simulated: bool) -> None:
        self._simulated = simulated
        self._conditions: dict[tuple[str, str], Condition] = {}

    def active(self) -> list[tuple[str, AlertMessage]]:
        """What is raised now, with its room: to be published again on every connect."""
        return [(room, c.alert) for (room, _), c in self._conditions.items() if c.alert is not None]

    def adopt(self, room: str, alert: AlertMessage, association: AssociationMessage | None) -> list[Change]:
        """Take over an alert an earlier session left retained: it lasts until readings or devices end it.

        It is ended instead when this session has done so before, or when it is of another visit.
        """
        condition = self._condition(room, alert.id)
        foreign = association is not None and not alert.technical and not _belongs(alert, association)
        if condition.alert is None and (condition.eased or foreign):
            return [Change(room, alert.id, None)]
        return [] if condition.eased or foreign else _changes(room, alert.id, condition.adopt(alert))

    # -- readings --------------------------------------------------------------------------------------------

    def flagged(self, room: str, message: FlaggedMessage, now: Instant, current: int) -> list[Change]:
        """A fresh reading with its flags; `current` is the association version the room has now, 0 for none.

        Historical readings never alarm; late ones of this visit do, and say so.
        """
        if message.historical or (message.simulated and not self._simulated) or not _counts(message, current):
            return []
        changes: list[Change] = []
        for key, flags in _by_condition(message).items():
            condition = self._condition(room, key)
            condition.spot = _EPISODIC.issuperset(flags)
            alerts = {metric: _alert(key, metric, flag, message, now) for metric, flag in flags.items()}
            if not _hear(condition, alerts, message, now):
                # Late: a continuous value says nothing of now; a spot reading is news, and may raise, not lower.
                if condition.spot:
                    changes += _changes(room, key, condition.overtaken(max(alerts.values(), key=order), now))
                continue
            alert = condition.worst(now)
            ours = condition.alert is None or condition.alert.assoc_version == message.assoc_version
            if ours or message.assoc_version == current or order(alert) > condition.order:
                changes += _changes(room, key, condition.step(alert, now))
        return changes

    def visit_over(self, room: str) -> list[Change]:
        """Another patient, or none: what the readings of the last one raised is over. Technical ones stay."""
        ended: list[Change] = []
        for (r, key), condition in self._conditions.items():
            technical = condition.alert is not None and condition.alert.technical
            if r != room or technical:
                continue
            condition.forget()
            if condition.alert is not None:
                condition.end()
                ended.append(Change(room, key, None))
        return ended

    def bound(self, room: str, association: AssociationMessage, before: int) -> list[Change]:
        """The room's association is told, renewed or corrected (then `before` is the version it had).

        Alerts of a corrected visit carry the new version; what another visit's readings raised is over.
        """
        changes: list[Change] = []
        for (r, key), condition in self._conditions.items():
            alert = condition.alert
            if r != room or alert is None or alert.technical or _belongs(alert, association):
                continue
            if before and alert.assoc_version == before:
                condition.corrected(before, association.version)
            else:
                condition.forget()
                condition.end()
            changes.append(Change(room, key, condition.alert))
        return changes

    def tick(self, now: Instant) -> list[Change]:
        """Time passes: conditions whose readings stayed inside long enough."""
        return [
            change
            for (room, key), condition in list(self._conditions.items())
            for change in _changes(room, key, condition.tick(now))
        ]

    # -- devices ---------------------------------------------------------------------------------------------

    def technical(self, room: str, device: str, reason: str, now: Instant, *, simulated: bool) -> list[Change]:
        """The device cannot be heard, for that reason; an empty reason ends it."""
        key = f"device-{device}"
        if not reason:
            known = self._conditions.get((room, key))
            if known is None or known.alert is None:
                return []
            known.end()
            return [Change(room, key, None)]
        condition = self._condition(room, key)
        if condition.alert is not None:
            return []
        condition.alert = AlertMessage(
            v=VERSION,
            id=key,
            priority="low",
            technical=True,
            metric="",
            text=f"{device}: {reason}",
            since=now,
            device=device,
            simulated=simulated,
        )
        return [Change(room, key, condition.alert)]

    def _condition(self, room: str, key: str) -> Condition:
        known = self._conditions.get((room, key))
        if known is not None:
            return known
        if len(self._conditions) >= MAX_CONDITIONS:
            quiet = next((k for k, c in self._conditions.items() if c.alert is None), None)
            if quiet is not None:
                del self._conditions[quiet]
        made = self._conditions[room, key] = Condition()
        return made


def _changes(room: str, key: str, steps: Sequence[Step]) -> list[Change]:
    return [Change(room, key, alert) for alert in steps]


def _counts(message: FlaggedMessage, current: int) -> bool:
    """Whether it may alarm in a room that has that visit now: its own readings, and, since a wrong clock must not
    silence what is critical, those nobody can be bound to, if they come from now as far as anybody knows."""
    if message.assoc_version == current:
        return True
    return message.assoc_version == 0 and not message.late_s and message.uncertainty_ms <= MAX_UNCERTAINTY_MS


def _belongs(alert: AlertMessage, association: AssociationMessage) -> bool:
    """Whether readings of that visit raised it; what was raised unbound belongs to the visit that had begun."""
    if alert.assoc_version:
        return alert.assoc_version == association.version
    return alert.since >= association.since - SINCE_GRACE


def _by_condition(message: FlaggedMessage) -> dict[str, dict[str, Flag]]:
    """Flags by alert id and metric. Values that were not evaluated neither raise nor clear."""
    found: dict[str, dict[str, Flag]] = {}
    for metric, value in message.values.items():
        if value.flag is not None:
            found.setdefault(_TOGETHER.get(metric, metric), {})[metric] = value.flag
    return found


def _hear(condition: Condition, alerts: dict[str, AlertMessage | None], message: FlaggedMessage, now: Instant) -> bool:
    """Whether any of it is news; not, where newer readings of all its metrics came first."""
    t = min(message.t, now)
    taken = [condition.hear((message.device, metric), Word(t, now, a)) for metric, a in alerts.items()]
    return any(taken)


def _alert(key: str, metric: str, flag: Flag, message: FlaggedMessage, now: Instant) -> AlertMessage | None:
    priority = _PRIORITY.get(flag.level)
    # Without a patient only what is critical for anyone alarms.
    if priority is None or (priority == "med" and message.assoc_version == 0):
        return None
    # A pressure may carry the flag of another one: the title is of the one whose limit is passed.
    title = METRICS[flag.metric or metric].title.partition(" (")[0]
    late = f"{LATE}{message.late_s // 60} min" if message.late_s else ""
    return AlertMessage(
        v=VERSION,
        id=key,
        priority=priority,
        technical=False,
        metric=metric,
        text=f"{title}: {flag.text}{late}",
        since=now,
        limit=flag.limit,
        limit_of=flag.metric,
        op=flag.op,
        threshold=flag.threshold,
        device=message.device,
        simulated=message.simulated,
        assoc_version=message.assoc_version,
    )
