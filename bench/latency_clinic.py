"""The clinic of `bench.latency`: the demo's rooms as load, and the measured rooms whose boards the bench plays."""

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench.board_line import Mark, Script, play
from tests.parts import PLACES, Influx
from vitals.cli import demo_broker

ROOMS: Final = ("m1", "m2", "m3", "m4")
OXIMETERS: Final = ROOMS[:2]
"""Rooms with a HealthyPi; the others have an ADS1292R."""
COUNT: Final = 5.0
"""Microvolt of a count, for the driver."""
PER_COUNT: Final = 2
"""The page gets 2.5 microvolt each, so a spike is there twice as many."""

_HEAD: Final = """
[site]
id = "bench"
[broker]
port = {broker}
window = {window}
[gateway]
outbox = "outbox.db"
ble = {{ backend = "air", air_socket = "air.sock" }}
[ingest]
profile = "demo"
simulated_alarms = true
store = {store}
[board]
port = {board}
[simulate]
seed = 1
air_socket = "air.sock"
"""
_MONITOR: Final = """
[[board.rooms]]
id = "{room}"
demo_patient = "Measured, Room"
demo_age_years = 40
demo_sex = "female"
[[gateway.devices]]
name = "monitor-{room}"
driver = "ekg_openview"
room = "{room}"
port = "tty-{room}"
options = {{ uv_per_count = {uv} }}
"""
_DEMO_ROOM: Final = """
[[simulate.devices]]
kind = "ekg_openview"
room = "{room}"
link = "tty-{room}"
[[gateway.devices]]
name = "cuff-{room}"
driver = "bp_gatt"
room = "{room}"
address = "F0:00:00:00:00:0{room}"
[[simulate.devices]]
kind = "bp_gatt"
room = "{room}"
address = "F0:00:00:00:00:0{room}"
options = {{ interval_s = 2{room} }}
[[gateway.devices]]
name = "thermometer-{room}"
driver = "thermometer_gatt"
room = "{room}"
address = "F1:00:00:00:00:0{room}"
[[simulate.devices]]
kind = "thermometer_gatt"
room = "{room}"
address = "F1:00:00:00:00:0{room}"
options = {{ interval_s = 4{room} }}
"""


class Configuration(NamedTuple):
    """`store(folder)` starts what the store needs and gives its setting."""

    broker: str
    store: Callable[[Path], contextlib.AbstractContextManager[str]]
    programs: tuple[str, ...] = ()


@contextlib.contextmanager
def sqlite(_folder: Path) -> Iterator[str]:
    yield '{ kind = "sqlite", path = "store.db" }'


@contextlib.contextmanager
def influx(folder: Path) -> Iterator[str]:
    engine = Influx(folder / "influx")
    engine.start()
    try:
        yield f'{{ kind = "influx", url = "{engine.url}", bucket = "{engine.database()}" }}'
    finally:
        engine.stop()


CONFIGURATIONS: Final = {
    "iotcore+sqlite": Configuration("embedded (iotcore)", sqlite),
    "mosquitto+sqlite": Configuration("mosquitto", sqlite, ("mosquitto",)),
    "mosquitto+influx": Configuration("mosquitto", influx, ("mosquitto", "influxd", "nginx")),
}


@contextlib.contextmanager
def running_broker(folder: Path, port: int, name: str) -> Iterator[int]:
    """The broker `make demo` would choose with or without mosquitto on PATH. Yields its window."""
    kept = os.environ["PATH"]
    os.environ["PATH"] = f"{kept}:{PLACES}" if name == "mosquitto" else ""
    try:
        broker = demo_broker.prepare(folder, port)
    finally:
        os.environ["PATH"] = kept
    process = subprocess.Popen(broker.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield broker.window
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def lines(folder: Path, marks: list[Mark]) -> Iterator[None]:
    """The measured rooms' boards, in a thread."""
    loop = asyncio.new_event_loop()
    players = [
        play(folder / f"tty-{room}", Script(room, oximeter=room in OXIMETERS), number / len(ROOMS), marks)
        for number, room in enumerate(ROOMS)
    ]
    playing = asyncio.gather(*map(loop.create_task, players))
    thread = threading.Thread(target=_until_cancelled, args=(loop, playing))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(playing.cancel)
        thread.join()
        loop.close()


def _until_cancelled(loop: asyncio.AbstractEventLoop, playing: "asyncio.Future[list[None]]") -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(playing)


def settings(store: str, *, broker: int, window: int, board: int) -> str:
    demo = [str(number) for number in range(1, 5)]
    parts = [_HEAD.format(store=store, broker=broker, window=window, board=board)]
    parts += [_MONITOR.format(room=room, uv=COUNT) for room in (*demo, *ROOMS)]
    parts += [_DEMO_ROOM.format(room=room) for room in demo]
    return "".join(parts)
