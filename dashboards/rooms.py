"""The state of every room, as a pure reducer: (topic, payload, now) in, changes out. No socket, clock or queue.

What arrives is checked here once. A message that cannot be read, names an unknown metric or is beyond a bound is
counted under a name the page shows; it never stops the others.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from dashboards.centre import Centre
from dashboards.frames import Block, block, divisor, placeable
from dashboards.readings import (
    BP_PARTS,
    Point,
    Reading,
    TemperatureUnit,
    from_history,
    limit_shown,
    ms,
    pressures,
    readings,
    shown_unit,
)
from dashboards.room import Change, Device, Room, Trace, thin
from dashboards.services import Services
from dashboards.visits import Visit
from vitals import messages, settings
from vitals.clock import NS, Instant
from vitals.messages import AlertMessage, DeviceBirth, DeviceStatus, FlaggedMessage, NewerVersion, StripMessage
from vitals.metrics import METRICS
from vitals.topics import NAME, Topics, Up

MAX_ROOMS: Final = 100
"""Rooms on one board. A room nobody configured gets a tile of its own, but not without end."""
MAX_DEVICES: Final = 32
MAX_ALERTS: Final = 64
SOURCE_SILENT_S: Final = 3
"""A trace source silent this long gives way to another device or lead of the room."""
CONFIRM_S: Final = 5
"""After a new broker connection, retained alerts not sent again within this time have ended meanwhile."""

CELLS: Final[tuple[tuple[str, str, str, tuple[str, ...]], ...]] = (
    ("bp", "BP", "BP", ("bp",)),
    ("pulse", "Pulse", "Pulse", ("hr_ekg", "pulse_oximeter", "pulse_cuff", "hr_device")),
    ("spo2", "SpO₂", "SpO₂", ("spo2",)),
    ("temp", "Temp", "Temp", ("temp",)),
    ("rr", "Resp", "Resp", ("rr",)),
    ("glu", "Glucose", "Gluc", ("glu",)),
)
"""The six places of a tile: (cell, label, label of a small tile, keys in order of preference)."""
METHODS: Final = {"hr_ekg": "EKG", "pulse_oximeter": "SpO₂", "pulse_cuff": "cuff", "hr_device": "device"}
"""How a rate was taken, in a word: rates of different methods are never merged, so the tile names which it shows."""

_FLAGGED: Final = msgspec.json.Decoder(list[FlaggedMessage] | FlaggedMessage)
_ALERT: Final = msgspec.json.Decoder(AlertMessage)
_STATUS: Final = msgspec.json.Decoder(DeviceStatus)
_BIRTH: Final = msgspec.json.Decoder(DeviceBirth)


class Rooms:
    """The board's whole state. `apply` is the only way in for messages, `snapshot` the way out for a new page."""

    def __init__(self, config: settings.Settings, topics: Topics, visits: dict[str, Visit], now: Instant) -> None:
        self._topics = topics
        self._temperature: TemperatureUnit = config.board.temperature_unit
        self._visits = visits
        self.services = Services(now)
        self.rooms: dict[str, Room] = {}
        self._confirm_by: Instant | None = None
        self._blocks: list[Block] = []
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
        except (msgspec.DecodeError, ValueError, KeyError, TypeError):
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

    def fill(self, room: str, stored: Iterable[FlaggedMessage], now: Instant) -> None:
        """Start from what the store has. A stored reading is as old as it is: the page ages it."""
        found = self._room(room)
        for message in stored:
            if found is not None and found.first_time(message):
                for reading in readings(message, self._temperature, now):
                    found.show(reading)

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
            return [change for strip in messages.decode_strips(payload) for change in self._wave(room, up, strip, now)]
        if up.leaf == "live":
            return self._live(room, up, payload)
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
            unknown = [key for key in message.values if key not in METRICS]
            for _ in unknown:
                self.services.fault("value of an unknown metric")
            shown = map(room.show, readings(message, self._temperature, now))
            changes += [change for change in shown if change is not None]
        return changes if room.simulated == was_simulated else [Change("room", room_id)]

    def _live(self, room: Room, up: Up, payload: bytes) -> list[Change]:
        """Values for eyes only, so far the pressure in an inflating cuff. They are never judged and never stored."""
        changes: list[Change] = []
        for message in messages.decode_observations(payload):
            quantity = message.observation.quantities.get("cuff_pressure")
            if quantity is None or quantity.value is None:
                continue
            before = room.obs.get("cuff_pressure")
            stamp = ms(message.t_determined)
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
        limit = limit_shown(alert.limit_of, alert.op, alert.threshold, self._temperature)
        shown = {
            "id": f"{room.id}/{id_}", "room": room.id, "k": "bp" if alert.metric in BP_PARTS else alert.metric,
            "pr": alert.priority, "txt": alert.text, "lim": limit or alert.limit, "since": ms(alert.since),
            "ended": None, "ack": None, "tech": alert.technical, "dev": alert.device, "sim": alert.simulated,
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

    # -- EKG -----------------------------------------------------------------------------------------------------

    def _wave(self, room: Room, up: Up, strip: StripMessage, now: Instant) -> list[Change]:
        if strip.metric != "ekg":
            return []
        source = (up.gateway, up.device, strip.lead)
        if not placeable(strip, now):
            self.services.fault("EKG whose time is far from ours")
            return [Change("sys")]
        trace = room.trace
        if trace is not None and trace.source != source and now - trace.last < SOURCE_SILENT_S * NS:
            if strip.lead.upper() != "II" or trace.source[2].upper() == "II":
                return []
            trace = None
        fresh = trace is None or trace.source != source or now - trace.last >= SOURCE_SILENT_S * NS
        if trace is None or trace.source != source:
            trace = Trace(source)
        before = (trace.rate, trace.div, trace.calibrated, trace.simulated)
        div = divisor(strip, trace.div)
        gap = strip.stream != trace.stream or strip.first_index != trace.next_index or strip.lost_before > 0
        if strip.stream != trace.stream:
            trace.centre = Centre(strip.scale)
        self._blocks.append(block(room.index, strip, trace.centre, div=div, gap=gap, noisy=room.noisy(now)))
        trace.stream, trace.next_index, trace.last = strip.stream, strip.first_index + strip.count, now
        trace.rate, trace.div = round(strip.rate), div
        trace.calibrated, trace.simulated = strip.scale is not None, strip.simulated
        room.trace = trace
        after = (trace.rate, trace.div, trace.calibrated, trace.simulated)
        return [Change("room", room.id)] if fresh or before != after else []

    def take_blocks(self) -> list[Block]:
        """The EKG packs that came since the last call."""
        taken, self._blocks = self._blocks, []
        return taken

    # -- out -----------------------------------------------------------------------------------------------------

    def room_shown(self, id_: str) -> dict[str, Any]:
        room = self.rooms[id_]
        visit = room.visit
        patient = None if visit is None else {
            "name": visit.name, "age": visit.age_years, "sex": visit.sex, "sim": visit.simulated,
        }  # fmt: skip
        devices = sorted(room.devices.values(), key=lambda device: (device.name, device.gateway))
        return {
            "id": room.id,
            "i": room.index,
            "title": room.title,
            "patient": patient,
            "visit": None if visit is None else {"since": ms(visit.since)},
            "dev": [device.shown(reachable=self.services.reachable(device.gateway)) for device in devices],
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

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Title, unit and decimals of each key the page can meet: it knows no metric by itself."""
        table: dict[str, dict[str, Any]] = {
            key: {
                "title": row.title,
                "u": shown_unit(key, self._temperature),
                "d": row.decimals,
                "pace": row.pace,
                "by": METHODS.get(key, ""),
            }
            for key, row in METRICS.items()
        }
        return table | {"bp": {"title": "Blood pressure", "u": "mmHg", "d": 0, "pace": "episodic", "by": ""}}

    def history(self, room: str, since_ms: int) -> list[Reading]:
        """Readings of a room since then, oldest first."""
        found = [r for past in self.rooms[room].history.values() for r in past if r.ts >= since_ms]
        return sorted(found, key=lambda reading: reading.ts)

    def merge_history(self, room: str, stored: dict[str, Sequence[Point]], since_ms: int) -> list[Reading]:
        """What the store has by metric, and what came since the start; each reading once, ours where both know it."""
        old = {key: from_history(key, points, self._temperature) for key, points in stored.items()}
        paired = pressures(old.pop("bp_sys", []), old.pop("bp_dia", []))
        earlier = [reading for found in (*old.values(), paired) for reading in found]
        by_time = {(reading.k, reading.ts): reading for reading in [*earlier, *self.history(room, since_ms)]}
        return thin(sorted(by_time.values(), key=lambda reading: reading.ts))
