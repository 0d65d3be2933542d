"""Ingest beside a hostile publisher, over TLS: what is refused is counted by reason, and the honest are answered."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.bus import ROOT, Bus
from tests.clinic import Clinic
from tests.ingest_making import observation
from tests.parts import needs, wait_until
from vitals.cli.provision.mosquitto import MAX_QUEUED, WINDOW
from vitals.clock import SystemClock
from vitals.messages import MAX_PAYLOAD, IngestStatus, Receipts, encode

pytestmark = [pytest.mark.broker, needs("mosquitto")]
LIMITS = "\n[ingest.quota]\ngateway_rows_per_s = 200.0\ndevice_rows_per_s = 50.0\nburst_s = 1.0\n"
HONEST = f"{ROOT}/up/g2/2/cuff/obs"
BEFORE_IT = MAX_QUEUED + WINDOW
"""Messages that may stand in the broker's queue for ingest before one that just came."""
MAX_SENT = 10
"""Times a reading may have to be sent, each time after `BEFORE_IT` messages of the flood were refused."""
READINGS, FLOOD_MESSAGES = 5, 10_000

FLOOD = """
import ssl, sys, time
import paho.mqtt.client as mqtt
port, folder, obs = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
tls = ssl.create_default_context(cafile=folder + "/ca.crt")
tls.load_cert_chain(folder + "/client.crt", folder + "/client.key")
client.tls_set_context(tls)
client.connect("localhost", port)
client.loop_start()
number = 0
while True:
    number += 1
    client.publish(f"vitals/v1/clinic/up/g1/r{number % 5000}/d{number % 9999}/obs", obs, qos=number % 2)
    client.publish("vitals/v1/clinic/up/g1/1/cuff/obs", obs, qos=0)
    while number % 500 == 0 and len(client._out_packet) > 2000:
        time.sleep(0.001)
"""


class Beside:
    """Ingest as it is deployed, an honest gateway, and the board's ears."""

    def __init__(self, folder: Path) -> None:
        self.bus = Bus(folder, "certificate")
        self.clinic = Clinic(folder / "clinic", "", broker_port=1)
        settings = self.bus.folder / "ingest/settings.toml"
        settings.write_text(settings.read_text(encoding="utf-8") + LIMITS, encoding="utf-8")
        self.clinic.run("ingest", "ingest", "--config", str(settings))
        self.honest = self.bus.client("g2", f"{ROOT}/down/g2/stored")
        self.board = self.bus.client("board", f"{ROOT}/core/+/flagged", f"{ROOT}/core/ingest/status")
        self.online = False
        self.refused: dict[str, int] = {}
        self.over_quota: dict[str, int] = {}
        self.outcomes: dict[int, str] = {}
        """Of the honest gateway, by seq."""
        self.flagged: list[str] = []
        self.until(lambda: self.online, 30, "ingest, which has subscribed then")

    def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Listening meanwhile."""

        def holds() -> bool:
            self.hear()
            return condition()

        wait_until(holds, timeout_s, what)

    def hear(self) -> None:
        for message in self.honest.take(50, 0.02):
            outcomes = msgspec.json.decode(message.payload, type=Receipts).outcomes
            self.outcomes |= {outcome.seq: outcome.outcome for outcome in outcomes}
        for message in self.board.take(500, 0.02):
            if message.topic.endswith("/flagged"):
                found = msgspec.json.decode(message.payload)
                self.flagged += [one["id"] for one in (found if isinstance(found, list) else [found])]
            else:
                status = msgspec.json.decode(message.payload, type=IngestStatus)
                self.online, self.refused, self.over_quota = status.online, status.refused, status.over_quota

    @property
    def of_the_flood(self) -> int:
        return self.refused.get("too frequent", 0) + self.refused.get("too many names", 0)

    def answer(self, seq: int) -> int:
        """Send a reading until it is answered, as an outbox does; how often it was sent."""
        reading = encode(observation(f"{seq:032x}", epoch="honest", seq=seq, t=SystemClock().now()))
        sent, again_at = 0, 0

        def answered() -> bool:
            nonlocal sent, again_at
            if not sent or self.of_the_flood >= again_at:  # all that was queued before it has gone through
                sent += self.honest.publish(HONEST, reading, qos=1)
                again_at = self.of_the_flood + BEFORE_IT
            return seq in self.outcomes or sent > MAX_SENT

        self.until(answered, 90, f"an answer to reading {seq}, or the flood going on")
        return sent

    def stored(self) -> list[str]:
        """Ids of the honest gateway's readings, one for each row."""
        file = next(self.bus.folder.rglob("store.db"))
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            return [key for (key,) in db.execute("SELECT id FROM observation WHERE gateway = 'g2'")]

    def end(self) -> None:
        self.clinic.stop_all()
        self.bus.end()


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    made = Beside(tmp_path_factory.mktemp("beside"))
    yield made
    made.end()


def test_each_kind_of_bad_message_is_counted_by_its_reason_and_the_next_good_one_is_stored(beside: Beside) -> None:
    thief = beside.bus.client("g1", f"{ROOT}/down/g1/stored")
    newer = encode(msgspec.structs.replace(observation("b" * 32, epoch="e9", seq=7), v=2))
    for payload in (newer, b"rubbish", b"[" * 20_000, b"x" * (MAX_PAYLOAD + 1)):  # the largest uses up the quota
        assert thief.publish(f"{ROOT}/up/g1/1/d{len(payload)}/obs", payload, qos=1)
    assert beside.answer(1) == 1
    assert beside.outcomes[1] == "stored"
    expected = {"oversize": 1, "malformed": 2, "newer version": 1}
    beside.until(lambda: beside.refused == expected, 10, f"the counts {expected}")
    told = [msgspec.json.decode(message.payload, type=Receipts) for message in thief.take(9, 10)]
    assert [(o.epoch, o.seq, o.outcome) for receipts in told for o in receipts.outcomes] == [("e9", 7, "hold")]
    thief.stop()


@pytest.mark.slow
def test_a_flood_of_one_gateway_leaves_the_other_its_answers(beside: Beside) -> None:
    """The hostile one sends as fast as it can, under thousands of names, over the whole test. Each of the honest one's
    readings is flagged, stored and answered, though the broker's full queue may drop it some times."""
    arguments = [str(beside.bus.port), str(beside.bus.folder / "g1"), encode(observation()).decode()]
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, *arguments])
    sent: dict[int, int] = {}
    try:
        beside.until(lambda: beside.of_the_flood > 1000, 30, "the flood")
        while len(sent) < READINGS or beside.of_the_flood < FLOOD_MESSAGES:
            seq = 100 + len(sent)
            sent[seq] = beside.answer(seq)
        assert flood.poll() is None, "it went on to the end"
    finally:
        flood.kill()
        flood.wait()
    assert max(sent.values()) <= MAX_SENT, sent
    assert {beside.outcomes[seq] for seq in sent} <= {"stored", "duplicate"}, "duplicate: sent again before the answer"
    stored = beside.stored()
    assert set(stored) >= {f"{seq:032x}" for seq in sent}
    assert len(stored) == len(set(stored))
    beside.until(lambda: set(beside.flagged) >= {f"{seq:032x}" for seq in sent}, 20, "the board hearing of each")
    assert beside.refused["too frequent"] > 1000
    assert beside.refused["too many names"] > 1000
    assert set(beside.over_quota) == {"g1"}, "the one that is to be looked at is named"
    assert beside.honest._connection == 1, "never disturbed"
