"""`python -m bench.store_hour [SECONDS]`: InfluxDB is down while an hour of the design load comes in.

A real outbox, the real service of ingest and its ledger, a real InfluxDB that is killed and started again; only the
broker between them is a list. An hour is an hour of rows (32 EKG strips and a reading a second), pressed through as
fast as this machine can. Ends with 1 when a row is missing or twice, a reading was not shown meanwhile, or a bound was
passed.
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from ingest.store.influx import Bucket, Place
from ingest.store.influx_verify import CheckedInflux
from ingest.store.verify import verify
from ingest.writer import MAX_WAITING_ROWS
from tests.ingest_making import T0, observation, q, strip
from tests.parts import Influx
from tests.test_influx_stress import Clinic
from tests.test_ingest_service import TOPICS
from vitals.clock import NS
from vitals.messages import FlaggedMessage, Receipts, encode
from vitals.outbox import Outbox, Row

STREAMS: Final = 32
RATE_HZ: Final = 250
PACK: Final = 500
RECEIPTS: Final = TOPICS.stored("gateway-1")
RETRY_S: Final = 11
"""More than the longest pause between two tries of ingest."""


def flagged(payload: bytes) -> list[FlaggedMessage]:
    """One reading alone, or several in a list."""
    found = msgspec.json.decode(payload, type=FlaggedMessage | list[FlaggedMessage])
    return found if isinstance(found, list) else [found]


def resident_mb() -> int:
    """Of this process, which is gateway and ingest in one."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS"))


class Hour:
    """One gateway's outbox before one ingest."""

    def __init__(self, folder: Path, server: Influx) -> None:
        self.database = server.database()
        self.clinic = Clinic(server.url, self.database, folder)
        self.outbox = Outbox(folder / "outbox.db")
        self.shown: set[str] = set()
        """Ids of readings that ingest published flagged."""
        self._random = np.random.default_rng(1)

    def commit(self, second: int) -> list[Row]:
        """A second of the load, on the disk."""
        now = T0 + second * NS
        rows = []
        for number in range(STREAMS):
            epoch, seq = self.outbox.stamp()
            samples = (self._random.standard_normal(RATE_HZ) * 300).astype("<i2")
            pack = strip(second * RATE_HZ, samples, stream=f"s{number}", t0=now, seq=seq)
            pack = msgspec.structs.replace(pack, epoch=epoch, t_received=now + NS)
            topic = TOPICS.up("gateway-1", str(number), f"ekg-{number}", "strip")
            rows.append(Row(epoch, seq, topic, encode(pack), now))
        epoch, seq = self.outbox.stamp()
        reading = observation(f"{second:032x}", {"bp_sys": q(100.0 + second % 80)}, seq=seq, t=now)
        topic = TOPICS.up("gateway-1", "4", "cuff-1", "obs")
        rows.append(Row(epoch, seq, topic, encode(msgspec.structs.replace(reading, epoch=epoch)), now))
        self.outbox.put(rows)
        return rows

    def publish(self, rows: list[Row], step_s: float) -> None:
        for row in rows:
            self.clinic.broker.put(row.topic, row.payload)
        while self.clinic.broker.inbox:
            self.turn(step_s)

    def turn(self, step_s: float) -> None:
        """One of ingest's; its receipts reach the outbox."""
        self.clinic.clock.advance(step_s)
        self.clinic.service.step()
        said, self.clinic.broker.published[:] = list(self.clinic.broker.published), []
        self.clinic.broker.acked.clear()
        for topic, payload, _ in said:
            if topic == RECEIPTS:
                self.outbox.settle(msgspec.json.decode(payload, type=Receipts).outcomes)
            elif topic.endswith("/flagged"):
                self.shown |= {one.id for one in flagged(payload)}

    def catch_up(self) -> None:
        """What waits in ingest, and then the backlog of the outbox as a gateway sends it."""
        while self.clinic.writer.waiting_rows:
            self.turn(RETRY_S)
        seq = 0
        while self.outbox.counts()[0]:
            some = self.outbox.after(seq, PACK)
            seq = some[-1].seq if some else 0
            self.publish(some, 0.05)


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 3600
    with tempfile.TemporaryDirectory(prefix="hour-") as name:
        server = Influx(Path(name) / "influx")
        server.start()
        hour = Hour(Path(name), server)
        hour.turn(0)
        server.kill_engine()
        wrong = []
        print(f"{'second':>8} {'MB':>5} {'rows in ingest':>15} {'rows in the outbox':>19} {'shown':>7}")
        most = 0
        sent: set[str] = set()
        for second in range(seconds):
            hour.publish(hour.commit(second), 1)
            sent.add(f"{second:032x}")
            most = max(most, hour.clinic.writer.waiting_rows)
            if (second + 1) % max(seconds // 6, 1) == 0:
                waiting = hour.clinic.writer.waiting_rows
                line = (second + 1, resident_mb(), waiting, hour.outbox.counts()[0], len(hour.shown & sent))
                print("{:>8} {:>5} {:>15} {:>19} {:>7}".format(*line), flush=True)
        if sent - hour.shown:
            wrong.append(f"{len(sent - hour.shown)} of {seconds} readings not shown while the store was down")
        if most > MAX_WAITING_ROWS + PACK:
            wrong.append(f"{most} rows waited in ingest, allowed are {MAX_WAITING_ROWS}")
        server.start_engine()
        hour.catch_up()
        counts = hour.clinic.store.counts()
        print(
            f"caught up: {resident_mb()} MB, stored {counts}, refused or dropped {dict(hour.clinic.pipeline.refused)}"
        )
        if counts["strip"] != STREAMS * seconds or counts["observation"] < seconds:
            wrong.append(f"expected {STREAMS * seconds} strips and {seconds} readings in the store")
        bucket = Bucket(Place(server.url, hour.database), timeout_s=60)
        found = verify(CheckedInflux(bucket, Path(name) / "state.db"), lambda _: None).counts
        if any(found.values()):
            wrong.append(f"vitals store verify finds {dict(found)}")
        hour.clinic.close()
        server.stop()
    print("\n".join(f"WRONG: {one}" for one in wrong) or "nothing lost, nothing twice, every reading shown")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
