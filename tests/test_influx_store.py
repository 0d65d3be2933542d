"""The InfluxDB store where it differs from a file: the network, a server that refuses, merging, and two memories.

What every store must do is in test_store_contract.py. All of this runs against the real engine.
"""

import contextlib
import http.server
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ingest.store import influx_look, influx_store, points
from ingest.store.contract import Address, ObservationRow, Row, RowOutcome, StoreDown
from ingest.store.influx import Bucket, Place, Refused
from ingest.store.influx_reader import InfluxReader
from ingest.store.influx_store import InfluxStore
from ingest.store.influxql import Record
from ingest.store.ledger import Ledger
from tests.influx_making import NEEDS_INFLUX, InfluxStores, open_influx
from tests.ingest_making import AT, T0, bp, evaluation_row, event_row, observation_row, q, strip_row
from tests.parts import Influx, free_port, needs
from vitals.clock import NS, ManualClock
from vitals.errors import StoreError
from vitals.metrics import METRICS
from vitals.model import Validity

pytestmark = NEEDS_INFLUX
ROOT = Path(__file__).resolve().parents[1]
MIXED: list[Row] = [observation_row(), strip_row(), event_row(), evaluation_row()]


def words(outcomes: Sequence[RowOutcome]) -> list[str]:
    return [outcome.outcome for outcome in outcomes]


@pytest.fixture
def stores(influx: Influx) -> InfluxStores:
    return InfluxStores(influx)


@pytest.fixture
def store(stores: InfluxStores, tmp_path: Path) -> Iterator[InfluxStore]:
    with closing(stores(tmp_path)) as opened:
        yield opened


def database(stores: InfluxStores, folder: Path) -> str:
    return stores.place(folder).bucket


def judged(row: ObservationRow, value: float = 118.0, **more: object) -> Row:
    values = {"bp_sys": (value, "normal")}
    return evaluation_row(row.message.id, values, t=row.message.t_determined, of=row.message, **more)


# ---- what the server refuses -----------------------------------------------------------------------------------------


def test_one_row_of_a_wrong_type_does_not_cost_the_others(
    influx: Influx, store: InfluxStore, stores: InfluxStores, tmp_path: Path
) -> None:
    """Somebody else wrote a text where we write a number: those readings are refused, with the server's reason."""
    tags = "device=cuff-1,gateway=gateway-1,room=4"
    influx.put(database(stores, tmp_path), f'observation,{tags} temp="warm" {T0}')
    bad = {3, 4, 20}
    readings = [
        observation_row(f"{n:032x}", {"temp": q(37.0, "Cel")} if n in bad else bp(118, 76), t=T0 + n * NS)
        for n in range(24)
    ]
    outcomes = store.append([*readings, *map(judged, readings)])
    assert [n for n in range(24) if outcomes[n].outcome == "refused"] == sorted(bad)
    assert "field type conflict" in outcomes[3].reason and '"temp"' in outcomes[3].reason
    assert words(outcomes[24:]) == ["duplicate" if n in bad else "stored" for n in range(24)]
    assert store.counts()["evaluation"] == 21
    assert len(store.history("4", "bp_sys", 0)) == 21
    assert set(store.recent_ids(99)) == {f"{n:032x}" for n in range(24) if n not in bad}


def test_an_evaluation_whose_values_are_refused_is_not_kept_either(
    influx: Influx, store: InfluxStore, stores: InfluxStores, tmp_path: Path
) -> None:
    influx.put(database(stores, tmp_path), f'value value="high" {T0}')
    first, second = observation_row("1" * 32), observation_row("2" * 32)
    rows = [first, second, judged(first), evaluation_row("2" * 32, {"bp_sys": (None, "")}, of=second.message)]
    outcomes = store.append(rows)
    assert words(outcomes) == ["stored", "stored", "refused", "stored"]
    assert "field type conflict" in outcomes[2].reason
    assert [m.id for m in store.latest("4")] == ["2" * 32]
    assert store.counts()["evaluation"] == 1


def test_a_reading_older_than_the_bucket_keeps_is_refused_and_may_come_again(influx: Influx, tmp_path: Path) -> None:
    place = Place(influx.url, influx.database(kept="1d"))
    now = time.time_ns()
    old, fresh = observation_row("1" * 32), observation_row("2" * 32, t=now)
    again, other = observation_row("1" * 32, t=now), observation_row("1" * 32, bp(200, 99), t=now)
    with closing(open_influx(tmp_path, place)) as store:
        outcomes = store.append([old, fresh, judged(old), judged(fresh)])
        assert words(outcomes) == ["refused", "stored", "duplicate", "stored"]
        assert "retention policy" in outcomes[0].reason
        assert store.counts() == {"observation": 1, "strip": 0, "event": 0, "evaluation": 1}
        # Refused is not stored: what was a copy of it, or differs from it, is decided by itself.
        assert words(store.append([old, again, judged(again), other])) == ["refused", "stored", "stored", "refused"]
        assert words(store.append([old, again])) == ["duplicate", "duplicate"]
        assert store.store_id  # its point is kept, however short the bucket's memory


def test_many_copies_of_a_refused_reading_are_each_refused(influx: Influx, tmp_path: Path) -> None:
    place = Place(influx.url, influx.database(kept="1d"))
    with closing(open_influx(tmp_path, place)) as store:
        assert set(words(store.append([observation_row()] * 2000))) == {"refused"}


class Counted:
    """A bucket whose requests are counted; each takes `seconds` of a clock that only tests move."""

    def __init__(self, store: InfluxStore, seconds: float = 0.0) -> None:
        self.writes = self.queries = 0
        self.clock = ManualClock()
        self._seconds = seconds
        self._write, self._query = store._bucket.write, store._bucket.query
        store._clock = self.clock
        store._bucket.write, store._bucket.query = self.write, self.query  # type: ignore[method-assign]

    def write(self, lines: Sequence[str]) -> None:
        self.writes += 1
        self.clock.advance(self._seconds)
        self._write(lines)

    def query(self, statement: str) -> list[Record]:
        self.queries += 1
        self.clock.advance(self._seconds)
        return self._query(statement)


def test_many_refused_rows_are_found_in_bounded_time_and_none_twice(
    influx: Influx, store: InfluxStore, stores: InfluxStores, tmp_path: Path
) -> None:
    """At half a second a request fifty bad rows take over 25 s: in several tries, each going on from the last."""
    influx.put(database(stores, tmp_path), f'observation temp="warm" {T0}')
    rows = [
        observation_row(f"{n:032x}", {"temp": q(37.0, "Cel")} if n < 50 else bp(118, 76), t=T0 + n * NS)
        for n in range(100)
    ]
    counted = Counted(store, 0.5)
    for tries in range(1, 9):
        began = counted.clock.monotonic()
        try:
            outcomes = store.append(rows)
            break
        except StoreDown as down:
            assert "one batch took over" in down.reason
            assert (counted.clock.monotonic() - began) / NS <= 8.0 * 2 ** (tries - 1) + 1.0
    assert tries > 1
    assert words(outcomes) == ["refused"] * 50 + ["stored"] * 50
    assert counted.writes < 130, "rows that were found to be bad were tried again"
    assert store._bad == {}
    store.append([observation_row("e" * 32)])  # nothing of it is left: the next one has the whole time
    assert store._allowed_s == influx_store.APPEND_S


def test_a_refusal_does_not_quote_the_reading(tmp_path: Path) -> None:
    """A gateway keeps the reason, and it may reach the board."""
    row = observation_row("7" * 32, method="told-nobody")
    series = points.draft(row).line.partition(" ")[0]
    for words_, kept in (
        (f"unable to parse '{series} temp=1': bad number", "unable to parse"),
        (f'bad line: "{series} temp=1"', "bad line:"),
        (f"'{series} temp=1' is bad", "no words but the line's"),
        ("x" * 9000, "x" * 200),
    ):
        body = msgspec.json.encode({"code": "invalid", "message": words_}).decode()
        with answering(400, body) as (url, _), closing(Bucket(Place(url, "b"))) as bucket:
            (tmp_path / kept[:5]).mkdir()
            with closing(InfluxStore(bucket, Ledger(tmp_path / kept[:5] / "state.db"))) as store:
                store._known, store._until = True, 2**63
                store._look = lambda drafts: {}  # type: ignore[method-assign]
                (outcome,) = store._append([row])
        assert outcome.reason.startswith(f"refused by the store: {kept}") and len(outcome.reason) <= 256
        assert outcome.kind == "refused by the store"
        assert "gateway-1" not in outcome.reason


# ---- looking for what is there ---------------------------------------------------------------------------------------


def test_a_meter_that_is_read_again_costs_few_queries(store: InfluxStore) -> None:
    """Its memory goes back for months; each record is a time of its own."""
    readings = [observation_row(f"{n:032x}", {"glu": q(110.0, "mg/dL")}, t=T0 - n * 18_000 * NS) for n in range(300)]
    rows = [*readings, *map(judged, readings)]
    assert set(words(store.append(rows))) == {"stored"}
    counted = Counted(store)
    assert set(words(store.append(rows))) == {"duplicate"}
    assert counted.queries <= 3


@pytest.mark.parametrize("page", [3, 5, 1000])
def test_rows_far_apart_are_found_page_by_page(store: InfluxStore, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(influx_look, "LOOK_PAGE", page)
    monkeypatch.setattr(points, "low_digits", lambda key: 7)  # so that some are moved on, and found there
    times = [T0 + offset * NS for offset in (0, 0, 0, 1, 2, 50, 3600, 3600, 86_400, 20 * 86_400, 90 * 86_400)]
    events: list[Row] = [event_row(n, "code", at) for n, at in enumerate(times)]
    strips: list[Row] = [strip_row(n * 250, t0=at) for n, at in enumerate(times)]
    between: list[Row] = [event_row(100 + n, "code", T0 + (100 + n) * NS) for n in range(20)]
    for part in (events[:1], events[1:2], events[2:], between, strips[:1], strips[1:2], strips[2:]):
        assert set(words(store.append(part))) == {"stored"}
    assert set(words(store.append([*events, *strips, *between]))) == {"duplicate"}
    assert words(store.append([events[0], events[-2]])) == ["duplicate"] * 2
    new = [event_row(200 + n, "code", at) for n, at in enumerate(times)]
    assert words(store.append([*new, *events])) == ["stored"] * len(new) + ["duplicate"] * len(events)


def test_what_no_point_can_hold_is_refused_here(store: InfluxStore) -> None:
    big = observation_row("2" * 32, method="x" * 70_000)
    endless = observation_row("3" * 32, {"temp": q(float("inf"), "Cel")})
    long_strip = strip_row(samples=np.zeros(30_000), rate=1000.0)
    newline = observation_row("4" * 32, at=Address("gateway-1", "4", "a\nb"))
    early, late = observation_row("5" * 32, t=-1), observation_row("6" * 32, t=7_258_118_400 * NS)
    rows = [observation_row(), big, endless, long_strip, newline, early, late]
    outcomes = store.append(rows)
    assert words(outcomes) == ["stored"] + ["refused"] * 6
    for outcome, reason in zip(outcomes[1:], ["65535", "finite", "65535", "a\\nb", "1970", "2200"], strict=True):
        assert reason in outcome.reason


def test_a_large_batch_goes_in_parts(store: InfluxStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influx_store, "WRITE_BYTES", 3000)
    sizes: list[int] = []
    write = store._bucket.write
    monkeypatch.setattr(store._bucket, "write", lambda lines: (sizes.append(len("\n".join(lines))), write(lines)))
    rows = [observation_row(f"{n:032x}", t=T0 + n) for n in range(40)]
    assert set(words(store.append(rows))) == {"stored"}
    assert len(sizes) > 5 and max(sizes) <= 3000 + 40
    assert store.counts()["observation"] == 40


# ---- merging ---------------------------------------------------------------------------------------------------------


def test_two_rows_of_one_series_and_time_are_not_merged(
    stores: InfluxStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every identity giving the same low digits, all rows of a millisecond want one time."""
    monkeypatch.setattr(points, "low_digits", lambda key: 7)
    readings = [observation_row(f"{n:032x}", bp(100.0 + n, 70.0), t=T0 + n) for n in range(5)]
    rows: list[Row] = [
        *readings, *(judged(row, 100.0 + n) for n, row in enumerate(readings)), *(event_row(n) for n in range(5)),
        *(strip_row(n * 250, t0=T0 + n) for n in range(5)),
    ]  # fmt: skip
    for expected in ("stored", "duplicate"):
        with closing(stores(tmp_path)) as store:
            first = [word for part in (rows[:5], rows[5::2], rows[6::2]) for word in words(store.append(part))]
            assert first == [expected] * 20
            assert words(store.append(rows)) == ["duplicate"] * 20
            assert store.counts() == {"observation": 5, "strip": 5, "event": 5, "evaluation": 5}
            assert [p.value for p in store.history("4", "bp_sys", 0)] == [100.0, 101.0, 102.0, 103.0, 104.0]
            assert [m.first_index for m in store.strip("gateway-1", "cuff-1", "ekg", T0, T0 + NS)] == [
                0, 250, 500, 750, 1000,
            ]  # fmt: skip
    (tmp_path / "state.db").rename(tmp_path / "lost.db")
    with closing(stores(tmp_path)) as store:
        assert words(store.append(rows)) == ["duplicate"] * 20


def test_the_time_of_a_point_does_not_depend_on_what_came_before(
    influx: Influx, stores: InfluxStores, tmp_path: Path
) -> None:
    """Two buckets filled in another order hold the same points, in the millisecond of the reading."""
    readings = [observation_row(f"{n:032x}", t=T0 + 5_000_000) for n in range(6)]
    times = []
    for name, rows in (("one", readings), ("other", readings[::-1])):
        (tmp_path / name).mkdir()
        with closing(stores(tmp_path / name)) as store:
            store.append(rows)
        answer = influx.ask("SELECT id FROM observation", database(stores, tmp_path / name))
        times.append(sorted(msgspec.json.decode(answer)["results"][0]["series"][0]["values"]))
    assert times[0] == times[1]
    assert {time // 1_000_000 for time, _ in times[0]} == {T0 // 1_000_000 + 5}
    assert len({time for time, _ in times[0]}) == 6


def test_nobody_can_push_rows_over_those_that_were_not_looked_for(
    store: InfluxStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Identities made to meet on one nanosecond: what would lie beyond our look is refused, and nothing is lost."""
    monkeypatch.setattr(points, "low_digits", lambda key: 7)
    outcomes = [outcome for n in range(20) for outcome in store.append([event_row(n)])]
    assert words(outcomes) == ["stored"] * 17 + ["refused"] * 3
    assert "one nanosecond" in outcomes[-1].reason
    assert store.counts()["event"] == 17
    assert words(store.append([event_row(n) for n in range(17)])) == ["duplicate"] * 17


# ---- the server is away ----------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_is_store_down_until_it_is_back(influx: Influx, store: InfluxStore) -> None:
    store.append(MIXED)
    influx.kill_engine()
    rows = [observation_row("b" * 32), strip_row(250), event_row(2)]
    for _ in range(2):
        with pytest.raises(StoreDown, match="InfluxDB"):
            store.append(rows)
    with pytest.raises(StoreDown):
        store.latest("4")
    influx.start_engine()
    assert words(store.append(rows)) == ["stored"] * 3
    assert words(store.append(MIXED)) == ["duplicate"] * 4
    assert store.counts() == {"observation": 2, "strip": 2, "event": 2, "evaluation": 1}


def test_nobody_listens(tmp_path: Path) -> None:
    """Ingest starts all the same: it knows what it had, and waits."""
    with closing(open_influx(tmp_path, Place(f"http://127.0.0.1:{free_port()}", "vitals"))) as store:
        assert (store.store_id, store.recent_ids(9), store.tails()) == ("", [], [])
        with pytest.raises(StoreDown, match=r"cannot be reached: .*refused") as caught:
            store.append(MIXED)
    assert "object at" not in caught.value.reason


def test_what_was_known_is_known_without_the_server(influx: Influx, stores: InfluxStores, tmp_path: Path) -> None:
    with closing(stores(tmp_path)) as store:
        store.append(MIXED)
        expected = (store.store_id, store.recent_ids(9), store.tails())
    influx.kill_engine()
    with closing(stores(tmp_path)) as store:
        assert (store.store_id, store.recent_ids(9), store.tails()) == expected
        assert all(expected)


@pytest.mark.parametrize("when", ["query", "write"])
def test_a_server_that_hangs_is_not_waited_for(influx: Influx, tmp_path: Path, when: str) -> None:
    place = Place(influx.url, influx.database())
    with closing(open_influx(tmp_path, place, timeout_s=0.4)) as store:
        store._known = when == "write"
        influx.freeze_engine()
        began = time.monotonic()
        with pytest.raises(StoreDown, match="does not answer in time"):
            store.append(MIXED)
        assert time.monotonic() - began < 2
        influx.thaw_engine()
        # The write that nobody waited for lands as well: it is the same points.
        assert "refused" not in words(store.append(MIXED))
        assert set(words(store.append(MIXED))) == {"duplicate"}
        assert store.counts() == {"observation": 1, "strip": 1, "event": 1, "evaluation": 1}


@pytest.mark.parametrize("field", [0, 1])
def test_a_point_that_is_just_being_written_is_waited_for(
    stores: InfluxStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: int
) -> None:
    """Not refused as another row's, and not written beside itself; but not waited for without end either."""

    def half(*arguments: Any) -> dict[int, tuple[Any, ...]]:  # as seen from outside: one field is not there yet
        return {
            t: tuple("" if n == field else v for n, v in enumerate(p)) for t, p in influx_look.look(*arguments).items()
        }

    with closing(stores(tmp_path)) as store:
        assert words(store.append(MIXED)) == ["stored"] * 4
        with monkeypatch.context() as patch:
            patch.setattr("ingest.store.influx_store.look", half)
            with pytest.raises(StoreDown, match="still writing"):
                store.append(MIXED)
        assert words(store.append(MIXED)) == ["duplicate"] * 4
        assert store.counts() == {"observation": 1, "strip": 1, "event": 1, "evaluation": 1}
        monkeypatch.setattr("ingest.store.influx_store.look", half)
        for _ in range(3):
            with pytest.raises(StoreDown, match="still writing"):
                store.append(MIXED)
        assert len(store.append(MIXED)) == 4


def test_the_token_is_checked_by_the_server_and_never_told(influx: Influx, tmp_path: Path) -> None:
    name = influx.database()
    with closing(open_influx(tmp_path, Place(influx.locked_url, name, token="s3cret-wr0ng"))) as store:
        with pytest.raises(StoreDown, match="refuses the token") as caught:
            store.append(MIXED)
        assert "s3cret" not in caught.value.reason + repr(caught.value)
    with closing(open_influx(tmp_path, Place(influx.locked_url, name, token="right"))) as store:
        assert words(store.append(MIXED)) == ["stored"] * 4


@pytest.mark.parametrize("token", ["s3cret\nline2", "s3cret\u2013x"])
@pytest.mark.parametrize("ask", [lambda bucket: bucket.query("x"), lambda bucket: bucket.write(["m f=1"])])
def test_a_token_that_cannot_be_sent_is_not_told_either(token: str, ask: Callable[[Bucket], object]) -> None:
    """http.client says what it was given."""
    place = Place("http://127.0.0.1:9", "b", token=token)
    with closing(Bucket(place)) as bucket, pytest.raises(StoreDown, match="cannot be sent") as caught:
        ask(bucket)
    assert "s3cret" not in caught.value.reason


def test_a_server_that_drips_is_not_waited_for() -> None:
    """Each byte comes in time; the whole answer would take 12 s."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
                    for _ in range(60):
                        connection.sendall(b" ")
                        time.sleep(0.2)

        thread = threading.Thread(target=drip)
        thread.start()
        place = Place(f"http://127.0.0.1:{listener.getsockname()[1]}", "b")
        with closing(Bucket(place, timeout_s=0.5)) as bucket:
            began = time.monotonic()
            with pytest.raises(StoreDown, match="does not answer in time"):
                bucket.query("x")
            assert time.monotonic() - began < 3
        thread.join(timeout=10)


class Delayed:
    """The `nth` write of a bucket is not answered, and lands when `land` is called."""

    def __init__(self, store: InfluxStore, nth: int) -> None:
        self._write, self._nth = store._bucket.write, nth
        self._kept: Sequence[str] = ()
        store._bucket.write = self  # type: ignore[method-assign]

    def __call__(self, lines: Sequence[str]) -> None:
        self._nth -= 1
        if self._nth == 0:
            self._kept = lines
            raise StoreDown("does not answer in time")
        self._write(lines)

    def land(self) -> None:
        assert self._kept
        self._write(self._kept)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_write_that_lands_late_hides_nothing(store: InfluxStore, nth: int) -> None:
    old, new = observation_row("1" * 32), observation_row("2" * 32, t=T0 + 60 * NS)
    store.append([old, judged(old)])
    delayed = Delayed(store, nth)
    batch = [new, judged(new, 210.0)]
    with pytest.raises(StoreDown):
        store.append(batch)
    assert "refused" not in words(store.append(batch))
    for _ in range(2):
        assert [m.values["bp_sys"].value for m in store.latest("4")] == [210.0]
        assert [p.value for p in store.history("4", "bp_sys", 0)] == [118.0, 210.0]
        delayed.land()


def test_a_write_that_lands_late_doubles_nothing(store: InfluxStore) -> None:
    """Meanwhile the same reading came with another time; both are written at the first one."""
    store.append([event_row()])
    delayed = Delayed(store, 1)
    first, second = observation_row(t=T0), observation_row(t=T0 + 5 * NS, seq=2)
    with pytest.raises(StoreDown):
        store.append([first])
    assert words(store.append([second, judged(second)])) == ["stored", "stored"]
    delayed.land()
    assert store.counts()["observation"] == 1
    assert [m.t for m in store.latest("4")] == [T0]
    assert words(store.append([first, second, judged(first)])) == ["duplicate"] * 3


def test_a_batch_that_failed_comes_to_the_same_when_it_is_repeated(store: InfluxStore) -> None:
    """With a reading in it twice, the second time judged in a later visit: that one is not kept beside the first."""
    first, second = observation_row(t=T0), observation_row(t=T0 + 900 * NS, seq=2)
    batch = [first, judged(first), second, judged(second, version=2)]
    Delayed(store, 2)
    with pytest.raises(StoreDown):
        store.append(batch)
    store._ledger._db.execute("UPDATE reading SET stored = 0")  # as when the power failed before the note was on disk
    assert words(store.append(batch)) == ["duplicate", "stored", "duplicate", "duplicate"]
    assert store.counts()["evaluation"] == 1


def test_a_strip_whose_answer_was_lost_is_where_its_signal_ends(store: InfluxStore) -> None:
    """Else a restarted ingest reports a gap where there is none."""
    store.append([strip_row(0)])
    write = store._bucket.write

    def lost(lines: Sequence[str]) -> None:
        write(lines)
        raise StoreDown("the answer was lost")

    store._bucket.write = lost  # type: ignore[method-assign]
    with pytest.raises(StoreDown):
        store.append([strip_row(250), strip_row(500)])
    store._bucket.write = write  # type: ignore[method-assign]
    assert words(store.append([strip_row(250), strip_row(500)])) == ["duplicate", "duplicate"]
    assert [tail.next_index for tail in store.tails()] == [750]
    store.append([strip_row(0)])
    assert [tail.next_index for tail in store.tails()] == [750]


def test_a_bucket_that_is_not_there_is_waited_for(influx: Influx, tmp_path: Path) -> None:
    with closing(open_influx(tmp_path, Place(influx.url, "later"))) as store:
        with pytest.raises(StoreDown, match="does not have the bucket 'later'"):
            store.append(MIXED)
        influx.ask("CREATE DATABASE later")
        assert words(store.append(MIXED)) == ["stored"] * 4


def test_a_policy_of_the_database_is_part_of_the_bucket(influx: Influx, tmp_path: Path) -> None:
    name = influx.database()
    influx.ask(f"CREATE RETENTION POLICY long ON {name} DURATION INF REPLICATION 1")
    with closing(open_influx(tmp_path, Place(influx.url, f"{name}/long"))) as store:
        store.append(MIXED)
        assert store.counts()["observation"] == 1
    assert "observation" not in influx.ask("SELECT * FROM autogen.observation", name)
    with (
        closing(open_influx(tmp_path, Place(influx.url, f"{name}/none"))) as store,
        pytest.raises(StoreDown, match="retention policy not found"),
    ):
        store.append(MIXED)


@pytest.mark.parametrize("gzip", [True, False])
def test_it_works_packed_and_plain(influx: Influx, tmp_path: Path, gzip: bool) -> None:
    stores = InfluxStores(influx, gzip=gzip)
    with closing(stores(tmp_path)) as store:
        assert words(store.append(MIXED)) == ["stored"] * 4
        assert store.latest("4") == [MIXED[3].message]
    with answering(204, "") as (url, seen), closing(Bucket(Place(url, "b", gzip=gzip))) as bucket:
        bucket.write(["m f=1"])
    assert seen[0].get("Content-Encoding", "identity") == ("gzip" if gzip else "identity")


# ---- answers that are not InfluxDB's ---------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: str, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives this answer to everything; the headers it was sent."""
    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST  # noqa: N815  the names are http.server's

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (400, '{"code":"invalid","message":"bad line"}', Refused, "bad line"),
        (422, '{"code":"unprocessable entity","message":"beyond retention"}', Refused, "beyond retention"),
        (400, '{"error":"parse error"}', Refused, "parse error"),
        (413, "<html>too large</html>", Refused, "too large"),
        # A proxy's page refuses nothing: every reading behind it would be thrown out for good.
        (400, "<html>The plain HTTP request was sent to HTTPS port</html>", StoreDown, "400"),
        (403, '{"code":"forbidden","message":"no write"}', StoreDown, "refuses the token"),
        (404, '{"code":"not found","message":"bucket \\"b\\" not found"}', StoreDown, "does not have the bucket 'b'"),
        (429, '{"code":"too many requests","message":"slow down"}', StoreDown, "429: slow down"),
        (500, "", StoreDown, "500"),
        (503, '{"code":"unavailable","message":"starting"}', StoreDown, "503: starting"),
        (301, "", StoreDown, "301"),
    ],
)
def test_only_influxdb_itself_can_refuse_a_row(status: int, body: str, kind: type[Exception], says: str) -> None:
    with answering(status, body) as (url, _), closing(Bucket(Place(url, "b"))) as bucket:
        with pytest.raises(kind, match=re.escape(says)):
            bucket.write(["m f=1 1"])
        with pytest.raises(StoreDown):
            bucket.query("SELECT 1")


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "{}", "", '{"results":[{"error":"shard not found"}]}'])
def test_a_server_that_says_yes_to_all_is_no_store(tmp_path: Path, body: str) -> None:
    with answering(200, body) as (url, _), closing(open_influx(tmp_path, Place(url, "b"))) as store:
        with pytest.raises(StoreDown):
            store.append(MIXED)
        assert store.recent_ids(9) == []


def test_written_here_and_read_from_there_is_no_store(influx: Influx, store: InfluxStore, tmp_path: Path) -> None:
    """As when InfluxDB 2 maps the database to another bucket: what is written is not found."""
    other = Bucket(Place(influx.url, influx.database()))
    (tmp_path / "other").mkdir()
    with closing(other), closing(open_influx(tmp_path / "other", Place(influx.url, influx.database()))) as split:
        split._ledger.adopt("x", settled=False)
        split._known = False
        split._bucket.query = other.query  # type: ignore[method-assign]
        with pytest.raises(StoreDown, match="is not found by /query"):
            split.append(MIXED)


@needs("openssl")
def test_a_server_must_be_the_one_it_says(tmp_path: Path) -> None:
    """With TLS the certificate is checked, against the file of the settings or against those the system knows."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=influx"
        " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out ca.pem"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    with answering(204, "", context) as (url, seen):
        with closing(Bucket(Place(url, "b", ca_file=str(tmp_path / "ca.pem")))) as bucket:
            bucket.write(["m f=1"])
        with closing(Bucket(Place(url, "b"))) as bucket, pytest.raises(StoreDown, match="certificate verify failed"):
            bucket.write(["m f=1"])
    assert len(seen) == 1


# ---- crashes ---------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """As if the process had ended here."""


def crash(*_: object) -> None:
    raise Crash


ONCE = {"observation": 1, "strip": 1, "event": 1, "evaluation": 1}
BATCH: list[Row] = [MIXED[0], MIXED[1], MIXED[2], judged(observation_row())]


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_crash_between_any_two_steps_is_mended_by_sending_again(
    stores: InfluxStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """After the promise, after the rows, after the values, after all of it but before anybody was told."""
    with closing(stores(tmp_path)) as store:
        write, left = store._bucket.write, iter(range(writes))

        def some(lines: Sequence[str]) -> None:
            write(lines) if next(left, None) is not None else crash()

        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(store._bucket, "write", some)
            store.append(BATCH)
            crash()
        half = store.counts()
        assert half == {name: int(writes > (2 if name == "evaluation" else 0)) for name in half}
        assert len(store.latest("4")) == (1 if writes == 3 else 0)
    with closing(stores(tmp_path)) as store:
        outcomes = words(store.append(BATCH))
        assert outcomes[0] == ("stored" if writes == 0 else "duplicate")
        assert "refused" not in outcomes
        assert store.counts() == ONCE
        assert [m.id for m in store.latest("4")] == ["a" * 32]
        assert store.recent_ids(9) == ["a" * 32]
        assert len(store.history("4", "bp_sys", 0)) == 1


def test_a_crash_after_the_write_and_before_the_note(
    stores: InfluxStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = observation_row(t=T0 + 900 * NS, seq=7, at=Address("gateway-1", "5", "cuff-1"))
    with closing(stores(tmp_path)) as store:
        monkeypatch.setattr(store, "_note", crash)
        with pytest.raises(Crash):
            store.append(BATCH)
        assert store.recent_ids(9) == []
    with closing(stores(tmp_path)) as store:
        # The first time has won, though nobody noted it: a second download with another skew adds nothing.
        assert words(store.append([later, judged(later, room="5")])) == ["duplicate", "duplicate"]
        assert words(store.append(BATCH))[0] == "duplicate"
        assert store.counts() == ONCE
        assert [m.t for m in store.latest("4")] == [T0]


def test_a_promise_that_was_not_kept_binds_only_to_its_time(
    stores: InfluxStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write may still be on its way; it must find its own point there, and not become a second one."""
    later = observation_row(t=T0 + 900 * NS, seq=7)
    with closing(stores(tmp_path)) as store:
        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(store._bucket, "write", crash)
            store.append([observation_row()])
        assert words(store.append([later, judged(later), observation_row()])) == ["stored", "stored", "duplicate"]
        assert [m.t for m in store.latest("4")] == [T0]
        assert store.counts()["observation"] == 1


WRITER = """
import sys
from pathlib import Path
from ingest.store.influx import Place
from tests.influx_making import open_influx
from tests.ingest_making import T0, evaluation_row, observation_row
store = open_influx(Path(sys.argv[1]), Place(sys.argv[2], sys.argv[3]))
number = 0
while True:
    rows = [observation_row(f"{number + i:032x}", t=T0 + number + i) for i in range(5)]
    rows += [evaluation_row(r.message.id, t=r.message.t_determined, of=r.message) for r in rows]
    assert "refused" not in {outcome.outcome for outcome in store.append(rows)}
    number += 5
    print(number, flush=True)
"""


def test_kill_9_at_any_moment_loses_and_doubles_nothing(influx: Influx, stores: InfluxStores, tmp_path: Path) -> None:
    name = database(stores, tmp_path)
    told = 0
    for rounds in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), influx.url, name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            seen = [int(writer.stdout.readline()) for _ in range(5 + rounds)]
            time.sleep(0.003 * rounds)
            os.kill(writer.pid, signal.SIGKILL)
            told = max(told, *seen, *(int(line) for line in writer.stdout.read().split("\n") if line.strip()))
    with closing(stores(tmp_path)) as store:
        counts = store.counts()
        assert counts["observation"] >= told and counts["evaluation"] >= told
        top = -(-max(counts.values()) // 5) * 5
        rows = [observation_row(f"{n:032x}", t=T0 + n) for n in range(top)]
        store.append([*rows, *(judged(row) for row in rows)])
        assert store.counts() == {"observation": top, "strip": 0, "event": 0, "evaluation": top}
        assert len(store.history("4", "bp_sys", 0)) == top


# ---- two memories ----------------------------------------------------------------------------------------------------


def test_a_lost_ledger_is_made_anew_from_the_bucket(
    stores: InfluxStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.store.influx_restore.PAGE", 7)
    readings = [observation_row(f"{n:032x}", bp(100.0 + n, 70.0), t=T0 + (n // 3) * NS) for n in range(20)]
    rows: list[Row] = [*readings, *map(judged, readings), *(strip_row(n * 250) for n in range(9)),
                       strip_row(0, stream="s9", t0=T0 + 99 * NS), *(event_row(n) for n in range(9))]  # fmt: skip
    with closing(stores(tmp_path)) as store:
        assert set(words(store.append(rows))) == {"stored"}
        name, tails, ids = store.store_id, store.tails(), set(store.recent_ids(99))
    (tmp_path / "state.db").rename(tmp_path / "lost.db")
    with closing(stores(tmp_path)) as store:
        assert (store.store_id, store.tails(), set(store.recent_ids(99))) == (name, tails, ids)
        assert set(words(store.append(rows))) == {"duplicate"}
        other = observation_row(f"{3:032x}", bp(99, 70), t=T0 + NS)
        assert store.append([other])[0].reason == "same id, other content"
        # A later judgement is still known to be the later one.
        newer = judged(readings[19], 151.0, version=2)
        assert words(store.append([newer, strip_row(250 * 9)])) == ["stored", "stored"]
        assert [m.values["bp_sys"].value for m in store.latest("4")] == [151.0]


def test_a_bucket_that_was_emptied_does_not_swallow_readings(
    influx: Influx, stores: InfluxStores, tmp_path: Path
) -> None:
    name = database(stores, tmp_path)
    with closing(stores(tmp_path)) as store:
        store.append(MIXED)
        influx.ask(f"DROP DATABASE {name}")
        with pytest.raises(StoreDown, match="does not have the bucket"):
            store.append([observation_row("b" * 32)])
        influx.ask(f"CREATE DATABASE {name}")
        for _ in range(2):
            with pytest.raises(StoreDown, match=r"is empty or names no store.*move the ledger away"):
                store.append([observation_row("b" * 32)])
        assert store.counts()["observation"] == 0
    (tmp_path / "state.db").rename(tmp_path / "lost.db")
    with closing(stores(tmp_path)) as store:
        assert words(store.append(MIXED)) == ["stored"] * 4


def test_a_bucket_that_is_emptied_between_two_appends_is_noticed(
    influx: Influx, store: InfluxStore, stores: InfluxStores, tmp_path: Path
) -> None:
    name = database(stores, tmp_path)
    store.append(MIXED)
    influx.ask(f"DROP DATABASE {name}")
    influx.ask(f"CREATE DATABASE {name}")
    with pytest.raises(StoreDown, match="is empty or names no store"):
        store.append([observation_row()])


def test_the_bucket_of_another_store_is_told_apart(stores: InfluxStores, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with closing(stores(tmp_path / "other")) as other:
        other.append([observation_row("b" * 32)])
        foreign = other.store_id
    with closing(stores(tmp_path)) as store:
        store.append(MIXED)
    stores.databases[tmp_path] = stores.databases[tmp_path / "other"]
    with closing(stores(tmp_path)) as store, pytest.raises(StoreDown, match=f"is store {foreign}"):
        store.append(MIXED)


def test_a_bucket_that_was_not_told_its_name_is_told_it_later(
    stores: InfluxStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is noted before the bucket is told; one that was given and not told is given again."""

    def down(*_: object) -> None:
        raise StoreDown("now")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "write", down)
        with closing(stores(tmp_path)) as store:
            name = store.store_id
    with closing(stores(tmp_path)) as store:
        assert words(store.append(MIXED)) == ["stored"] * 4
        assert store.store_id == name
    with closing(stores.reader(tmp_path)) as reader:
        assert reader.store_id == name


def test_a_damaged_ledger_is_said(stores: InfluxStores, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(stores(tmp_path)) as store:
        store.append([observation_row(f"{n:032x}", t=T0 + n) for n in range(300)])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(StoreError, match="cannot be used") as caught:
        stores(tmp_path)
    assert "Move the file away" in caught.value.do


# ---- the schema ------------------------------------------------------------------------------------------------------


def test_the_schema_is_as_documented(influx: Influx, store: InfluxStore, stores: InfluxStores, tmp_path: Path) -> None:
    """Tags, fields and types of the real engine against the tables of docs/store.md."""
    first = observation_row()
    warm = evaluation_row("b" * 32, {"temp": (37.0, "normal")})
    above = msgspec.structs.replace(warm.message.values["temp"], comparator=">")
    high = msgspec.structs.replace(warm, message=msgspec.structs.replace(warm.message, values={"temp": above}))
    store.append([*MIXED[1:3], first, judged(first), high])
    page = (ROOT / "docs/store.md").read_text(encoding="utf-8")
    name = database(stores, tmp_path)
    for measurement in ("observation", "strip", "event", "evaluation", "value", "store"):
        section = page.partition(f"### `{measurement}`")[2].partition("\n#")[0]
        rows = re.findall(r"^\| `([\w]+)` \| (tag|text|integer|float) \|", section, flags=re.MULTILINE)
        documented = {(column, kind) for column, kind in rows}
        tags = {(tag, "tag") for tag in found(influx, f'SHOW TAG KEYS FROM "{measurement}"', name)}
        kinds = found(influx, f'SHOW FIELD KEYS FROM "{measurement}"', name, 2)
        fields = {(f, k.replace("string", "text")) for f, k in zip(kinds[::2], kinds[1::2], strict=True)}
        assert tags | {field for field in fields if field[0] not in METRICS} == documented, measurement
        assert {kind for field, kind in fields if field in METRICS} <= {"float"}


def found(influx: Influx, statement: str, name: str, columns: int = 1) -> list[str]:
    series = msgspec.json.decode(influx.ask(statement, name))["results"][0].get("series", [])
    return [text for one in series for row in one["values"] for text in row[:columns]]


def test_no_metric_has_the_name_of_another_field() -> None:
    assert not set(METRICS) & {"id", "t", "kind", "message", "time", "device", "gateway", "room"}


def test_a_number_never_changes_its_type(influx: Influx, store: InfluxStore) -> None:
    """A whole number first, a broken one later: both are floats, or the second was refused."""
    rows = [observation_row(f"{n:032x}", {"temp": q(t, "Cel")}, t=T0 + n) for n, t in enumerate((37, 37.5, 38.0))]
    assert words(store.append(rows)) == ["stored"] * 3


def test_the_end_of_a_scale_is_no_number(
    influx: Influx, store: InfluxStore, stores: InfluxStores, tmp_path: Path
) -> None:
    """HI at 600 is not 600: it is drawn only by who asks for it, with its sign beside it."""
    high = q(600.0, "mg/dL", validity=Validity.ABOVE_RANGE, comparator=">")
    row = observation_row("1" * 32, {"glu": high, "temp": q(37.0, "Cel")})
    made = evaluation_row("1" * 32, {"glu": (600.0, "critical")}, of=row.message)
    shown = msgspec.structs.replace(made.message.values["glu"], validity=Validity.ABOVE_RANGE, comparator=">")
    store.append(
        [row, msgspec.structs.replace(made, message=msgspec.structs.replace(made.message, values={"glu": shown}))]
    )
    name = database(stores, tmp_path)
    assert "glu" not in found(influx, 'SHOW FIELD KEYS FROM "observation"', name)
    assert "temp" in found(influx, 'SHOW FIELD KEYS FROM "observation"', name)
    assert "[1764000000" in influx.ask("""SELECT "value" FROM "value" WHERE "comparator" = '>'""", name)
    grafana = re.findall(r'^SELECT "value".*', (ROOT / "docs/store.md").read_text(encoding="utf-8"), re.MULTILINE)
    asked = grafana[0].replace("$timeFilter", "time > 0").replace("bp_sys", "glu")
    assert found(influx, asked, name) == []
    assert store.history("4", "glu", 0)[0].validity is Validity.ABOVE_RANGE


def test_a_reader_waits_no_longer_than_it_was_told(influx: Influx) -> None:
    name = influx.database()
    with closing(InfluxReader(Bucket(Place(influx.url, name), timeout_s=0.4))) as reader:
        influx.freeze_engine()
        began = time.monotonic()
        for ask in (lambda: reader.latest("4"), lambda: reader.history("4", "temp", 0), lambda: reader.store_id):
            with pytest.raises(StoreDown, match="in time"):
                ask()
        assert time.monotonic() - began < 3


def test_gateway_and_room_are_found_by_their_tags(store: InfluxStore) -> None:
    """A name with a quote in it finds itself, and nothing else."""
    odd = Address("it's", "4", "cuff-1")
    store.append([strip_row(at=odd), strip_row(at=AT)])
    assert len(store.strip("it's", "cuff-1", "ekg", T0, T0 + NS)) == 1
    assert words(store.append([strip_row(at=odd), strip_row(250, at=odd)])) == ["duplicate", "stored"]
