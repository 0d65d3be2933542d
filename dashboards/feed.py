"""The live feed: numbered changes and EKG frames to every open page, each through a bounded queue of its own.

JSON is never dropped: a page that lets `MAX_JSON` messages wait is closed with 1013 and will ask again. EKG frames
past `MAX_EKG` are dropped, oldest first: each sample is drawn at its own time, so a lost frame is a gap, not a lie.
"""

import secrets
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from dashboards.cells import CELLS, metrics
from dashboards.frames import UV_PER_COUNT, Block, frame
from dashboards.readings import ms
from dashboards.room import Change
from dashboards.rooms import Rooms
from vitals.clock import NS, Instant
from vitals.log import Log
from vitals.metrics import METRICS

VERSION: Final = 1
MAX_JSON: Final = 400
MAX_EKG: Final = 10
MERGE_MS: Final = 250
"""A continuous value is told at once, but once in each such turn: a second one waits for the turn's end, merged with
whatever follows, so a fast device costs four messages a second. One value a second, as most send, never waits."""
FRAME_MS: Final = 100
BEAT_MS: Final = 1000
EKG_SILENT_S: Final = 3
"""No samples this long: the trace is wiped and the tile says so."""
LINK_SILENT_S: Final = 3
"""No message this long: the page says it is not live. The heartbeat comes each second."""
CUFF_LIVE_S: Final = 3
"""A cuff pressure is for the moment; METRICS has the times of things that are readings."""
DOWN_S: Final = 1
"""A device said to be off this long is off, whatever samples of it still arrive."""
FALLBACK_S: Final = 300
"""A cuff's pulse stands in for a monitor's this long; then it is old, as a monitor's would be."""
RESYNC_S: Final = 1
"""A page gets a snapshot at most this often; one that asks sooner gets it with the next beat."""
OVERLOADED: Final = 1013
"""WebSocket close code `try again later`."""

_log = Log("board")
_JSON: Final = msgspec.json.Encoder()


class Waker(Protocol):
    """What tells a client's writer that something waits: asyncio.Event, or anything with `set`."""

    def set(self) -> None: ...


def to_text(message: dict[str, Any]) -> str:
    """A message as the text that goes over the socket."""
    return _JSON.encode(message).decode()


class Client:
    """One page. The queues are filled by the feed and emptied by the page's writer."""

    def __init__(self, wake: Waker, give_up: Waker) -> None:
        self.wake, self.give_up = wake, give_up
        self.json: deque[str] = deque()
        self.ekg: deque[bytes] = deque(maxlen=MAX_EKG)
        self.ekg_dropped = 0
        self.wants_ekg = True
        self.hidden = False
        self.rooms: frozenset[str] | None = None
        self.overloaded = False
        self.snapped: Instant | None = None
        self.owed = False

    def offer(self, text: str) -> None:
        """Queue JSON; beyond the bound the client is given up, never silently thinned."""
        if self.overloaded:
            return
        if len(self.json) >= MAX_JSON:
            self.overloaded = True
            self.json.clear()
            self.ekg.clear()
            self.give_up.set()
            return
        self.json.append(text)
        self.wake.set()

    def offer_frame(self, data: bytes) -> None:
        if self.overloaded:
            return
        self.ekg_dropped += len(self.ekg) == MAX_EKG
        self.ekg.append(data)
        self.wake.set()

    def next(self) -> str | bytes | None:
        """What to send next: JSON first, since a room's change of scale must precede its samples."""
        if self.json:
            return self.json.popleft()
        return self.ekg.popleft() if self.ekg else None


class Feed:
    """All pages, the rooms behind them, and the count of events that keeps them honest."""

    def __init__(self, rooms: Rooms, *, clinic: str, page: str = "", boot: str = "", zone: str = "UTC") -> None:
        self.rooms = rooms
        self.boot = boot or secrets.token_hex(6)
        self.feed_seq = 0
        self.clients: set[Client] = set()
        self._clinic, self._page, self._zone = clinic, page, zone
        self._pending: dict[str, set[str]] = {}
        self._told: set[tuple[str, str]] = set()
        """Room and key of what was told in this turn of MERGE_MS."""
        self._beat = 0
        self._frame = 0
        self.gaps = self.closed = self.turned_away = self.ekg_dropped = 0
        """Of all pages since the start; the frames, of those that have left."""

    # -- from the broker -----------------------------------------------------------------------------------------

    def receive(self, batch: Iterable[tuple[str, bytes]], now: Instant) -> None:
        """Take MQTT messages and tell the pages what changed. Whatever one message does, the next is still taken."""
        changes: list[Change] = []
        for topic, payload in batch:
            try:
                changes += self.rooms.apply(topic, payload, now)
            except Exception as error:  # noqa: BLE001 - a board that stops is worse than any message
                self.rooms.services.fault("message that broke the board's rules")
                changes.append(Change("sys"))
                why = f"{type(error).__name__}: {error}"
                _log.error("message not taken", topic=topic[:100], reason=why, do="report it; the board goes on")
        try:
            self.tell(changes, now)
        except Exception as error:  # noqa: BLE001 - the pages then find a hole in the numbers and ask for a snapshot
            self.rooms.services.fault("change that could not be told")
            why = f"{type(error).__name__}: {error}"
            _log.error("change not told", reason=why, do="report it; the pages ask anew")

    def link(self, up: bool, why: str, now: Instant) -> None:
        self.tell(self.rooms.link(up, why, now), now)

    def tell(self, changes: Iterable[Change], now: Instant) -> None:
        """Send what may go at once, each thing once however often it changed; keep the rest for `flush`."""
        urgent: dict[str, None] = {}
        for change in dict.fromkeys(changes):
            if change.what == "obs":
                self._pending.setdefault(change.room, set()).add(change.key)
                if change.urgent or (change.room, change.key) not in self._told:
                    urgent[change.room] = None
            elif change.what == "room":
                self._pending.pop(change.room, None)
                self._event({"t": "room", "room": self.rooms.room_shown(change.room)})
            elif change.what == "alarm":
                alarm = self.rooms.alarm(change.room, change.key)
                if alarm is not None:
                    self._event({"t": "alarm", "alarm": alarm})
            else:
                self._event({"t": "sys", "sys": self.rooms.services.shown(now)})
        for room in urgent:
            self._flush_room(room)

    # -- from the timers -----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Each MERGE_MS: the continuous values that waited."""
        self._told.clear()
        for room in list(self._pending):
            self._flush_room(room)

    def _flush_room(self, room: str) -> None:
        keys = self._pending.pop(room, set())
        if not keys:
            return
        self._told.update((room, key) for key in keys)
        obs = self.rooms.rooms[room].obs
        self._event({"t": "obs", "room": room, "obs": {key: obs[key] for key in sorted(keys)}})

    def beat(self, now: Instant) -> None:
        """Each BEAT_MS: time and sequence, so a page can tell quiet from broken."""
        self.tell(self.rooms.tick(now), now)
        for client in self.clients:
            if client.owed and not client.hidden:
                self._snap(client, now)
        self._beat += 1
        text = to_text({"t": "hb", "n": self._beat, "now": ms(now), "seq": self.feed_seq})
        for client in self.clients:
            client.offer(text)

    def send_frame(self, now: Instant) -> None:
        """Each FRAME_MS: the EKG of all rooms in one message, built once for all pages that want all."""
        blocks = self.rooms.take_blocks()
        if not blocks:
            return
        self._frame += 1
        whole = frame(blocks, self._frame, now)
        for client in self.clients:
            if client.wants_ekg and not client.hidden:
                client.offer_frame(whole if client.rooms is None else self._part(blocks, client.rooms, now))

    def _part(self, blocks: list[Block], wanted: frozenset[str], now: Instant) -> bytes:
        indices = {room.index for room in self.rooms.rooms.values() if room.id in wanted}
        return frame([block for block in blocks if block.room in indices], self._frame, now)

    def _event(self, message: dict[str, Any]) -> None:
        self.feed_seq += 1
        if not self.clients:
            return
        text = to_text(message | {"seq": self.feed_seq})
        for client in self.clients:
            if not client.hidden:
                client.offer(text)

    # -- from the pages ------------------------------------------------------------------------------------------

    def join(self, now: Instant, wake: Waker, give_up: Waker) -> Client:
        """A new page: it begins with a snapshot. `wake` is set when something waits, `give_up` at the bound."""
        client = Client(wake, give_up)
        self.clients.add(client)
        client.offer(to_text(self.snapshot(now)))
        return client

    def leave(self, client: Client) -> None:
        self.clients.discard(client)
        self.closed += client.overloaded
        self.ekg_dropped += client.ekg_dropped

    def answer(self, client: Client, text: str, now: Instant) -> None:
        """What a page said. Anything else than `ping` and `sub` is ignored, as the contract says of unknown `t`."""
        try:
            message = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return
        if message.get("t") == "ping":
            client.offer(to_text({"t": "pong", "id": message.get("id"), "now": now / 1e6}))
        elif message.get("t") == "sub":
            self._subscribe(client, message, now)

    def _subscribe(self, client: Client, message: dict[str, Any], now: Instant) -> None:
        """A page that was hidden, or asks to resync, gets a snapshot instead of what it missed."""
        was_hidden = client.hidden
        client.hidden = message.get("hidden", client.hidden) is True
        self.gaps += message.get("resync") is True
        client.wants_ekg = message.get("ekg", client.wants_ekg) is True
        if "rooms" in message:
            wanted = message["rooms"]
            client.rooms = frozenset(map(str, wanted)) if isinstance(wanted, list) else None
        if client.hidden:
            client.json.clear()
            client.ekg.clear()
        elif message.get("resync") is True or was_hidden:
            client.ekg.clear()
            if client.snapped is None or not 0 <= now - client.snapped < RESYNC_S * NS:
                self._snap(client, now)
            else:
                client.owed = True

    def _snap(self, client: Client, now: Instant) -> None:
        client.snapped, client.owed = now, False
        client.json.clear()
        client.offer(to_text(self.snapshot(now)))

    def snapshot(self, now: Instant) -> dict[str, Any]:
        """Everything a page needs to begin."""
        return {
            "t": "snap",
            "v": VERSION,
            "now": ms(now),
            "clinic": self._clinic,
            "tz": self._zone,
            "page": self._page,
            "uv": UV_PER_COUNT,
            "boot": self.boot,
            "seq": self.feed_seq,
            "policy": policy(),
            "metrics": metrics(self.rooms.temperature),
            "cells": [{"cell": c, "label": label, "short": short, "keys": keys} for c, label, short, keys in CELLS],
            "rooms": [self.rooms.room_shown(room) for room in self.rooms.rooms],
            "alarms": self.rooms.alarms(),
            "sys": self.rooms.services.shown(now),
        }


def policy() -> dict[str, dict[str, int]]:
    """Seconds until a value is stale and until it is gone (0: never). The page has no such number of its own."""
    table = {key: {"stale": row.live_s, "gone": row.gone_s} for key, row in METRICS.items()}
    return table | {
        "bp": table["bp_sys"],
        "pulse_cuff": {"stale": FALLBACK_S, "gone": 0},
        "down": {"stale": DOWN_S, "gone": 0},
        "cuff_pressure": {"stale": CUFF_LIVE_S, "gone": CUFF_LIVE_S},
        "ekg": {"stale": EKG_SILENT_S, "gone": EKG_SILENT_S},
        "link": {"stale": LINK_SILENT_S, "gone": LINK_SILENT_S},
    }
