"""What `bench.throughput` measures: our ingest, and Node-RED, each a process between the same broker and InfluxDB."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from tests.clinic import Clinic
from tests.parts import Influx, free_port, program, wait_until

FLOW: Final = Path(__file__).parent / "nodered" / "flow.json"
TAKE_OVER_S: Final = 1.0
"""From its connection until it has what is retained."""
_SETTINGS: Final = """
[site]
id = "bench"
[broker]
port = {{broker}}
[ingest]
profile = "demo"
simulated_alarms = true
state = "state.db"
store = {{{{ kind = "influx", url = "{url}", bucket = "{database}" }}}}
"""
_NODE_RED: Final = 'module.exports = {uiHost: "127.0.0.1", editorTheme: {tours: false}, credentialSecret: "bench"};\n'


class Place(NamedTuple):
    """Where a part works: its own folder, the broker's port, and a database of its own."""

    folder: Path
    broker_port: int
    influx: Influx
    database: str


class Part(Protocol):
    """`pid` is that of the one process that does it all. `start` returns once it takes messages."""

    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...


class Ingest:
    """With the demo's rules and alarms, otherwise as delivered."""

    def __init__(self, place: Place) -> None:
        text = _SETTINGS.format(url=place.influx.url, database=place.database)
        self._clinic = Clinic(place.folder, text, broker_port=place.broker_port)

    @property
    def pid(self) -> int:
        return self._clinic.pid("ingest")

    def start(self) -> None:
        log = self._clinic.folder / "ingest.log"
        before = _count(log, "broker connected")
        self._clinic.start("ingest")
        wait_until(lambda: _count(log, "broker connected") > before, 30, "ingest at the broker")
        time.sleep(TAKE_OVER_S)

    def kill(self) -> None:
        self._clinic.kill("ingest")

    def stop(self) -> None:
        self._clinic.stop_all()


class NodeRed:
    """`home`: the folder where npm installed it. Its flow is taken as it is."""

    def __init__(self, place: Place, home: Path) -> None:
        self._folder = place.folder
        self._folder.mkdir()
        (self._folder / "node_modules").symlink_to((home / "node_modules").resolve())
        shutil.copy(FLOW, self._folder)
        (self._folder / "settings.js").write_text(_NODE_RED, encoding="utf-8")
        self._environment = os.environ | {
            "BROKER_PORT": str(place.broker_port), "INFLUX_PORT": place.influx.url.rpartition(":")[2],
            "INFLUX_DATABASE": place.database,
        }  # fmt: skip
        red = str(home.resolve() / "node_modules" / "node-red" / "red.js")
        self._command = [
            program("node") or "node", red, "--userDir", str(self._folder), "--port", str(free_port()), FLOW.name,
        ]  # fmt: skip
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def pid(self) -> int:
        return self._running[-1].pid

    def start(self) -> None:
        log = self._folder / "log"
        before = _count(log, "Connected to broker")
        with log.open("ab") as out:
            self._running.append(
                subprocess.Popen(self._command, cwd=self._folder, env=self._environment, stdout=out, stderr=out)
            )
        wait_until(lambda: _count(log, "Connected to broker") > before, 60, "Node-RED at the broker")
        time.sleep(TAKE_OVER_S)

    def kill(self) -> None:
        process = self._running.pop()
        process.kill()
        process.wait()

    stop = kill


def _count(log: Path, words: str) -> int:
    return log.read_text(encoding="utf-8", errors="replace").count(words) if log.exists() else 0
