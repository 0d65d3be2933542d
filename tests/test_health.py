"""A service's health page: true, bounded, free of patients, and not fooled by a main loop that hangs."""

import ast
import asyncio
import io
import json
import logging
import re
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dashboards import telemetry as board
from dashboards.app import Board
from drivers.core import telemetry as gateway
from drivers.core.feed import DeviceFeed, Output
from drivers.core.gateway import Gateway
from drivers.core.link import REMEDY, LinkLost, LossReason
from drivers.core.registry import load_all
from drivers.core.runner import Runner
from drivers.transports.ble import Backend
from ingest import telemetry as ingest
from ingest.service import MAX_UNSENT
from ingest.store.contract import HistoryPoint
from ingest.work import Publication
from tests.browser import clinic
from tests.parts import free_port, wait_until
from tests.test_feed import Bench as BoardBench
from tests.test_gateway import Deaf, full, reading
from tests.test_ingest_service import Ingest
from vitals import log, settings
from vitals.broker import Message
from vitals.clock import ManualClock, SystemClock
from vitals.messages import FlaggedMessage
from vitals.telemetry import watch as watching
from vitals.telemetry.exposition import render
from vitals.telemetry.report import Histogram, Measure, Reason, Report, Sample, by_label
from vitals.telemetry.server import MAX_OPEN, REQUEST_BYTES, REQUEST_S, HealthServer
from vitals.telemetry.watch import Watch
from vitals.tls import Trouble
from vitals.topics import Topics

ROOT = Path(__file__).resolve().parents[1]
WELL = Report([], [], {})
MEASURES = {m.name: m for m in (*watching.MEASURES, *gateway.MEASURES, *ingest.MEASURES, *board.MEASURES)}


def get(port: int, path: str = "/health") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def raw(port: int, request: bytes, timeout_s: float = 5.0) -> bytes:
    """All that is answered until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65_536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


@pytest.fixture
def watch() -> Watch:
    made = Watch("gateway", "cupboard", SystemClock())
    made.publish(WELL)
    return made


@pytest.fixture
def port(watch: Watch) -> Iterator[int]:
    server = HealthServer(watch, "127.0.0.1", free_port(), "health.gateway_port")
    server.start()
    yield server.port
    server.stop()


# -- the watch -----------------------------------------------------------------------------------------------


def test_a_part_is_well_degraded_or_stalled() -> None:
    clock = ManualClock()
    watch = Watch("ingest", "ingest", clock, stalled_s=20)
    assert watch.word() == "degraded", "a part that never reported is not well"
    watch.publish(WELL)
    assert watch.word() == "ok"
    watch.publish(Report([Reason("no store", "start it")], [], {}))
    assert watch.word() == "degraded"
    watch.publish(WELL)
    clock.advance(19)
    assert watch.word() == "ok"
    clock.advance(2)
    assert watch.word() == "stalled"
    assert "has not turned for 21 s" in json.loads(watch.health()[1])["reasons"][0]["what"]
    watch.publish(WELL)
    assert watch.word() == "ok"


def test_a_long_start_is_no_hang_until_it_is_very_long() -> None:
    """Who restarts what is stalled would begin a check of a large outbox again for ever."""
    clock = ManualClock()
    watch = Watch("gateway", "g", clock, stalled_s=20)
    clock.advance(590)
    assert watch.word() == "degraded"
    assert b"it is starting" in watch.health()[1]
    clock.advance(20)
    assert watch.word() == "stalled"


def test_the_figures_say_what_the_page_says() -> None:
    clock = ManualClock()
    watch = Watch("gateway", "g", clock, stalled_s=20)

    def figures() -> tuple[object, ...]:
        named = {sample.measure.name: sample.value for sample in watch.samples()}
        return tuple(named[f"vitals_{name}"] for name in ("healthy", "stalled", "health_reasons", "health_notices"))

    assert figures() == (0, 0, 1, 0)
    watch.publish(Report([], [], {}, [Reason("EKG was dropped", "look")]))
    assert figures() == (1, 0, 0, 1)
    clock.advance(21)
    assert figures() == (0, 1, 1, 1)


def test_a_loop_reports_at_once_and_then_each_second() -> None:
    clock = ManualClock()
    watch = Watch("ingest", "ingest", clock)
    assert watch.due()
    watch.publish(WELL)
    assert not watch.due()
    clock.advance(1)
    assert watch.due()


# -- the page ------------------------------------------------------------------------------------------------


def test_the_page_says_what_is_wrong_and_what_to_do(watch: Watch, port: int) -> None:
    assert get(port)[0] == 200
    watch.publish(Report([Reason("no store", "start it")], [], {"waiting": 3}))
    status, body = get(port)
    told = json.loads(body)
    assert status == 503
    assert (told["part"], told["name"], told["health"]) == ("gateway", "cupboard", "degraded")
    assert told["reasons"] == [{"what": "no store", "do": "start it"}]
    assert told["facts"] == {"waiting": 3}


def test_a_notice_is_told_and_makes_nobody_unwell(watch: Watch, port: int) -> None:
    watch.publish(Report([], [], {}, [Reason("EKG was dropped", "find out why")]))
    status, body = get(port)
    assert status == 200
    assert json.loads(body)["notices"] == [{"what": "EKG was dropped", "do": "find out why"}]


def test_a_page_that_fails_says_so_at_once(
    port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_samples: object) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr("vitals.telemetry.server.render", breaks)
    status, body = get(port, "/metrics")
    assert (status, "see the log" in body) == (500, True)
    assert "health page failed" in caplog.text
    assert get(port)[0] == 200


def test_a_probe_leaves_no_line_in_the_log(port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    for path in ("/health", "/metrics", "/nothing"):
        get(port, path)
    assert [record.name for record in caplog.records if record.name != "asyncio"] == []


def test_a_page_that_is_stopped_while_somebody_asks_logs_no_error(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    server = HealthServer(watch, "127.0.0.1", free_port(), "x")
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as half:
        half.sendall(b"GET /health HTTP/1.1\r\n")
        wait_until(lambda: server._open == 1, 5, "the connection")
        server.stop()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_there_are_two_paths_and_one_verb(port: int) -> None:
    assert get(port, "/secrets")[0] == 404
    assert raw(port, b"POST /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert get(port, "/metrics?name=x")[0] == 200


def test_whoever_sends_slowly_is_cut_off_and_holds_up_nobody(port: int) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        for _ in range(100):
            assert get(port)[0] == 200
            try:
                slow.sendall(b"X")
                time.sleep(0.1)
            except OSError:
                break
        else:
            raise AssertionError("never cut off")
    assert REQUEST_S - 0.5 < time.monotonic() - began < REQUEST_S + 3


def test_a_request_without_an_end_is_cut_off_at_once(port: int) -> None:
    began = time.monotonic()
    assert raw(port, b"GET /" + b"a" * 10 * REQUEST_BYTES) == b""
    assert time.monotonic() - began < REQUEST_S


def test_connections_are_bounded_and_come_free_again(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(MAX_OPEN)]
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=REQUEST_S / 2) as beyond:  # the idle ones stay longer
        try:
            assert beyond.recv(10) == b""
        except ConnectionResetError:
            pass
    wait_until(lambda: _answers(port), REQUEST_S + 3, "a place that came free")
    for connection in idle:
        connection.close()


def _answers(port: int) -> bool:
    try:
        return get(port)[0] == 200
    except OSError:
        return False


def test_a_port_that_is_taken_costs_the_page_only(watch: Watch, port: int, caplog: pytest.LogCaptureFixture) -> None:
    second = HealthServer(watch, "127.0.0.1", port, "health.gateway_port")
    second.start()
    second.stop()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "health.gateway_port" in record.fields["do"]  # type: ignore[attr-defined]


# -- the figures ---------------------------------------------------------------------------------------------


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, as Prometheus' own reader has them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_are_what_prometheus_reads() -> None:
    took = Histogram(0.1, 1)
    for value in (0.05, 0.1, 0.5, 7):
        took.observe(value)
    measure = Measure("x_total", "counter", "Things.", ("code",))
    text = render([
        Sample(measure, 3, ('a"\\\n',)),
        Sample(Measure("y", "gauge", "Level."), True),
        Sample(Measure("z_seconds", "histogram", "Times."), took.state()),
    ]).decode()  # fmt: skip
    found = parsed(text)
    assert found["x_total", (("code", 'a"\\\n'),)] == 3
    assert found["y", ()] == 1
    buckets = [found["z_seconds_bucket", (("le", le),)] for le in ("0.1", "1", "+Inf")]
    assert buckets == [2, 3, 4]
    assert (found["z_seconds_count", ()], found["z_seconds_sum", ()]) == (4, pytest.approx(7.65))
    assert found["process_resident_memory_bytes", ()] > 1_000_000
    assert ("process_cpu_seconds_total", ()) in found


def test_no_label_can_grow_without_end() -> None:
    counts = {f"reason {n:03}": 1.0 for n in range(500)}
    samples = list(by_label(Measure("x_total", "counter", "Things.", ("reason",)), counts))
    assert len(samples) == 33
    assert samples[-1].labels == ("other",)
    assert sum(sample.value for sample in samples) == 500  # type: ignore[misc]


def test_no_label_names_a_room_or_a_person() -> None:
    """Rooms change hands; whoever is in one must not be followed by his room's figures."""
    bounded = {"device", "driver", "state", "code", "outcome", "kind", "reason", "gateway", "part", "name", "version"}
    assert {label for measure in MEASURES.values() for label in measure.labels} <= bounded


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda measure: measure.name)
def test_a_measure_is_named_as_prometheus_wants_it(measure: Measure) -> None:
    assert re.fullmatch(r"vitals_[a-z_]+", measure.name)
    assert measure.name.endswith("_total") == (measure.kind == "counter")


# -- the gateway ---------------------------------------------------------------------------------------------


class Bus(Deaf):
    """A connection that stands or not, as told."""

    trouble: Trouble | None = None
    connected = True
    denied = 0

    def publish(self, *_args: object, **_options: object) -> bool:
        return self.connected


def device(name: str = "ekg", **more: object) -> settings.Device:
    return settings.Device(name=name, driver="ekg_openview", room="1", port="/dev/none", **more)  # type: ignore[arg-type]


def make(folder: Path, watch: Watch | None = None) -> Gateway:
    config = settings.Settings(gateway=settings.Gateway(outbox=str(folder / "outbox.db"), devices=[device()]))
    return Gateway(config, load_all(), SystemClock(), Bus, Backend(), watch)  # type: ignore[arg-type]


def reported(made: Gateway) -> Report:
    return gateway.report(made._parts(), made._backlog())


def value(report: Report, measure: Measure, *labels: str) -> object:
    return next(s.value for s in report.samples if s.measure == measure and s.labels == labels)


def test_a_gateway_counts_what_it_commits_and_names_what_is_wrong(tmp_path: Path) -> None:
    async def run() -> None:
        made = make(tmp_path)
        assert [reason.what for reason in reported(made).reasons] == ["ingest is not there"]
        waiting = asyncio.create_task(made._commit(Output([reading(), reading()], [])))
        await asyncio.sleep(0)
        assert await made._intake.commit()
        await waiting
        report = reported(made)
        assert value(report, gateway.WAITING) == value(report, gateway.COMMITTED) == 2
        assert value(report, gateway.PUBLISHED) == 2
        assert report.facts["waiting"] == 2
        made._broker.trouble = Trouble("nothing listens", "a broker", "Start mosquitto.")  # type: ignore[misc]
        assert Reason("no broker: nothing listens", "Start mosquitto.") in reported(made).reasons
        made._outbox.commit = full  # type: ignore[method-assign]
        made._intake._group.append(reading())
        assert not await made._intake.commit()
        report = reported(made)
        assert "takes nothing (database or disk is full)" in report.reasons[0].what
        assert value(report, gateway.DISK_FAULT) == 1
        made._outbox.close()

    asyncio.run(run())


def test_a_device_that_is_switched_off_is_everyday_life_and_a_forbidden_line_is_not(tmp_path: Path) -> None:
    made = make(tmp_path)
    ((feed, _),) = made._devices
    feed.set_state("lost", "unplugged", 1)
    assert not any("ekg" in reason.what for reason in reported(made).reasons)
    feed.set_state("lost", "no_permission", 1)
    (reason,) = [reason for reason in reported(made).reasons if "ekg" in reason.what]
    assert "dialout" in reason.do
    assert value(reported(made), gateway.STATE, "ekg", "ekg_openview", "lost") == 1
    assert value(reported(made), gateway.STATE, "ekg", "ekg_openview", "online") == 0
    made._outbox.close()


def test_every_loss_has_a_remedy() -> None:
    assert set(REMEDY) == set(LossReason)


def test_a_code_that_no_driver_declared_is_no_label(tmp_path: Path) -> None:
    made = make(tmp_path)
    ((feed, _),) = made._devices
    for code in ("bad_length", "link_unplugged", "of Mr Miller", "of Mrs Smith"):
        feed.fault(code, "", b"", 1)
    declared = set(feed.driver.faults)
    codes = {s.labels[1]: s.value for s in reported(made).samples if s.measure == gateway.FAULTS}
    assert codes.pop("undeclared") == 2 + ("bad_length" not in declared)
    assert set(codes) <= {"bad_length", "link_unplugged"}
    made._outbox.close()


def test_a_disk_that_hangs_is_told_though_the_loop_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "DISK_S", 0.3)
    watch = Watch("gateway", "g", SystemClock())

    async def run() -> None:
        made, stop = make(tmp_path, watch), asyncio.Event()
        running = asyncio.create_task(made.run(stop))
        await asyncio.sleep(0.3)
        release = threading.Event()
        made._disk.submit(release.wait, 20)
        try:
            for _ in range(100):
                await asyncio.sleep(0.1)
                if "disk has not answered" in watch.health()[1].decode():
                    break
            else:
                raise AssertionError(watch.health()[1])
        finally:
            release.set()
        stop.set()
        await running

    asyncio.run(run())


def test_an_outbox_that_cannot_be_read_is_told_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest nothing is written: a disk that fails shows only by reading."""
    monkeypatch.setattr("drivers.core.gateway.REPORT_S", 0.05)
    watch = Watch("gateway", "g", SystemClock())
    ill = True

    async def run() -> None:
        made, stop = make(tmp_path, watch), asyncio.Event()
        oldest = made._outbox.oldest

        def fails() -> int | None:
            if ill:
                raise sqlite3.OperationalError("disk I/O error")
            return oldest()

        made._outbox.oldest = fails  # type: ignore[method-assign]
        running = asyncio.create_task(made.run(stop))
        await until(lambda: b"cannot be read" in watch.health()[1])
        found = {sample.measure: sample.value for sample in watch.samples()}
        assert found[gateway.DISK_FAULT] == 1
        nonlocal_well()
        await until(lambda: b"cannot be read" not in watch.health()[1])
        assert b"disk failed" in watch.health()[1], "it stays in the notices"
        found = {sample.measure: sample.value for sample in watch.samples()}
        assert found[gateway.DISK_FAULT] == 0 < found[gateway.DISK_FAULTS]  # type: ignore[operator]
        stop.set()
        await running

    def nonlocal_well() -> None:
        nonlocal ill
        ill = False

    asyncio.run(run())


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait in the loop."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def test_what_a_gateway_lost_is_no_reason_and_a_notice(tmp_path: Path) -> None:
    made = make(tmp_path)
    before = reported(made)
    assert before.notices == []
    made._losses.strips, made._losses.rows = 90, 2
    made._losses.seconds = {"ekg/ekg": 88.4, "ekg/ppg_ir": 5.0}
    made._intake.faults = 3
    made._disk_faults = 4
    report = gateway.report(made._parts(), made._backlog()._replace(refused=5))
    assert report.reasons == before.reasons
    assert [notice.what for notice in report.notices] == [
        "for want of room 90 strips (88 s of EKG) and 2 other rows were dropped since the start",
        "5 rows were refused for good: they are in no store",
        "the outbox's disk failed 7 times since the start",
    ]
    assert value(report, gateway.DISK_FAULTS) == 7
    made._outbox.close()


def test_a_main_loop_that_hangs_is_told_by_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.core.gateway.REPORT_S", 0.1)
    watch = Watch("gateway", "g", SystemClock(), stalled_s=1.5)
    server = HealthServer(watch, "127.0.0.1", free_port(), "x")
    server.start()
    told: list[str] = []

    async def run() -> None:
        made, stop = make(tmp_path, watch), asyncio.Event()
        running = asyncio.create_task(made.run(stop))
        await until(lambda: b"it is starting" not in watch.health()[1])
        told.append(json.loads(get_in_thread(server.port))["health"])
        asker = threading.Timer(2, lambda: told.append(json.loads(get(server.port)[1])["health"]))
        asker.start()
        asker.join()  # the loop itself
        await until(lambda: watch.word() != "stalled")
        told.append(json.loads(get_in_thread(server.port))["health"])
        stop.set()
        await running

    try:
        asyncio.run(run())
    finally:
        server.stop()
    assert told == ["degraded", "stalled", "degraded"], "degraded: there is no ingest"


def get_in_thread(port: int) -> str:
    return get(port)[1]


# -- ingest and board ----------------------------------------------------------------------------------------


def test_ingest_counts_what_becomes_of_each_row_and_names_a_store_that_is_down(tmp_path: Path) -> None:
    made = Ingest(tmp_path)
    watch = Watch("ingest", "ingest", made.clock)
    made.service._watch = watch
    for number in (1, 2, 1):
        made.send(number)
    made.broker.put("vitals/v1/clinic/up/gateway-1/4/cuff-1/obs", b"rubbish")
    made.turn(2)
    found = parsed(render(watch.samples()).decode())
    assert found["vitals_ingest_messages_total", ()] == found["vitals_ingest_batch_messages_sum", ()] == 4
    rows = {
        outcome: found["vitals_ingest_rows_total", (("kind", "observation"), ("outcome", outcome))]
        for outcome in ("stored", "duplicate", "refused")
    }
    assert rows == {"stored": 2, "duplicate": 1, "refused": 0}
    assert found["vitals_ingest_refused_total", (("reason", "malformed"),)] == 1
    assert found["vitals_ingest_append_seconds_count", ()] == 1
    assert found["vitals_ingest_flagged_total", ()] >= 1
    assert watch.word() == "ok"
    assert "refused since the start: malformed (1)" in watch.health()[1].decode()
    made.store.down = "disk gone"
    made.send(3)
    made.turn(2)
    assert watch.word() == "degraded"
    assert "the store takes nothing: disk gone" in watch.health()[1].decode()
    found = parsed(render(watch.samples()).decode())
    assert found["vitals_ingest_store_fault", ()] == 1
    assert found["vitals_ingest_waiting_rows", ()] > 0 < found["vitals_ingest_waiting_bytes", ()]
    assert found["vitals_ingest_append_failures_total", ()] >= 1
    made.store.close()


def test_what_ingest_turned_away_or_did_not_show_is_a_notice(tmp_path: Path) -> None:
    made = Ingest(tmp_path)
    watch = made.service._watch = Watch("ingest", "ingest", made.clock)
    made.broker.dropped = 2
    made.service._pipeline.over_quota.update({"g-mad": 40, "g-2": 1})
    made.service._pipeline.refused["too frequent"] = 41
    missing = {"g-2/ekg/ekg": 1.5, "g-2/ekg/ppg_ir": 2.0, "g-3/ekg/ekg": 4.0}
    made.service._pipeline.streams.missing = lambda: missing  # type: ignore[method-assign]
    made.broker.connected = False
    for number in range(MAX_UNSENT + 3):  # no connection: the oldest of what waits is lost to the board
        made.service._send([Publication("vitals/v1/clinic/core/1/flagged", b"%d" % number)])
    made.turn(2)
    told = watch.health()[1].decode()
    for words in ("allows: g-mad (40), g-2 (1)", "start: too frequent (41)", "2 messages of QoS 0", "3 flagged packs"):
        assert words in told
    found = parsed(render(watch.samples()).decode())
    assert found["vitals_ingest_messages_dropped_total", ()] == 2
    assert found["vitals_ingest_unsent_total", ()] == 3
    assert found["vitals_ingest_over_quota_total", (("gateway", "g-mad"),)] == 40
    assert found["vitals_ingest_missing_seconds", (("gateway", "g-2"),)] == 3.5
    made.broker.denied = 5
    made.broker.connect()
    made.turn(1)
    status = json.loads([body for topic, body, _ in made.broker.published if topic.endswith("ingest/status")][-1])
    assert (status["over_quota"], status["denied"]) == ({"g-mad": 40, "g-2": 1}, 5)
    made.store.close()


class Shelf:
    """A store for reading that can be taken away."""

    fault = ""

    def latest(self, _room: str) -> list[FlaggedMessage]:
        if self.fault:
            raise OSError(self.fault)
        return []

    def history(self, room: str, _metric: str, _since: int) -> list[HistoryPoint]:
        self.latest(room)
        return []


def test_a_board_whose_store_dies_is_not_well_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody opens a page that would ask for history."""
    monkeypatch.setattr("dashboards.app.FILL_S", 0.02)
    shelf, bus = Shelf(), Bus()
    made = Board(clinic.settings(4), SystemClock(), shelf)
    bus.dropped = 0  # type: ignore[attr-defined]

    def faulty() -> list[str]:
        return [r.what for r in made.report(bus).reasons if "store" in r.what]  # type: ignore[arg-type]

    async def run() -> None:
        await asyncio.to_thread(made.fill)
        looking = asyncio.create_task(made.keep_filling())
        assert faulty() == []
        shelf.fault = "gone"
        await until(lambda: faulty() == ["the store cannot be read: gone"])
        assert any(s.value == 1 for s in made.report(bus).samples if s.measure == board.STORE_FAULT)  # type: ignore[arg-type]
        shelf.fault = ""
        await until(lambda: faulty() == [])
        looking.cancel()

    asyncio.run(run())


class Silent(Bus):
    """The broker's connection, which hangs in `take` when told."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped, self.fault = 0, ""
        self.hangs = threading.Event()
        self.released = threading.Event()

    def take(self, *_args: object) -> list[Message]:
        if self.hangs.is_set():
            self.released.wait(20)
        return []


def test_a_board_that_no_longer_looks_for_messages_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "DEAF_S", 0.3)
    made, bus = Board(clinic.settings(4), SystemClock()), Silent()

    def deaf() -> bool:
        return any("has not looked" in reason.what for reason in made.report(bus).reasons)  # type: ignore[arg-type]

    async def run() -> None:
        pulling = asyncio.create_task(made.pull(bus))  # type: ignore[arg-type]
        await asyncio.sleep(0.6)
        assert not deaf()
        bus.hangs.set()
        await until(deaf)
        bus.hangs.clear()
        bus.released.set()
        await until(lambda: not deaf())
        pulling.cancel()

    asyncio.run(run())


def test_a_turn_of_the_board_that_fails_is_counted() -> None:
    made = Board(clinic.settings(4), SystemClock())

    def breaks() -> None:
        raise RuntimeError("a bug")

    async def run() -> None:
        turning = asyncio.create_task(made.every(5, breaks))
        await until(lambda: made.rooms.services.faults.get("turn of the board that failed", 0) >= 2)
        turning.cancel()

    asyncio.run(run())


def noticed(made: Board) -> dict[str, str]:
    now = made.clock.now()
    return {notice["id"]: notice["txt"] for notice in made.rooms.services.trouble(now)["notices"]}


def test_who_is_refused_by_the_broker_is_named_on_the_board() -> None:
    made = Board(clinic.settings(4), ManualClock())
    now = made.clock.now()
    made.feed.receive([clinic.ingest(now), clinic.gateway(now)], now)
    assert noticed(made) == {}
    made.feed.receive([clinic.ingest(now, denied=2), clinic.gateway(now, denied=3)], now)
    words = "the broker's access rules refuse its messages: see its log"
    assert noticed(made) == {"denied": words, f"denied/{clinic.GATEWAY}": words}
    shown = made.rooms.services.shown(now)
    assert (shown["ingest"]["denied"], shown["gateways"][0]["denied"]) == (2, 3)


def test_an_ingest_that_hangs_is_said_on_the_board_whatever_it_counted_before() -> None:
    """Its last will is not sent: the connection's own thread lives."""
    clock = ManualClock()
    made = Board(clinic.settings(4), clock)
    made.feed.link(True, "", clock.now())
    for beat in range(8):
        clock.advance(10)
        topic, body = clinic.ingest(1, refused={"malformed": beat // 2})
        timed = msgspec.json.decode(body) | {"now": clock.now()}
        made.feed.receive([(topic, msgspec.json.encode(timed))], clock.now())
    assert made.rooms.services.trouble(clock.now())["band"] is None
    clock.advance(31)
    band = made.rooms.services.trouble(clock.now())["band"]
    assert band is not None
    assert "does not answer" in band["txt"]


def test_a_gateway_beyond_its_quota_is_named_while_it_goes_on() -> None:
    clock = ManualClock()
    made = Board(clinic.settings(4), clock)

    def say(count: int, session: str = "s") -> None:
        status = clinic.ingest(clock.now(), over_quota={"g-mad": count}, session=session)
        made.feed.receive([status], clock.now())

    say(5)
    assert noticed(made) == {}, "what was counted before this board came may be long over"
    say(6)
    assert noticed(made) == {"quota/g-mad": "sends more than it may: some of it is not taken"}
    clock.advance(61)
    say(6)
    assert noticed(made) == {}, "said again, and nothing new"
    assert made.rooms.services.shown(clock.now())["ingest"]["over_quota"] == {"g-mad": 6}
    say(1, "another")
    assert list(noticed(made)) == ["quota/g-mad"], "one that was started again counts from 0"


def test_the_board_counts_its_pages_and_what_they_missed() -> None:
    bench = BoardBench()
    bus = Bus()
    bus.dropped = 7  # type: ignore[attr-defined]

    def figures() -> dict[str, object]:
        return {s.measure.name: s.value for s in board.report(bench.feed, bus, bench.now).samples}  # type: ignore[arg-type]

    bench.feed.answer(bench.page, '{"t":"sub","resync":true}', bench.now)
    bench.feed.turned_away = 3
    slow = bench.join()
    slow.ekg_dropped, slow.overloaded = 5, True
    assert figures()["vitals_board_pages"] == 2
    bench.feed.leave(slow)
    found = figures()
    assert found["vitals_board_pages"] == found["vitals_board_feed_gaps_total"] == 1
    assert (found["vitals_board_pages_closed_total"], found["vitals_board_ekg_frames_dropped_total"]) == (1, 5)
    assert found["vitals_board_messages_dropped_total"] == 7
    assert found["vitals_board_pages_refused_total"] == 3
    bench.feed.rooms.services.fault("value of an unknown metric", 4)
    told = [notice.what for notice in board.report(bench.feed, bus, bench.now).notices]  # type: ignore[arg-type]
    assert told == [
        "not shown since the start: value of an unknown metric (4)",
        "7 messages for eyes only came too fast and were dropped",
        "1 pages were closed for reading too slowly, 3 turned away",
    ]
    bus.trouble = Trouble("nothing listens", "a broker", "Start mosquitto.")
    assert [r.do for r in board.report(bench.feed, bus, bench.now).reasons] == ["Start mosquitto."]  # type: ignore[arg-type]


def names_of(measures) -> Iterator[str]:  # type: ignore[no-untyped-def]
    """As Prometheus shows them."""
    for measure in measures:
        histogram = measure.kind == "histogram"
        yield from (f"{measure.name}_{end}" for end in ("bucket", "count", "sum")) if histogram else (measure.name,)


# -- log lines -----------------------------------------------------------------------------------------------


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """What the command line would print to standard error."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    log.set_up("info")
    stream = io.StringIO()
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield stream
    root.handlers[:], root.level = handlers, level


class Flapping:
    """A link that comes up, breaks at once, and never tires of it."""

    address, simulated = "/dev/ttyUSB0", False

    async def __aenter__(self) -> "Flapping":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def __aiter__(self) -> "Flapping":
        return self

    async def __anext__(self) -> object:
        raise LinkLost(LossReason.UNPLUGGED, "gone")

    async def send(self, _send: object) -> None: ...


def test_a_device_that_reconnects_for_ever_fills_no_disk(printed: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = load_all()["ekg_openview"]
    feed = DeviceFeed(device(), driver, gateway="g", topics=Topics("c"), session="s", zone=UTC)

    async def commit(_output: Output) -> None: ...

    runner = Runner(feed, driver, {}, Flapping, commit, SystemClock())  # type: ignore[arg-type]
    sleep = asyncio.sleep
    monkeypatch.setattr("drivers.core.runner.asyncio.sleep", lambda _s: sleep(0))

    async def run() -> None:
        running = asyncio.create_task(runner.run())
        while feed.link_ups < 300:
            await sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    lines = printed.getvalue().splitlines()
    assert feed.faults.totals["link_unplugged"] >= 299, "each is counted"
    losses = [line for line in lines if "link lost" in line]
    assert len(losses) == 5, "few are printed"
    assert len(lines) <= 10
    assert losses[0].endswith('device=ekg room=1 reason=unplugged detail=gone do="plug it in again"')


def record(at: float, event: str = "link lost", **fields: str) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "runner", "msg": "%s", "args": (event,), "created": at, "fields": fields})


def troubles() -> Iterator[tuple[str, ast.Call]]:
    """Every line of a running part that reports trouble, and where it is."""
    for folder in ("vitals", "drivers", "ingest", "dashboards"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(ast.Name("_log"), "warning" | "error" | "exception")):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_line_that_reports_trouble_says_what_to_do() -> None:
    found = dict(troubles())
    assert len(found) > 40
    assert [where for where, call in found.items() if "do" not in {keyword.arg for keyword in call.keywords}] == []


def test_lines_left_out_are_counted_and_others_come_through() -> None:
    throttle = log.Throttle()
    passed = [throttle.filter(record(1000 + n, device="a")) for n in range(59)]
    assert passed == [True] * 5 + [False] * 54
    assert throttle.filter(record(1010, device="b")), "another device is another matter"
    assert throttle.filter(record(1010, "link up", device="a")), "and so is another event"
    later = record(1060, device="a")
    assert throttle.filter(later)
    assert later.fields["left_out"] == 54  # type: ignore[attr-defined]
    assert throttle.filter(record(500, device="a")), "a clock that was set back silences nobody"


def test_the_kinds_of_line_are_bounded() -> None:
    throttle = log.Throttle()
    for n in range(5000):
        throttle.filter(record(1000, device=f"d{n}"))
    assert len(throttle._kinds) == log.MAX_KINDS + 1


# -- the page for the one who looks after it -----------------------------------------------------------------


def test_every_figure_is_in_the_table_as_it_is() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(vitals_\w+)` \| (.*) \|$", text, flags=re.MULTILINE))
    expected = {
        m.name: f"{m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.text}" for m in MEASURES.values()
    }
    assert table == expected


def rules() -> list[dict[str, object]]:
    tree = yaml.safe_load((ROOT / "docs" / "prometheus-rules.yml").read_text(encoding="utf-8"))
    return [rule for group in tree["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_watches_a_figure_that_exists_and_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    named = set(re.findall(r"\b(?:vitals|process)_\w+", str(rule["expr"])))
    assert named or "up{" in rule["expr"]
    assert named <= {*names_of(MEASURES.values()), "process_resident_memory_bytes"}
    for label in re.findall(r"\{(\w+)=", str(rule["expr"])):
        assert label == "job" or any(label in MEASURES[name].labels for name in named)
    assert rule["annotations"]["summary"] and rule["annotations"]["do"]
    assert rule["labels"]["severity"] in ("page", "ticket")
