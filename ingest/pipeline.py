"""The pure core of ingest: messages in; rows to store, messages to publish, and what became of each outbox row, out.

No clock, no broker, no store: `service.py` is the shell that has them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ingest.admission import EVENTS, MAX_INDEX, OBSERVATIONS, STRIPS, Refusal
from ingest.alerts import Alerts, Change
from ingest.associations import problem
from ingest.ekg.streams import Lost, Streams
from ingest.judge import Judge
from ingest.outgoing import Outgoing
from ingest.presence import Heard, Presence
from ingest.quota import Quota
from ingest.rules import RuleSet
from ingest.store.contract import Address, EvaluationRow, EventRow, ObservationRow, Row, StripRow, StripTail
from ingest.store.refusals import Refusal as Refused
from ingest.work import Claim, Incoming, Publication, Work
from vitals.clock import Instant
from vitals.messages import (
    VERSION,
    AlertMessage,
    AssociationMessage,
    DeviceBirth,
    DeviceStatus,
    EventMessage,
    GatewayStatus,
    ObservationMessage,
    StripMessage,
)
from vitals.settings import Quota as Limits
from vitals.topics import NAME, Topics, Up

MAX_REASONS: Final = 5
"""Of one message that was refused, as they are kept beside it."""
MAX_TOPICS: Final = 4096
"""Topics of devices remembered as taken apart; ten rooms have some fifty."""


class Pipeline:
    """Holds what must outlive a batch: associations, alerts, EKG state, ids seen, counts."""

    def __init__(
        self,
        topics: Topics,
        rules: RuleSet,
        *,
        session: str,
        simulated_alarms: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.topics = topics
        self.rules = rules
        self.refused: Counter[str] = Counter()
        self.streams = Streams()
        self.alerts = Alerts(simulated=simulated_alarms)
        self._simulated_alarms = simulated_alarms
        self.session = session
        self._events = 0
        self._devices: dict[str, tuple[Up, Address]] = {}
        self._presence = Presence()
        self._quota = Quota(limits or Limits())
        self._judging = Judge(rules)
        self._out = Outgoing(topics)

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
        """One batch. Raises on no topic and payload, but by a bug of ours: then it may be given again in parts."""
        work = Work()
        try:
            for number, message in enumerate(messages):
                self._route(number, message, now, work)
            self._judge(now, work)
        except Exception:
            # What alarmed or ended meanwhile has happened, and is told with the next batch; so are readings judged.
            self._out.keep(work)
            self._judging.drop_readings()
            raise
        return self._out.finish(work)

    def tick(self, now: Instant) -> Work:
        """Time passes: gaps that stay, alerts that are over."""
        work = Work()
        self._report(self.streams.due(now), now, work)
        self._change(self.alerts.tick(now), work)
        return self._out.finish(work)

    @property
    def over_quota(self) -> Counter[str]:
        """Messages not taken, by gateway."""
        return self._quota.refused

    def retained(self) -> list[Publication]:
        """Our retained topics (the status is the shell's), for every connect."""
        return self._out.alerts([Change(room, alert.id, alert) for room, alert in self.alerts.active()])

    # -- routing ---------------------------------------------------------------------------------------------

    def _route(self, number: int, message: Incoming, now: Instant, work: Work) -> None:
        known = self._devices.get(message.topic)
        if known is not None:
            self._from_device(number, *known, message.payload, now, work)
            return
        up = self.topics.parse_up(message.topic)
        if up is not None:
            address = Address(up.gateway, up.room, up.device)
            if not all(NAME.fullmatch(part) for part in address):
                self._refuse(Refusal("bad address"), "", work)
                return
            if len(self._devices) < MAX_TOPICS:
                self._devices[message.topic] = up, address
            self._from_device(number, up, address, message.payload, now, work)
            return
        gateway = self.topics.parse_gateway_status(message.topic)
        core = self.topics.parse_core(message.topic)
        place = gateway or (core[0] if core is not None else "")
        if place and not NAME.fullmatch(place):
            self._refuse(Refusal("bad address"), "", work)
        elif gateway is not None:
            if reason := self._quota.admit_status(gateway, now):
                self._refuse(Refusal(reason), "", work)
                return
            status = self._state(message.payload, GatewayStatus, work)
            self._heard(self._presence.gateway(gateway, status) if status else [], now, work)
        elif core is not None and core[1] == "assoc":
            self._associate(core[0], message, now, work)
        elif core is not None and core[1] == "alert":
            self._own_alert(core[0], core[2], message, now, work)
        else:
            self._refuse(Refusal("unknown topic"), "", work)

    def _from_device(
        self, number: int, up: Up, address: Address, payload: bytes, now: Instant, work: Work
    ) -> None:  # fmt: skip
        if reason := self._quota.admit(*address, len(payload), now):
            self._refuse(Refusal(reason), "", work)  # not answered: an outbox sends it again
            return
        before = len(work.rows)
        refusals: list[Refusal] = []
        if up.leaf == "obs":
            readings, refusals = OBSERVATIONS.admit(payload)
            for reading in readings:
                self._row(number, ObservationRow(address, reading), address, reading, work)
                self._judging.reading(address, reading, now, self._presence.clock_off_ms(address.gateway))
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
        if refusals and (final := sorted({refusal.reason for refusal in refusals if refusal.outcome == "refused"})):
            work.refused.append(Refused("/".join(up), payload, "; ".join(final[:MAX_REASONS])))
        self._quota.charge_rows(*address, len(work.rows) - before + len(refusals), len(payload))

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
            self._judging.rate(address, strip, rate, now, self._presence.clock_off_ms(address.gateway))

    def _judge(self, now: Instant, work: Work) -> None:
        batch = self._judging.judge()
        for judged in batch:
            work.rows.append(EvaluationRow(judged.room, judged.message, judged.reading, judged.ahead))
            if judged.failed:
                self.refused["not evaluated: internal error"] += 1
            if judged.fresh:
                self._out.show(judged.room, judged.message)
        for judged in batch:
            if judged.fresh:
                current = self._current(judged.room, now)
                self._change(self.alerts.flagged(judged.room, judged.message, now, current), work)

    def _current(self, room: str, now: Instant) -> int:
        association = self._judging.associations.current(room, now)
        return association.version if association is not None else 0

    # -- rooms, devices, alerts ------------------------------------------------------------------------------

    def _associate(self, room: str, message: Incoming, now: Instant, work: Work) -> None:
        # What came before belongs to the visit before.
        self._judge(now, work)
        association = self._state(message.payload, AssociationMessage, work) if message.payload else None
        if association is None and message.payload:
            return
        if association is not None and not association.visit:
            association = None
        if association is not None and (wrong := problem(association)):
            self._refuse(Refusal("bad value", wrong), "", work)
            return
        before = self._current(room, now)
        if not self._judging.associations.has_place(room):
            self._refuse(Refusal("too many rooms"), "", work)
            return
        if self._judging.associations.learn(room, association, now=now):
            self._change(self.alerts.visit_over(room), work)
        current = self._judging.associations.current(room, now)
        if current is not None:
            self._change(self.alerts.bound(room, current, before), work)

    def _heard(self, heard: Sequence[Heard], now: Instant, work: Work) -> None:
        for h in heard:
            if h.reason is not None:
                self._change(self.alerts.technical(h.room, h.device, h.reason, now, simulated=h.simulated), work)

    def _own_alert(self, room: str, key: str, message: Incoming, now: Instant, work: Work) -> None:
        """A retained alert of ours: still true, over meanwhile, or left by an earlier session."""
        if not message.retain or not message.payload:
            return
        alert = self._state(message.payload, AlertMessage, work)
        if alert is None or alert.id != key:
            return
        over = alert.technical and self._presence.fine(room, alert.device)
        unwanted = alert.simulated and not alert.technical and not self._simulated_alarms
        if over or unwanted:
            raised = any(a.id == key for r, a in self.alerts.active() if r == room)
            self._change([] if raised else [Change(room, key, None)], work)
        else:
            current = self._judging.associations.current(room, now)
            self._change(self.alerts.adopt(room, alert, current), work)

    def _change(self, changes: Sequence[Change], work: Work) -> None:
        work.publish += self._out.alerts(changes)

    def _report(self, lost: Sequence[Lost], now: Instant, work: Work) -> None:
        """Samples that did not come are an event with a size."""
        for address, metric, seconds, simulated in lost:
            self._events += 1
            detail = f"{seconds:.1f} s of {metric} not received"
            event = EventMessage(VERSION, self.session, self._events, "ekg_gap", detail, now, simulated=simulated)
            work.rows.append(EventRow(address, event))
