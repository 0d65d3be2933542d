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
from simulators.core.scenario import load
from tests.parts import PLACES, Influx
from vitals.cli import demo_broker, demo_settings

ROOMS: Final = ("m1", "m2", "m3", "m4")
OXIMETERS: Final = ROOMS[:2]
"""Rooms with a HealthyPi; the others have an ADS1292R."""
SITE: Final = "demo"
SCENARIO: Final = "busy-morning"
"""What `make demo` plays."""
LOAD: Final = 4
"""Rooms of it."""
PER_COUNT: Final = 2
"""The page gets 2.5 microvolt each, so a spike is there twice as many."""

_MEASURED: Final = """
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


class Configuration(NamedTuple):
    """`store(folder)` starts what the store needs and gives its setting."""

    broker: str
    store: Callable[[Path], contextlib.AbstractContextManager[str]]
    programs: tuple[str, ...] = ()


@contextlib.contextmanager
def sqlite(_folder: Path) -> Iterator[str]:
    yield demo_settings.STORE


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
def lines(folder: Path, marks: list[Mark], notes: list[str]) -> Iterator[None]:
    """The measured rooms' boards, in a thread. A line that was not read is told in `notes` at the end."""
    loop = asyncio.new_event_loop()
    players = [
        play(folder / f"tty-{room}", Script(room, oximeter=room in OXIMETERS), number / len(ROOMS), marks, notes)
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


def write_settings(folder: Path, store: str, *, broker: int, window: int, board: int) -> Path:
    """The demo's own settings, and the measured rooms behind them."""
    path = demo_settings.write(
        folder, load(SCENARIO), rooms=LOAD, board_port=board, broker_port=broker, window=window, seed=1, store=store
    )
    with path.open("a", encoding="utf-8") as file:
        file.writelines(_MEASURED.format(room=room, uv=demo_settings.UV_PER_COUNT) for room in ROOMS)
    return path
