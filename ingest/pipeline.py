"""The pure core of ingest: messages in; rows to store, messages to publish, and what became of each outbox row, out.

No clock, no broker, no store: `service.py` is the shell that has them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ingest.admission import EVENTS, MAX_INDEX, OBSERVATIONS, STRIPS, Refusal
from ingest.alerts import Alerts, Change
from ingest.ekg.streams import Lost, Streams
from ingest.judge import Judge
from ingest.presence import Heard, Presence
from ingest.rules import RuleSet
from ingest.store.contract import Address, EvaluationRow, EventRow, ObservationRow, Row, StripRow, StripTail
from ingest.work import Claim, Incoming, Publication, Work
from vitals.clock import Instant
from vitals.messages import (
    VERSION,
    AlertMessage,
    AssociationMessage,
    DeviceBirth,
    DeviceStatus,
    EventMessage,
    FlaggedMessage,
    GatewayStatus,
    ObservationMessage,
    StripMessage,
    encode,
)
from vitals.topics import NAME, Topics, Up

FLAGGED_EXPIRY_S: Final = 3600
MAX_FLAGGED_PACK: Final = 100
SCHEMA_FLAGGED: Final = "application/vnd.vitals.flagged+json;v=1"


class Pipeline:
    """Holds what must outlive a batch: associations, alerts, EKG state, ids seen, counts."""

    def __init__(self, topics: Topics, rules: RuleSet, *, session: str, simulated_alarms: bool = False) -> None:
        self.topics = topics
        self.rules = rules
        self.refused: Counter[str] = Counter()
        self.streams = Streams()
        self.alerts = Alerts(simulated=simulated_alarms)
        self._simulated_alarms = simulated_alarms
        self.session = session
        self._events = 0
        self._presence = Presence()
        self._judging = Judge(rules)
        self._flagged: dict[str, list[FlaggedMessage]] = {}

    def subscriptions(self) -> list[tuple[str, int]]:
        """(topic filter, QoS). Alerts are ours: they are read to take over, or end, what an earlier session left."""
        leaves = [self.topics.up_all(leaf) for leaf in ("obs", "strip", "event", "birth", "status")]
        shared = [self.topics.gateway_status("+"), self.topics.assoc("+"), self.topics.alert("+", "+")]
        return [(topic, 1) for topic in (*leaves, *shared)]

    def resume(self, ids: Sequence[str], tails: Sequence[StripTail]) -> None:
        """What the store knows, at the start."""
        self._judging.remember(ids)
        for tail in tails:
            self.streams.resume(tail)

    def process(self, messages: Sequence[Incoming], now: Instant) -> Work:
        """One batch. Never raises on any topic or payload."""
        work = Work()
        for number, message in enumerate(messages):
            self._route(number, message, now, work)
        self._judge(now, work)
        return self._finish(work)

    def tick(self, now: Instant) -> Work:
        """Time passes: gaps that stay, alerts that are over."""
        work = Work()
        self._report(self.streams.due(now), now, work)
        self._change(self.alerts.tick(now), work)
        return self._finish(work)

    def retained(self) -> list[Publication]:
        """Our retained topics (the status is the shell's), for every connect."""
        return [self._alert(Change(room, alert.id, alert)) for room, alert in self.alerts.active()]

    # -- routing ---------------------------------------------------------------------------------------------

    def _route(self, number: int, message: Incoming, now: Instant, work: Work) -> None:
        up = self.topics.parse_up(message.topic)
        if up is not None:
            if all(NAME.fullmatch(part) for part in (up.gateway, up.room, up.device)):
                self._from_device(number, up, message.payload, now, work)
            else:
                self._refuse(Refusal("bad address"), "", work)
            return
        gateway = self.topics.parse_gateway_status(message.topic)
        core = self.topics.parse_core(message.topic)
        if gateway is not None:
            status = self._state(message.payload, GatewayStatus, work)
            self._heard(self._presence.gateway(gateway, status) if status else [], now, work)
        elif core is not None and core[1] == "assoc":
            self._associate(core[0], message, now, work)
        elif core is not None and core[1] == "alert":
            self._own_alert(core[0], core[2], message, work)
        else:
            self._refuse(Refusal("unknown topic"), "", work)

    def _from_device(self, number: int, up: Up, payload: bytes, now: Instant, work: Work) -> None:
        address = Address(up.gateway, up.room, up.device)
        refusals: list[Refusal] = []
        if up.leaf == "obs":
            readings, refusals = OBSERVATIONS.admit(payload)
            for reading in readings:
                self._row(number, ObservationRow(address, reading), address, reading, work)
                self._judging.reading(address, reading, now)
        elif up.leaf == "strip":
            strips, refusals = STRIPS.admit(payload)
            for strip in strips:
                self._row(number, StripRow(address, strip), address, strip, work)
                self._strip(address, strip, now, work)
        elif up.leaf == "event":
            events, refusals = EVENTS.admit(payload)
            for event in events:
                self._row(number, EventRow(address, event), address, event, work)
        elif up.leaf == "status":
            status = self._state(payload, DeviceStatus, work) if payload else None
            if status or not payload:
                self._heard([self._presence.device(*address, status)], now, work)
        elif up.leaf == "birth":
            birth = self._state(payload, DeviceBirth, work) if payload else None
            if birth:
                self._presence.birth(*address, simulated=birth.simulated)
        else:
            refusals = [Refusal("unknown topic")]
        for refusal in refusals:
            self._refuse(refusal, up.gateway, work)

    def _row(
        self, number: int, row: Row, address: Address, message: ObservationMessage | StripMessage | EventMessage,
        work: Work,
    ) -> None:  # fmt: skip
        work.rows.append(row)
        if message.epoch:
            work.claims.append(Claim(address.gateway, message.epoch, message.seq, len(work.rows) - 1))
        else:
            work.loose.add(number)

    def _refuse(self, refusal: Refusal, gateway: str, work: Work) -> None:
        self.refused[refusal.kind] += 1
        if gateway and refusal.epoch and 0 <= refusal.seq < MAX_INDEX:
            claim = Claim(gateway, refusal.epoch, refusal.seq, None, refusal.outcome, refusal.reason)
            work.claims.append(claim)

    def _state(self, payload: bytes, kind: type[Any], work: Work) -> Any:
        """A retained state, or None, counted, when it is none of ours or of a newer version."""
        try:
            state = msgspec.json.decode(payload, type=kind)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            self._refuse(Refusal("malformed"), "", work)
            return None
        if state.v != VERSION:
            self._refuse(Refusal("newer version" if state.v > VERSION else "unknown version"), "", work)
            return None
        return state

    # -- readings and strips ---------------------------------------------------------------------------------

    def _strip(self, address: Address, strip: StripMessage, now: Instant, work: Work) -> None:
        rate, lost = self.streams.take(address, strip, now)
        self._report(lost, now, work)
        if rate is not None:
            self._judging.rate(address, strip, rate, now)

    def _judge(self, now: Instant, work: Work) -> None:
        for room, message, fresh in self._judging.judge():
            work.rows.append(EvaluationRow(room, message))
            if fresh:
                self._flagged.setdefault(room, []).append(message)
                self._change(self.alerts.flagged(room, message, now), work)

    # -- rooms, devices, alerts ------------------------------------------------------------------------------

    def _associate(self, room: str, message: Incoming, now: Instant, work: Work) -> None:
        # What came before belongs to the visit before.
        self._judge(now, work)
        association = self._state(message.payload, AssociationMessage, work) if message.payload else None
        if association is None and message.payload:
            return
        if association is not None and not association.visit:
            association = None
        if self._judging.associations.learn(room, association, now=now, retained=message.retain):
            self._change(self.alerts.visit_over(room), work)

    def _heard(self, heard: Sequence[Heard], now: Instant, work: Work) -> None:
        for h in heard:
            if h.reason is not None:
                self._change(self.alerts.technical(h.room, h.device, h.reason, now, simulated=h.simulated), work)

    def _own_alert(self, room: str, key: str, message: Incoming, work: Work) -> None:
        """A retained alert of ours: still true, over meanwhile, or left by an earlier session."""
        if not message.retain or not message.payload:
            return
        alert = self._state(message.payload, AlertMessage, work)
        if alert is None or alert.id != key:
            return
        active = {(r, a.id) for r, a in self.alerts.active()}
        over = self.alerts.knows(room, key) or (alert.technical and self._presence.fine(room, alert.device))
        unwanted = alert.simulated and not alert.technical and not self._simulated_alarms
        if (room, key) in active:
            return
        if over or unwanted:
            self._change([Change(room, key, None)], work)
        else:
            self.alerts.adopt(room, alert)

    def _change(self, changes: Sequence[Change], work: Work) -> None:
        work.publish += [self._alert(change) for change in changes]

    def _alert(self, change: Change) -> Publication:
        payload = encode(change.alert) if change.alert is not None else b""
        return Publication(self.topics.alert(change.room, change.id), payload, retain=True)

    def _report(self, lost: Sequence[Lost], now: Instant, work: Work) -> None:
        """Samples that did not come are an event with a size."""
        for address, metric, seconds in lost:
            self._events += 1
            detail = f"{seconds:.1f} s of {metric} not received"
            event = EventMessage(VERSION, self.session, self._events, "ekg_gap", detail, now)
            work.rows.append(EventRow(address, event))

    def _finish(self, work: Work) -> Work:
        flagged, self._flagged = self._flagged, {}
        packs = [
            Publication(
                self.topics.flagged(room),
                encode(messages[i : i + MAX_FLAGGED_PACK] if len(messages) > 1 else messages[0]),
                expiry_s=FLAGGED_EXPIRY_S,
                content_type=SCHEMA_FLAGGED,
            )
            for room, messages in flagged.items()
            for i in range(0, len(messages), MAX_FLAGGED_PACK)
        ]
        work.publish = packs + work.publish
        return work
