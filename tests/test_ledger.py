"""The ledger keeps its word over a crash, and is told from other files."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ingest.store.contract import StripTail
from ingest.store.ledger import FIND, Kept, Ledger
from vitals.errors import StoreError

KEPT = Kept("lane", 100, 90, "4", "digest", False)


@pytest.fixture
def ledger(tmp_path: Path):
    opened = Ledger(tmp_path / "state.db")
    yield opened
    opened.close()


def test_a_promise_is_there_after_reopening_and_is_not_yet_kept(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "state.db")) as ledger, ledger.transaction(durable=True):
        ledger.promise("a", KEPT)
    with closing(Ledger(tmp_path / "state.db")) as ledger:
        assert ledger.find(["a", "b"]) == {"a": KEPT}
        assert ledger.recent_ids(9) == []
        with ledger.transaction(durable=False):
            ledger.keep(["a"])
        assert ledger.find(["a"]) == {"a": KEPT._replace(stored=True)}
        assert ledger.recent_ids(9) == ["a"]


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.transaction(durable=True):
        ledger.promise("a", KEPT)
        raise RuntimeError
    assert ledger.find(["a"]) == {}


def test_no_two_readings_of_a_lane_have_one_time(ledger: Ledger) -> None:
    with ledger.transaction(durable=True):
        times = [ledger.promise(key, KEPT).ts for key in ("a", "b", "c")]
        assert ledger.promise("d", KEPT._replace(lane="other")).ts == 100
    assert times == [100, 101, 102]


def test_a_mark_never_goes_back(ledger: Ledger) -> None:
    assert ledger.mark("lane") == -1
    with ledger.transaction(durable=True):
        ledger.raise_marks({"lane": 7})
        ledger.raise_marks({"lane": 5, "other": 3})
    assert (ledger.mark("lane"), ledger.mark("other")) == (7, 3)


def test_numbers_are_given_once(ledger: Ledger) -> None:
    with ledger.transaction(durable=True):
        assert [ledger.numbers(3), ledger.numbers(0), ledger.numbers(2)] == [1, 4, 4]
        ledger.skip_numbers(100)
        ledger.skip_numbers(50)
        assert ledger.numbers(1) == 101


def test_the_tail_is_of_the_newest_strip(ledger: Ledger) -> None:
    newest = StripTail("g", "d", "4", "ekg", "s2", 250, 30)
    with ledger.transaction(durable=True):
        ledger.note_tail(newest, 20)
        ledger.note_tail(StripTail("g", "d", "5", "ekg", "s1", 999, 20), 10)
    assert ledger.tails() == [newest]


def _text(path: Path) -> None:
    path.write_text("this is no database, and long enough to be seen as none" * 20)


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")


def _newer(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("spoil", [_text, _foreign, _newer])
def test_what_is_no_ledger_of_ours_is_not_touched(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "state.db"
    spoil(path)
    before = path.read_bytes()
    for _ in range(2):  # and the lock is given back each time
        with pytest.raises(StoreError, match="cannot be used") as caught:
            Ledger(path)
    assert "move the file away" in caught.value.do.lower()
    assert path.read_bytes() == before


def test_one_ingest_for_one_ledger(ledger: Ledger) -> None:
    with pytest.raises(StoreError, match="in use") as caught:
        Ledger(ledger.path)
    assert "ingest.state" in caught.value.do


def test_many_readings_take_several_statements_and_none_is_left_out(ledger: Ledger) -> None:
    keys = [f"{number:032x}" for number in range(2 * FIND + 1)]
    ledger.promise_all([(key, Kept("lane", at, at, "4", "same", False)) for at, key in enumerate(keys)])
    ledger.keep(keys)
    assert [found.stored for found in ledger.find(keys).values()] == [1] * len(keys)
    assert ledger.recent_ids(9999) == keys
