"""`python -m bench.throughput [--count 50000] [--packs] [--peer nodered --nodered DIR] [--write PAGE]`: readings a
second until all of them are in InfluxDB, what that costs, and what a kill in the middle loses. `--write` puts the table
into its place on a page.

A publisher (bench/load.py) sends observations by MQTT QoS 1 to a real mosquitto. What is measured takes them and writes
to a real InfluxDB 1.6, both through the same nginx: our ingest with the demo's rules, publishing each flagged reading
and answering with receipts; or Node-RED with the flow in bench/nodered, which stores id, kind and value. Node-RED is
not part of this project; put it into a folder of its own and name that folder:

    npm install node-red node-red-contrib-influxdb
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench.load import ROOMS, TOPICS, Publisher, readings
from bench.machine import machine
from bench.report import replaced
from bench.throughput_parts import Ingest, NodeRed, Part, Place
from tests.parts import Influx, Mosquitto, wait_until
from vitals import settings
from vitals.broker import Broker
from vitals.clock import NS
from vitals.messages import AssociationMessage, encode

OURS: Final = "ingest"
PACK: Final = 50
"""Readings of a message in which a gateway's backlog drains."""
POLL_S: Final = 0.1
SETTLED_S: Final = 10.0
"""After the kill: when nothing more came for so long, nothing will. Twice the pause of an outbox's resending."""
LIMIT_S: Final = 300.0
TICKS: Final = os.sysconf("SC_CLK_TCK")
BEGIN: Final = "<!-- figures of bench.throughput: written by the command, not by hand -->"
END: Final = "<!-- end of the figures of bench.throughput -->"
HEAD: Final = """\
| | readings a message | readings/s | CPU-s a 100,000 | peak MB | CPU-s of InfluxDB | lost by kill -9 | doubled |
|---|---|---|---|---|---|---|---|"""


class Speed(NamedTuple):
    """Readings a second; CPU seconds a 100,000 readings of the part and of InfluxDB; MB of memory at most."""

    rate: float
    cpu_s: float
    peak_mb: float
    influx_s: float


class Bench:
    """One InfluxDB for all runs; for each a new database, and a new broker that knows nothing of the run before."""

    def __init__(self, folder: Path, home: Path | None) -> None:
        """`home`: where Node-RED is."""
        self._folder = folder
        self._home = home
        self._influx = Influx(folder / "influx")
        self._databases: list[str] = []

    def start(self) -> None:
        self._influx.start()

    def stop(self) -> None:
        self._influx.stop()

    def row(self, name: str, count: int, pack: int) -> str:
        """One line of the table."""
        speed, (lost, doubled) = self.speed(name, count, pack), self.loss(name, count, pack)
        cells = (
            name,
            pack,
            f"{speed.rate:,.0f}",
            f"{speed.cpu_s:.1f}",
            f"{speed.peak_mb:.0f}",
            f"{speed.influx_s:.1f}",
        )
        return f"| {' | '.join(map(str, (*cells, lost, doubled)))} |"

    def speed(self, name: str, count: int, pack: int) -> Speed:
        with self._part(name) as (part, port):
            publisher = Publisher(port, readings(count, pack), receipts=False)
            pids = (part.pid, _child("influxd"))
            before, begun = [_cpu_s(pid) for pid in pids], time.monotonic()
            sending = _begin(publisher)
            wait_until(lambda: self._stored() >= count, LIMIT_S, "all in the store")
            took = time.monotonic() - begun
            sending.join()
            ours, influx = (100_000 / count * (_cpu_s(pid) - was) for pid, was in zip(pids, before, strict=True))
            return Speed(count / took, ours, _peak_mb(part.pid), influx)

    def loss(self, name: str, count: int, pack: int) -> tuple[int, int]:
        """(lost, doubled) when it is killed at half and started again. For us the publisher keeps what has no receipt,
        as a gateway does; nothing tells it of what Node-RED has stored."""
        with self._part(name) as (part, port):
            publisher = Publisher(port, readings(count, pack), receipts=name == OURS)
            sending = _begin(publisher)
            wait_until(lambda: self._stored() >= count / 2, LIMIT_S, "half in the store")
            part.kill()
            part.start()
            self._settle(count)
            publisher.close()
            sending.join()
            distinct = self._stored("distinct(id)")
            return count - distinct, self._stored() - distinct

    @contextmanager
    def _part(self, name: str) -> Iterator[tuple[Part, int]]:
        """What is measured, taking messages, and its broker's port."""
        self._databases.append(self._influx.database())
        folder = self._folder / self._databases[-1]
        mosquitto = Mosquitto(folder / "mosquitto")
        mosquitto.start()
        _occupy_rooms(mosquitto.port)
        place = Place(folder / "part", mosquitto.port, self._influx, self._databases[-1])
        part: Part = Ingest(place) if name == OURS or self._home is None else NodeRed(place, self._home)
        try:
            part.start()
            yield part, mosquitto.port
        finally:
            part.stop()
            mosquitto.kill()

    def _settle(self, count: int) -> None:
        """Until all is there, or nothing more comes."""
        last, since = self._stored(), time.monotonic()
        while last < count and time.monotonic() - since < SETTLED_S:
            now = self._stored()
            if now != last:
                last, since = now, time.monotonic()

    def _stored(self, what: str = "id") -> int:
        time.sleep(POLL_S)  # each question costs InfluxDB time
        answer = json.loads(self._influx.ask(f"SELECT count({what}) FROM observation", self._databases[-1]))
        series = answer["results"][0].get("series")
        return int(series[0]["values"][0][1]) if series else 0


def _occupy_rooms(port: int) -> None:
    """A visit in every room, so that all rules run."""
    board = Broker(settings.Broker(port=port), "bench-board")
    board.start()
    board.require(10)
    now = time.time_ns()
    visit = AssociationMessage(1, 1, "visit", now - 3600 * NS, now + 24 * 3600 * NS, age_years=40, sex="female")
    for room in range(ROOMS):
        board.publish(TOPICS.assoc(f"room-{room}"), encode(visit), qos=1, retain=True)
    time.sleep(1)
    board.stop()


def _begin(publisher: Publisher) -> threading.Thread:
    thread = threading.Thread(target=publisher.run, daemon=True)
    thread.start()
    return thread


def _cpu_s(pid: int) -> float:
    """Of the process and the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _peak_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


def _child(name: str) -> int:
    """The process of that name that we started."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return next(int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="readings of each run")
    parser.add_argument("--packs", action="store_true", help=f"also {PACK} readings a message, as a backlog drains")
    parser.add_argument("--peer", choices=["nodered"], help="the same for another program, in the same run")
    parser.add_argument("--nodered", type=Path, help="the folder where npm installed Node-RED")
    parser.add_argument("--rounds", type=int, default=1, help="repeat everything, in turn")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="also put the table in its place on this page")
    arguments = parser.parse_args()
    home: Path | None = arguments.nodered if arguments.peer else None
    if arguments.peer and not (home and (home / "node_modules" / "node-red").is_dir()):
        parser.error(
            "--peer nodered needs --nodered DIR, where `npm install node-red node-red-contrib-influxdb` was run"
        )
    page: Path | None = arguments.write
    if page:
        replaced(page.read_text(encoding="utf-8"), [], BEGIN, END)  # without a place, said before minutes of measuring
    told = [f"{arguments.count:,} readings. {machine()}", "", HEAD]
    print("\n".join(told), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), home)
        bench.start()
        try:
            for _ in range(arguments.rounds):
                for pack in (1, PACK) if arguments.packs else (1,):
                    for name in (OURS, "Node-RED") if home else (OURS,):
                        told.append(bench.row(name, arguments.count, pack))
                        print(told[-1], flush=True)
        finally:
            bench.stop()
    if page:
        page.write_text(replaced(page.read_text(encoding="utf-8"), told, BEGIN, END), encoding="utf-8")


if __name__ == "__main__":
    main()
