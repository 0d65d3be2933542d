"""kill -9 of any one part, and its restart: what the outbox had committed arrives once; what was never read is counted.

The ledger of what was committed is kept by a trigger inside the outbox file, so not by any code under test.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from websockets.sync.client import connect

from simulators.core.scenario import Room, Scenario
from tests.clinic import Clinic
from tests.parts import Mosquitto, needs, wait_until
from vitals.cli import demo_settings

pytestmark = [pytest.mark.broker, pytest.mark.air, pytest.mark.slow, pytest.mark.timeout(400), needs("mosquitto")]
PARTS = ("simulate", "gateway", "ingest", "board")


_KEY = (
    "CASE WHEN {row}.topic LIKE '%/obs' THEN json_extract(CAST({row}.payload AS TEXT), '$.id')"
    " ELSE {row}.epoch || ' ' || {row}.seq END"
)
"""Of a reading its id: a restarted gateway reads a meter's memory again, and those are the same readings."""


class Watched(Clinic):
    """Two rooms of the demo, with a ledger of every row the outbox ever committed."""

    def __init__(self, folder: Path, broker_port: int) -> None:
        super().__init__(folder, "", broker_port=broker_port)
        calm = Room(name="Nguyen, Linh", age=34, sex="female", options={"bp_gatt": {"interval_s": 12.0}})
        scenario = Scenario(title="two calm rooms", see="nothing but readings", rooms=[calm, calm])
        demo_settings.write(folder, scenario, board_port=self.board_port, broker_port=broker_port, window=1000, seed=3)

    def keep_ledger(self) -> None:
        wait_until(lambda: self.query("outbox.db", "SELECT count(*) FROM row") != [], 90, "the outbox being made")
        db = sqlite3.connect(self.folder / "outbox.db", timeout=20)
        db.executescript(
            f"CREATE TABLE ledger (key); INSERT INTO ledger SELECT {_KEY.format(row='row')} FROM row;"
            f"CREATE TRIGGER keep AFTER INSERT ON row BEGIN INSERT INTO ledger VALUES ({_KEY.format(row='new')}); END;"
        )
        db.close()

    def ledger(self) -> list[str]:
        return [key for (key,) in self.query("outbox.db", "SELECT key FROM ledger")]

    def stored(self) -> list[str]:
        """What the ledger keeps, of every row in the store, read out of the messages themselves."""
        readings = [msgspec.json.decode(m) for (m,) in self.query("store.db", "SELECT message FROM observation")]
        strips = [msgspec.msgpack.decode(m) for (m,) in self.query("store.db", "SELECT message FROM strip")]
        rows = [(message["epoch"], message["seq"]) for message in strips]
        rows += self.query("store.db", "SELECT epoch, seq FROM event")
        return [message["id"] for message in readings] + [f"{epoch} {seq}" for epoch, seq in rows]

    def snapshot(self) -> dict:  # type: ignore[type-arg]
        with connect(f"ws://127.0.0.1:{self.board_port}/ws", origin=f"http://127.0.0.1:{self.board_port}") as socket:  # type: ignore[arg-type]
            while True:
                message = socket.recv(timeout=5)
                if isinstance(message, str) and json.loads(message)["t"] == "snap":
                    return json.loads(message)


@pytest.fixture
def clinic(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Watched]:
    clinic = Watched(tmp_path / "clinic", mosquitto.port)
    try:
        clinic.start(*PARTS)
        clinic.keep_ledger()
        clinic.await_board()
        wait_until(lambda: len(clinic.stored()) > 40, 120, "a clinic at work")
        yield clinic
    finally:
        clinic.stop_all()


def settle(clinic: Watched) -> None:
    """Stop the source, let the outbox run empty, and hold ledger against store."""
    clinic.stop("simulate")
    wait_until(lambda: clinic.outbox_rows() == [], 60, "a receipt for every row")
    clinic.stop("gateway")
    committed, stored = clinic.ledger(), clinic.stored()
    assert len(committed) > 40
    lost = set(committed) - set(stored)
    assert not lost
    assert len(stored) == len(set(stored)), "each once"
    assert clinic.query("outbox.db", "SELECT * FROM refused") == []


@pytest.mark.parametrize("part", ["ingest", "gateway", "simulate", "board"])
def test_what_was_committed_arrives_once_though_a_part_was_killed(clinic: Watched, part: str) -> None:
    for _ in range(2):
        clinic.kill(part)
        time.sleep(3)
        clinic.start(part)
        before = len(clinic.stored())
        wait_until(lambda: len(clinic.stored()) > before + 30, 60, f"work going on after {part} came back")  # noqa: B023
    settle(clinic)


def test_what_was_committed_arrives_once_though_the_broker_was_killed(clinic: Watched, mosquitto: Mosquitto) -> None:
    for _ in range(2):
        mosquitto.kill()
        wait_until(lambda: len(clinic.outbox_rows()) > 20, 30, "a backlog while the broker is away")
        mosquitto.start()
        wait_until(lambda: len(clinic.outbox_rows()) < 15, 60, "the backlog draining")
    settle(clinic)


def test_what_was_never_read_is_counted_and_shown(clinic: Watched) -> None:
    clinic.kill("gateway")
    wait_until(lambda: not gateway(clinic)["online"], 90, "the board saying that the gateway is gone")
    notices = [notice["txt"] for notice in clinic.snapshot()["sys"]["notices"]]
    assert any("offline" in text for text in notices)
    time.sleep(4)
    clinic.start("gateway")
    wait_until(lambda: gateway(clinic)["online"], 90, "the board saying that it is back")
    wait_until(lambda: gaps(clinic) != [], 60, "the gap being stored as an event")
    missing = clinic.snapshot()["sys"]["ingest"]["missing"]
    seconds = [value for key, value in missing.items() if key.endswith("/ekg")]
    assert len(seconds) == 2, "one for each room's monitor"
    assert all(4 < value < 60 for value in seconds)


def gateway(clinic: Watched) -> dict:  # type: ignore[type-arg]
    return clinic.snapshot()["sys"]["gateways"][0]


def gaps(clinic: Watched) -> list[str]:
    events = [msgspec.json.decode(m) for (m,) in clinic.query("store.db", "SELECT message FROM event")]
    return [event["detail"] for event in events if event["code"] == "ekg_gap"]


@pytest.mark.parametrize(("part", "says"), [("ingest", "checking service"), ("broker", "message broker")])
def test_the_board_says_what_is_wrong_meanwhile(clinic: Watched, mosquitto: Mosquitto, part: str, says: str) -> None:
    if part == "broker":
        mosquitto.kill()
    else:
        clinic.kill(part)

    def band() -> str:
        shown = clinic.snapshot()["sys"]["band"]
        return shown["txt"] if shown else ""

    wait_until(lambda: says in band(), 60, f"a band about {says}")
    if part == "broker":
        mosquitto.start()
    else:
        clinic.start(part)
    wait_until(lambda: band() == "", 90, "the band going away")
