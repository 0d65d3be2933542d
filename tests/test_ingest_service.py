"""The shell: acknowledged after the append, never blind, nothing lost when the store is down."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from ingest import writer
from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from ingest.service import Service, run
from ingest.store.contract import Row, RowOutcome, StoreDown, refusal
from ingest.store.sqlite import SqliteStore
from tests.ingest_making import T0, adult, bp, observation, q, strip
from tests.parts import wait_until
from vitals import settings
from vitals.broker import Message, Will
from vitals.clock import NS, ManualClock
from vitals.errors import SettingsError
from vitals.messages import FlaggedMessage, IngestStatus, Receipts, encode
from vitals.topics import Topics

TOPICS = Topics("clinic")
OBS = TOPICS.up("gateway-1", "4", "cuff-1", "obs")
FLAGGED = TOPICS.flagged("4")


class FakeBroker:
    """Keeps what is published, in order; hands out what the test puts in. `log` has everything in order."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.connected = False
        self.trouble, self.denied, self.dropped = None, 0, 0
        self.started = self.stopped = False
        self.published: list[tuple[str, bytes, bool]] = []
        self.inbox: list[Message] = []
        self.acked: list[int] = []
        self.will: Will | None = None
        self.on_connect: Callable[[], None] = lambda: None
        self.mid = 0

    def factory(
        self, *, subscriptions: Sequence[tuple[str, int]], will: Will, on_connect: Callable[[], None]
    ) -> "FakeBroker":
        self.subscriptions, self.will, self.on_connect = subscriptions, will, on_connect
        return self

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.stopped = True

    def connect(self) -> None:
        self.connected = True
        self.on_connect()

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = None,
        content_type: str = "",
    ) -> bool:  # fmt: skip
        if not self.connected:
            return False
        assert qos == 1
        self.published.append((topic, payload, retain))
        self.log.append(f"publish {topic.rpartition('/')[2]}")
        return True

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        taken, self.inbox = self.inbox[:limit], self.inbox[limit:]
        return taken

    def ack(self, messages: Sequence[Message]) -> None:
        self.acked += [message.mid for message in messages]
        self.log += ["ack"] * len(messages)

    def put(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        self.mid += 1
        self.inbox.append(Message(topic, payload, retain, 1, self.mid, 1))
        return self.mid


class SwitchedStore(SqliteStore):
    """A real store whose disk can be pulled."""

    def __init__(self, path: Path, log: list[str]) -> None:
        super().__init__(path)
        self.log = log
        self.down = ""
        self.tries = 0

    def append(self, rows: Sequence[Row]) -> list[RowOutcome]:
        self.tries += 1
        if self.down:
            raise StoreDown(self.down)
        outcomes = super().append(rows)
        self.log.append("append")
        return outcomes


class Ingest:
    """A service turned by hand."""

    def __init__(self, folder: Path) -> None:
        self.log: list[str] = []
        self.clock = ManualClock(T0)
        self.broker = FakeBroker(self.log)
        self.store = SwitchedStore(folder / "store.db", self.log)
        self.pipeline = Pipeline(TOPICS, load_rules("demo"), session="i1")
        self.service = Service(self.pipeline, self.store, self.broker.factory, self.clock)
        self.broker.connect()
        self.turn()
        self.log.clear()

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.service.step()

    def send(self, number: int, *, epoch: str = "e1") -> int:
        return self.broker.put(OBS, encode(observation(f"{number:032x}", seq=number, epoch=epoch)))

    def receipts(self) -> list[tuple[int, str, str]]:
        topic = TOPICS.stored("gateway-1")
        told = [msgspec.json.decode(p, type=Receipts) for t, p, _ in self.broker.published if t == topic]
        assert all(r.store_id == self.store.store_id for r in told)
        return [(o.seq, o.outcome, o.reason) for r in told for o in r.outcomes]

    def shown(self) -> list[str]:
        decode = msgspec.json.Decoder(list[FlaggedMessage] | FlaggedMessage).decode
        packs = [decode(p) for t, p, _ in self.broker.published if t == FLAGGED]
        return [m.id for pack in packs for m in (pack if isinstance(pack, list) else [pack])]

    def statuses(self) -> list[IngestStatus]:
        return [
            msgspec.json.decode(p, type=IngestStatus)
            for t, p, retain in self.broker.published
            if t == TOPICS.ingest_status and retain
        ]


@pytest.fixture
def ingest(tmp_path: Path):
    made = Ingest(tmp_path)
    yield made
    made.store.close()


def test_shown_then_stored_then_acknowledged_then_told(ingest: Ingest) -> None:
    ingest.send(1)
    ingest.turn()
    assert ingest.log == ["publish flagged", "append", "ack", "publish stored"]
    assert ingest.receipts() == [(1, "stored", "")]
    assert ingest.broker.acked == [1]


def test_receipts_are_grouped_by_gateway_and_carry_the_time(ingest: Ingest) -> None:
    ingest.send(1)
    other = TOPICS.up("gateway-2", "5", "cuff-2", "obs")
    ingest.broker.put(other, encode([observation(f"{n:032x}", seq=n) for n in (8, 9)]))
    ingest.turn(2)
    stored = [(t, msgspec.json.decode(p, type=Receipts)) for t, p, _ in ingest.broker.published if "/down/" in t]
    assert [(t, [o.seq for o in r.outcomes]) for t, r in stored] == [
        (TOPICS.stored("gateway-1"), [1]),
        (TOPICS.stored("gateway-2"), [8, 9]),
    ]
    assert {r.now for _, r in stored} == {T0 + 2 * NS}


def test_every_outcome_is_told(ingest: Ingest) -> None:
    ingest.send(1)
    ingest.turn()
    ingest.send(1)
    ingest.broker.put(OBS, encode(observation(f"{1:032x}", bp(119, 76), seq=2)))
    ingest.broker.put(OBS, encode(observation(quantities={"aura": q(1)}, seq=3)))
    ingest.broker.put(OBS, encode(msgspec.structs.replace(observation(seq=4), v=2)))
    ingest.turn(2)
    assert sorted(ingest.receipts()) == [
        (1, "duplicate", ""),
        (1, "stored", ""),
        (2, "refused", "same id, other content"),
        (3, "refused", "unknown metric: aura"),
        (4, "hold", "newer version: expected 1, found 2"),
    ]
    assert ingest.shown() == [f"{1:032x}"]
    ingest.turn(2)
    assert ingest.statuses()[-1].refused == {"same id, other content": 1, "unknown metric": 1, "newer version": 1}


def test_messages_without_rows_are_acknowledged(ingest: Ingest) -> None:
    ingest.broker.put(TOPICS.assoc("4"), encode(adult()), retain=True)
    ingest.broker.put(OBS, b"rubbish")
    ingest.turn()
    assert ingest.broker.acked == [1, 2]
    assert "append" not in ingest.log


# ---- under load -----------------------------------------------------------------------------------------------


def test_the_next_batch_is_shown_while_the_store_works_and_acknowledged_in_order(ingest: Ingest) -> None:
    ingest.service._limit = 2
    append = ingest.store.append

    def slow(rows: Sequence[Row]) -> list[RowOutcome]:
        if not ingest.broker.acked:  # the first batch
            wait_until(lambda: len(ingest.shown()) == 4, 10, "the second batch shown meanwhile")
        return append(rows)

    ingest.store.append = slow  # type: ignore[method-assign]
    for number in (1, 2, 3, 4):
        ingest.send(number)
    ingest.turn()
    assert (ingest.broker.acked, ingest.receipts()) == ([], []), "told before it was stored"
    ingest.turn()
    assert ingest.broker.acked == [1, 2]
    ingest.turn()
    assert ingest.broker.acked == [1, 2, 3, 4]
    assert ingest.receipts() == [(number, "stored", "") for number in (1, 2, 3, 4)]


def test_a_store_that_fails_meanwhile_has_what_it_failed_with_again(ingest: Ingest) -> None:
    ingest.service._limit = 2
    ingest.store.down = "gone"
    for number in (1, 2, 3, 4):
        ingest.send(number)
    for _ in range(4):
        ingest.turn()
    assert (ingest.receipts(), ingest.service._writer.waiting_rows) == ([], 8)
    ingest.store.down = ""
    ingest.turn(10)
    assert ingest.receipts() == [(number, "stored", "") for number in (1, 2, 3, 4)]
    assert ingest.service._writer.waiting_rows == 0


# ---- the store is down -----------------------------------------------------------------------------------------


def test_a_store_that_is_down_never_blinds_the_board(ingest: Ingest) -> None:
    ingest.store.down = "disk full"
    for number in range(10):
        ingest.send(number)
        ingest.turn()
    assert len(ingest.shown()) == 10
    assert ingest.receipts() == []
    assert ingest.statuses()[-1].store_fault == "disk full"
    assert ingest.statuses()[-1].online


def test_what_waited_is_stored_and_told_when_it_works_again(ingest: Ingest) -> None:
    ingest.store.down = "disk full"
    for number in range(10):
        ingest.send(number)
        ingest.turn(0.1)
    ingest.store.down = ""
    ingest.turn(20)
    assert sorted(ingest.receipts()) == [(n, "stored", "") for n in range(10)]
    assert ingest.store.counts()["observation"] == 10
    ingest.turn()
    assert ingest.statuses()[-1].store_fault == ""


def test_the_window_is_freed_early_only_for_what_an_outbox_keeps(ingest: Ingest) -> None:
    ingest.store.down = "disk full"
    kept, loose = ingest.send(1), ingest.send(2, epoch="")
    ingest.turn()
    assert ingest.broker.acked == [kept]
    ingest.store.down = ""
    ingest.turn(20)
    assert ingest.broker.acked == [kept, loose]
    assert ingest.store.counts()["observation"] == 2


def test_it_is_tried_with_growing_patience(ingest: Ingest) -> None:
    ingest.store.down = "disk full"
    ingest.send(1)
    for _ in range(600):
        ingest.turn(0.1)
    # 0.5, 1, 2, 4, 8 and then every 10 s: about ten tries in a minute.
    assert 8 <= ingest.store.tries <= 12


def test_memory_is_bounded_and_what_was_dropped_comes_again(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING_ROWS", 20)
    ingest.store.down = "disk full"
    for number in range(50):
        ingest.send(number)
        ingest.turn()
    assert ingest.service._writer.waiting_rows <= 22
    assert len(ingest.shown()) == 50
    assert len(ingest.broker.acked) == 50
    ingest.store.down = ""
    ingest.turn(20)
    told = {seq for seq, *_ in ingest.receipts()}
    assert 0 < len(told) < 50
    for number in range(50):  # the gateway resends what it has no receipt for
        if number not in told:
            ingest.send(number)
    ingest.turn()
    assert {seq for seq, *_ in ingest.receipts()} == set(range(50))
    assert ingest.store.counts() == {"observation": 50, "strip": 0, "event": 0, "evaluation": 50}
    assert len(ingest.shown()) == 50, "a resent reading was shown again"


def test_without_store_and_outbox_a_loss_is_counted_and_the_board_still_sees(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_LOOSE", 3)
    ingest.store.down = "disk full"
    for number in range(5):
        ingest.send(number, epoch="")
        ingest.turn()
    assert len(ingest.shown()) == 5
    assert ingest.broker.acked == [4, 5]
    ingest.turn(2)
    assert ingest.statuses()[-1].refused == {"store down, no outbox": 2}
    ingest.store.down = ""
    ingest.turn(20)
    assert sorted(ingest.broker.acked) == [1, 2, 3, 4, 5]


def test_bytes_that_wait_are_bounded_as_well(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their messages are acknowledged while the store is down; what was made from them is in memory all the same."""
    monkeypatch.setattr(writer, "MAX_WAITING_BYTES", 4000)
    ingest.store.down = "disk full"
    for number in range(50):
        ingest.send(number)
        ingest.turn()
    assert ingest.service._writer.waiting_rows <= 30
    ingest.store.down = ""
    ingest.turn(20)
    assert ingest.service._writer._bytes == 0


def test_heart_rates_and_gaps_dropped_with_the_store_down_are_counted(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING_ROWS", 1)
    ingest.store.down = "disk full"
    ingest.send(1)
    ingest.turn()
    for number in range(3):
        ingest.broker.put(TOPICS.up("gateway-1", "4", "ekg-1", "strip"), encode(strip(250 * number)))
        ingest.turn()
    assert ingest.pipeline.refused == {"store down, rates and gaps": 3}


class Slow:
    """A store across a network: each append takes 0.15 s, however many rows it has."""

    def __init__(self, ingest: Ingest) -> None:
        self.sizes: list[int] = []
        self._append = ingest.store.append
        self._clock = ingest.clock
        ingest.store.append = self  # type: ignore[method-assign]

    def __call__(self, rows: Sequence[Row]) -> list[RowOutcome]:
        outcomes = self._append(rows)
        self._clock.advance(0.15)
        self.sizes.append(len(rows))
        return outcomes


def test_a_backlog_is_written_a_little_each_turn_and_readings_are_shown_between(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MERGED_ROWS", 10)
    ingest.store.down = "disk full"
    for number in range(60):
        ingest.send(number)
        ingest.turn()
    slow, ingest.store.down = Slow(ingest), ""
    shown_after: list[float] = []
    for number in range(60, 64):
        ingest.send(number)
        began = ingest.clock.monotonic()
        ingest.turn(11 if number == 60 else 0)
        assert len(set(ingest.broker.acked)) == number + 1, "the broker's window filled up"
        shown_after.append((ingest.clock.monotonic() - began) / NS - (11 if number == 60 else 0))
    assert len(ingest.shown()) == 64 and max(shown_after) < 0.5
    # One batch alone shows that the store is back; then as many together as are allowed.
    assert slow.sizes[:4] == [2, 10, 10, 10]
    assert ingest.service._writer.draining
    while ingest.service._writer.draining:
        ingest.turn()
    assert ingest.receipts() == [(number, "stored", "") for number in range(64)], "each once, in the order of coming"
    assert (ingest.service._writer.waiting_rows, ingest.service._writer._bytes) == (0, 0)
    assert ingest.store.counts()["evaluation"] == 64


def test_receipts_of_merged_batches_tell_each_its_own(ingest: Ingest) -> None:
    ingest.send(7)
    ingest.turn()
    ingest.store.down = "disk full"
    loose = ingest.send(1, epoch="")
    ingest.turn()
    other = observation(f"{7:032x}", bp(200, 99), seq=8)
    for message in (observation(f"{2:032x}", seq=2), observation(f"{7:032x}", seq=7), other):
        ingest.broker.put(OBS, encode(message))
        ingest.turn()
    assert loose not in ingest.broker.acked
    ingest.store.down = ""
    ingest.turn(20)
    assert ingest.receipts()[1:] == [(2, "stored", ""), (7, "duplicate", ""), (8, "refused", "same id, other content")]
    assert loose in ingest.broker.acked and ingest.service._writer._loose == 0
    ingest.turn(2)
    assert ingest.statuses()[-1].refused == {"same id, other content": 1}


def test_nobody_sleeps_while_a_backlog_is_written(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    take = ingest.broker.take
    monkeypatch.setattr(ingest.broker, "take", lambda limit, wait: (waits.append(wait), take(limit, wait))[1])
    monkeypatch.setattr(writer, "MERGED_ROWS", 2)
    ingest.store.down = "disk full"
    for number in range(9):
        ingest.send(number)
        ingest.turn()
    Slow(ingest)
    ingest.store.down = ""
    ingest.turn(11)
    waits.clear()
    while ingest.service._writer.draining:
        ingest.turn()
    ingest.turn()
    assert set(waits[:-1]) == {0.0} and waits[-1] > 0


def test_refusals_are_counted_by_kind(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are in a retained message: a sender that is refused each time with other words must not fill it."""
    reasons = (refusal("cannot be stored", f"{number} bytes") for number in range(99))
    monkeypatch.setattr(ingest.store, "append", lambda rows: [next(reasons) for _ in rows])
    for number in range(4):
        ingest.send(number)
    ingest.turn()
    ingest.turn(2)
    assert ingest.statuses()[-1].refused == {"cannot be stored": 8}
    assert ingest.receipts()[0] == (0, "refused", "cannot be stored: 0 bytes")


# ---- connections -----------------------------------------------------------------------------------------------


def test_birth_and_will(ingest: Ingest) -> None:
    (birth,) = ingest.statuses()
    assert (birth.online, birth.session, birth.store_id) == (True, "i1", ingest.store.store_id)
    assert (birth.profile, birth.rules_hash) == ("demo", ingest.pipeline.rules.hash)
    assert ingest.broker.will is not None
    will = msgspec.json.decode(ingest.broker.will.payload, type=IngestStatus)
    assert ingest.broker.will.topic == TOPICS.ingest_status
    assert (will.online, will.session) == (False, "i1")


def test_the_state_tells_ingests_clock_with_each_beat_and_is_not_said_more_often_for_it(ingest: Ingest) -> None:
    for _ in range(25):
        ingest.turn(1.0)
    assert [said.now for said in ingest.statuses()] == [T0, T0 + 10 * NS, T0 + 20 * NS]


def test_on_every_connect_retained_topics_are_told_again(ingest: Ingest) -> None:
    ingest.broker.put(TOPICS.assoc("4"), encode(adult()), retain=True)
    ingest.broker.put(OBS, encode(observation(quantities=bp(190, 90))))
    ingest.turn()
    ingest.broker.published.clear()
    ingest.broker.connect()
    ingest.turn()
    assert {t for t, _, retain in ingest.broker.published if retain} == {TOPICS.ingest_status, TOPICS.alert("4", "bp")}


def test_readings_flagged_without_a_connection_are_shown_after_it(ingest: Ingest) -> None:
    ingest.send(1)
    ingest.broker.connected = False
    ingest.turn()
    assert ingest.shown() == []
    ingest.broker.connect()
    ingest.turn()
    assert ingest.shown() == [f"{1:032x}"]


def test_status_is_not_repeated_without_news(ingest: Ingest) -> None:
    for _ in range(20):
        ingest.turn(0.2)
    assert len(ingest.statuses()) == 1


def test_a_bug_in_one_message_stops_no_other(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pipeline.process

    def buggy(self: Pipeline, messages: Sequence[Message], now: int) -> object:
        if any(message.mid == 2 for message in messages):
            raise KeyError("our bug")
        return whole(self, messages, now)

    monkeypatch.setattr(Pipeline, "process", buggy)
    for number in (1, 2, 3):
        ingest.send(number)
    ingest.turn()
    assert sorted(seq for seq, *_ in ingest.receipts()) == [1, 3]
    assert ingest.broker.acked == [1, 2, 3]
    assert ingest.pipeline.refused == {"internal error": 1}


# ---- run ---------------------------------------------------------------------------------------------------------


def _settings(folder: Path, **more: object) -> settings.Settings:
    store = settings.Store(path=str(folder / "store.db"))
    return settings.Settings(ingest=settings.Ingest(profile="demo", store=store, **more))


def test_run_serves_says_goodbye_and_closes(tmp_path: Path) -> None:
    broker, stop = FakeBroker([]), threading.Event()
    thread = threading.Thread(target=run, args=(_settings(tmp_path), broker.factory, ManualClock(T0), stop))
    thread.start()
    while not broker.started:
        pass
    broker.connect()
    broker.put(OBS, encode(observation()))
    while not broker.acked:
        pass
    stop.set()
    thread.join(5)
    assert broker.stopped
    last = msgspec.json.decode([p for t, p, _ in broker.published if t == TOPICS.ingest_status][-1], type=IngestStatus)
    assert not last.online
    SqliteStore(tmp_path / "store.db").close()


def test_a_restart_shows_nothing_twice(tmp_path: Path) -> None:
    for _ in range(2):
        broker, stop = FakeBroker([]), threading.Event()
        thread = threading.Thread(target=run, args=(_settings(tmp_path), broker.factory, ManualClock(T0), stop))
        thread.start()
        while not broker.started:
            pass
        broker.connect()
        broker.put(OBS, encode(observation()))
        while not broker.acked:
            pass
        stop.set()
        thread.join(5)
    assert not [t for t, *_ in broker.published if t == FLAGGED]


def test_wrong_rules_are_told_before_the_first_connection(tmp_path: Path) -> None:
    broker = FakeBroker([])
    wrong = _settings(tmp_path, rules_file=str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError):
        run(wrong, broker.factory, ManualClock(T0), threading.Event())
    assert not broker.started
