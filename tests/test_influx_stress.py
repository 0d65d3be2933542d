"""Ingest on InfluxDB when InfluxDB does badly: bad points in a big batch, an hour away, slow, busy, flapping.

The engine is the real one. Between it and ingest stands a gate that can lose an answer after the write was done.
"""

import random
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from ingest import writer
from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from ingest.service import Service
from ingest.store.contract import EvaluationRow, ObservationRow, Row, RowOutcome, StoreDown
from ingest.store.influx import Bucket, Place
from ingest.store.influx_store import InfluxStore
from ingest.store.ledger import Ledger
from ingest.store.refusals import Refusals, RefusalsReader
from tests.influx_making import NEEDS_INFLUX
from tests.ingest_making import T0, event, observation, observation_row, q, strip
from tests.parts import Influx
from tests.test_ingest_service import FLAGGED, OBS, TOPICS, FakeBroker
from vitals.clock import NS, ManualClock
from vitals.messages import FlaggedMessage, IngestStatus, ObservationMessage, Receipts, encode

pytestmark = NEEDS_INFLUX
STRIP = TOPICS.up("gateway-1", "4", "cuff-1", "strip")
EVENT = TOPICS.up("gateway-1", "4", "cuff-1", "event")


class Gate:
    """Passes requests on to the engine, unless `behave` says otherwise for this one.

    `pass`, `busy` (503 with Retry-After), `lost` (passed on, and the answer thrown away), `rubbish` (a proxy's page).
    """

    def __init__(self, url: str) -> None:
        self.behave: Callable[[], str] = lambda: "pass"
        self.retry_after = "30"
        self.requests = 0
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve(None)

            def do_POST(self) -> None:
                self._serve(self.rfile.read(int(self.headers["Content-Length"])))

            def _serve(self, body: bytes | None) -> None:
                gate.requests += 1
                how = gate.behave()
                if how == "busy":
                    self._answer(503, b'{"message":"queue full"}', {"Retry-After": gate.retry_after})
                elif how == "rubbish":
                    self._answer(400, b"<html>gateway</html>", {})
                else:
                    status, answer = _pass_on(url + self.path, body)
                    if how == "lost":
                        self.close_connection = True
                    else:
                        self._answer(status, answer, {})

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _pass_on(url: str, body: bytes | None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, method="GET" if body is None else "POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


class Clinic:
    """Ingest turned by hand, and a gateway that sends again whatever had no receipt, as an outbox does."""

    def __init__(self, url: str, database: str, folder: Path, *, timeout_s: float = 5.0) -> None:
        self.database = database
        self.store = InfluxStore(Bucket(Place(url, database), timeout_s=timeout_s), Ledger(folder / "state.db"))
        self._append, self.store.append = self.store.append, self._in_order  # type: ignore[method-assign]
        self.clock = ManualClock(T0)
        self.broker = FakeBroker([])
        self.refusals = folder / "refused"
        self._keeping = Refusals(self.refusals)
        self.pipeline = Pipeline(TOPICS, load_rules("demo"), session="i1")
        self.service = Service(
            self.pipeline, self.store, self.broker.factory, self.clock, keep=self._keeping.keep
        )  # fmt: skip
        self.broker.connect()
        self.outbox: dict[int, ObservationMessage] = {}
        self.told: Counter[tuple[int, str]] = Counter()

    def close(self) -> None:
        self.store.close()
        self._keeping.close()

    def _in_order(self, rows: Sequence[Row]) -> list[RowOutcome]:
        """In a batch a reading stands before its evaluations: otherwise it depends on what an earlier try of the batch
        came to whether they are stored."""
        place = {row.message.id: n for n, row in reversed([*enumerate(rows)]) if isinstance(row, ObservationRow)}
        evaluated = {row.message.id: n for n, row in reversed([*enumerate(rows)]) if isinstance(row, EvaluationRow)}
        assert all(place.get(key, -1) < n for key, n in evaluated.items())
        return self._append(rows)

    @property
    def writer(self) -> writer.Writer:
        return self.service._writer

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.service.step()
        topic = TOPICS.stored("gateway-1")
        for receipts in [msgspec.json.decode(p, type=Receipts) for t, p, _ in self.broker.published if t == topic]:
            for outcome in receipts.outcomes:
                self.told[outcome.seq, outcome.outcome] += 1
                self.outbox.pop(outcome.seq, None)
        self.broker.published = [sent for sent in self.broker.published if sent[0] != topic]

    def measure(self, *numbers: int) -> None:
        """New readings, in one message."""
        made = [observation(f"{n:032x}", {"bp_sys": q(90.0 + n % 90)}, seq=n, t=T0 + n * NS) for n in numbers]
        self.outbox |= {m.seq: m for m in made}
        self.broker.put(OBS, encode(made))

    def resend(self) -> None:
        waiting = list(self.outbox.values())
        for i in range(0, len(waiting), 50):
            self.broker.put(OBS, encode(waiting[i : i + 50]))

    def shown(self) -> set[str]:
        decode = msgspec.json.Decoder(list[FlaggedMessage] | FlaggedMessage).decode
        packs = [decode(p) for t, p, _ in self.broker.published if t == FLAGGED]
        return {m.id for pack in packs for m in (pack if isinstance(pack, list) else [pack])}

    def status(self) -> IngestStatus:
        return msgspec.json.decode(
            [p for t, p, _ in self.broker.published if t == TOPICS.ingest_status][-1], type=IngestStatus
        )  # fmt: skip


@pytest.fixture
def gate(influx: Influx) -> Iterator[Gate]:
    with closing(Gate(influx.url)) as made:
        yield made


@pytest.fixture
def clinic(influx: Influx, gate: Gate, tmp_path: Path) -> Iterator[Clinic]:
    with closing(Clinic(gate.url, influx.database(), tmp_path)) as made:
        yield made


def ids(influx: Influx, clinic: Clinic) -> list[str]:
    """What the engine has, asked without our code."""
    answer = msgspec.json.decode(influx.ask('SELECT "id" FROM "observation"', clinic.database))
    return [row[1] for series in answer["results"][0].get("series", []) for row in series["values"]]


def everything_once(influx: Influx, clinic: Clinic, count: int) -> None:
    expected = [f"{n:032x}" for n in range(count)]
    assert sorted(ids(influx, clinic)) == expected
    assert clinic.store.counts()["evaluation"] == count
    assert {seq: clinic.told[seq, "stored"] + clinic.told[seq, "duplicate"] > 0 for seq in range(count)} == (
        dict.fromkeys(range(count), True)
    )
    assert max(clinic.told[seq, "stored"] for seq in range(count)) == 1
    assert [key for key in clinic.told if key[1] == "refused"] == []


# ---- bad points ------------------------------------------------------------------------------------------------------


def test_the_good_of_a_big_batch_are_stored_once_and_each_bad_one_is_kept_with_its_reason(
    influx: Influx, clinic: Clinic
) -> None:
    for wrong in ('observation temp="warm"', 'strip scale="wide"', 'event count="many"'):
        influx.put(clinic.database, f"{wrong} {T0}")
    bad = {7, 8, 150, 299}
    for start in range(0, 300, 50):
        made = [
            observation(
                f"{n:032x}", {"temp": q(37.0, "Cel")} if n in bad else {"bp_sys": q(118.0)}, seq=n, t=T0 + n * NS
            )
            for n in range(start, start + 50)
        ]  # fmt: skip
        clinic.broker.put(OBS, encode(made))
    packs = [strip(n * 250, seq=1000 + n, scale=5.0 if n in (3, 9) else None) for n in range(10)]
    clinic.broker.put(STRIP, encode(packs))
    clinic.broker.put(EVENT, encode([event(2000)]))
    clinic.turn()
    refused = {seq for seq, word in clinic.told if word == "refused"}
    assert refused == bad | {1003, 1009, 2000}
    assert sum(clinic.told.values()) == 311, "each row is answered once"
    counts = clinic.store.counts()
    assert (counts["observation"], counts["strip"], counts["event"]) == (296, 8, 0)
    with closing(RefusalsReader(clinic.refusals)) as reader:
        kept = list(reader.newest(99))
        assert reader.totals() == (7, 7, 0)
    assert all("field type conflict" in one.reason for one in kept)
    assert sorted(one.topic.rpartition("/")[2] for one in kept) == ["event"] + ["obs"] * 4 + ["strip"] * 2
    sent = {m.seq: m for m in packs}
    strips = [msgspec.msgpack.decode(one.payload, type=type(packs[0])) for one in kept if "/strip" in one.topic]
    assert [m == sent[m.seq] for m in strips] == [True, True], "the payload is what was sent"
    assert sum(clinic.pipeline.refused.values()) == 7
    assert len(clinic.pipeline.refused) == 1, "counted by kind: the server's words are no kind"


def test_what_has_no_outbox_and_finds_no_room_is_kept_as_it_came(
    clinic: Clinic, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_LOOSE", 20)
    gate.behave = lambda: "busy"
    for n in range(writer.MAX_LOOSE + 5):
        clinic.broker.put(OBS, encode([observation(f"{n:032x}", epoch="", seq=0)]))
        clinic.turn()
    with closing(RefusalsReader(clinic.refusals)) as reader:
        kept = list(reader.newest(99))
    lost = [msgspec.json.decode(one.payload, type=list[ObservationMessage])[0].id for one in kept]
    assert lost == [f"{n:032x}" for n in range(writer.MAX_LOOSE, writer.MAX_LOOSE + 5)]
    assert {(one.topic, one.reason) for one in kept} == {("gateway-1/4/cuff-1/obs", "store down, no outbox")}


# ---- away, slow, busy ------------------------------------------------------------------------------------------------

HOUR_ROWS = 4_200
"""More readings than may wait in memory here, so that the bound is reached and the rest comes again from the outbox."""


def test_an_hour_without_influxdb(influx: Influx, clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour by ingest's clock, with as much as fills what may wait, which is a sixth of the usual."""
    monkeypatch.setattr(writer, "MAX_WAITING_ROWS", 3_000)
    influx.kill_engine()
    minutes, pack = 60, 35
    per_minute = HOUR_ROWS // minutes
    count = per_minute * minutes
    assert count > writer.MAX_WAITING_ROWS
    most = 0
    for minute in range(minutes):
        for start in range(minute * per_minute, (minute + 1) * per_minute, pack):
            clinic.measure(*range(start, start + pack))
        clinic.turn(60)
        most = max(most, clinic.writer.waiting_rows)
        assert clinic.writer._bytes <= writer.MAX_WAITING_BYTES + 500 * 50_000
        assert clinic.broker.inbox == [], "messages piled up: the board would be behind"
    assert clinic.shown() == {f"{n:032x}" for n in range(count)}, "the board was blind"
    # A reading and its evaluation are two rows; the last batch may go over.
    assert writer.MAX_WAITING_ROWS <= most <= writer.MAX_WAITING_ROWS + 2 * per_minute
    assert "InfluxDB at" in clinic.status().store_fault
    assert not clinic.told
    assert len(clinic.broker.acked) == clinic.broker.mid, "the broker's window was not freed"
    influx.start_engine()
    clinic.turn(20)
    assert clinic.writer.waiting_rows == 0
    waited = count - len(clinic.outbox)
    assert writer.MAX_WAITING_ROWS // 2 <= waited < count
    clinic.resend()
    while clinic.broker.inbox:
        clinic.turn(1)
    everything_once(influx, clinic, count)
    assert clinic.outbox == {}


def test_a_slow_server_is_asked_once_and_not_waited_for_again_and_again(
    influx: Influx, gate: Gate, tmp_path: Path
) -> None:
    with closing(Clinic(gate.url, influx.database(), tmp_path, timeout_s=0.5)) as clinic:
        clinic.measure(0)
        clinic.turn()
        influx.freeze_engine()
        gate.requests = 0
        for n in range(1, 6):
            clinic.measure(n)
            clinic.turn(0.01)
        assert clinic.shown() == {f"{n:032x}" for n in range(6)}
        assert gate.requests == 1, "each turn waited for the server, and the board for each turn"
        assert "does not answer in time" in clinic.status().store_fault
        influx.thaw_engine()
        clinic.turn(20)
        everything_once(influx, clinic, 6)


def test_a_busy_server_is_left_alone_as_long_as_it_asks(influx: Influx, gate: Gate, clinic: Clinic) -> None:
    gate.behave = lambda: "busy"
    clinic.measure(0)
    clinic.turn()
    clinic.turn()
    assert "answers 503: queue full" in clinic.status().store_fault
    gate.requests = 0
    clinic.turn(29)
    assert gate.requests == 0, "asked again before its Retry-After"
    gate.behave = lambda: "pass"
    clinic.turn(2)
    everything_once(influx, clinic, 1)


def test_readings_are_shown_while_a_backlog_is_written(
    influx: Influx, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    influx.kill_engine()
    for n in range(10):
        clinic.measure(n)
        clinic.turn(0.001)
    influx.start_engine()
    append = clinic.store.append
    backlog: list[int] = []

    def slow(rows: Sequence[Row]) -> list[RowOutcome]:
        clinic.clock.advance(0.2)
        backlog.append(len(rows))
        return append(rows)

    monkeypatch.setattr(writer, "MERGED_ROWS", 8)
    monkeypatch.setattr(clinic.store, "append", slow)
    clinic.measure(10)
    clinic.turn(20)
    assert f"{10:032x}" in clinic.shown()
    assert set(clinic.outbox) == set(range(1, 11)), "more was written than the try whether InfluxDB is back"
    for n in range(11, 16):
        clinic.measure(n)
        clinic.turn()
        assert f"{n:032x}" in clinic.shown()
    assert len(backlog) == 6 and max(backlog) <= 8, "more than one append in a turn, however long each takes"
    while clinic.outbox:
        clinic.turn()
    everything_once(influx, clinic, 16)


@pytest.mark.parametrize(("asked", "bound"), [("86400", 60.0), ("-5", 0.0), ("nan", 0.0), ("Wed, 21 Oct", 0.0)])
def test_what_a_server_may_ask_is_bounded(gate: Gate, asked: str, bound: float, clinic: Clinic) -> None:
    gate.behave, gate.retry_after = lambda: "busy", asked
    with pytest.raises(StoreDown) as down:
        clinic.store.append([observation_row()])
    assert down.value.retry_s == bound


def test_a_proxys_page_refuses_nothing(influx: Influx, gate: Gate, clinic: Clinic) -> None:
    """Status 400, as InfluxDB refuses with; but not its words."""
    gate.behave = lambda: "rubbish"
    clinic.measure(0)
    clinic.turn()
    clinic.turn(20)
    assert not clinic.told
    assert "answers 400" in clinic.status().store_fault
    gate.behave = lambda: "pass"
    clinic.turn(20)
    everything_once(influx, clinic, 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_flapping_with_answers_lost(influx: Influx, gate: Gate, clinic: Clinic, seed: int) -> None:
    """Half of the requests fail, some of them after the write was done; batches and sizes at random."""
    rng = random.Random(seed)
    gate.retry_after = "0"
    gate.behave = lambda: rng.choice(["pass"] * 5 + ["busy", "rubbish", "lost", "lost"])
    count = 0
    for _ in range(25):
        size = rng.randint(1, 20)
        clinic.measure(*range(count, count + size))
        count += size
        if rng.random() < 0.3:
            clinic.resend()
        clinic.turn(rng.choice([0.1, 1, 20]))
    gate.behave = lambda: "pass"
    for _ in range(3):
        clinic.turn(20)
    clinic.resend()
    clinic.turn(1)
    everything_once(influx, clinic, count)
    assert clinic.shown() == {f"{n:032x}" for n in range(count)}
