"""Ingest as a whole on the real InfluxDB: never blind, nothing lost, nothing doubled, each gateway told the truth."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from dashboards.app import Board
from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from ingest.service import Service, run
from ingest.store.opening import LazyReader, open_reader, open_store
from tests.influx_making import NEEDS_INFLUX
from tests.ingest_making import T0, evaluation_row, observation, q
from tests.parts import Influx
from tests.test_ingest_service import FLAGGED, OBS, TOPICS, FakeBroker
from vitals import settings as conf
from vitals.clock import NS, ManualClock
from vitals.messages import FlaggedMessage, IngestStatus, Receipts, encode

pytestmark = NEEDS_INFLUX


class Clinic:
    """Ingest turned by hand; `restart` is another process with the same files."""

    def __init__(self, server: Influx, folder: Path) -> None:
        self.database = server.database()
        store = conf.Store(kind="influx", url=server.url, bucket=self.database)
        self.settings = conf.Settings(ingest=conf.Ingest(profile="demo", state=str(folder / "state.db"), store=store))
        self.clock = ManualClock(T0)
        self.broker = FakeBroker([])
        self.start()

    def start(self) -> None:
        self.store = open_store(self.settings)
        pipeline = Pipeline(TOPICS, load_rules("demo"), session="i1")
        pipeline.resume(self.store.recent_ids(1000), self.store.tails())
        self.service = Service(pipeline, self.store, self.broker.factory, self.clock)
        self.broker.connect()

    def restart(self) -> None:
        self.store.close()
        self.start()

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.service.step()

    def send(self, *numbers: int, metric: str = "bp_sys") -> None:
        made = [observation(f"{n:032x}", {metric: q(118.0)}, seq=n, t=T0 + n * NS) for n in numbers]
        self.broker.put(OBS, encode(made))

    def receipts(self) -> list[tuple[int, str, str]]:
        topic = TOPICS.stored("gateway-1")
        told = [msgspec.json.decode(p, type=Receipts) for t, p, _ in self.broker.published if t == topic]
        assert all(r.store_id == self.store.store_id for r in told)
        return [(o.seq, o.outcome, o.reason) for r in told for o in r.outcomes]

    def shown(self) -> list[str]:
        decode = msgspec.json.Decoder(list[FlaggedMessage] | FlaggedMessage).decode
        packs = [decode(p) for t, p, _ in self.broker.published if t == FLAGGED]
        return [m.id for pack in packs for m in (pack if isinstance(pack, list) else [pack])]

    def status(self) -> IngestStatus:
        told = [p for t, p, _ in self.broker.published if t == TOPICS.ingest_status]
        return msgspec.json.decode(told[-1], type=IngestStatus)


@pytest.fixture
def clinic(influx: Influx, tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic(influx, tmp_path)
    yield made
    made.store.close()


def test_shown_at_once_and_told_when_influxdb_is_back(influx: Influx, clinic: Clinic) -> None:
    influx.kill_engine()
    for number in range(10):
        clinic.send(number)
        clinic.turn(0.1)
    clinic.turn()
    assert clinic.shown() == [f"{n:032x}" for n in range(10)]
    assert clinic.receipts() == []
    assert "InfluxDB at http" in clinic.status().store_fault
    influx.start_engine()
    clinic.turn(20)
    clinic.turn()
    assert sorted(clinic.receipts()) == [(n, "stored", "") for n in range(10)]
    assert clinic.status().store_fault == ""
    assert clinic.store.counts() == {"observation": 10, "strip": 0, "event": 0, "evaluation": 10}


def test_ingest_starts_without_influxdb(influx: Influx, clinic: Clinic) -> None:
    clinic.send(1)
    clinic.turn()
    influx.kill_engine()
    clinic.restart()
    clinic.send(1, 2)  # the gateway has not had the receipt of the first, and sends it again
    clinic.turn()
    assert clinic.shown() == [f"{1:032x}", f"{2:032x}"], "a stored reading was shown again, or a new one was not"
    influx.start_engine()
    clinic.turn(20)
    assert sorted(clinic.receipts()) == [(1, "duplicate", ""), (1, "stored", ""), (2, "stored", "")]
    assert clinic.store.counts() == {"observation": 2, "strip": 0, "event": 0, "evaluation": 2}


def test_a_refused_row_is_told_with_its_reason_and_alone(influx: Influx, clinic: Clinic) -> None:
    influx.put(clinic.database, f'observation temp="warm" {T0}')
    clinic.broker.put(OBS, encode([observation(f"{n:032x}", seq=n, t=T0 + n * NS) for n in range(4)]))
    clinic.send(9, metric="temp")
    clinic.turn()
    told = {seq: (word, reason) for seq, word, reason in clinic.receipts()}
    assert {seq: word for seq, (word, _) in told.items()} == dict.fromkeys(range(4), "stored") | {9: "refused"}
    assert "field type conflict" in told[9][1]
    assert clinic.store.counts() == {"observation": 4, "strip": 0, "event": 0, "evaluation": 4}
    clinic.turn(11)
    assert clinic.status().refused == {"refused by the store": 1}, "the server's words are without end"


def test_another_bucket_is_said_and_nothing_is_called_stored(influx: Influx, clinic: Clinic) -> None:
    clinic.send(1)
    clinic.turn()
    influx.ask(f"DROP DATABASE {clinic.database}")
    influx.ask(f"CREATE DATABASE {clinic.database}")
    clinic.restart()
    clinic.broker.published.clear()
    clinic.send(1)
    clinic.turn()
    clinic.turn()
    assert clinic.receipts() == []
    assert "is empty or names no store" in clinic.status().store_fault


def test_the_whole_of_ingest_runs_from_its_settings(influx: Influx, clinic: Clinic) -> None:
    clinic.store.close()
    clinic.broker.connect()
    clinic.send(1)
    turns = iter(range(3))

    class Stop:
        def is_set(self) -> bool:
            return next(turns, None) is None

    run(clinic.settings, clinic.broker.factory, clinic.clock, Stop())  # type: ignore[arg-type]
    clinic.store = open_store(clinic.settings)
    assert clinic.receipts() == [(1, "stored", "")]


# ---- the board -------------------------------------------------------------------------------------------------------


def test_the_board_begins_with_what_influxdb_has(influx: Influx, clinic: Clinic) -> None:
    clinic.store.append([evaluation_row(room="1")])
    settings = msgspec.structs.replace(clinic.settings, board=conf.Board(rooms=[conf.Room(id="1")]))
    board = Board(settings, clinic.clock, LazyReader(settings))
    board.fill()
    assert list(board.rooms.rooms["1"].obs) == ["bp"]
    stored, fault = board._stored("1", T0)
    assert fault == ""
    assert [point.value for points in stored.values() for point in points] == [118.0]


def test_the_board_runs_and_says_so_without_influxdb(influx: Influx, clinic: Clinic) -> None:
    settings = msgspec.structs.replace(clinic.settings, board=conf.Board(rooms=[conf.Room(id="1")]))
    board = Board(settings, clinic.clock, LazyReader(settings))
    clinic.store.append([evaluation_row(room="1")])
    board.fill()
    influx.kill_engine()
    stored, fault = board._stored("1", T0)
    assert (stored, "could not be read" in fault) == ({}, True)
    other = Board(settings, clinic.clock, LazyReader(settings))
    other.fill()
    assert other.rooms.services.faults == {"history that could not be read": 1}
    influx.start_engine()
    with closing(open_reader(settings)) as reader:
        assert [m.id for m in reader.latest("1")] == ["a" * 32]
    assert board._stored("1", T0)[1] == ""
    asyncio.run(other._fill_late("1"))
    assert list(other.rooms.rooms["1"].obs) == ["bp"], "a board that began without the store never had its readings"
