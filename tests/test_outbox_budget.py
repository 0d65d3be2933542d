"""The outbox's disk budget: what goes first, that it is accounted for, and what may never go."""

from pathlib import Path

import pytest

from tests.ingest_making import observation
from vitals.messages import Outcome, encode
from vitals.outbox import AgedOut, Outbox, OutboxFull, Row

MB = 1_000_000
BUDGET = 2 * MB


def put(outbox: Outbox, leaf: str, count: int) -> list[Row]:
    """Rows of about 1.4 kB."""
    rows = []
    for _ in range(count):
        epoch, seq = outbox.stamp()
        rows.append(Row(epoch, seq, f"v/up/g/1/d/{leaf}", bytes(1400), 0))
    outbox.put(rows)
    return rows


def leaves(outbox: Outbox) -> list[str]:
    return [row.topic.rpartition("/")[2] for row in outbox.after(0, 100_000)]


@pytest.fixture
def outbox(tmp_path: Path):  # type: ignore[no-untyped-def]
    outbox = Outbox(tmp_path / "o.db", max_bytes=BUDGET)
    yield outbox
    outbox.close()


def test_the_oldest_strips_make_room_and_no_reading_does(outbox: Outbox) -> None:
    gone: list[Row] = []
    readings, strips = [], []

    def account(aged: AgedOut) -> list[Row]:
        gone.extend(aged.strips)
        return []

    outbox.account = account
    for _ in range(100):
        readings += put(outbox, "obs", 2)
        epoch, seq = outbox.stamp()
        strips += [Row(epoch, seq, "v/up/g/1/d/strip", bytes(30_000), 0)]
        outbox.put(strips[-1:])
        assert outbox.used() <= BUDGET
    assert gone == strips[: len(gone)], "oldest first"
    assert 30 < len(gone) < 70
    kept = outbox.after(0, 1000)
    assert [row for row in kept if row.topic.endswith("obs")] == readings
    assert [row for row in kept if row.topic.endswith("strip")] == strips[len(gone) :]


def test_a_full_outbox_makes_room_for_a_while_and_not_for_a_row(outbox: Outbox) -> None:
    """Otherwise each second would age strips out, and each would be an event that needs room itself."""
    aged = [bool(outbox.put([Row(*outbox.stamp(), "a/strip", bytes(6000), 0)]).strips) for _ in range(700)]
    assert 3 < sum(aged) < 200


def test_what_ages_out_is_accounted_for_in_the_same_transaction(outbox: Outbox) -> None:
    seen: list[AgedOut] = []

    def account(aged: AgedOut) -> list[Row]:
        seen.append(aged)
        return [Row(*outbox.stamp(), "v/up/g/1/d/event", b"said", 0)]

    outbox.account = account
    while not seen:
        put(outbox, "strip", 50)
    assert [row.payload for row in outbox.after(0, 100_000) if row.topic.endswith("event")] == [b"said"]

    def failing(aged: AgedOut) -> list[Row]:
        raise RuntimeError

    outbox.account = failing
    before = outbox.counts()
    with pytest.raises(RuntimeError):
        while True:
            before = outbox.counts()
            put(outbox, "strip", 50)
    assert outbox.counts() == before, "not counted, then not gone"


def test_refused_rows_go_after_strips_then_events_then_numbers_and_readings_are_turned_away(outbox: Outbox) -> None:
    refused = put(outbox, "obs", 300)
    outbox.settle([Outcome(row.epoch, row.seq, "refused", "why") for row in refused])
    put(outbox, "event", 200)
    monitor = encode(observation(kind="monitor")) + bytes(1000)
    outbox.put([Row(*outbox.stamp(), "v/up/g/1/d/obs", monitor, 0) for _ in range(200)])
    put(outbox, "strip", 200)
    order: list[str] = []

    def account(aged: AgedOut) -> list[Row]:
        order.extend(kind for kind, rows in aged._asdict().items() if rows and kind not in order)
        return []

    outbox.account = account
    kept = 0
    with pytest.raises(OutboxFull, match="2 MB"):
        while True:
            put(outbox, "obs", 20)
            kept += 20
    assert order == ["strips", "refused", "events", "numbers"]
    assert leaves(outbox) == ["obs"] * kept
    assert outbox.counts() == (kept, 0)
    assert outbox.used() <= BUDGET


def test_receipts_make_a_full_outbox_take_readings_again(outbox: Outbox) -> None:
    rows: list[Row] = []
    with pytest.raises(OutboxFull):
        while True:
            rows += put(outbox, "obs", 20)
    outbox.settle([Outcome(row.epoch, row.seq, "stored") for row in rows[:200]])
    assert len(put(outbox, "obs", 20)) == 20


def test_pages_in_use_count_and_not_the_size_of_the_file(outbox: Outbox) -> None:
    for _ in range(3):
        rows = put(outbox, "strip", 900)
        assert outbox.used() > BUDGET * 0.7
        outbox.settle([Outcome(row.epoch, row.seq, "stored") for row in rows])
        assert outbox.used() < BUDGET * 0.1
    rows = [Row(*outbox.stamp(), "a/strip", bytes(1400), 0) for _ in range(900)]
    assert outbox.put(rows).strips == [], "the pages of rows that went are used again"
    assert outbox.path.stat().st_size < BUDGET * 1.2


def test_space_is_given_back_when_a_backlog_is_over(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    rows = [Row(*outbox.stamp(), "a/strip", bytes(20_000), 0) for _ in range(1000)]
    outbox.put(rows)
    assert not outbox.give_back()
    outbox.settle([Outcome(row.epoch, row.seq, "stored") for row in rows[:-3]])
    assert outbox.give_back()
    assert outbox.path.stat().st_size < MB
    assert outbox.after(0, 9) == rows[-3:]
    assert outbox.stamp()[1] == 1001
    assert not outbox.give_back()
    outbox.close()


def test_without_a_budget_nothing_ages_out(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    assert outbox.put([Row(*outbox.stamp(), "a/strip", bytes(50_000), 0) for _ in range(100)]).strips == []
    assert outbox.counts() == (100, 0)
    outbox.close()
