"""What every store must do. A store that comes later joins `STORES` and passes the same suite.

InfluxDB is the real engine of version 1.6 behind a rewrite (tests/parts.py), and that of `VITALS_INFLUX_URL` where it
is set.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.store.contract import (
    Address,
    EvaluationRow,
    EventRow,
    ObservationRow,
    Row,
    Store,
    StoreDown,
    StoreReader,
    StripRow,
    StripTail,
)
from ingest.store.sqlite import SqliteStore
from tests.influx_making import NAMED, NEEDS_INFLUX, NEEDS_NAMED, InfluxStores, NamedStores, open_influx
from tests.ingest_making import (
    T0,
    bp,
    evaluation_row,
    event,
    event_row,
    observation,
    observation_row,
    q,
    strip,
    strip_row,
)
from vitals.clock import NS
from vitals.errors import StoreError
from vitals.model import Validity

Opener = Callable[[Path], Store]


class Sqlite:
    """One store for each folder."""

    def __call__(self, folder: Path) -> Store:
        return SqliteStore(folder / "store.db")

    def reader(self, folder: Path) -> StoreReader:
        return SqliteStore(folder / "store.db", read_only=True)


STORES = ["sqlite", pytest.param("influx", marks=NEEDS_INFLUX), *(["named"] if NAMED else [])]


@pytest.fixture(params=STORES)
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param == "sqlite":
        return Sqlite()
    if request.param == "influx":
        return InfluxStores(request.getfixturevalue("influx"))
    return request.getfixturevalue("named_influx")


@pytest.fixture
def store(opener: Opener, tmp_path: Path):
    opened = opener(tmp_path)
    yield opened
    opened.close()


def words(outcomes) -> list[str]:
    return [outcome.outcome for outcome in outcomes]


MIXED: list[Row] = [observation_row(), strip_row(), event_row(), evaluation_row()]


def test_appending_twice_changes_nothing(store: Store) -> None:
    assert words(store.append(MIXED)) == ["stored"] * 4
    assert words(store.append(MIXED)) == ["duplicate"] * 4
    assert store.counts() == {"observation": 1, "strip": 1, "event": 1, "evaluation": 1}


def test_a_row_twice_in_one_batch_is_stored_once(store: Store) -> None:
    assert words(store.append(MIXED + MIXED)) == ["stored"] * 4 + ["duplicate"] * 4


@NEEDS_NAMED
def test_influxdb_2_or_3_itself(named_influx: NamedStores, tmp_path: Path) -> None:
    """Then every test of this suite runs on it too; here, what a bucket that is not there is called."""
    with closing(named_influx(tmp_path)) as store:
        assert words(store.append(MIXED)) == ["stored"] * 4
    absent = named_influx.place(tmp_path)._replace(bucket="vitals-test-absent")
    (tmp_path / "other").mkdir()
    with closing(open_influx(tmp_path / "other", absent)) as store, pytest.raises(StoreDown, match="does not have"):
        store.append(MIXED)


def test_empty_batch(store: Store) -> None:
    assert store.append([]) == []


def test_second_download_by_another_way_is_the_same_reading(store: Store) -> None:
    """Another gateway, room name, outbox row, arrival and skew estimate: still the same act of measuring."""
    store.append([observation_row(t=T0)])
    again = observation_row(t=T0 + 1, epoch="e2", seq=9, at=Address("gateway-2", "5", "cuff-9"), received=T0 + NS)
    assert words(store.append([again])) == ["duplicate"]


@pytest.mark.parametrize(
    "other",
    [
        observation_row(quantities=bp(119, 76)),
        observation_row(simulated=True),
        observation_row(kind="temp"),
        strip_row(samples=np.ones(250)),
        strip_row(samples=np.arange(249)),
        strip_row(scale=2.5),
        event_row(code="other"),
    ],
)
def test_same_id_with_other_content_is_refused_and_the_first_stays(store: Store, other: Row) -> None:
    store.append(MIXED)
    (outcome,) = store.append([other])
    assert (outcome.outcome, outcome.reason) == ("refused", "same id, other content")
    assert words(store.append(MIXED)) == ["duplicate"] * 4


def test_an_impossible_row_never_takes_the_others_with_it(store: Store) -> None:
    rows = [observation_row("a" * 32), observation_row("b" * 32, t=2**70), observation_row("c" * 32)]
    outcomes = store.append(rows)
    assert words(outcomes) == ["stored", "refused", "stored"]
    assert outcomes[1].reason
    assert store.counts()["observation"] == 2


def test_strips_come_back_equal_to_the_bit(store: Store) -> None:
    rng = np.random.default_rng(5)
    sent = [strip(n * 250, rng.integers(-32768, 32767, 250)) for n in range(5)]
    store.append([strip_row(n * 250, np.frombuffer(s.block, "<i2")) for n, s in reversed(list(enumerate(sent)))])
    assert store.strip("gateway-1", "cuff-1", "ekg", T0, T0 + 5 * NS) == sent
    # [start, stop): the pack that ends at `start` and the one that begins at `stop` are out.
    assert store.strip("gateway-1", "cuff-1", "ekg", T0 + NS, T0 + 2 * NS) == sent[1:2]
    assert store.strip("gateway-1", "cuff-1", "ekg", T0 + NS + 1, T0 + 2 * NS + 1) == sent[1:3]
    assert store.strip("gateway-1", "cuff-2", "ekg", T0, T0 + 5 * NS) == []


def test_streams_of_one_device_do_not_meet(store: Store) -> None:
    outcomes = store.append([strip_row(stream="s1"), strip_row(stream="s2", t0=T0 + 9 * NS)])
    assert words(outcomes) == ["stored", "stored"]


def test_latest_is_the_newest_of_each_metric(store: Store) -> None:
    bp_old = evaluation_row("1" * 32, {"bp_sys": (150.0, "abnormal"), "pulse_cuff": (70.0, "normal")}, t=T0)
    bp_new = evaluation_row("2" * 32, {"bp_sys": (118.0, "normal")}, t=T0 + 60 * NS)
    memory = evaluation_row("3" * 32, {"bp_sys": (200.0, "critical")}, t=T0 + 90 * NS, historical=True)
    elsewhere = evaluation_row("4" * 32, {"temp": (37.0, "normal")}, t=T0, room="5")
    store.append([bp_new, memory, bp_old, elsewhere])
    assert store.latest("4") == [bp_old.message, bp_new.message]
    assert store.latest("6") == []


def test_new_rules_add_an_evaluation_and_latest_takes_it(store: Store) -> None:
    store.append([evaluation_row(rules="r1")])
    newer = evaluation_row(values={"bp_sys": (118.0, "notice")}, rules="r2")
    assert words(store.append([newer, newer])) == ["stored", "duplicate"]
    assert store.latest("4") == [newer.message]
    assert [point.interpretation for point in store.history("4", "bp_sys", 0)] == ["A"]
    assert store.counts()["evaluation"] == 2


def test_an_evaluation_of_a_refused_reading_is_not_kept(store: Store) -> None:
    first, other = observation_row(quantities=bp(118, 76)), observation_row(quantities=bp(200, 125), seq=2)
    store.append([first, evaluation_row(of=first.message)])
    shown = evaluation_row(values={"bp_sys": (200.0, "critical")}, of=other.message, version=2)
    assert words(store.append([other, shown])) == ["refused", "duplicate"]
    assert [m.values["bp_sys"].value for m in store.latest("4")] == [118.0]


def test_a_reading_that_comes_by_another_gateway_is_not_judged_twice(store: Store) -> None:
    first = observation_row()
    store.append([first, evaluation_row(of=first.message)])
    other = observation_row(at=Address("gateway-2", "4", "cuff-1"))
    again = evaluation_row(of=other.message)
    again = msgspec.structs.replace(again, message=msgspec.structs.replace(again.message, gateway="gateway-2"))
    assert words(store.append([other, again])) == ["duplicate", "duplicate"]
    assert store.counts()["evaluation"] == 1
    assert [m.gateway for m in store.latest("4")] == ["gateway-1"]


def test_a_second_download_in_a_later_visit_is_not_that_patients_newest(store: Store) -> None:
    """The first determined time wins: another skew estimate, another room, and no evaluation is added."""
    first = observation_row()
    store.append([first, evaluation_row(of=first.message)])
    again = observation_row(t=T0 + 900 * NS, seq=9)
    later = evaluation_row(t=T0 + 900 * NS, of=again.message, version=2)
    assert words(store.append([again, later])) == ["duplicate", "duplicate"]
    elsewhere = evaluation_row(of=first.message, version=2, room="5")
    assert words(store.append([first, elsewhere])) == ["duplicate", "duplicate"]
    assert [(m.t, m.assoc_version) for m in store.latest("4")] == [(T0, 1)]
    assert store.latest("5") == []
    # A reassigned visit adds one, to the reading as it is kept.
    assert words(store.append([first, evaluation_row(of=first.message, version=2)])) == ["duplicate", "stored"]


def test_an_evaluation_of_what_was_refused_in_the_same_batch_is_not_kept(store: Store) -> None:
    first, other = observation_row(quantities=bp(118, 76)), observation_row(quantities=bp(181, 76), seq=2)
    rows = [first, other, evaluation_row(of=other.message), evaluation_row(of=first.message)]
    assert words(store.append(rows)) == ["stored", "refused", "duplicate", "stored"]


def test_an_evaluation_of_a_reading_of_the_same_batch_is_of_its_time_and_room(store: Store) -> None:
    first = observation_row()
    elsewhere, later = evaluation_row(of=first.message, room="5"), evaluation_row(of=first.message, t=T0 + NS)
    assert words(store.append([first, elsewhere, later])) == ["stored", "duplicate", "duplicate"]
    assert store.counts()["evaluation"] == 0


def test_an_evaluation_of_a_reading_that_is_not_kept_is_not_kept_either(store: Store) -> None:
    absent = observation_row().message
    assert words(store.append([evaluation_row(of=absent)])) == ["duplicate"]
    assert store.counts()["evaluation"] == 0


def test_a_clock_that_runs_ahead_gives_no_newest(store: Store) -> None:
    store.append([evaluation_row("1" * 32), evaluation_row("2" * 32, t=T0 + 3 * 3600 * NS, ahead=True)])
    assert [m.id for m in store.latest("4")] == ["1" * 32]
    assert len(store.history("4", "bp_sys", T0)) == 2


def test_a_recorded_strip_is_not_the_live_one(store: Store) -> None:
    live = strip_row()
    recorded = StripRow(live.address, msgspec.structs.replace(live.message, historical=True))
    assert words(store.append([live, recorded])) == ["stored", "refused"]


def test_history_says_what_was_invalid_and_what_not_evaluated(store: Store) -> None:
    store.append(
        [
            evaluation_row("1" * 32, {"spo2": (97.0, "normal")}, t=T0 + 2),
            evaluation_row("2" * 32, {"spo2": (None, "")}, t=T0 + 1),
            evaluation_row("3" * 32, {"spo2": (84.0, "critical")}, t=T0 + 3),
            evaluation_row("4" * 32, {"spo2": (99.0, "normal")}, t=T0),
        ]
    )
    points = store.history("4", "spo2", T0 + 1)
    assert [(p.t - T0, p.value, p.validity, p.interpretation) for p in points] == [
        (1, None, Validity.VALID, ""),
        (2, 97.0, Validity.VALID, "N"),
        (3, 84.0, Validity.VALID, "HH"),
    ]


def test_tails_and_recent_ids(store: Store) -> None:
    store.append([strip_row(0), strip_row(250), strip_row(0, stream="s2", t0=T0 + 30 * NS)])
    store.append([observation_row(key * 32) for key in "abc"])
    (tail,) = store.tails()
    assert (tail.device, tail.stream, tail.next_index, tail.t_end) == ("cuff-1", "s2", 250, T0 + 31 * NS)
    assert store.recent_ids(2) == ["b" * 32, "c" * 32]


def test_all_is_there_after_reopening(opener: Opener, tmp_path: Path) -> None:
    first = opener(tmp_path)
    first.append(MIXED)
    name = first.store_id
    first.close()
    second = opener(tmp_path)
    assert second.store_id == name
    assert words(second.append(MIXED)) == ["duplicate"] * 4
    second.close()


def test_the_board_reads_what_is_appended_and_needs_no_more(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path)
    with closing(opener.reader(tmp_path)) as reader:  # type: ignore[attr-defined]
        assert (reader.store_id, reader.latest("4")) == (store.store_id, [])
        sent = [evaluation_row(), strip_row()]
        store.append(sent)
        assert reader.latest("4") == [sent[0].message]  # type: ignore[attr-defined]
        assert [point.value for point in reader.history("4", "bp_sys", T0)] == [118.0]
        assert reader.strip("gateway-1", "cuff-1", "ekg", T0, T0 + NS) == [sent[1].message]  # type: ignore[attr-defined]
        assert reader.counts() == {"observation": 0, "strip": 1, "event": 0, "evaluation": 1}
    store.close()


def test_a_second_ingest_is_told_so(opener: Opener, tmp_path: Path) -> None:
    first = opener(tmp_path)
    with pytest.raises(StoreError, match="in use"):
        opener(tmp_path)
    first.close()
    opener(tmp_path).close()


ODD = 'ünï "quoted" \\back\\ a=b, c\nnext \t \0 体温 \U0001f321'


def test_texts_and_numbers_come_back_as_they_were(store: Store) -> None:
    message = msgspec.structs.replace(
        evaluation_row("1" * 32, {"bp_sys": (0.1 + 0.2, "normal"), "bp_dia": (5e-324, ""), "pulse_cuff": (-1e308, "")},
                       t=T0 + 123_456_789).message,
        method=ODD, quality=(ODD,), late_s=2**52, uncertainty_ms=2**53,
    )  # fmt: skip
    row = EvaluationRow("4", message)
    pack = msgspec.structs.replace(strip(scale=None), stream=ODD, lead=ODD, dtype="<i4", count=125, lost_before=2**52)
    other = StripRow(strip_row().address, msgspec.structs.replace(pack, rate=1 / 3, t0=T0 + 60 * NS, first_index=9))
    told = EventRow(strip_row().address, msgspec.structs.replace(event(), code=ODD, detail=ODD))
    named = ObservationRow(observation_row().address, observation(ODD, kind=ODD, method=ODD, site=ODD))
    assert words(store.append([row, StripRow(strip_row().address, pack), other, told, named])) == ["stored"] * 5
    assert store.latest("4") == [message]
    assert [p.value for m in ("bp_sys", "bp_dia", "pulse_cuff") for p in store.history("4", m, 0)] == [
        0.1 + 0.2, 5e-324, -1e308,
    ]  # fmt: skip
    assert store.strip("gateway-1", "cuff-1", "ekg", T0, T0 + NS) == [pack]
    assert store.strip("gateway-1", "cuff-1", "ekg", T0 + 60 * NS, T0 + 61 * NS) == [other.message]
    assert store.recent_ids(5) == [ODD]
    assert words(store.append([row, StripRow(strip_row().address, pack), other, told, named])) == ["duplicate"] * 5


def test_the_newest_of_one_millisecond_is_the_newest(store: Store) -> None:
    """By time, then by id, then by the order of their coming; and history is in that order too."""
    made = [evaluation_row(f"{n:032x}", {"temp": (36.0 + n, "normal")}, t=T0 + n // 2) for n in range(8)]
    store.append([made[n] for n in (3, 7, 0, 6, 1, 5, 2, 4)])
    assert store.latest("4") == [made[7].message]
    assert [(p.t, p.value) for p in store.history("4", "temp", T0 + 1)] == [
        (T0 + n // 2, 36.0 + n) for n in range(2, 8)
    ]  # fmt: skip
    again = evaluation_row(f"{7:032x}", {"temp": (43.0, "critical")}, t=T0 + 3, version=2)
    store.append([again])
    assert store.latest("4") == [again.message]


def test_the_newest_of_each_metric_may_come_from_several_devices(store: Store) -> None:
    first = evaluation_row("1" * 32, {"temp": (37.0, "normal"), "pulse_cuff": (60.0, "normal")}, device="a")
    second = evaluation_row("2" * 32, {"temp": (38.0, "normal")}, device="b", t=T0 + 1)
    store.append([second, first])
    assert store.latest("4") == [first.message, second.message]


def test_a_strip_is_the_same_one_in_whatever_room(store: Store) -> None:
    moved = Address("gateway-1", "5", "cuff-1")
    assert words(store.append([strip_row(), strip_row(at=moved), strip_row(at=moved, scale=2.5)])) == [
        "stored", "duplicate", "refused",
    ]  # fmt: skip
    assert words(store.append([strip_row(at=moved)])) == ["duplicate"]


def test_a_signal_that_comes_late_is_stored_once(store: Store) -> None:
    """Backlog after newer rows: it must be told from what is there."""
    store.append([strip_row(2500), event_row(9, "bad_checksum", T0 + 9 * NS), evaluation_row("9" * 32, t=T0 + 9 * NS)])
    late: list[Row] = [
        strip_row(250),
        event_row(2, "bad_checksum", T0 + 2 * NS),
        evaluation_row("2" * 32, t=T0 + 2 * NS),
    ]
    assert words(store.append(late)) == ["stored"] * 3
    assert words(store.append([*late, strip_row(2500)])) == ["duplicate"] * 4


def test_newest_tail_and_ids_after_reopening(opener: Opener, tmp_path: Path) -> None:
    with closing(opener(tmp_path)) as store:
        store.append([strip_row(500), strip_row(250), observation_row("a" * 32), observation_row("b" * 32)])
    with closing(opener(tmp_path)) as store:
        assert store.recent_ids(9) == ["a" * 32, "b" * 32]
        (tail,) = store.tails()
        assert tail == StripTail("gateway-1", "cuff-1", "4", "ekg", "s1", 750, T0 + 3 * NS)


rows = st.one_of(
    st.builds(lambda n, s: observation_row(f"{n:032x}", bp(s, 70.0)), st.integers(0, 5), st.sampled_from([118, 119])),
    st.builds(lambda n: strip_row(n * 250), st.integers(0, 5)),
    st.builds(lambda n: event_row(n), st.integers(0, 5)),
    st.builds(lambda n, r: evaluation_row(f"{n:032x}", rules=r), st.integers(0, 3), st.sampled_from(["r1", "r2"])),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(rows, max_size=25), cuts=st.lists(st.integers(0, 25), max_size=3), again=st.randoms())
def test_any_order_and_any_slicing_store_each_id_once(opener: Opener, batch, cuts, again) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(opener(Path(folder))) as store:
        edges = sorted({0, len(batch), *(cut for cut in cuts if cut < len(batch))})
        outcomes = [o for a, b in pairwise(edges) for o in store.append(batch[a:b])]
        counts = store.counts()
        assert words(outcomes).count("stored") == sum(counts.values())
        shuffled = list(batch)
        again.shuffle(shuffled)
        assert "stored" not in words(store.append(shuffled))
        assert store.counts() == counts


# ---- across processes ----------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.ingest_making import observation_row
from ingest.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
number = 0
while True:
    rows = [observation_row(f"{number + i:032x}") for i in range(5)]
    assert all(outcome.outcome == "stored" for outcome in store.append(rows))
    number += 5
    print(number, flush=True)
"""


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for _ in range(2):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        with writer.stdout:
            told = [int(writer.stdout.readline()) for _ in range(8)][-1]
            os.kill(writer.pid, signal.SIGKILL)
            told = max([told, *(int(line) for line in writer.stdout.read().split("\n") if line.strip())])
        writer.wait()
        store = SqliteStore(path)
        kept = store.recent_ids(100_000)
        assert len(kept) >= told
        assert len(kept) % 5 == 0, "half a batch was kept"
        assert kept == [f"{n:032x}" for n in range(len(kept))]
        store.close()
        for leftover in tmp_path.iterdir():
            leftover.unlink()


READER = """
import sys
from pathlib import Path
from ingest.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]), read_only=True)
for line in sys.stdin:
    print(store.counts()["observation"], store.store_id, flush=True)
"""


def test_a_reader_in_another_process_sees_each_append(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    command = [sys.executable, "-c", READER, str(tmp_path / "store.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        for number in range(3):
            store.append([observation_row(f"{number:032x}")])
            print("look", file=reader.stdin, flush=True)
            assert reader.stdout.readline().split() == [str(number + 1), store.store_id]
        reader.stdin.close()
    store.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "store.db").close()
    reader = SqliteStore(tmp_path / "store.db", read_only=True)
    with pytest.raises(StoreDown):
        reader.append([observation_row()])
    reader.close()


# ---- what cannot be opened, and what cannot be written ---------------------------------------------------------------


def _text(path: Path) -> None:
    path.write_text("this is no database, and long enough to be seen as none" * 20)


def _other_program(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()


def _newer(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize("spoil", [_text, _other_program, _newer])
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_store_of_ours_is_not_touched(
    tmp_path: Path, spoil: Callable[[Path], None], read_only: bool
) -> None:
    path = tmp_path / "store.db"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        SqliteStore(path, read_only=read_only)
    assert caught.value.expected and caught.value.found and caught.value.do
    assert path.read_bytes() == before


def test_a_reader_says_that_there_is_no_store_yet(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store"):
        SqliteStore(tmp_path / "store.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_told_so(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "store.db")
    with pytest.raises(StoreError, match="in use"):
        SqliteStore(tmp_path / "store.db")
    first.close()
    SqliteStore(tmp_path / "store.db").close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteStore(tmp_path / "file" / "store.db")


def test_a_locked_file_is_store_down_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.store.sqlite.BUSY_S", 0.05)
    store = SqliteStore(tmp_path / "store.db")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreDown, match="locked"):
        store.append([observation_row()])
    other.execute("ROLLBACK")
    other.close()
    assert words(store.append([observation_row()])) == ["stored"]
    store.close()


def test_a_full_disk_is_store_down_and_works_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.append([observation_row()])
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    rows = [strip_row(n * 250) for n in range(200)]
    with pytest.raises(StoreDown, match="full"):
        store.append(rows)
    assert store.counts() == {"observation": 1, "strip": 0, "event": 0, "evaluation": 0}
    store._db.execute("PRAGMA max_page_count = 100000")
    assert set(words(store.append(rows))) == {"stored"}
    store.close()


def test_the_reader_protocol_is_what_the_board_gets(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    reader: StoreReader = SqliteStore(tmp_path / "store.db", read_only=True)
    store.append(
        [evaluation_row(values={"glu": (99.0, "normal")}), observation_row(quantities={"glu": q(99, "mg/dL")})]
    )
    assert [m.values["glu"].value for m in reader.latest("4")] == [99.0]
    reader.close()
    store.close()
