"""`python -m bench.ekg_load [--streams 32] [--seconds 20]`: what the design load costs, part by part.

Simulated EKG boards on real pseudo terminals, one gateway, mosquitto, ingest with SQLite, the board without a page.
Prints each part's share of one core and its memory, what the gateway writes to its disk, and whether the store kept up.
"""

import argparse
import os
import sqlite3
import tempfile
import time
from pathlib import Path

from tests.clinic import Clinic
from tests.parts import Mosquitto

PARTS = ("simulate", "gateway", "ingest", "board")
WARM_UP_S = 12
TICKS = os.sysconf("SC_CLK_TCK")

_HEAD = """
[site]
id = "bench"
[broker]
port = {broker}
[gateway]
outbox = "outbox.db"
[ingest]
profile = "demo"
store = {{ kind = "sqlite", path = "store.db" }}
[board]
port = {board}
[simulate]
seed = 1
"""
_STREAM = """
[[gateway.devices]]
name = "m{n}"
driver = "ekg_openview"
room = "{n}"
port = "tty{n}"
options = {{{{ uv_per_count = 5.0 }}}}
[[simulate.devices]]
kind = "ekg_openview"
room = "{n}"
link = "tty{n}"
[[board.rooms]]
id = "{n}"
"""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024


def written_kb(pid: int) -> float:
    """What the process had written to a disk; nothing on a file system in memory."""
    line = next(x for x in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines() if x.startswith("write_"))
    return int(line.split()[1]) / 1000


def measure(folder: Path, streams: int, seconds: float) -> None:
    mosquitto = Mosquitto(folder / "mosquitto")
    mosquitto.start()
    settings = _HEAD + "".join(_STREAM.format(n=n) for n in range(1, streams + 1))
    clinic = Clinic(folder / "clinic", settings, broker_port=mosquitto.port)
    try:
        started = time.monotonic()
        clinic.start(*PARTS)
        time.sleep(WARM_UP_S)
        pids = {part: clinic.pid(part) for part in PARTS}
        disk = written_kb(pids["gateway"])
        before, begun = {part: cpu_s(pid) for part, pid in pids.items()}, time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begun
        print(f"{streams} EKG streams of 125 Hz for {took:.0f} s")
        for part, pid in pids.items():
            print(f"  {part:9} {100 * (cpu_s(pid) - before[part]) / took:5.1f} % of a core  {memory_mb(pid):6.0f} MB")
        print(f"  gateway writes {(written_kb(pids['gateway']) - disk) / took:.0f} kB/s")
        time.sleep(2)
        print(f"  rows without a receipt: {len(clinic.outbox_rows())}")
    finally:
        ran = time.monotonic() - started
        clinic.stop_all()
        mosquitto.kill()
    with sqlite3.connect(folder / "clinic" / "store.db") as store:
        (count,) = store.execute("SELECT count(*) FROM strip").fetchone()
    commits = int(clinic.log("gateway").rpartition("commits=")[2].split()[0])
    print(f"  gateway commits: {commits / ran:.1f} a second")
    print(f"  packs stored: {count}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.streams, arguments.seconds)


if __name__ == "__main__":
    main()
