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

from bench.chaos import ledger as ledger_module
from bench.chaos.faults import Done
from bench.chaos.footprint import Sample, footprint
from bench.chaos.ledger import Ledger
from bench.chaos.mutants import MUTANTS, ROOT, Mutant, apply
from bench.chaos.parts import Part
from bench.chaos.plan import KINDS, plan
from bench.chaos.proxy import Proxy
from bench.chaos.report import never_took_effect, report, runs
from bench.chaos.run import Recovery, Result, run
from bench.chaos.verify import Committed, Evaluation, Stored, unproved, verify
from tests.clinic import Clinic
from tests.parts import Mosquitto, needs, wait_until
from vitals.outbox import Outbox, Row

# -- the plan ------------------------------------------------------------------------------------------------


def test_a_seed_gives_one_plan_and_another_seed_another() -> None:
    assert plan(7, 120) == plan(7, 120)
    assert plan(7, 120) != plan(8, 120)


def test_a_plain_soak_has_no_faults() -> None:
    assert plan(1, 60, {}) == []


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


def test_a_run_in_which_nobody_committed_or_nothing_is_stored_proves_nothing() -> None:
    assert unproved(COMMITTED, STORED, ["g1"]) == []
    assert len(unproved([], [], ["g1"])) == 4
    assert unproved(COMMITTED, STORED, ["g1", "g2"])[0] == "no obs of g2 was committed: nothing is proved"
    assert unproved(COMMITTED, STORED[2:], ["g1"]) == ["no strip of g1 is stored: nothing is proved"]


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


def test_the_ledger_tells_an_identity_given_twice_and_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    Outbox(path).close()
    ledger = Ledger(path, tmp_path)
    topic = "vitals/v1/x/up/g1/1/dev/event"
    with closing(Outbox(path)) as outbox:
        outbox.put([Row("e", seq, topic, event(seq), 0) for seq in range(1, ledger_module.KEPT + 3)])
    ledger.harvest()
    assert ledger.wrong == ["g1: rows 1 to 2 of the ledger were not seen"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM chaos_ledger").fetchone() == (ledger_module.KEPT,)
        db.execute("DELETE FROM row WHERE seq = 9")
        db.commit()
    with closing(Outbox(path)) as outbox:
        outbox.put([Row("e", 9, topic, event(9, code="other"), 0)])
    ledger.harvest()
    assert ledger.wrong[1:] == ["g1: epoch e, seq 9 was given to two rows"]


def test_a_part_proves_that_it_was_hurt(tmp_path: Path) -> None:
    part = Part("sleeper", ["sleep", "60"], tmp_path / "log", tmp_path)
    assert (part.kill(), part.freeze(), part.stop(), part.memory_mb) == (False, False, None, None)
    part.start()
    wait_until(lambda: bool(part.memory_mb))
    assert part.freeze()
    part.thaw()
    assert part.kill() and not part.kill()
    failing = Part("failing", ["sh", "-c", "echo no; exit 1"], tmp_path / "other", tmp_path)
    failing.start()
    wait_until(lambda: not failing.alive)
    assert failing.stop() is None, "it was not we who ended it"
    assert (failing.ended_by_itself, failing.crashes) == ([1], ["exit code 1 by itself: no"])


def test_a_road_passes_cuts_and_holds_back(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(server.getsockname()[1])
    try:
        near = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        far, _ = server.accept()
        far.settimeout(0.3)
        near.sendall(b"one")
        assert far.recv(10) == b"one"
        assert proxy.hurt == 0
        proxy.set("hole")
        near.sendall(b"two")
        with pytest.raises(TimeoutError):
            far.recv(10)
        assert proxy.hurt == 1
        proxy.set("half")
        assert far.recv(10) == b"two", "what was held back passes later"
        far.sendall(b"answer")
        near.settimeout(0.3)
        with pytest.raises(TimeoutError):
            near.recv(10)
        assert proxy.hurt == 2
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


# -- what a run says of itself -------------------------------------------------------------------------------


def samples(minutes: float, memory: list[float], store: list[float]) -> list[Sample]:
    step = minutes * 60 / (len(memory) - 1)
    return [
        Sample(n * step, 1000 * n, {"ingest memory": of, "store disk": kept})
        for n, (of, kept) in enumerate(zip(memory, store, strict=True))
    ]


def test_a_leak_is_not_flat_and_a_store_may_grow() -> None:
    store = [float(n) for n in range(21)]
    leaking = footprint(samples(20, [60 + n for n in range(21)], store), ["store disk"])
    assert leaking is not None
    memory, kept = leaking.tracks
    assert (memory.first, memory.last, memory.most, memory.flat) == (62.5, 77.5, 80, False)
    assert memory.a_minute == pytest.approx(1)
    assert leaking.not_flat == ["ingest memory is not flat: 62.5 MB in the first quarter, 77.5 MB in the last"]
    assert kept.flat is None and leaking.of_1000_rows(kept) == pytest.approx(1000)


def test_a_peak_that_goes_away_is_flat_and_a_short_run_is_not_judged() -> None:
    peak = [60.0] * 9 + [200.0] * 2 + [60.0] * 10
    taken = footprint(samples(20, peak, peak), [])
    assert taken is not None and not taken.not_flat
    assert taken.tracks[0].most == 200
    short = footprint(samples(5, [60 + 9 * n for n in range(21)], peak), [])
    assert short is not None and not short.not_flat
    assert footprint(samples(5, peak[:5], peak[:5]), []) is None


def test_a_fault_without_effect_is_not_counted() -> None:
    faults = plan(1, 120)
    recoveries = [Recovery(Done(fault, "" if fault.kind == "full" else "seen"), 1.0) for fault in faults]
    verdict = verify(COMMITTED, STORED, JUDGED)
    result = Result(1, "sqlite", 1, verdict, faults, (), recoveries, {}, 0, None, {}, {}, (0, 0), {}, ())
    idle = sum(fault.kind == "full" for fault in faults)
    assert idle >= 3 and never_took_effect([result]) == ["full"]
    assert never_took_effect([result._replace(faults=plan(1, 30))]) == [], "once may be bad luck"
    assert f" {len(faults) - idle} " in runs([result])[-1]
    assert result.good and not result._replace(problems=["x"]).good


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_each_mutant_still_fits_the_source(mutant: Mutant, tmp_path: Path) -> None:
    file = tmp_path / mutant.file
    file.parent.mkdir(parents=True)
    file.write_text((ROOT / mutant.file).read_text(encoding="utf-8"), encoding="utf-8")
    apply(mutant, tmp_path)
    compile(file.read_text(encoding="utf-8"), file, "exec")


def test_the_page_has_every_fault_and_every_mutant() -> None:
    page = (ROOT / "docs" / "chaos.md").read_text(encoding="utf-8")
    described = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert set(KINDS) | {mutant.name for mutant in MUTANTS} <= described
    assert all(f"| `{mutant.name}` | {mutant.breaks.split(',')[0].rstrip('.')}" in page for mutant in MUTANTS)


# -- the road under faults -----------------------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.air
@pytest.mark.slow
@needs("mosquitto")
@pytest.mark.timeout(400)
def test_the_road_loses_and_doubles_nothing_under_every_kind_of_fault(tmp_path: Path) -> None:
    result = run(tmp_path / "chaos", seed=11, seconds=17, every_s=1.0, calm_s=4)
    assert result.good, "\n" + report(result)
    assert result.verdict.committed > 800
    assert {fault.kind for fault in result.faults} == set(KINDS)
    assert len({fault.kind for fault in result.took_effect}) >= 12, "\n" + report(result)


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
