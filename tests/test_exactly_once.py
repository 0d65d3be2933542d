"""Nothing is lost, nothing is doubled: outbox and forwarder against every accident on the road, in any order.

The store of the first test is a model: a dictionary. That of the others is the real one, behind the real pipeline.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drivers.core.draft import Draft
from drivers.core.forwarder import Forwarder
from drivers.core.losses import aged_out_events
from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from ingest.store.sqlite import SqliteStore
from ingest.writer import Writer
from tests.ingest_making import T0, event, observation, q, strip
from vitals.broker import Message
from vitals.clock import NS, ManualClock
from vitals.messages import IngestStatus, Outcome, Receipts, decode_observations
from vitals.outbox import AgedOut, Outbox, Row
from vitals.topics import Topics

TOPICS = Topics("clinic")
FAST = Path("/dev/shm")  # a disk in memory: there are thousands of commits, and each waits for its disk
pick = st.integers(0, 50)


class Road(RuleBasedStateMachine):
    """Each reading has a number of its own; every seventh is one that the store refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FAST if FAST.is_dir() else None))
        self.clock = ManualClock(T0)
        self.number = self.session = 0
        self.up = True
        self.wire: list[bytes] = []
        self.mail: list[Receipts] = []
        self.store: dict[str, int] = {}
        self.committed: dict[tuple[str, int], int] = {}
        self.answered: set[tuple[str, int]] = set()
        self.backup = False
        self.start_gateway()
        self.ingest_restarts()

    def start_gateway(self) -> None:
        self.outbox = Outbox(self.folder / "o.db")
        self.forwarder = Forwarder(self.outbox, self.publish, self.clock, "ours")

    def publish(self, _topic: str, payload: bytes) -> bool:
        if self.up:
            self.wire.append(payload)
        return self.up

    # -- what happens ----------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 4))
    def read(self, count: int) -> None:
        rows = []
        for _ in range(count):
            self.number += 1
            message = observation("", {"temp": q(self.number, "Cel")}, kind="temp")
            row = Draft("a/b/obs", message, urgent=True).finish(*self.outbox.stamp(), T0)
            rows.append(row)
            self.committed[row.epoch, row.seq] = self.number
        self.forwarder.commit(rows)

    @rule(which=pick, lose=st.booleans(), again=st.booleans())
    @precondition(lambda self: self.wire)
    def message_travels(self, which: int, lose: bool, again: bool) -> None:
        payload = self.wire[which % len(self.wire)]
        if not again:
            self.wire.remove(payload)
        if not lose:
            self.ingest(payload)

    def ingest(self, payload: bytes) -> None:
        outcomes = []
        for message in decode_observations(payload):
            number = int(message.observation.quantities["temp"].value or 0)
            if number % 7 == 0:
                outcomes.append(Outcome(message.epoch, message.seq, "refused", "seventh"))
                continue
            before = self.store.setdefault(message.id, number)
            assert before == number, "two readings under one id"
            outcomes.append(Outcome(message.epoch, message.seq, "duplicate" if message.id in self.store else "stored"))
        self.mail.append(Receipts(1, "ours", self.clock.now(), outcomes))

    @rule(which=pick, lose=st.booleans(), again=st.booleans())
    @precondition(lambda self: self.mail)
    def receipt_travels(self, which: int, lose: bool, again: bool) -> None:
        receipt = self.mail[which % len(self.mail)]
        if not again:
            self.mail.remove(receipt)
        if not lose:
            self.forwarder.receipts(receipt)
            self.answered |= {(o.epoch, o.seq) for o in receipt.outcomes}

    @rule()
    def receipts_are_applied(self) -> None:
        self.forwarder.commit([])

    @rule()
    def another_store_claims_everything(self) -> None:
        outcomes = [Outcome(row.epoch, row.seq, "stored") for row in self.outbox.after(0, 1000)]
        self.forwarder.receipts(Receipts(1, "another", self.clock.now(), outcomes))
        self.forwarder.commit([])

    @rule(seconds=st.sampled_from([0.3, 7, 70, 400]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.there:
            self.ingest_says(online=True)
        self.forwarder.pump()

    @rule(lose=st.booleans())
    def connection_breaks(self, lose: bool) -> None:
        self.up = False
        if lose:
            self.wire.clear()
            self.mail.clear()

    @rule()
    def connection_is_back(self) -> None:
        self.up = True
        self.forwarder.reconnected()

    def ingest_says(self, *, online: bool) -> None:
        self.there = online
        self.forwarder.ingest_status(IngestStatus(1, f"i{self.session}", online, T0))

    @rule()
    def ingest_restarts(self) -> None:
        self.session += 1
        self.ingest_says(online=True)

    @rule()
    def ingest_is_away(self) -> None:
        self.ingest_says(online=False)

    @rule()
    def gateway_restarts(self) -> None:
        self.outbox.close()
        self.start_gateway()
        self.ingest_restarts()

    @rule()
    def backup_is_made(self) -> None:
        self.outbox.close()
        shutil.copy(self.folder / "o.db", self.folder / "backup.db")
        self.backup = True
        self.start_gateway()
        self.ingest_restarts()

    @rule()
    @precondition(lambda self: self.backup)
    def backup_is_restored(self) -> None:
        """What was neither in the backup nor in the store nor on its way is gone with the disk it was on."""
        self.outbox.close()
        shutil.copy(self.folder / "backup.db", self.folder / "o.db")
        self.start_gateway()
        self.ingest_restarts()
        kept = {(row.epoch, row.seq) for row in self.outbox.after(0, 10_000)}
        stored = set(self.store.values())
        self.committed = {key: n for key, n in self.committed.items() if key in kept or n in stored}
        self.answered -= kept

    # -- what holds ------------------------------------------------------------------------------------------

    @invariant()
    def no_row_goes_without_a_receipt_of_our_store(self) -> None:
        kept = {(row.epoch, row.seq) for row in self.outbox.after(0, 10_000)}
        gone = self.committed.keys() - kept
        stored = set(self.store.values())
        assert all(key in self.answered or self.committed[key] in stored for key in gone)

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        assert len(set(self.store.values())) == len(self.store)

    def teardown(self) -> None:
        self.up = True
        self.forwarder.reconnected()
        self.ingest_restarts()
        for _ in range(40):
            self.time_passes(70)
            while self.wire:
                self.ingest(self.wire.pop())
            while self.mail:
                self.receipt_travels(0, lose=False, again=False)
            self.forwarder.commit([])
        waiting, _ = self.outbox.counts()
        self.outbox.close()
        shutil.rmtree(self.folder)
        assert waiting == 0
        wanted = {number for number in self.committed.values() if number % 7}
        assert wanted <= set(self.store.values())


TestRoad = Road.TestCase
TestRoad.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


class Clinic:
    """An outbox, the real pipeline and the real store, joined without a broker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(T0)
        self.pipeline = Pipeline(TOPICS, load_rules("demo"), session="i1")
        self.store = SqliteStore(folder / "store.db")
        refused: Counter[str] = Counter()
        self.writer = Writer(self.store, self.clock, ack=lambda _m: None, receipt=self.receipt, refused=refused)
        self.told: list[Outcome] = []
        self.on = True
        self.open()

    def open(self, max_bytes: int = 0) -> None:
        self.outbox = Outbox(self.folder / "outbox.db", max_bytes=max_bytes)
        self.outbox.account = self.account
        self.forwarder = Forwarder(self.outbox, self.publish, self.clock)
        self.forwarder.ingest_status(IngestStatus(1, "i1", True, T0))

    def account(self, aged: AgedOut) -> list[Row]:
        return [draft.finish(*self.outbox.stamp(), 0) for draft in aged_out_events(aged, self.clock.now())]

    def publish(self, topic: str, payload: bytes) -> bool:
        if self.on:
            message = Message(topic, payload, False, 1, 1, 1)
            self.writer.add(self.pipeline.process([message], self.clock.now()), [message])
        return self.on

    def receipt(self, _gateway: str, receipts: Receipts) -> None:
        self.told += receipts.outcomes
        self.forwarder.receipts(receipts)

    def read(self, leaf: Any, *messages: Any) -> list[Row]:
        topic = TOPICS.up("gateway-1", "4", "m1", leaf)
        drafts = [Draft(topic, message, urgent=False, physical="p") for message in messages]
        rows = [draft.finish(*self.outbox.stamp(), 0) for draft in drafts]
        self.forwarder.commit(rows)
        self.forwarder.commit([])
        return rows

    def settle(self) -> None:
        for _ in range(5):
            self.clock.advance(70)
            self.forwarder.ingest_status(IngestStatus(1, "i1", True, T0))
            self.forwarder.pump()
            self.forwarder.commit([])


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    clinic = Clinic(tmp_path)
    yield clinic
    clinic.outbox.close()
    clinic.store.close()


def test_an_outbox_restored_from_a_backup_is_answered_duplicate_and_takes_new_rows(clinic: Clinic) -> None:
    clinic.on = False
    old = [*clinic.read("obs", observation()), *clinic.read("strip", strip(0)), *clinic.read("event", event())]
    clinic.outbox.close()
    shutil.copy(clinic.folder / "outbox.db", clinic.folder / "backup.db")

    clinic.on = True
    clinic.open()
    clinic.settle()
    after = [*clinic.read("obs", observation(quantities={"temp": q(37, "Cel")}, kind="temp"))]
    assert [o.outcome for o in clinic.told] == ["stored"] * 4
    assert clinic.outbox.counts() == (0, 0)
    clinic.outbox.close()

    shutil.copy(clinic.folder / "backup.db", clinic.folder / "outbox.db")
    clinic.told.clear()
    clinic.open()
    clinic.settle()
    assert [(o.epoch, o.seq, o.outcome) for o in clinic.told] == [(r.epoch, r.seq, "duplicate") for r in old]
    clinic.told.clear()
    new = clinic.read("obs", observation(quantities={"temp": q(38, "Cel")}, kind="temp"))
    new += clinic.read("event", event())
    assert new[0].seq == after[0].seq, "the number is used again, in another epoch"
    assert [o.outcome for o in clinic.told] == ["stored", "stored"]
    assert clinic.outbox.counts() == (0, 0)
    counts = clinic.store.counts()
    assert (counts["observation"], counts["strip"], counts["event"]) == (3, 1, 2)


def test_what_aged_out_is_a_gap_in_the_store_and_is_reported(clinic: Clinic) -> None:
    clinic.read("strip", *(strip(250 * n) for n in range(5)))
    clinic.outbox.close()
    clinic.on = False
    clinic.open(max_bytes=100_000)
    for n in range(5, 205):
        clinic.clock.advance(1)
        clinic.read("strip", strip(250 * n))
    kept = [row for row in clinic.outbox.after(0, 10_000) if row.topic.endswith("strip")]
    gone = 200 - len(kept)
    assert 50 < gone < 180
    clinic.on = True
    clinic.forwarder.reconnected()
    clinic.settle()
    assert clinic.outbox.counts() == (0, 0)

    stored = clinic.store.strip("gateway-1", "m1", "ekg", T0, T0 + 300 * NS)
    jumps = [(a.first_index + a.count, b.first_index) for a, b in pairwise(stored)]
    assert [jump for jump in jumps if jump[0] != jump[1]] == [(1250, 1250 + 250 * gone)], "the one gap, in its place"

    clinic.clock.advance(60)
    clinic.writer.add(clinic.pipeline.tick(clinic.clock.now()), [])
    found = clinic.store._db.execute("SELECT message FROM event ORDER BY rowid").fetchall()
    said = [msgspec.json.decode(message) for (message,) in found]
    dropped = [e["count"] for e in said if e["code"] == "strips_aged_out"]
    assert sum(dropped) == gone
    assert [e["detail"] for e in said if e["code"] == "ekg_gap"] == [f"{gone}.0 s of ekg not received"]
