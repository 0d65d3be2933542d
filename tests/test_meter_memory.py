"""A meter's memory on the whole road: read twice with two clocks, kept once, silent; and a test taken now is live.

Real parts: a meter with 300 records on a pseudo terminal, gateway, broker, ingest, store. A third of the records are
so low that each would alarm if it passed for a reading of this visit.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from simulators.core.physiology import Physiology, Profile
from simulators.core.registry import Setup, complete, find
from simulators.glucometer_ultramini import UltraMini
from simulators.links import pty
from tests.clinic import Clinic
from tests.parts import Mosquitto, needs, wait_until
from vitals.clock import NS, SystemClock
from vitals.driver import OptionValue
from vitals.messages import AlertMessage, AssociationMessage, FlaggedMessage, encode
from vitals.model import Chunk, Send
from vitals.topics import Topics

pytestmark = [pytest.mark.broker, pytest.mark.slow, needs("mosquitto")]

SETTINGS = """
[site]
id = "test"
timezone = "America/Chicago"
[broker]
port = {{broker}}
[gateway]
id = "g1"
outbox = "outbox.db"
[[gateway.devices]]
name = "meter"
driver = "glucometer_ultramini"
room = "1"
port = "tty"
[ingest]
profile = "demo"
simulated_alarms = true
store = {store}
[board]
port = {{board}}
[[board.rooms]]
id = "1"
"""
TOPICS = Topics("test")
RECORDS = 300
RECORD_FRAME = 16
"""Bytes of an answer with a record: no other answer of the meter has this length."""


class StoreKind(NamedTuple):
    """A store under test: its settings, and what it holds as id to determined time, read past its own code."""

    settings: str
    stored: Callable[[Clinic], dict[str, int]]


def in_sqlite(clinic: Clinic) -> dict[str, int]:
    rows = clinic.query("store.db", "SELECT message FROM observation")
    messages = [msgspec.json.decode(message) for (message,) in rows]
    assert len({message["id"] for message in messages}) == len(messages)
    return {message["id"]: message["t_determined"] for message in messages}


STORES = {"sqlite": StoreKind('{{ kind = "sqlite", path = "store.db" }}', in_sqlite)}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> StoreKind:
    return STORES[request.param]


class Watched(UltraMini):
    """Counts the records it was asked for."""

    told = 0

    def respond(self, chunk: Chunk) -> list[Send]:
        sends = super().respond(chunk)
        self.told += sum(len(send.data) == RECORD_FRAME for send in sends)
        return sends


def meter(*, skew_h: float = 0.0, of: UltraMini | None = None) -> Watched:
    """With a memory of its own, or that of another one whose clock was set since."""
    kind = find("glucometer_ultramini")
    options: dict[str, OptionValue] = {"serial": "C108SA1BC", "records": RECORDS, "first_s": 1e6}
    options["clock_skew_s"] = skew_h * 3600
    patient = Physiology(7, Profile(condition="hypoglycaemia"))
    setup = Setup(7, patient, SystemClock().now(), complete("meter", kind.options, options), ZoneInfo("UTC"))
    return Watched(setup, None if of is None else of.memory)


class Dock:
    """The cable in the room: one meter at a time hangs on it, served in a thread."""

    def __init__(self, link: Path) -> None:
        self._link = link
        self._pull: Callable[[], object] = lambda: None
        self._thread = threading.Thread()

    def plug(self, simulator: UltraMini) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(simulator)))
        self._thread.start()
        wait_until(self._link.is_symlink, 10, "the line")

    async def _serve(self, simulator: UltraMini) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._pull = lambda: loop.call_soon_threadsafe(stop.set)
        async with pty.PtyLine(self._link) as line:
            await pty.serve([(line, simulator)], SystemClock(), stop)

    def unplug(self) -> None:
        if self._thread.is_alive():
            self._pull()
            self._thread.join()


class Listener:
    """Everything ingest says of the room."""

    def __init__(self, port: int) -> None:
        self.flagged: list[FlaggedMessage] = []
        self.alerts: list[AlertMessage] = []
        """Of readings; that the cable was pulled is a technical one, and right."""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._heard
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(TOPICS.flagged("+"), 1), (TOPICS.alert("+", "#"), 1)])
        self._client.loop_start()

    def _heard(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.topic.endswith("/flagged"):
            found = msgspec.json.decode(message.payload, type=list[FlaggedMessage] | FlaggedMessage)
            self.flagged += found if isinstance(found, list) else [found]
        elif message.payload:
            alert = msgspec.json.decode(message.payload, type=AlertMessage)
            self.alerts += [] if alert.technical else [alert]

    def bind_the_room(self) -> None:
        """A visit so long that every record lies in it: only that they are of a memory keeps them silent."""
        now = SystemClock().now()
        visit = AssociationMessage(1, 1, "v1", now - 400 * 86_400 * NS, now + 3600 * NS, age_years=40)
        self._client.publish(TOPICS.assoc("1"), encode(visit), qos=1, retain=True).wait_for_publish(10)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Room(NamedTuple):
    clinic: Clinic
    dock: Dock
    listener: Listener


@pytest.fixture
def room(tmp_path: Path, mosquitto: Mosquitto, store: StoreKind, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(pty, "TICK_S", 0.002)  # the meter answers at once: 300 records take seconds
    clinic = Clinic(tmp_path / "clinic", SETTINGS.format(store=store.settings), broker_port=mosquitto.port)
    dock = Dock(clinic.folder / "tty")
    listener = Listener(mosquitto.port)
    try:
        listener.bind_the_room()
        clinic.start("ingest", "gateway")
        yield Room(clinic, dock, listener)
    finally:
        dock.unplug()
        clinic.stop_all()
        listener.stop()


@pytest.mark.timeout(300)
def test_a_memory_read_twice_with_two_clocks_is_kept_once_and_silent(room: Room, store: StoreKind) -> None:
    clinic, dock, listener = room
    first = meter()
    dock.plug(first)
    wait_until(lambda: len(store.stored(clinic)) == RECORDS, 90, "the whole memory in the store")
    wait_until(lambda: clinic.outbox_rows() == [], 20, "a receipt for every record")
    once = store.stored(clinic)
    assert len(set(once.values())) == RECORDS
    dock.unplug()

    again = meter(skew_h=-6.0, of=first)
    dock.plug(again)
    wait_until(lambda: again.told >= RECORDS, 90, "the whole memory read again")
    wait_until(lambda: clinic.outbox_rows() == [], 20, "a receipt for every record again")
    assert store.stored(clinic) == once, "each once, and the first determined time stays"
    wait_until(lambda: len(listener.flagged) >= RECORDS, 10, "every record shown as evaluated")
    assert {message.id for message in listener.flagged} == set(once)
    assert all(message.historical for message in listener.flagged)
    levels = [value.flag.level for message in listener.flagged for value in message.values.values() if value.flag]
    assert levels.count("critical") > RECORDS / 3, "each would alarm if it passed for live"
    assert listener.alerts == []
    dock.unplug()

    shown = len(listener.flagged)
    again.measure(SystemClock().now())
    dock.plug(again)
    wait_until(lambda: len(listener.flagged) > shown, 40, "the test taken now")
    fresh = listener.flagged[shown]
    assert fresh.id not in once
    assert not fresh.historical
    assert abs(SystemClock().now() - fresh.t) < 30 * NS, "now, though the meter's clock is six hours behind"
    wait_until(lambda: listener.alerts != [], 10, "an alert: silence before was not deafness")
    assert {alert.metric for alert in listener.alerts} == {"glu"}
