"""The state of every room, as a pure reducer: (topic, payload, now) in, changes out. No socket, clock or queue.

What arrives is checked here once. A message that cannot be read, names an unknown metric or is beyond a bound is
counted under a name the page shows; it never stops the others.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from dashboards.cells import label
from dashboards.frames import Block
from dashboards.history import MAX_POINTS, STEP_MS, Point, from_history, pressures, thin
from dashboards.readings import BP_PARTS, Reading, TemperatureUnit, limit_shown, ms, plausible, possible, readings
from dashboards.room import Change, Device, Room
from dashboards.services import Services
from dashboards.traces import Traces
from dashboards.visits import Visit
from dashboards.words import clean
from vitals import messages, settings
from vitals.clock import NS, Instant
from vitals.messages import AlertMessage, DeviceBirth, DeviceStatus, FlaggedMessage, NewerVersion
from vitals.metrics import METRICS
from vitals.topics import NAME, Topics, Up

MAX_ROOMS: Final = 100
"""Rooms on one board. A room nobody configured gets a tile of its own, but not without end."""
MAX_DEVICES: Final = 32
MAX_ALERTS: Final = 64
MAX_ANSWER: Final = 3_000
"""Readings of one history: ten keys' curves."""
CONFIRM_S: Final = 5
"""After a new broker connection, retained alerts not sent again within this time have ended meanwhile."""

UNREADABLE: Final = (
    msgspec.MsgspecError, RecursionError, ArithmeticError, ValueError, KeyError, TypeError,
)  # fmt: skip
"""What any bytes can make a decoder or a conversion raise."""
IMPOSSIBLE: Final = "value no living patient has"

_FLAGGED: Final = msgspec.json.Decoder(list[FlaggedMessage] | FlaggedMessage)
_ALERT: Final = msgspec.json.Decoder(AlertMessage)
_STATUS: Final = msgspec.json.Decoder(DeviceStatus)
_BIRTH: Final = msgspec.json.Decoder(DeviceBirth)


class Rooms:
    """The board's whole state. `apply` is the only way in for messages, `snapshot` the way out for a new page."""

    def __init__(self, config: settings.Settings, topics: Topics, visits: dict[str, Visit], now: Instant) -> None:
        self._topics = topics
        self.temperature: TemperatureUnit = config.board.temperature_unit
        self._visits = visits
        self.services = Services(now)
        self.rooms: dict[str, Room] = {}
        self._confirm_by: Instant | None = None
        self._traces = Traces(self.services)
        for room in config.board.rooms[:MAX_ROOMS]:
            self._add(room.id, room.title)

    def _add(self, id_: str, title: str = "") -> Room:
        room = Room(id_, len(self.rooms), title, self._visits.get(id_))
        self.rooms[id_] = room
        return room

    def _room(self, id_: str) -> Room | None:
        """The room of a topic. One that no setting names gets its own tile: nothing hides."""
        room = self.rooms.get(id_)
        if room is None and len(self.rooms) < MAX_ROOMS and NAME.fullmatch(id_):
            return self._add(id_)
        if room is None:
            self.services.fault("room beyond the board's limit")
        return room

    # -- in ------------------------------------------------------------------------------------------------------

    def apply(self, topic: str, payload: bytes, now: Instant) -> list[Change]:
        """Take one MQTT message. What cannot be read is counted and shown, never raised."""
        try:
            return self._apply(topic, payload, now)
        except NewerVersion:
            fault = "message of a newer version"
        except UNREADABLE:
            fault = "message that cannot be read"
        self.services.fault(fault)
        return [Change("sys")]

    def _apply(self, topic: str, payload: bytes, now: Instant) -> list[Change]:
        if len(payload) > messages.MAX_PAYLOAD:
            raise ValueError(f"expected at most {messages.MAX_PAYLOAD} bytes, found {len(payload)}")
        if topic == self._topics.ingest_status:
            return self._system(self.services.ingest_status(payload, now))
        gateway = self._topics.parse_gateway_status(topic)
        if gateway is not None:
            return self._gateway(gateway, payload, now)
        up = self._topics.parse_up(topic)
        if up is not None:
            return self._up(up, payload, now)
        core = self._topics.parse_core(topic)
        if core is not None and core[1] == "flagged":
            return self._flagged(core[0], payload, now)
        if core is not None and core[1] == "alert":
            return self._alert(core[0], core[2], payload, now)
        return []

    def fill(self, room: str, stored: Iterable[FlaggedMessage], now: Instant) -> list[Change]:
        """Start from what the store has. A stored reading is as old as it is: the page ages it."""
        found = self._room(room)
        changes: list[Change] = []
        for message in stored:
            try:
                if found is not None and found.first_time(message):
                    changes += self._show(found, message, now)
            except UNREADABLE:
                self.services.fault("stored reading that cannot be read")
        return changes

    def _show(self, room: Room, message: FlaggedMessage, now: Instant) -> list[Change]:
        message, refused = plausible(message)
        if refused:
            self.services.fault(IMPOSSIBLE, refused)
        shown = [room.show(reading) for reading in readings(message, self.temperature, now)]
        return [change for change in shown if change is not None]

    def link(self, up: bool, why: str, now: Instant) -> list[Change]:
        """The broker connection came or went. Alerts that end while we are away leave no message behind."""
        if not self.services.link(up, why, now):
            return []
        if up:
            self._confirm_by = now + CONFIRM_S * NS
            for room in self.rooms.values():
                room.unconfirmed = set(room.alerts)
        return [Change("sys")]

    def tick(self, now: Instant) -> list[Change]:
        """What time alone changes: unconfirmed alerts end, a silent ingest is noticed."""
        changes = self._system(self.services.tick(now))
        if self._confirm_by is not None and now >= self._confirm_by:
            self._confirm_by = None
            for room in self.rooms.values():
                ended, room.unconfirmed = room.unconfirmed, set()
                changes += [change for id_ in sorted(ended) for change in self._end(room, id_, now)]
        return changes

    @staticmethod
    def _system(changed: bool) -> list[Change]:
        return [Change("sys")] if changed else []

    def _gateway(self, gateway: str, payload: bytes, now: Instant) -> list[Change]:
        if not self.services.gateway_status(gateway, payload, now):
            return []
        touched = [room for room in self.rooms.values() if any(key[0] == gateway for key in room.devices)]
        return [Change("sys"), *(Change("room", room.id) for room in touched)]

    def _up(self, up: Up, payload: bytes, now: Instant) -> list[Change]:
        if up.leaf not in ("wave", "live", "status", "birth"):
            return []
        room = self._room(up.room)
        if room is None:
            return [Change("sys")]
        if up.leaf == "wave":
            return [
                change
                for strip in messages.decode_strips(payload)
                for change in self._traces.take(room, up, strip, now)
            ]
        if up.leaf == "live":
            return self._live(room, up, payload, now)
        return self._device(room, up, payload)

    def _device(self, room: Room, up: Up, payload: bytes) -> list[Change]:
        """Birth and status are retained; an empty payload is a device that was removed."""
        key = (up.gateway, up.device)
        if not payload:
            return [Change("room", room.id)] if room.devices.pop(key, None) else []
        if key not in room.devices and len(room.devices) >= MAX_DEVICES:
            self.services.fault("device beyond the room's limit")
            return [Change("sys")]
        device = room.devices.get(key) or Device(up)
        if up.leaf == "birth":
            device.birth = _BIRTH.decode(payload)
        else:
            device.status = _STATUS.decode(payload)
        room.devices[key] = device
        return [Change("room", room.id)]

    def _flagged(self, room_id: str, payload: bytes, now: Instant) -> list[Change]:
        decoded = _FLAGGED.decode(payload)
        room = self._room(room_id)
        if room is None:
            return [Change("sys")]
        self.services.heard(now)
        changes: list[Change] = []
        was_simulated = room.simulated
        for message in decoded if isinstance(decoded, list) else [decoded]:
            if not room.first_time(message):
                continue
            unknown = sum(key not in METRICS for key in message.values)
            if unknown:
                self.services.fault("value of an unknown metric", unknown)
            changes += self._show(room, message, now)
        return changes if room.simulated == was_simulated else [Change("room", room_id)]

    def _live(self, room: Room, up: Up, payload: bytes, now: Instant) -> list[Change]:
        """Values for eyes only, so far the pressure in an inflating cuff. They are never judged and never stored."""
        changes: list[Change] = []
        for message in messages.decode_observations(payload):
            quantity = message.observation.quantities.get("cuff_pressure")
            if quantity is None or quantity.value is None:
                continue
            if not possible("cuff_pressure", quantity.value):
                self.services.fault(IMPOSSIBLE)
                continue
            before = room.obs.get("cuff_pressure")
            stamp = ms(min(message.t_determined, now))
            if before is not None and stamp <= before.ts and before.id != message.id:
                continue
            room.obs["cuff_pressure"] = Reading(
                k="cuff_pressure", v=float(round(quantity.value)), u="mmHg", ts=stamp,
                rx=ms(message.observation.received_at), id=message.id, dev=up.device, by=up.gateway,
                ne="shown while measuring, not a reading", sim=message.simulated,
            )  # fmt: skip
            changes.append(Change("obs", room.id, "cuff_pressure", urgent=False))
        return changes

    def _alert(self, room_id: str, id_: str, payload: bytes, now: Instant) -> list[Change]:
        room = self._room(room_id)
        if room is None:
            return [Change("sys")]
        self.services.heard(now)
        if not payload:
            return self._end(room, id_, now)
        alert = _ALERT.decode(payload)
        if id_ not in room.alerts and len(room.alerts) >= MAX_ALERTS:
            self.services.fault("alert beyond the room's limit")
            return [Change("sys")]
        room.unconfirmed.discard(id_)
        limit = limit_shown(alert.limit_of, alert.op, alert.threshold, self.temperature)
        text = _called(alert)
        shown = {
            "id": f"{room.id}/{id_}", "room": room.id, "k": "bp" if alert.metric in BP_PARTS else alert.metric,
            "pr": alert.priority, "txt": clean(text), "lim": clean(limit or alert.limit),
            "since": ms(min(alert.since, now)),
            "ended": None, "ack": None, "tech": alert.technical, "dev": clean(alert.device), "sim": alert.simulated,
        }  # fmt: skip
        if room.alerts.get(id_) == shown:
            return []
        room.alerts[id_] = shown
        return [Change("alarm", room.id, id_)]

    def _end(self, room: Room, id_: str, now: Instant) -> list[Change]:
        room.unconfirmed.discard(id_)
        alert = room.alerts.get(id_)
        if alert is None:
            return []
        alert["ended"] = ms(now)
        return [Change("alarm", room.id, id_)]

    def take_blocks(self) -> list[Block]:
        """The EKG packs that came since the last call."""
        return self._traces.drain()

    # -- out -----------------------------------------------------------------------------------------------------

    def room_shown(self, id_: str) -> dict[str, Any]:
        room = self.rooms[id_]
        visit = room.visit
        patient = None if visit is None else {
            "name": clean(visit.name), "age": visit.age_years, "sex": visit.sex, "sim": visit.simulated,
        }  # fmt: skip
        devices = sorted(room.devices.values(), key=lambda device: (device.name, device.gateway))
        return {
            "id": room.id,
            "i": room.index,
            "title": clean(room.title),
            "patient": patient,
            "visit": None if visit is None else {"since": ms(visit.since)},
            "dev": [device.shown(lost_gateway=self.services.lost(device.gateway)) for device in devices],
            "ekg": room.trace.shown() if room.trace else None,
            "sim": room.simulated,
            "obs": room.obs,
        }

    def alarm(self, room: str, id_: str) -> dict[str, Any] | None:
        """The alert as the page gets it; an ended one is told once and then forgotten."""
        alerts = self.rooms[room].alerts
        found = alerts.get(id_)
        if found is not None and found["ended"] is not None:
            del alerts[id_]
        return found

    def alarms(self) -> list[dict[str, Any]]:
        return [alert for room in self.rooms.values() for alert in room.alerts.values() if alert["ended"] is None]

    def history(self, room: str, since_ms: int) -> list[Reading]:
        """Readings of a room since then, oldest first."""
        found = [r for past in list(self.rooms[room].history.values()) for r in list(past) if r.ts >= since_ms]
        return sorted(found, key=lambda reading: reading.ts)

    def merge_history(self, room: str, stored: dict[str, Sequence[Point]], since_ms: int) -> list[Reading]:
        """What the store has by metric, and what came since the start; each reading once, ours where both know it."""
        sim = self.rooms[room].simulated
        old = {key: from_history(key, points, self.temperature, sim=sim) for key, points in stored.items()}
        paired = pressures(old.pop("bp_sys", []), old.pop("bp_dia", []))
        earlier = [reading for found in (*old.values(), paired) for reading in found]
        by_time = {(reading.k, reading.ts): reading for reading in [*earlier, *self.history(room, since_ms)]}
        found = sorted(by_time.values(), key=lambda reading: reading.ts)
        span = found[-1].ts - found[0].ts if found else 0
        return thin(found, step_ms=max(STEP_MS, span // MAX_POINTS))[-MAX_ANSWER:]


def _called(alert: AlertMessage) -> str:
    """The alert's words with the tile's name of the metric; `SpO2: low` is `SpO₂ low`."""
    title, colon, rest = alert.text.partition(": ")
    known = colon and alert.metric in METRICS and not alert.technical
    named = known and title.replace("₂", "2") == METRICS[alert.metric].title.replace("₂", "2")
    return f"{label(alert.metric)} {rest}" if named else alert.text
