"""Alert conditions: raised by flags and by lost devices, cleared when their cause is over. Events in, changes out.

One condition a room and metric. Critical is of high priority, abnormal of medium, a technical one low. Cleared or
lowered only after the values stayed inside the limit: 15 s, or for spot readings two of them, whichever comes first
(chatter is the usual fault of alarms). Acknowledgement, latching and escalation are not here yet.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from vitals.clock import NS, Instant
from vitals.messages import VERSION, AlertMessage, Flag, FlaggedMessage, Level, Priority
from vitals.metrics import METRICS

INSIDE: Final = 15 * NS
READINGS_INSIDE: Final = 2
MAX_CONDITIONS: Final = 4096
"""Rooms times metrics; beyond it the oldest records that are not raised are forgotten."""
MAX_DEVICES: Final = 16
"""Devices of one room that give one metric; names without end must not fill the memory."""
_PRIORITY: Final[dict[Level, Priority]] = {"critical": "high", "abnormal": "med"}
_ORDER: Final[dict[Priority | None, int]] = {None: 0, "low": 1, "med": 2, "high": 3}
_TOGETHER: Final = {
    "bp_sys": "bp", "bp_dia": "bp", "bp_map": "bp",
    "hr_ekg": "pulse", "hr_device": "pulse", "pulse_oximeter": "pulse", "pulse_cuff": "pulse",
}  # fmt: skip
"""Values that tell of one thing make one alert: two boards counting the same fast heart are not two alarms."""


class Change(NamedTuple):
    """An alert raised or changed; `alert` None: it ended."""

    room: str
    id: str
    alert: AlertMessage | None


class _Condition:
    """`alert` is what is published now. While readings are milder, `milder` gathers the worst of them."""

    def __init__(self) -> None:
        self.alert: AlertMessage | None = None
        self.milder: AlertMessage | None = None
        self.inside_since: Instant | None = None
        self.inside = 0
        self.newest: dict[str, Instant] = {}
        self.spot = False

    @property
    def order(self) -> int:
        return _order(self.alert)


class Alerts:
    """`simulated`: whether simulated readings alarm (only a demo says so)."""

    def __init__(self, *, simulated: bool) -> None:
        self._simulated = simulated
        self._conditions: dict[tuple[str, str], _Condition] = {}

    def active(self) -> list[tuple[str, AlertMessage]]:
        """What is raised now, with its room: to be published again on every connect."""
        return [(room, c.alert) for (room, _), c in self._conditions.items() if c.alert is not None]

    def knows(self, room: str, alert: str) -> bool:
        """Whether this session raised, cleared or took over that alert before."""
        return (room, alert) in self._conditions

    def adopt(self, room: str, alert: AlertMessage) -> None:
        """Take over an alert an earlier session left retained: it lasts until readings or devices end it."""
        self._condition(room, alert.id).alert = alert

    # -- readings --------------------------------------------------------------------------------------------

    def flagged(self, room: str, message: FlaggedMessage, now: Instant) -> list[Change]:
        """A fresh reading with its flags. Historical readings never alarm; late ones do, and say so."""
        if message.historical or (message.simulated and not self._simulated):
            return []
        changes: list[Change] = []
        for key, (metric, flag) in _worst(message).items():
            condition = self._condition(room, key)
            condition.spot = METRICS[metric].pace == "episodic"
            alert = self._alert(key, metric, flag, message, now)
            # Late: a continuous value says nothing of now. A spot reading is news, and may raise, not lower.
            may_count = condition.spot and _order(alert) > condition.order
            if _overtaken(condition, message) and not may_count:
                continue
            changes += self._step(room, key, condition, alert, now)
        return changes

    def visit_over(self, room: str) -> list[Change]:
        """Another patient, or none: what the readings of the last one raised is over. Technical ones stay."""
        return [
            self._end(r, key, condition)
            for (r, key), condition in self._conditions.items()
            if r == room and condition.alert is not None and not condition.alert.technical
        ]

    def tick(self, now: Instant) -> list[Change]:
        """Time passes: conditions whose readings stayed inside long enough."""
        changes: list[Change] = []
        for (room, key), condition in list(self._conditions.items()):
            # A continuous value must still be coming; a spot reading stands until the next.
            if condition.spot and condition.inside_since is not None and now - condition.inside_since >= INSIDE:
                changes += self._ease(room, key, condition)
        return changes

    def _step(
        self, room: str, key: str, condition: _Condition, alert: AlertMessage | None, now: Instant
    ) -> list[Change]:
        order = _order(alert)
        if order >= condition.order:
            condition.milder, condition.inside_since, condition.inside = None, None, 0
            if alert is None or order == condition.order:
                return []
            condition.alert = alert
            return [Change(room, key, alert)]
        if condition.inside_since is None:
            condition.inside_since, condition.milder = now, alert
        elif order > _order(condition.milder):
            condition.milder = alert
        condition.inside += 1
        enough = condition.spot and condition.inside >= READINGS_INSIDE
        return self._ease(room, key, condition) if enough or now - condition.inside_since >= INSIDE else []

    def _ease(self, room: str, key: str, condition: _Condition) -> list[Change]:
        """Down to the worst of the milder readings, or to the end."""
        milder = condition.milder
        change = self._end(room, key, condition)
        if milder is None:
            return [change]
        condition.alert = milder
        return [Change(room, key, milder)]

    def _end(self, room: str, key: str, condition: _Condition) -> Change:
        condition.alert, condition.milder, condition.inside_since, condition.inside = None, None, None, 0
        return Change(room, key, None)

    @staticmethod
    def _alert(key: str, metric: str, flag: Flag, message: FlaggedMessage, now: Instant) -> AlertMessage | None:
        priority = _PRIORITY.get(flag.level)
        # Without a patient only what is critical for anyone alarms.
        if priority is None or (priority == "med" and message.assoc_version == 0):
            return None
        late = f", late {message.late_s // 60} min" if message.late_s else ""
        return AlertMessage(
            v=VERSION,
            id=key,
            priority=priority,
            technical=False,
            metric=metric,
            text=f"{METRICS[metric].title}: {flag.text}{late}",
            since=now,
            limit=flag.limit,
            limit_of=flag.metric,
            op=flag.op,
            threshold=flag.threshold,
            device=message.device,
            simulated=message.simulated,
        )

    # -- devices ---------------------------------------------------------------------------------------------

    def technical(self, room: str, device: str, reason: str, now: Instant, *, simulated: bool) -> list[Change]:
        """The device cannot be heard, for that reason; an empty reason ends it."""
        key = f"device-{device}"
        if not reason:
            known = self._conditions.get((room, key))
            return [self._end(room, key, known)] if known is not None and known.alert is not None else []
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

    def _condition(self, room: str, key: str) -> _Condition:
        if (room, key) not in self._conditions and len(self._conditions) >= MAX_CONDITIONS:
            quiet = next((k for k, c in self._conditions.items() if c.alert is None), None)
            if quiet is not None:
                del self._conditions[quiet]
        return self._conditions.setdefault((room, key), _Condition())


def _worst(message: FlaggedMessage) -> dict[str, tuple[str, Flag]]:
    """By alert id, the metric and flag that count. Values that were not evaluated neither raise nor clear."""
    worst: dict[str, tuple[str, Flag]] = {}
    for metric, flag in _flags(message):
        key = _TOGETHER.get(metric, metric)
        if key not in worst or _level(flag) > _level(worst[key][1]):
            worst[key] = (metric, flag)
    return worst


def _flags(message: FlaggedMessage) -> Iterator[tuple[str, Flag]]:
    return ((metric, value.flag) for metric, value in message.values.items() if value.flag is not None)


def _level(flag: Flag) -> int:
    return _ORDER[_PRIORITY.get(flag.level)]


def _order(alert: AlertMessage | None) -> int:
    return _ORDER[alert.priority if alert is not None else None]


def _overtaken(condition: _Condition, message: FlaggedMessage) -> bool:
    """Whether a newer reading of that device was seen before."""
    if message.t < condition.newest.get(message.device, 0):
        return True
    if len(condition.newest) >= MAX_DEVICES and message.device not in condition.newest:
        condition.newest.clear()
    condition.newest[message.device] = message.t
    return False
