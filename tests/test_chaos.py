"""The chaos bench itself (its plan, its verdict), and one short run of it: the road whole under seeded faults."""

import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bench.chaos.ledger import Ledger
from bench.chaos.plan import KINDS, plan
from bench.chaos.proxy import Proxy
from bench.chaos.report import report
from bench.chaos.run import run
from bench.chaos.verify import Committed, Evaluation, Stored, verify
from tests.clinic import Clinic
from tests.parts import Mosquitto, needs, wait_until
from vitals.outbox import Outbox, Row

# -- the plan ------------------------------------------------------------------------------------------------


def test_a_seed_gives_one_plan_and_another_seed_another() -> None:
    assert plan(7, 120) == plan(7, 120)
    assert plan(7, 120) != plan(8, 120)


def test_a_plan_has_every_kind_overlaps_and_ends_in_time() -> None:
    faults = plan(1, 60)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert max(fault.ends for fault in faults) <= 60.01
    assert any(early.ends > late.at for early, late in pairwise(faults))
    assert all(fault.target in KINDS[fault.kind].targets for fault in faults)


# -- the verdict ---------------------------------------------------------------------------------------------

AT = ("g1", "1", "dev")


def strip(first: int, *, seq: int, stream: str = "s", block: bytes = b"\x01\x00\x02\x00") -> bytes:
    return msgspec.msgpack.encode(
        {"v": 1, "epoch": "e", "seq": seq, "stream": stream, "metric": "ekg", "first_index": first, "count": 2,
         "block": block}
    )  # fmt: skip


def reading(key: str, *, seq: int, epoch: str = "e", record: int | None = None, value: float = 37.0) -> bytes:
    body = {"kind": "temp", "record_no": record, "quantities": {"temp": {"value": value}}}
    return msgspec.json.encode({"v": 1, "id": key, "epoch": epoch, "seq": seq, "observation": body})


def event(seq: int, *, code: str = "bad_checksum", epoch: str = "e") -> bytes:
    return msgspec.json.encode({"v": 1, "epoch": epoch, "seq": seq, "code": code})


COMMITTED = [
    Committed(*AT, "strip", strip(0, seq=1)),
    Committed(*AT, "strip", strip(2, seq=2, block=b"\x03\x00\x04\x00")),
    Committed(*AT, "obs", reading("a", seq=3, record=1)),
    Committed(*AT, "obs", reading("b", seq=4, record=2, value=38.0)),
    Committed(*AT, "event", event(5)),
]
STORED = [Stored(row.gateway, row.room, row.device, row.leaf, row.payload) for row in COMMITTED]
JUDGED = [Evaluation("a", False), Evaluation("b", False), Evaluation("rate", True)]


def wrong(stored: list[Stored], committed: list[Committed] = COMMITTED, judged: list[Evaluation] = JUDGED) -> set[str]:
    return set(verify(committed, stored, judged).wrong)


def test_all_there_once_is_good() -> None:
    verdict = verify(COMMITTED, STORED, JUDGED)
    assert not verdict.wrong
    assert (verdict.committed, verdict.stored, verdict.own) == (5, 5, 0)


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_a_loss_is_seen(missing: int) -> None:
    lost = [row for number, row in enumerate(STORED) if number != missing]
    assert verify(COMMITTED, lost, JUDGED).lost
    assert wrong(lost) <= {"lost", "unevaluated"}


@pytest.mark.parametrize("twice", [0, 2, 4])
def test_a_double_is_seen(twice: int) -> None:
    assert "doubled" in wrong([*STORED, STORED[twice]])


def test_one_outbox_row_stored_under_two_ids_is_a_double() -> None:
    again = STORED[2]._replace(message=reading("c", seq=3, record=1))
    assert {"doubled", "strangers"} <= wrong([*STORED, again])


def test_two_blocks_swapped_are_seen() -> None:
    first, second = strip(0, seq=1, block=b"\x03\x00\x04\x00"), strip(2, seq=2)
    swapped = [STORED[0]._replace(message=first), STORED[1]._replace(message=second), *STORED[2:]]
    assert wrong(swapped) == {"changed"}


def test_two_packs_in_the_other_order_are_seen() -> None:
    assert wrong([STORED[1], STORED[0], *STORED[2:]]) == {"disordered"}


def test_records_that_came_in_another_order_are_seen() -> None:
    committed = [*COMMITTED[:2], COMMITTED[4]]
    committed += [
        Committed(*AT, "obs", reading(key, seq=seq, record=no)) for key, seq, no in (("a", 3, 2), ("b", 4, 1))
    ]
    stored = [Stored(row.gateway, row.room, row.device, row.leaf, row.payload) for row in committed]
    assert wrong(stored, committed) == {"disordered"}


def test_a_value_or_a_room_that_changed_is_seen() -> None:
    assert wrong([*STORED[:2], STORED[2]._replace(message=reading("a", seq=3, record=1, value=37.1)), *STORED[3:]]) == {
        "changed"
    }
    assert wrong([*STORED[:4], STORED[4]._replace(room="2")]) == {"changed"}


def test_what_nobody_committed_is_seen() -> None:
    assert wrong([*STORED, STORED[0]._replace(message=strip(4, seq=9))]) == {"strangers"}


def test_a_reading_without_a_judgement_and_a_judgement_without_a_reading_are_seen() -> None:
    assert wrong(STORED, judged=JUDGED[1:]) == {"unevaluated"}
    assert wrong(STORED, judged=[*JUDGED, Evaluation("nobody", False)]) == {"unevaluated"}


def test_a_record_that_a_device_handed_over_twice_is_owed_once() -> None:
    again = Committed(*AT, "obs", reading("a", seq=6, record=1))
    assert not wrong(STORED, [*COMMITTED, again])
    other = Committed(*AT, "obs", reading("a", seq=6, record=1, value=39.0))
    assert wrong(STORED, [*COMMITTED, other]) == {"changed"}


def test_gaps_that_ingest_reports_are_its_own_and_those_of_an_outbox_are_not() -> None:
    gap = Stored(*AT, "event", event(1, code="ekg_gap", epoch="session"))
    verdict = verify(COMMITTED, [*STORED, gap], JUDGED)
    assert (verdict.own, verdict.wrong) == (1, {})
    assert wrong([*STORED, Stored(*AT, "event", event(9, code="ekg_gap"))]) == {"strangers"}


def test_what_a_restored_backup_took_away_may_be_missing() -> None:
    forgone = {("g1", "e", 5)}
    assert not verify(COMMITTED, STORED[:4], JUDGED, forgone).wrong
    assert not verify(COMMITTED, STORED, JUDGED, forgone).wrong


# -- ledger and road -----------------------------------------------------------------------------------------


def test_the_ledger_has_what_was_settled_meanwhile_and_what_a_backup_took_away(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    Outbox(path).close()
    ledger = Ledger(path, tmp_path)
    outbox = Outbox(path)
    topic = "vitals/v1/x/up/g1/1/dev/event"

    def put(seq: int) -> None:
        outbox.put([Row("e", seq, topic, event(seq), 0)])

    put(1)
    assert ledger.harvest() == 1
    ledger.back_up()
    ledger.back_up()
    put(2)
    outbox.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM row WHERE seq = 1")
        db.commit()
    assert ledger.restore()
    assert list(ledger.rows) == [("e", 1), ("e", 2)]
    assert ledger.waiting() == [("e", 1)], "as the backup has it"
    assert ledger.forgone == {("g1", "e", 2)}


def test_a_road_passes_cuts_and_holds_back(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(server.getsockname()[1])
    try:
        near = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        far, _ = server.accept()
        far.settimeout(0.3)
        near.sendall(b"one")
        assert far.recv(10) == b"one"
        proxy.set("hole")
        near.sendall(b"two")
        with pytest.raises(TimeoutError):
            far.recv(10)
        proxy.set("half")
        assert far.recv(10) == b"two", "what was held back passes later"
        far.sendall(b"answer")
        near.settimeout(0.3)
        with pytest.raises(TimeoutError):
            near.recv(10)
        proxy.set("cut")
        near.settimeout(5)
        with pytest.raises(ConnectionResetError):
            while near.recv(10):
                pass
            raise ConnectionResetError  # closed: as good
        far.close()
        near.close()
    finally:
        proxy.close()
        server.close()


# -- the road under faults -----------------------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.air
@pytest.mark.slow
@needs("mosquitto")
@pytest.mark.timeout(400)
def test_the_road_loses_and_doubles_nothing_under_every_kind_of_fault(tmp_path: Path) -> None:
    result = run(tmp_path / "chaos", seed=11, seconds=24, every_s=1.3)
    assert result.good, "\n" + report(result)
    assert result.verdict.committed > 1000
    assert len(result.faults) >= 14


# -- acknowledged after the append, not before ---------------------------------------------------------------

SETTINGS = """
[site]
id = "test"
[broker]
port = {broker}
[ingest]
profile = "demo"
store = {{ kind = "sqlite", path = "store.db" }}
[board]
port = {board}
"""
LOOSE = 40


def loose(key: str, *, epoch: str = "", seq: int = 0) -> dict[str, object]:
    """A reading as a publisher sends it; without an epoch no outbox keeps it."""
    now = time.time_ns()
    quantities = {"temp": {"value": 37.0, "raw": "37.0", "raw_unit": "Cel"}}
    return {
        "v": 1, "id": key, "epoch": epoch, "seq": seq, "driver": "x", "t_determined": now, "uncertainty_ms": 1,
        "observation": {"kind": "temp", "t_received": now, "quantities": quantities},
    }  # fmt: skip


class Publisher:
    """A client without an outbox, that keeps what ingest says meanwhile."""

    def __init__(self, port: int) -> None:
        self.flagged: set[str] = set()
        self.receipts = 0
        self.ingest_online = False
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._heard
        self._client.connect("127.0.0.1", port)
        topics = ("core/1/flagged", "down/g1/stored", "core/ingest/status")
        self._client.subscribe([(f"vitals/v1/test/{topic}", 1) for topic in topics])
        self._client.loop_start()

    def _heard(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        said = msgspec.json.decode(message.payload)
        if message.topic.endswith("/stored"):
            self.receipts += 1
        elif message.topic.endswith("/status"):
            self.ingest_online = said["online"]
        else:
            self.flagged |= {one["id"] for one in (said if isinstance(said, list) else [said])}

    def publish(self, *readings: dict[str, object]) -> None:
        """One message; on return the broker has acknowledged it."""
        payload = msgspec.json.encode(readings)
        self._client.publish("vitals/v1/test/up/g1/1/dev/obs", payload, qos=1).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def publisher(mosquitto: Mosquitto) -> Iterator[Publisher]:
    publisher = Publisher(mosquitto.port)
    yield publisher
    publisher.close()


@pytest.mark.broker
@pytest.mark.slow
@needs("mosquitto")
def test_ingest_killed_before_its_append_has_acknowledged_nothing(
    tmp_path: Path, mosquitto: Mosquitto, publisher: Publisher
) -> None:
    clinic = Clinic(tmp_path / "clinic", SETTINGS, broker_port=mosquitto.port)

    def stored() -> list[str]:
        return sorted(key for (key,) in clinic.query("store.db", "SELECT id FROM observation"))

    names = [f"loose-{number:02d}" for number in range(LOOSE)]
    try:
        clinic.start("ingest")
        wait_until(lambda: publisher.ingest_online, 60, "ingest at work")
        publisher.publish(loose("first"))
        wait_until(lambda: stored() == ["first"], 30, "the first reading being stored")
        with closing(sqlite3.connect(clinic.folder / "store.db", isolation_level=None, timeout=10)) as lock:
            lock.execute("BEGIN IMMEDIATE")  # the append waits, and everything before it has happened
            publisher.publish(loose("kept", epoch="e", seq=1), loose("beside it"))
            for name in names:
                publisher.publish(loose(name))
            wait_until(lambda: {"kept", "beside it", *names} <= publisher.flagged, 30, "all being shown on the board")
            assert publisher.receipts == 0, "nothing is stored yet"
            clinic.kill("ingest")
            lock.execute("ROLLBACK")
        assert stored() == ["first"]
        clinic.start("ingest")
        everything = sorted(["first", "kept", "beside it", *names])
        wait_until(lambda: stored() == everything, 60, "the broker delivering again what nobody acknowledged")
        wait_until(lambda: publisher.receipts == 1, 10, "the receipt")
    finally:
        clinic.stop_all()
