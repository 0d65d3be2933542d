"""The pure core of ingest: messages in; rows to store, messages to publish, and what became of each outbox row, out.

No clock, no broker, no store: `service.py` is the shell that has them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from ingest.admission import EVENTS, MAX_INDEX, OBSERVATIONS, STRIPS, Refusal
from ingest.alerts import Alerts, Change
from ingest.associations import Associations
from ingest.ekg.streams import Lost, Rate, Streams
from ingest.evaluate import Evaluator, Reading
from ingest.presence import Heard, Presence
from ingest.rules import RuleSet
from ingest.store.contract import Address, EvaluationRow, EventRow, ObservationRow, Row, StripRow, StripTail
from vitals.clock import NS, Instant
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
    OutcomeWord,
    StripMessage,
    encode,
    reading_id,
)
from vitals.model import Quantity, Validity
from vitals.topics import NAME, Topics, Up

LATE_S: Final = 60
"""Seconds between measuring and arriving from which on a reading is marked late."""
MAX_SEEN: Final = 100_000
"""Ids remembered, so that a resent reading is stored, answered, and neither shown nor alarmed again."""
FLAGGED_EXPIRY_S: Final = 3600
MAX_FLAGGED_PACK: Final = 100
SCHEMA_FLAGGED: Final = "application/vnd.vitals.flagged+json;v=1"


class Incoming(Protocol):
    """What is used of a broker's message."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def retain(self) -> bool: ...


class Publication(NamedTuple):
    """A message to publish with QoS 1. An empty retained payload ends what was retained."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    content_type: str = ""


class Claim(NamedTuple):
    """An outbox row that waits for its outcome: that of `rows[row]`, or, without a row, the one given."""

    gateway: str
    epoch: str
    seq: int
    row: int | None
    outcome: OutcomeWord = "refused"
    reason: str = ""


class Work:
    """What a batch comes to. `loose`: numbers of the messages whose rows no outbox keeps."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.claims: list[Claim] = []
        self.publish: list[Publication] = []
        self.loose: set[int] = set()


class _Item(NamedTuple):
    """A reading to be judged. `why` replaces the reason of values that have no number; `fresh`: not seen before."""

    room: str
    message: FlaggedMessage
    reading: Reading
    fresh: bool
    why: str = ""


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
        self._associations = Associations()
        self._presence = Presence()
        self._evaluator = Evaluator(rules)
        self._seen: dict[str, None] = {}
        self._items: list[_Item] = []
        self._flagged: dict[str, list[FlaggedMessage]] = {}

    def subscriptions(self) -> list[tuple[str, int]]:
        """(topic filter, QoS). Alerts are ours: they are read to take over, or end, what an earlier session left."""
        leaves = [self.topics.up_all(leaf) for leaf in ("obs", "strip", "event", "birth", "status")]
        shared = [self.topics.gateway_status("+"), self.topics.assoc("+"), self.topics.alert("+", "+")]
        return [(topic, 1) for topic in (*leaves, *shared)]

    def resume(self, ids: Sequence[str], tails: Sequence[StripTail]) -> None:
        """What the store knows, at the start."""
        self._seen = dict.fromkeys(ids[-MAX_SEEN:])
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
                self._reading(address, reading, now)
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

    def _reading(self, address: Address, message: ObservationMessage, now: Instant) -> None:
        o = message.observation
        association = self._associations.at(address.room, message.t_determined, historical=o.historical)
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

    def _fresh(self, key: str) -> bool:
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        return True

    def _strip(self, address: Address, strip: StripMessage, now: Instant, work: Work) -> None:
        rate, lost = self.streams.take(address, strip, now)
        self._report(lost, now, work)
        if rate is not None:
            self._items.append(self._rate(address, strip, rate, now))

    def _rate(self, address: Address, strip: StripMessage, rate: Rate, now: Instant) -> _Item:
        association = self._associations.at(address.room, rate.t, historical=False)
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
        return _Item(address.room, flagged, reading, True, rate.reason)

    def _judge(self, now: Instant, work: Work) -> None:
        """Evaluate what has gathered, as one batch of columns."""
        items, self._items = self._items, []
        for item, values in zip(items, self._evaluator.evaluate([item.reading for item in items]), strict=True):
            if item.why:
                values = {key: msgspec.structs.replace(value, not_evaluated=item.why) for key, value in values.items()}
            message = msgspec.structs.replace(item.message, values=values)
            work.rows.append(EvaluationRow(item.room, message))
            if item.fresh:
                self._flagged.setdefault(item.room, []).append(message)
                self._change(self.alerts.flagged(item.room, message, now), work)

    # -- rooms, devices, alerts ------------------------------------------------------------------------------

    def _associate(self, room: str, message: Incoming, now: Instant, work: Work) -> None:
        # What came before belongs to the visit before.
        self._judge(now, work)
        association = self._state(message.payload, AssociationMessage, work) if message.payload else None
        if association is None and message.payload:
            return
        if association is not None and not association.visit:
            association = None
        if self._associations.learn(room, association, now=now, retained=message.retain):
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


def _late(t: Instant, now: Instant) -> int:
    seconds = (now - t) // NS
    return seconds if seconds > LATE_S else 0
