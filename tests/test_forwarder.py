"""The resend policy: fresh at once, backlog in bounded packs, never to an ingest that is offline, receipts decide."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from drivers.core.forwarder import CLOCK_SAMPLES, HOLD_S, PACK, RESEND_FIRST_S, SILENT_S, WINDOW, Forwarder
from vitals.clock import NS, ManualClock
from vitals.messages import IngestStatus, Outcome, Receipts
from vitals.outbox import Outbox, OutboxFull, Row


class Wire:
    """What was published; can be cut."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.up = True

    def publish(self, topic: str, payload: bytes) -> bool:
        if self.up:
            self.sent.append((topic, payload))
        return self.up

    def seqs(self) -> list[int]:
        found: list[int] = []
        for _, payload in self.sent:
            decoded = msgspec.json.decode(payload)
            found += [d["seq"] for d in decoded] if isinstance(decoded, list) else [decoded["seq"]]
        return found


class Bench:
    def __init__(self, folder: Path, max_bytes: int = 0) -> None:
        self.clock = ManualClock()
        self.wire = Wire()
        self.outbox = Outbox(folder / "o.db", max_bytes=max_bytes)
        self.outbox._db.execute("PRAGMA synchronous = OFF")  # hundreds of commits, and no power cut
        self.forwarder = Forwarder(self.outbox, self.wire.publish, self.clock)

    def put(self, count: int, devices: int = 1) -> list[Row]:
        rows = []
        for number in range(count):
            epoch, seq = self.outbox.stamp()
            topic = f"a/b{number % devices}/obs"
            rows.append(Row(epoch, seq, topic, msgspec.json.encode({"seq": seq}), 0))
        self.outbox.put(rows)
        return rows

    def ingest(self, session: str, *, online: bool = True, retained: bool = False, store: str = "s1") -> None:
        status = IngestStatus(1, session, online, 0, store, now=self.clock.now())
        self.forwarder.ingest_status(status, retained=retained)

    def receipt(self, rows: list[Row], outcome: str = "stored", store: str = "s1") -> None:
        outcomes = [Outcome(r.epoch, r.seq, outcome) for r in rows]  # type: ignore[arg-type]
        self.forwarder.receipts(Receipts(1, store, self.clock.now(), outcomes))
        self.forwarder.commit([])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.outbox.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Bench]:
    """With a budget of 200 kB."""
    bench = Bench(tmp_path, max_bytes=200_000)
    yield bench
    bench.outbox.close()


def test_a_fresh_reading_goes_out_once_at_once(bench: Bench) -> None:
    bench.ingest("i1")
    rows = bench.put(1)
    bench.forwarder.fresh(rows)
    for _ in range(10):
        bench.forwarder.pump()
    assert bench.wire.seqs() == [1]
    bench.receipt(rows)
    assert bench.outbox.counts() == (0, 0)


def test_nothing_is_resent_while_ingest_is_offline(bench: Bench) -> None:
    bench.forwarder.fresh(bench.put(20))
    bench.ingest("i1", online=False)
    for _ in range(50):
        bench.clock.advance(60)
        bench.forwarder.pump()
    assert sorted(bench.wire.seqs()) == list(range(1, 21)), "each once: an offline subscriber queues every copy"


def test_a_birth_brings_the_backlog_in_packs(bench: Bench) -> None:
    bench.put(3 * PACK + 1)
    bench.ingest("i1")
    bench.forwarder.pump()
    assert bench.wire.seqs() == list(range(1, 3 * PACK + 2))
    assert len(bench.wire.sent) == 4


def test_the_window_bounds_what_has_no_receipt(bench: Bench) -> None:
    rows = bench.put(WINDOW + 500)
    bench.ingest("i1")
    for _ in range(5):
        bench.forwarder.pump()
    assert len(bench.wire.seqs()) == WINDOW
    bench.receipt(rows[:200])
    bench.forwarder.pump()
    assert len(bench.wire.seqs()) == WINDOW + 200


def test_fresh_readings_pass_a_full_window(bench: Bench) -> None:
    bench.put(WINDOW + 500)
    bench.ingest("i1")
    bench.forwarder.pump()
    (fresh,) = bench.put(1)
    bench.forwarder.fresh([fresh])
    assert bench.wire.seqs()[-1] == fresh.seq


def test_without_receipts_it_sends_again_with_growing_pauses(bench: Bench) -> None:
    bench.put(1)
    bench.ingest("i1")
    times = []
    for second in range(200):
        bench.ingest("i1")
        if bench.forwarder.pump():
            times.append(second)
        bench.clock.advance(1)
    assert times[0] == 0
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses[0] == RESEND_FIRST_S + 1
    assert pauses == sorted(pauses)
    assert len(times) < 9


def test_a_reconnect_sends_what_has_no_receipt_again(bench: Bench) -> None:
    bench.ingest("i1")
    rows = bench.put(2)
    bench.forwarder.fresh(rows)
    bench.receipt(rows[:1])
    bench.forwarder.reconnected()
    bench.forwarder.pump()
    assert bench.wire.seqs() == [1, 2, 2]


def test_a_reading_that_could_not_be_published_is_backlog(bench: Bench) -> None:
    bench.ingest("i1")
    bench.wire.up = False
    bench.forwarder.fresh(bench.put(1))
    bench.forwarder.pump()
    bench.wire.up = True
    bench.forwarder.pump()
    assert bench.wire.seqs() == [1]


def test_receipts_wait_for_the_next_commit_and_go_with_it(bench: Bench) -> None:
    rows = bench.put(2)
    bench.forwarder.receipts(Receipts(1, "s1", 0, [Outcome(r.epoch, r.seq, "stored") for r in rows]))
    assert bench.outbox.counts() == (2, 0)
    before = bench.outbox.commits
    bench.forwarder.commit([Row(*bench.outbox.stamp(), "a/b/obs", b'{"seq":3}', 0)])
    assert (bench.outbox.counts(), bench.outbox.commits - before) == ((1, 0), 1)
    assert bench.wire.seqs() == [3]
    assert not bench.forwarder.unsettled


def test_a_foreign_store_cannot_make_us_forget(bench: Bench) -> None:
    bench.ingest("i1")
    rows = bench.put(2)
    bench.receipt(rows[:1], store="s1")
    bench.receipt(rows[1:], store="another")
    assert bench.outbox.counts() == (1, 0)
    assert bench.forwarder.foreign_receipts == 1


def test_the_pin_outlives_a_restart(bench: Bench) -> None:
    bench.receipt(bench.put(1), store="s1")
    again = Forwarder(bench.outbox, bench.wire.publish, bench.clock)
    assert again.store_id == "s1"


def test_one_held_or_refused_row_never_blocks_the_rest(bench: Bench) -> None:
    rows = bench.put(3)
    bench.ingest("i1")
    bench.forwarder.pump()
    bench.receipt(rows[:1], "hold")
    bench.receipt(rows[1:2], "refused")
    bench.receipt(rows[2:], "stored")
    assert [r.seq for r in bench.outbox.after(0, 9)] == [1]
    bench.forwarder.reconnected()
    bench.forwarder.pump()
    assert bench.wire.seqs() == [1, 2, 3], "held: not again before its time"
    bench.ingest("i2")
    bench.forwarder.pump()
    assert bench.wire.seqs() == [1, 2, 3, 1], "a new ingest may know the version"


def test_one_row_that_never_gets_a_receipt_does_not_drag_the_others_along(bench: Bench) -> None:
    bench.ingest("i1")
    stuck, *_ = bench.put(1)
    bench.forwarder.pump()
    for _ in range(300):
        rows = bench.put(1)
        bench.forwarder.fresh(rows)
        bench.receipt(rows)
        bench.clock.advance(1)
        bench.ingest("i1")
        bench.forwarder.pump()
    seqs = bench.wire.seqs()
    assert [seqs.count(seq) for seq in range(2, 302)] == [1] * 300
    assert 3 <= seqs.count(stuck.seq) <= 9


def test_a_held_row_is_offered_again_when_its_time_is_over(bench: Bench) -> None:
    bench.ingest("i1")
    rows = bench.put(2)
    bench.forwarder.pump()
    bench.receipt(rows[:1], "hold")
    bench.receipt(rows[1:])
    assert bench.forwarder.held == 1
    bench.clock.advance(HOLD_S - 1)
    bench.ingest("i1")
    bench.forwarder.pump()
    assert bench.wire.seqs() == [1, 2]
    bench.clock.advance(2)
    bench.forwarder.pump()
    assert bench.wire.seqs() == [1, 2, 1]


def test_a_receipt_that_was_long_on_its_way_does_not_make_our_clock_wrong(bench: Bench) -> None:
    for late_s in (0.01, 5.0, 0.02):
        now = bench.clock.now() - round(late_s * 1e9)
        bench.forwarder.receipts(Receipts(1, "s1", now, []))
    assert bench.forwarder.clock_off_ns == 10_000_000


def test_a_clock_that_is_off_is_known(bench: Bench) -> None:
    for _ in range(25):
        bench.forwarder.receipts(Receipts(1, "s1", bench.clock.now() + 3_000_000_000, []))
    assert bench.forwarder.clock_off_ns == -3_000_000_000


def test_receipts_free_a_full_outbox_though_the_row_that_came_with_them_finds_no_room(small: Bench) -> None:
    bench = small
    rows = [Row(*bench.outbox.stamp(), "a/b/obs", bytes(3500), 0) for _ in range(40)]
    bench.outbox.put(rows)
    bench.forwarder.receipts(Receipts(1, "s1", 0, [Outcome(rows[0].epoch, rows[0].seq, "stored")]))
    with pytest.raises(OutboxFull):
        bench.forwarder.commit([Row(*bench.outbox.stamp(), "a/b/obs", bytes(90_000), 0)])
    assert bench.outbox.counts() == (39, 0)


def test_rows_that_aged_out_are_not_asked_for_again(small: Bench) -> None:
    bench = small
    bench.ingest("i1")
    for _ in range(100):
        bench.forwarder.commit([Row(*bench.outbox.stamp(), "a/b/strip", bytes(3500), 0)])
    waiting, _ = bench.outbox.counts()
    assert waiting < 60
    assert len(bench.forwarder._sent) == waiting, "else the window fills with rows that are no more"


def test_a_store_that_is_down_for_hours_costs_no_memory(bench: Bench) -> None:
    bench.ingest("i1")
    for _ in range(20):
        bench.forwarder.fresh(bench.put(200))
    assert len(bench.wire.seqs()) == 4000, "each is shown, once"
    assert len(bench.forwarder._sent) == WINDOW
    bench.forwarder.pump()
    assert len(bench.wire.seqs()) == 4000
    stored: set[int] = set()
    for _ in range(10):
        bench.clock.advance(7)
        bench.ingest("i1")
        bench.forwarder.pump()
        bench.receipt(rows := bench.outbox.after(0, WINDOW))
        stored |= {row.seq for row in rows}
    assert stored == set(range(1, 4001))
    assert max(bench.wire.seqs().count(seq) for seq in (1, 1000, 1001, 2500, 4000)) == 2


def test_the_backlog_of_many_devices_goes_in_packs_each_in_its_order(bench: Bench) -> None:
    bench.put(500, devices=32)
    bench.ingest("i1")
    bench.forwarder.pump()
    assert len(bench.wire.sent) == 32
    for _, payload in bench.wire.sent:
        seqs = [row["seq"] for row in msgspec.json.decode(payload)]
        assert seqs == sorted(seqs)
    assert sorted(bench.wire.seqs()) == list(range(1, 501))


def test_an_ingest_that_says_no_more_is_sent_no_copies(bench: Bench) -> None:
    """After a power cut the broker is back before ingest, with its last word: online."""
    bench.put(20)
    bench.ingest("i1", retained=True)
    for _ in range(400):
        bench.forwarder.pump()
        bench.clock.advance(1)
    assert not bench.forwarder.ingest_online
    sent = len(bench.wire.seqs())
    assert sent <= 20 * 4
    bench.ingest("i1")
    bench.forwarder.pump()
    assert len(bench.wire.seqs()) == sent + 20, "the same one is heard again"
    assert SILENT_S > 3 * 10, "a beat may be late, and one may be lost"


def test_the_state_of_a_foreign_ingest_is_neither_a_birth_nor_an_end(bench: Bench) -> None:
    bench.ingest("i1")
    rows = bench.put(2)
    bench.forwarder.fresh(rows)
    bench.receipt(rows[:1])
    for _ in range(5):
        bench.ingest("x", store="another")
        bench.ingest("i1")
        bench.forwarder.pump()
    assert bench.wire.seqs() == [1, 2]
    bench.ingest("x", store="another", online=False)
    assert bench.forwarder.ingest_online


def test_the_late_will_of_an_ingest_that_was_replaced_ends_nothing(bench: Bench) -> None:
    bench.ingest("i1")
    bench.ingest("i2")
    bench.ingest("i1", online=False)
    assert bench.forwarder.ingest_online
    bench.ingest("i3", online=False, retained=True)
    assert not bench.forwarder.ingest_online, "what the broker kept is the newest there is"


def test_a_clock_that_is_off_is_known_before_the_first_receipt(bench: Bench) -> None:
    bench.forwarder.ingest_status(IngestStatus(1, "i1", True, 0))
    assert bench.forwarder.clock_off_ns is None, "one that does not tell its time"
    bench.forwarder.ingest_status(IngestStatus(1, "i1", True, 0, now=bench.clock.now() - 30 * NS), retained=True)
    assert bench.forwarder.clock_off_ns is None, "30 s off, or 30 s old"
    bench.forwarder.ingest_status(IngestStatus(1, "i1", True, 0, now=bench.clock.now() + 5 * NS), retained=True)
    assert bench.forwarder.clock_off_ns == -5 * NS, "no message comes from the future"
    bench.forwarder.ingest_status(IngestStatus(1, "i1", True, 0, now=bench.clock.now() + 60 * NS))
    assert bench.forwarder.clock_off_ns == -60 * NS


def test_our_own_clock_being_set_is_known_at_once(bench: Bench) -> None:
    for _ in range(CLOCK_SAMPLES):
        bench.ingest("i1")
    bench.clock._now += 3600 * NS
    assert bench.forwarder.clock_off_ns == 3600 * NS
    bench.clock._now -= 3600 * NS
    assert bench.forwarder.clock_off_ns == 0
