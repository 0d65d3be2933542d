"""`python -m bench.throughput [--count 50000] [--pack 50] [--peer nodered --nodered DIR]`: readings a second until all of
them are in InfluxDB, what that costs, and what a kill in the middle loses.

A publisher (bench/load.py) sends observations by MQTT QoS 1 to a real mosquitto. What is measured takes them, and writes
to a real InfluxDB 1.6 behind nginx: our ingest with the demo's rules, publishing each flagged reading and answering with
receipts; or Node-RED with the flow in bench/nodered, which stores id, kind and value. Node-RED is not part of this
project; put it into a folder of its own with

    npm install node-red node-red-contrib-influxdb
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from bench.load import ROOMS, TOPICS, Packet, Publisher, readings
from bench.machine import machine
from tests.clinic import Clinic
from tests.parts import Influx, Mosquitto, free_port, wait_until
from vitals import settings
from vitals.broker import Broker
from vitals.clock import NS
from vitals.messages import AssociationMessage, encode

POLL_S: Final = 0.1
SETTLED_S: Final = 8.0
"""After a kill: nothing more came for so long."""
LIMIT_S: Final = 300.0
TICKS: Final = os.sysconf("SC_CLK_TCK")
FLOW: Final = Path(__file__).parent / "nodered" / "flow.json"
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


class Part(Protocol):
    """What is measured. `pid` of the process that does all of it."""

    name: str

    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...


class Ours:
    name = "ingest"

    def __init__(self, folder: Path, broker_port: int, influx: Influx, database: str) -> None:
        text = _SETTINGS.format(url=influx.url, database=database)
        self._clinic = Clinic(folder, text, broker_port=broker_port)

    @property
    def pid(self) -> int:
        return self._clinic.pid("ingest")

    def start(self) -> None:
        logs = self._said()
        self._clinic.start("ingest")
        wait_until(lambda: self._said() > logs, 30, "ingest at the broker")
        time.sleep(1)  # the associations that are retained

    def _said(self) -> int:
        log = self._clinic.folder / "ingest.log"
        return log.read_text(encoding="utf-8").count("broker connected") if log.exists() else 0

    def kill(self) -> None:
        self._clinic.kill("ingest")

    def stop(self) -> None:
        self._clinic.stop_all()


class NodeRed:
    name = "Node-RED"

    def __init__(self, folder: Path, broker_port: int, influx: Influx, database: str, home: Path) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "node_modules").symlink_to((home / "node_modules").resolve())
        shutil.copy(home / "package.json", folder)
        self._red = home.resolve() / "node_modules" / "node-red" / "red.js"
        (folder / "settings.js").write_text(
            'module.exports = {logging: {console: {level: "info"}}, uiHost: "127.0.0.1", editorTheme: {tours: false}};'
        )
        flow = FLOW.read_text(encoding="utf-8")
        (folder / "flow.json").write_text(flow, encoding="utf-8")
        port = influx.url.rpartition(":")[2]
        self._environment = os.environ | {
            "BROKER_PORT": str(broker_port), "INFLUX_PORT": port, "INFLUX_DATABASE": database,
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        connected = self._said()
        node = shutil.which("node")
        assert node is not None
        command = [node, str(self._red), "--userDir", str(self._folder), "--port", str(free_port()), "flow.json"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )  # fmt: skip
        wait_until(lambda: self._said() > connected, 60, "Node-RED at the broker")
        time.sleep(1)

    def _said(self) -> int:
        log = self._folder / "log"
        return log.read_text(encoding="utf-8").count("Connected to broker") if log.exists() else 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    stop = kill


class Run(NamedTuple):
    """`lost` after a kill at half, and `doubled`: rows more than ids."""

    name: str
    pack: int
    rate: float
    cpu_s: float
    peak_mb: float
    lost: int
    doubled: int

    def row(self) -> str:
        cost = f"{self.rate:,.0f} | {self.cpu_s:.1f} | {self.peak_mb:.0f}"
        return f"| {self.name} | {self.pack} | {cost} | {self.lost} | {self.doubled} |"


HEAD: Final = "| | readings a message | readings/s | CPU-s a 100,000 | peak MB | lost by kill -9 | doubled |\n|---|---|---|---|---|---|---|"


def cpu_s(pid: int) -> float:
    """Of the process and the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def peak_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


class Bench:
    """One broker and one InfluxDB for all runs, a new database for each."""

    def __init__(self, folder: Path, home: Path | None) -> None:
        self._folder = folder
        self._home = home
        self._runs = 0
        self.mosquitto = Mosquitto(folder / "mosquitto")
        self.influx = Influx(folder / "influx")

    def start(self) -> None:
        self.mosquitto.start()
        self.influx.start()
        self._occupy_rooms()

    def stop(self) -> None:
        self.influx.stop()
        self.mosquitto.kill()

    def _occupy_rooms(self) -> None:
        """A visit in every room, so that all rules run."""
        board = Broker(settings.Broker(port=self.mosquitto.port), "bench-board")
        board.start()
        board.require(10)
        now = time.time_ns()
        visit = AssociationMessage(1, 1, "visit", now - 3600 * NS, now + 24 * 3600 * NS, age_years=40, sex="female")
        for room in range(ROOMS):
            board.publish(TOPICS.assoc(f"room-{room}"), encode(visit), qos=1, retain=True)
        time.sleep(1)
        board.stop()

    def run(self, peer: str, count: int, pack: int) -> Run:
        rate, cpu, peak = self._speed(peer, readings(count, pack), count)
        lost, doubled = self._kill(peer, readings(count, pack), count)
        return Run(peer, pack, rate, cpu, peak, lost, doubled)

    def _part(self, peer: str, database: str) -> Part:
        self._runs += 1
        folder = self._folder / f"{self._runs}"
        if peer == "ingest":
            return Ours(folder, self.mosquitto.port, self.influx, database)
        assert self._home is not None
        return NodeRed(folder, self.mosquitto.port, self.influx, database, self._home)

    def _speed(self, peer: str, packets: list[Packet], count: int) -> tuple[float, float, float]:
        database = self.influx.database()
        part = self._part(peer, database)
        part.start()
        try:
            before, begun = cpu_s(part.pid), time.monotonic()
            publisher = self._publish(packets, receipts=False)
            wait_until(lambda: self._stored(database) >= count, LIMIT_S, "all in the store")
            took = time.monotonic() - begun
            publisher.join()
            return count / took, (cpu_s(part.pid) - before) * 100_000 / count, peak_mb(part.pid)
        finally:
            part.stop()

    def _kill(self, peer: str, packets: list[Packet], count: int) -> tuple[int, int]:
        database = self.influx.database()
        part = self._part(peer, database)
        part.start()
        try:
            publisher = self._publish(packets, receipts=peer == "ingest")
            wait_until(lambda: self._stored(database) >= count / 2, LIMIT_S, "half in the store")
            part.kill()
            part.start()
            self._settle(lambda: self._stored(database), count)
            publisher.join(LIMIT_S)
            return count - self._stored(database, "distinct(id)"), self._stored(database) - self._stored(
                database, "distinct(id)"
            )
        finally:
            part.stop()

    def _publish(self, packets: list[Packet], *, receipts: bool) -> threading.Thread:
        publisher = Publisher(self.mosquitto.port, packets, receipts=receipts)
        thread = threading.Thread(target=publisher.run, daemon=True)
        thread.start()
        return thread

    def _settle(self, stored: Callable[[], int], count: int) -> None:
        """Until all is there, or nothing more comes."""
        last, since = stored(), time.monotonic()
        while last < count and time.monotonic() - since < SETTLED_S:
            time.sleep(POLL_S)
            now = stored()
            if now != last:
                last, since = now, time.monotonic()

    def _stored(self, database: str, what: str = '"id"') -> int:
        time.sleep(POLL_S)
        answer = json.loads(self.influx.ask(f'SELECT count({what}) FROM "observation"', database))
        series = answer["results"][0].get("series")
        return int(series[0]["values"][0][1]) if series else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="readings in each run")
    parser.add_argument("--packs", action="store_true", help="also 50 readings a message, as a backlog drains")
    parser.add_argument("--peer", choices=["nodered"], help="the same for another program, in the same run")
    parser.add_argument("--nodered", type=Path, help="the folder Node-RED was installed in by npm")
    parser.add_argument("--rounds", type=int, default=1, help="repeat everything, in turn")
    arguments = parser.parse_args()
    if arguments.peer and not (arguments.nodered and (arguments.nodered / "node_modules" / "node-red").is_dir()):
        parser.error(
            "--peer nodered needs --nodered DIR, with `npm install node-red node-red-contrib-influxdb` done in it"
        )
    peers = ["ingest", *(["Node-RED"] if arguments.peer else [])]
    print(machine())
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.nodered)
        bench.start()
        try:
            for _ in range(arguments.rounds):
                for pack in (1, 50) if arguments.packs else (1,):
                    for peer in peers:
                        print(bench.run(peer, arguments.count, pack).row(), flush=True)
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
