"""`vitals store` on both stores: everything written out, everything checked, what is pruned stays away."""

import base64
import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer.main
from typer.testing import CliRunner

from ingest.service import run
from ingest.store import influx_prune, influx_scan, influx_verify, prune, refusals, sqlite_prune
from ingest.store.contract import Address, EvaluationRow, EventRow, ObservationRow, Row, Store, StoreDown, StripRow
from ingest.store.opening import open_checked, open_pruner, open_scan, open_store, refusals_path
from ingest.store.refusals import Refusal, Refusals, RefusalsReader
from ingest.store.scan import KINDS, Span
from ingest.store.verify import Report, verify
from tests.influx_making import NEEDS_INFLUX
from tests.ingest_making import (
    AT,
    T0,
    bp,
    evaluation_row,
    event,
    event_row,
    flagged,
    observation,
    observation_row,
    q,
    strip,
    strip_row,
)
from tests.parts import Influx
from tests.test_ingest_service import FakeBroker, Ingest
from vitals.cli import app
from vitals.cli.store import formats
from vitals.cli.store.tables import table
from vitals.clock import NS, ManualClock, SystemClock
from vitals.errors import SettingsError, StoreError, VitalsError
from vitals.messages import EventMessage, FlaggedMessage, ObservationMessage, StripMessage, encode
from vitals.metrics import METRICS
from vitals.settings import Settings, load

DAY = 86_400 * NS
ROOT = Path(__file__).resolve().parents[1]


class Site:
    """A settings file with a store of its own, and the commands run on it."""

    def __init__(self, folder: Path, server: Influx | None) -> None:
        self.folder = folder
        self.server = server
        if server is None:
            store = 'store = { path = "store.db" }'
        else:
            self.database = server.database()
            store = f'store = {{ kind = "influx", url = "{server.url}", bucket = "{self.database}" }}'
        self.config = folder / "vitals.toml"
        self.config.write_text(f'[ingest]\nstate = "state.db"\n{store}\n', encoding="utf-8")
        self.settings: Settings = load(self.config, {})

    def open(self) -> Store:
        return open_store(self.settings)

    def fill(self, rows: list[Row]) -> None:
        with closing(self.open()) as store:
            assert {outcome.outcome for outcome in store.append(rows)} == {"stored"}

    def run(self, *words: str, answer: str = "") -> str:
        """Its output. Raises what the command raises."""
        done = CliRunner().invoke(app, ["store", *words, "--config", str(self.config)], input=answer)
        if isinstance(done.exception, VitalsError):
            done.exception.add_note(done.output)
            raise done.exception
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    def verify(self) -> Report:
        with closing(open_checked(self.settings)) as store:
            return verify(store, lambda kind: None)

    def prune(self, cutoff: int, *kinds: prune.PrunedKind) -> None:
        with closing(open_pruner(self.settings)) as pruner:
            prune.run(pruner, cutoff, kinds or prune.PRUNED_KINDS, lambda rows: None)

    @property
    def db(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / "store.db", isolation_level=None)


@pytest.fixture(autouse=True)
def looked_at_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influx_verify, "AGAIN_S", 0.2)


KINDS_OF_STORE = ["sqlite", pytest.param("influx", marks=NEEDS_INFLUX)]


@pytest.fixture(params=KINDS_OF_STORE)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path, None if request.param == "sqlite" else request.getfixturevalue("influx"))


@pytest.fixture
def sqlite_site(tmp_path: Path) -> Site:
    return Site(tmp_path, None)


@pytest.fixture
def influx_site(tmp_path: Path, influx: Influx) -> Site:
    return Site(tmp_path, influx)


ODD = '=HYPERLINK("http://x","ü 体温")\r\n\t"quoted", \\ \''


def reading(key: str, *, t: int = T0, at: Address = AT) -> ObservationRow:
    """As it is when it comes: numbers are floats."""
    return observation_row(key, bp(118.0, 76.0), t=t, at=at)


def of_device(key: str, t: int, *, record: int | None = None, room: str = "4", sys: float = 118.0) -> ObservationRow:
    """A reading; with `record`, one of a meter's memory."""
    m = observation(key * 32, bp(sys, 76.0), t=t, seq=ord(key))
    body = msgspec.structs.replace(m.observation, record_no=record, historical=record is not None)
    return ObservationRow(Address("gateway-1", room, "cuff-1"), msgspec.structs.replace(m, observation=body))


def judged(row: ObservationRow, **more: object) -> EvaluationRow:
    m = row.message
    value = m.observation.quantities["bp_sys"].value
    values = {"bp_sys": (value, "normal"), "bp_dia": (76.0, "")}
    return evaluation_row(m.id, values, t=m.t_determined, of=m, room=row.address.room, **more)


def rate(key: str, t: int) -> EvaluationRow:
    message = msgspec.structs.replace(flagged(key * 32, {"hr_ekg": (61.0, "normal")}, t=t), derived=True)
    return EvaluationRow("4", message, ahead=True)


def sample() -> list[Row]:
    """Every kind, twice and more, with texts that bite; readings before their evaluations."""
    rng = np.random.default_rng(3)
    readings = [
        of_device("a", T0, record=7), of_device("b", T0 + 1), of_device("c", T0 + 3600 * NS, room="5", sys=-0.25),
    ]  # fmt: skip
    odd = observation(
        "d" * 32, {"temp": q(37.1, "Cel")}, t=T0 + 5 * NS, kind=ODD, method=ODD, site="-1+2", quality=("a", "@b")
    )
    strips = [strip_row(n * 250, rng.integers(-32768, 32767, 250)) for n in range(5)]
    wide = msgspec.structs.replace(
        strip(0, stream="s2", metric="ppg", scale=None, t0=T0 + 99 * NS), dtype="<i4", count=125, lead=ODD
    )  # fmt: skip
    told = msgspec.structs.replace(event(9), detail=ODD, code="+cmd")
    return [
        *readings, ObservationRow(AT, odd), *map(judged, readings), judged(readings[0], rules="r2"), rate("e", T0 + 7),
        evaluation_row(odd.id, {"temp": (37.1, "normal")}, t=odd.t_determined, of=odd),
        *strips, StripRow(AT, wide), event_row(1), EventRow(AT, event(2, at=T0 + 2 * NS)), EventRow(AT, told),
    ]  # fmt: skip


def messages(rows: list[Row], kind: type[Row]) -> list[object]:
    return sorted(encode(row.message) for row in rows if isinstance(row, kind))


# ---- export ----------------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[dict[str, str]]:
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def plain(cell: str) -> str:
    """A text cell as docs/store.md says it is to be read."""
    return cell[1:] if cell.startswith("'") else cell


def test_csv_has_every_row_whole(site: Site) -> None:
    rows = sample()
    site.fill(rows)
    out = site.folder / "out"
    site.run("export", str(out))
    assert sorted(path.name for path in out.iterdir()) == [
        "evaluation.csv",
        "event.csv",
        "observation.csv",
        "strip.csv",
    ]
    readings = read_csv(out / "observation.csv")
    decoded = [msgspec.json.decode(plain(line["message"]), type=ObservationMessage) for line in readings]
    assert sorted(map(encode, decoded)) == messages(rows, ObservationRow)
    (odd,) = [line for line in readings if line["id"] == "d" * 32]
    assert (plain(odd["kind"]), plain(odd["method"]), plain(odd["site"])) == (ODD, ODD, "-1+2")
    assert (odd["t_ns"], odd["time"], odd["temp"], odd["bp_sys"]) == (
        str(T0 + 5 * NS), "2025-11-24T16:00:05.000000000Z", "37.1", "",
    )  # fmt: skip
    (low,) = [line for line in readings if line["id"] == "c" * 32]
    assert (low["bp_sys"], low["room"]) == ("-0.25", "5"), "a number that begins with a minus is a number"

    values = read_csv(out / "evaluation.csv")
    whole = {line["no"]: msgspec.json.decode(plain(line["message"]), type=FlaggedMessage) for line in values}
    assert sorted(map(encode, whole.values())) == messages(rows, EvaluationRow)
    expected = sorted(
        (m.id, m.rules_hash, metric, repr(v.value), v.flag.interpretation if v.flag else "", row.room, row.ahead)
        for row in rows if isinstance(row, EvaluationRow) for m in [row.message] for metric, v in m.values.items()
    )  # fmt: skip
    assert sorted(
        (v["id"], v["rules_hash"], v["metric"], v["value"], v["interpretation"], v["room"], v["ahead"] == "true")
        for v in values
    ) == expected  # fmt: skip

    strips = read_csv(out / "strip.csv")
    made = [
        StripMessage(
            1, s["epoch"], int(s["seq"]), s["driver"], s["stream"], s["metric"], int(s["first_index"]),
            int(s["count"]), float(s["rate"]), s["dtype"], base64.b64decode(s["block"]), int(s["t_ns"]),
            int(s["received_ns"]), float(s["scale"]) if s["scale"] else None, plain(s["lead"]), s["lead_off"] == "true",
            int(s["lost_before"]), s["simulated"] == "true", s["historical"] == "true",
        )
        for s in strips
    ]  # fmt: skip
    assert sorted(map(encode, made)) == messages(rows, StripRow)

    events = read_csv(out / "event.csv")
    told = [
        EventMessage(1, e["epoch"], int(e["seq"]), plain(e["code"]), plain(e["detail"]), int(e["t_ns"]),
                     int(e["count"]), e["raw"], e["simulated"] == "true")
        for e in events
    ]  # fmt: skip
    assert sorted(map(encode, told)) == messages(rows, EventRow)


def test_no_cell_of_a_csv_is_a_formula(sqlite_site: Site) -> None:
    sqlite_site.fill(sample())
    sqlite_site.run("export", str(sqlite_site.folder / "out"))
    cells = [
        (name, cell)
        for path in (sqlite_site.folder / "out").iterdir() for line in read_csv(path) for name, cell in line.items()
    ]  # fmt: skip
    risky = [cell for _, cell in cells if cell.lstrip()[:1] in ("=", "+", "-", "@", "\uff1d")]
    assert risky == ["-0.25"] * 2, "of the reading and of its value: numbers"
    assert sum(cell == "'" + ODD for _, cell in cells) >= 4
    for text in ("=1", " =1", "+1", "-1", "@x", "\t=1", "\rx", "\uff1d1", "'=1"):
        assert formats.harmless(text) == "'" + text
    assert formats.harmless("a=1") == "a=1"


def test_samples_are_lines_of_their_own(site: Site) -> None:
    site.fill([strip_row(0, np.array([3, -4, 5])), strip_row(3, np.array([6]), scale=None, t0=T0 + 12_000_000)])
    out = site.folder / "out"
    site.run("export", str(out), "--samples", "--kind", "strip")
    lines = read_csv(out / "sample.csv")
    assert [(s["index"], s["sample"], s["value"], int(s["t_ns"]) - T0) for s in lines] == [
        ("0", "3", "15.0", 0), ("1", "-4", "-20.0", 4_000_000), ("2", "5", "25.0", 8_000_000),
        ("3", "6", "", 12_000_000),
    ]  # fmt: skip


def test_parquet_has_the_same(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "GROUP", 2)
    rows = sample()
    site.fill(rows)
    out = site.folder / "out"
    site.run("export", str(out), "--format", "parquet")
    strips = pq.read_table(out / "strip.parquet")
    assert pq.ParquetFile(out / "strip.parquet").num_row_groups == 3
    sent = {(m.stream, m.first_index): m for m in (r.message for r in rows if isinstance(r, StripRow))}
    found = strips.to_pylist()
    assert len(found) == len(sent)
    for s in found:
        m = sent[s["stream"], s["first_index"]]
        assert (s["block"], s["t_ns"], s["scale"], s["lead"]) == (m.block, m.t0, m.scale, m.lead)
    readings = pq.read_table(out / "observation.parquet").to_pylist()
    assert sorted(r["message"].encode() for r in readings) == messages(rows, ObservationRow)
    assert {type(r["bp_sys"]) for r in readings} == {float, type(None)}
    told = pq.read_table(out / "event.parquet").column("detail").to_pylist()
    assert ODD in told, "nothing is escaped where nothing can run"


def test_without_pyarrow_that_is_said_and_nothing_is_begun(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_site.fill(sample())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(VitalsError, match=r"exam-room-vitals\[parquet\]"):
        sqlite_site.run("export", str(sqlite_site.folder / "out"), "--format", "parquet")
    assert not (sqlite_site.folder / "out").exists()


@NEEDS_INFLUX[0]
@NEEDS_INFLUX[1]
def test_line_protocol_makes_another_influxdb_the_same_store(site: Site, influx: Influx) -> None:
    rows = sample()
    site.fill(rows)
    out = site.folder / "out"
    site.run("export", str(out), "--format", "line")
    other = Site(site.folder / "copy" if (site.folder / "copy").mkdir() is None else site.folder, influx)
    for path in out.iterdir():
        influx.put(other.database, path.read_bytes().decode())
    with closing(site.open()) as first, closing(other.open()) as second:
        assert second.store_id == first.store_id, "gateways would take its receipts for a stranger's"
        assert second.counts() == first.counts()
        assert {outcome.outcome for outcome in second.append(rows)} == {"duplicate"}
        for room in ("4", "5"):
            assert second.latest(room) == first.latest(room)
            assert second.history(room, "bp_sys", 0) == first.history(room, "bp_sys", 0)
        span = ("gateway-1", "cuff-1", "ekg", T0, T0 + 9 * NS)
        assert second.strip(*span) == first.strip(*span) != []
        assert sorted(second.tails()) == sorted(first.tails())
    assert other.verify().wrong == 0


@NEEDS_INFLUX[0]
@NEEDS_INFLUX[1]
def test_rows_that_want_one_nanosecond_are_two_lines(
    sqlite_site: Site, influx: Influx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """InfluxDB would merge them without a word."""
    monkeypatch.setattr("ingest.store.points.low_digits", lambda key: 7)
    rows: list[Row] = [observation_row(f"{n:032x}", bp(100.0 + n, 70.0), t=T0 + n) for n in range(5)]
    sqlite_site.fill(rows)
    sqlite_site.run("export", str(sqlite_site.folder / "out"), "--format", "line")
    database = influx.database()
    influx.put(database, (sqlite_site.folder / "out" / "observation.line").read_text(encoding="utf-8"))
    answer = json.loads(influx.ask('SELECT "bp_sys" FROM "observation"', database))
    assert [row[1] for row in answer["results"][0]["series"][0]["values"]] == [100, 101, 102, 103, 104]


def test_a_part_of_the_store(site: Site) -> None:
    site.fill(sample())
    out = site.folder / "out"
    site.run("export", str(out), "--room", "5", "--since", "2025-11-24T17:00Z", "--format", "line")
    assert (out / "observation.line").read_text(encoding="utf-8").count("observation,") == 1
    assert (out / "evaluation.line").read_text(encoding="utf-8").count("value,") == 2
    assert (out / "strip.line").read_text(encoding="utf-8") == ""
    assert not (out / "store.line").exists(), "a part must not pass for the store"
    site.run("export", str(site.folder / "room"), "--room", "5")
    assert {
        line["room"]
        for name in ("observation", "evaluation")
        for line in read_csv(site.folder / "room" / f"{name}.csv")
    } == {"5"}
    again = site.folder / "again"
    site.run("export", str(again), "--kind", "observation", "--until", "2025-11-24T17:00Z")
    assert [path.name for path in again.iterdir()] == ["observation.csv"]
    assert sorted(line["id"][0] for line in read_csv(again / "observation.csv")) == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "yesterday"], "2026-11-24T08:30Z"),
        (["--format", "line", "--samples"], "csv or parquet"),
        (["--kind", "strip", "--kind", "value"], "observation, evaluation, strip, event"),
    ],
)
def test_arguments_that_make_no_sense(sqlite_site: Site, words: list[str], said: str) -> None:
    sqlite_site.fill(sample())
    with pytest.raises(SettingsError, match=said):
        sqlite_site.run("export", str(sqlite_site.folder / "out"), *words)


def test_an_export_never_mixes_with_another(sqlite_site: Site) -> None:
    sqlite_site.fill(sample())
    sqlite_site.run("export", str(sqlite_site.folder / "out"))
    with pytest.raises(VitalsError, match="not empty"):
        sqlite_site.run("export", str(sqlite_site.folder / "out"))


def test_without_a_store_that_is_said(sqlite_site: Site) -> None:
    for words in (["export", str(sqlite_site.folder / "out")], ["verify"], ["prune", "--older-than", "1y", "--yes"]):
        with pytest.raises(StoreError, match="no store"):
            sqlite_site.run(*words)


def test_influxdb_away_is_an_error_not_a_traceback(influx_site: Site, influx: Influx) -> None:
    influx_site.fill(sample())
    influx.kill_engine()
    for words in (["export", str(influx_site.folder / "out")], ["verify"], ["prune", "--older-than", "1y", "--yes"]):
        with pytest.raises(VitalsError, match="does not answer"):
            influx_site.run(*words)


def test_a_damaged_row_is_left_out_and_told(sqlite_site: Site) -> None:
    sqlite_site.fill(sample())
    with closing(sqlite_site.db) as db:
        db.execute("UPDATE strip SET message = substr(message, 1, 40) WHERE first_index = 250 AND metric = 'ekg'")
    with pytest.raises(VitalsError, match="1 rows") as told:
        sqlite_site.run("export", str(sqlite_site.folder / "out"))
    assert "s1/250" in told.value.__notes__[0]
    assert len(read_csv(sqlite_site.folder / "out" / "strip.csv")) == 5


def test_an_export_of_much_needs_little_memory(sqlite_site: Site) -> None:
    sqlite_site.fill([strip_row(n * 2500, np.full(2500, 7)) for n in range(1500)])  # 5 kB each
    with closing(open_scan(sqlite_site.settings)) as scan:
        tracemalloc.start()
        count = sum(1 for _ in scan.rows("strip", Span()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 1500
    assert peak < 500_000, f"{peak} bytes for 7,500,000 of rows"


def test_pages_of_a_bucket_are_small_and_overlap_in_nothing(influx_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a page ends among points of one nanosecond, of which there may be more than a page."""
    monkeypatch.setattr(influx_scan, "PAGE", 5)
    monkeypatch.setattr("ingest.store.points.low_digits", lambda key: 7)
    readings = [
        reading(f"{n:032x}", t=T0 + (n // 12) * NS, at=Address("gateway-1", "4", f"d{n}")) for n in range(40)
    ]  # fmt: skip
    influx_site.fill(list(readings))
    with closing(open_scan(influx_site.settings)) as scan:
        sizes: list[int] = []
        bucket = scan._bucket  # type: ignore[attr-defined]
        query = bucket.query
        monkeypatch.setattr(bucket, "query", lambda text: sizes.append(len(found := query(text))) or found)
        found = [one.row.message.id for one in scan.rows("observation", Span())]
    assert sorted(found) == [f"{n:032x}" for n in range(40)]
    assert max(sizes) <= 20 and len(sizes) > 3


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_a_store_in_order_is_in_order(site: Site) -> None:
    site.fill(sample())
    report = site.verify()
    assert report.first == {}
    assert report.rows == {"observation": 4, "evaluation": 6, "strip": 6, "event": 3}
    assert "in order" in site.run("verify")


def test_verify_beside_a_running_ingest(site: Site) -> None:
    with closing(site.open()) as store:
        store.append(sample())
        assert site.verify().wrong == 0
        new = of_device("f", T0 + 9 * NS)
        assert words(store, [new, judged(new)]) == ["stored", "stored"]
        assert site.verify().wrong == 0


A_ROW = "row that is not as it was stored"
NO_READING = "evaluation without its reading"
NO_EVALUATION = "reading without an evaluation"
TAMPERED_SQLITE = [
    ("UPDATE observation SET message = substr(message, 1, 50) WHERE id LIKE 'a%'", A_ROW),
    ("UPDATE observation SET message = CAST(replace(CAST(message AS TEXT), '118', '108') AS BLOB) WHERE id LIKE 'a%'",
     A_ROW),
    ("UPDATE observation SET t = t + 1 WHERE id LIKE 'd%'", A_ROW, NO_READING),
    ("UPDATE observation SET id = 'z' WHERE id LIKE 'd%'", A_ROW, NO_READING, NO_EVALUATION),
    ("UPDATE strip SET message = (SELECT message FROM strip WHERE first_index = 500) WHERE first_index = 250", A_ROW),
    ("UPDATE strip SET next_index = next_index + 1 WHERE first_index = 1000", A_ROW),
    ("UPDATE strip SET t0 = t0 - 1 WHERE first_index = 1000", A_ROW),
    ("UPDATE event SET seq = 77 WHERE seq = 1", A_ROW),
    ("UPDATE evaluation SET message = x'7b7d' WHERE no = 1", A_ROW),
    ("UPDATE evaluation SET rules_hash = 'r9' WHERE no = 1", A_ROW),
    ("UPDATE value SET value = value + 1 WHERE evaluation = 1 AND metric = 'bp_sys'", A_ROW),
    ("UPDATE value SET interpretation = 'HH' WHERE evaluation = 2 AND metric = 'bp_dia'", A_ROW),
    ("DELETE FROM value WHERE evaluation = 3 AND metric = 'bp_dia'", A_ROW),
    ("DELETE FROM observation WHERE id LIKE 'b%'", NO_READING),
    ("UPDATE observation SET room = '9' WHERE id LIKE 'b%'", NO_READING),
    ("DELETE FROM evaluation WHERE no = 2", NO_EVALUATION),
]  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED_SQLITE, ids=lambda case: case[0])
def test_what_was_changed_in_the_file_is_found(sqlite_site: Site, case: tuple[str, ...]) -> None:
    statement, *sorts = case
    sqlite_site.fill(sample())
    with closing(sqlite_site.db) as db:
        assert db.execute(statement).rowcount >= 1
    assert sorted(sqlite_site.verify().first) == sorted(sorts)
    with pytest.raises(VitalsError, match=sorts[0]) as told:
        sqlite_site.run("verify")
    assert told.value.exit_code == 1
    assert told.value.__notes__[0].count("\n  do: ") == len(sorts)


def test_a_damaged_file_is_found(sqlite_site: Site) -> None:
    sqlite_site.fill([reading(f"{n:032x}", t=T0 + n) for n in range(400)])
    with closing(sqlite_site.db) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_observation%'"
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (sqlite_site.folder / "store.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 600)
    with pytest.raises(VitalsError, match=r"damaged file|cannot be read"):
        sqlite_site.run("verify")


SERIES = "device=cuff-1,gateway=gateway-1,room=4"


def point(site: Site, measurement: str, where: str, columns: str) -> dict[str, object]:
    """One point as the engine has it, with its time."""
    assert site.server is not None
    answer = json.loads(site.server.ask(f'SELECT {columns} FROM "{measurement}" WHERE {where}', site.database))
    (series,) = answer["results"][0]["series"]
    return dict(zip(series["columns"], series["values"][0], strict=True))


def altered(point: dict[str, object]) -> str:
    return json.dumps("AAAA" + str(point["block"])[4:])


AS_A = f"\"id\" = '{'a' * 32}'"
AS_B = f"\"id\" = '{'b' * 32}'"
BLOCK = "strip,device=cuff-1,gateway=gateway-1,metric=ekg,room=4"
VALUE = "value,device=cuff-1,gateway=gateway-1,metric=bp_sys,room=4,state=live"
TAMPERED_INFLUX: list[tuple[str, str, str, Callable[[dict[str, object]], str], list[str]]] = [
    ("observation", AS_A, '"id"', lambda p: f"observation,{SERIES} t=5i", [A_ROW]),
    ("observation", AS_A, '"id"', lambda p: f"observation,{SERIES} bp_sys=12", [A_ROW]),
    ("observation", AS_A, '"id"', lambda p: f"observation,{SERIES} temp=39.5", [A_ROW]),
    ("observation", AS_A, '"message"',
     lambda p: f"observation,{SERIES} bp_sys=108,message=" + json.dumps(str(p["message"]).replace("118", "108")),
     ["reading that is not as it was stored"]),
    ("strip", "\"key\" = '250/s1'", '"block"', lambda p: f"{BLOCK} block=" + altered(p), [A_ROW]),
    ("strip", "\"key\" = '250/s1'", '"block"', lambda p: f'{BLOCK} block="AAAA"', [A_ROW]),
    ("strip", "\"key\" = '250/s1'", '"block"', lambda p: f"{BLOCK} scale=50", [A_ROW]),
    ("event", "\"key\" = '1/e1'", '"code"', lambda p: f'event,{SERIES} code="other"', [A_ROW]),
    ("event", "\"key\" = '1/e1'", '"code"', lambda p: f"event,{SERIES} count=99i", [A_ROW]),
    ("evaluation", AS_B, '"no"', lambda p: f'evaluation,{SERIES} message="{{}}"', [A_ROW]),
    ("evaluation", AS_B, '"no"', lambda p: f'evaluation,{SERIES} key="1/r9/x"', [A_ROW]),
    ("value", AS_B + " AND \"metric\" = 'bp_sys'", '"no"', lambda p: f"{VALUE} value=12", [A_ROW]),
    ("value", AS_B + " AND \"metric\" = 'bp_sys'", '"no"', lambda p: f'{VALUE} comparator=">"', [A_ROW]),
    ("value", AS_B + " AND \"metric\" = 'bp_sys'", '"no"',
     lambda p: f'{VALUE.replace("bp_sys", "temp")} no={p["no"]}i,id="x",value=39', [A_ROW]),
]  # fmt: skip


@pytest.mark.parametrize(("measurement", "where", "columns", "line", "sorts"), TAMPERED_INFLUX)
def test_what_was_changed_in_the_bucket_is_found(
    influx_site: Site, influx: Influx, measurement: str, where: str, columns: str,
    line: Callable[[dict[str, object]], str], sorts: list[str],
) -> None:  # fmt: skip
    influx_site.fill(sample())
    found = point(influx_site, measurement, where, columns)
    influx.put(influx_site.database, f"{line(found)} {found['time']}")
    assert sorted(influx_site.verify().first) == sorts


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_bucket_twice_is_found(influx_site: Site, influx: Influx, kind: str) -> None:
    """At another time, InfluxDB takes it for another point."""
    influx_site.fill(sample())
    influx_site.run("export", str(influx_site.folder / "out"), "--format", "line", "--kind", kind)
    lines = (influx_site.folder / "out" / f"{kind}.line").read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith(kind))
    for line in lines[: number + 1]:  # of an evaluation, its values before it
        body, _, time = line.rpartition(" ")
        influx.put(influx_site.database, f"{body} {int(time) + 500_000}")
    report = influx_site.verify()
    assert report.counts["row that is there twice"] == 1
    assert sorted(report.first) in (
        ["row that is there twice"], ["row that is there twice", "strips that overlap"],
        ["mark of the ledger that is too low", "row that is there twice"],
    )  # fmt: skip


def test_an_evaluation_deleted_from_the_bucket_is_missed(influx_site: Site, influx: Influx) -> None:
    influx_site.fill(sample())
    at = point(influx_site, "evaluation", AS_B, '"no"')["time"]
    influx.ask(f'DELETE FROM "evaluation" WHERE time = {at}', influx_site.database)
    (missing,) = influx_site.verify().first[NO_EVALUATION]
    assert "b" * 32 in missing.what and "vitals store refused" in missing.do


@pytest.mark.parametrize("lane", ["strip", "event", "evaluation"])
def test_a_mark_of_the_ledger_below_what_is_written_is_found(influx_site: Site, lane: str) -> None:
    """With such a mark a row sent again is not looked for."""
    influx_site.fill(sample())
    with closing(sqlite3.connect(influx_site.folder / "state.db", isolation_level=None)) as ledger:
        assert ledger.execute(f"UPDATE mark SET ts = ts - 1 WHERE lane LIKE '{lane}%'").rowcount >= 1
    assert set(influx_site.verify().first) == {"mark of the ledger that is too low"}


def test_verify_calls_nothing_wrong_that_is_on_its_way(site: Site) -> None:
    """Ingest writes, and the tool looks again and again."""
    with closing(site.open()) as store, ThreadPoolExecutor(1) as other:

        def write() -> None:
            for count in range(20):
                rows = [reading(f"{count:030x}{n:02x}", t=T0 + (count * 20 + n) * NS) for n in range(20)]
                assert set(words(store, [*rows, *map(judged, rows)])) == {"stored"}
                time.sleep(0.02)

        writing = other.submit(write)
        reports = [site.verify()]
        while not writing.done():
            reports.append(site.verify())
        writing.result()
    assert len(reports) > 2
    assert [report.first for report in reports if report.first] == []


def test_the_ledger_is_compared_with_the_bucket_both_ways(influx_site: Site, influx: Influx) -> None:
    influx_site.fill(sample())
    with closing(sqlite3.connect(influx_site.folder / "state.db", isolation_level=None)) as ledger:
        ledger.execute("DELETE FROM reading WHERE id LIKE 'd%'")
    report = influx_site.verify()
    assert report.counts == {"reading the ledger does not know": 1, NO_READING: 1}
    at = point(influx_site, "observation", f"\"id\" = '{'b' * 32}'", '"id"')["time"]
    influx.ask(f'DELETE FROM "observation" WHERE time = {at}', influx_site.database)
    report = influx_site.verify()
    (missing,) = report.first["reading the bucket does not have"]
    assert "b" * 32 in missing.what and "Restore the bucket" in missing.do


def test_a_bucket_that_is_another_is_said(influx_site: Site, influx: Influx) -> None:
    influx_site.fill(sample())
    influx.ask(f"DROP DATABASE {influx_site.database}")
    influx.ask(f"CREATE DATABASE {influx_site.database}")
    assert set(influx_site.verify().first) == {"another bucket", "reading the bucket does not have"}


def test_gaps_are_noted_and_overlaps_are_wrong(site: Site) -> None:
    """In whatever order the packs came. A new stream begins anew."""
    site.fill([strip_row(1000), strip_row(0), strip_row(250), strip_row(90, stream="s2", t0=T0 + 60 * NS)])
    report = site.verify()
    (gap,) = report.first["gaps in a signal"]
    assert "gateway-1/cuff-1/ekg: 1 gaps, 500 samples" in gap.what
    assert report.wrong == 0
    assert "gaps in a signal" in site.run("verify")
    # A clock that was set back: in another order of time, and in order all the same.
    site.fill([strip_row(0, stream="s3", t0=T0 + 70 * NS), strip_row(250, stream="s3", t0=T0 + 65 * NS)])
    assert site.verify().wrong == 0
    site.fill([strip_row(400)])
    assert site.verify().counts["gaps in a signal"] == 1
    site.fill([strip_row(1100)])
    with pytest.raises(VitalsError, match="strips that overlap"):
        site.run("verify")


# ---- prune -----------------------------------------------------------------------------------------------------------

LATER = T0 + 100 * DAY
CUTOFF = T0 + 50 * DAY


def old_and_new() -> tuple[list[Row], list[Row]]:
    memory, live = of_device("a", T0, record=7), of_device("b", T0 + NS)
    new = of_device("c", LATER, record=8)
    old: list[Row] = [memory, live, judged(memory), judged(live), rate("e", T0), strip_row(0), event_row(1)]
    return old, [new, judged(new), rate("f", LATER), strip_row(250, t0=LATER), EventRow(AT, event(2, at=LATER))]


def words(store: Store, rows: list[Row]) -> list[str]:
    return [outcome.outcome for outcome in store.append(rows)]


def test_what_was_pruned_is_gone_and_does_not_come_back(site: Site) -> None:
    old, new = old_and_new()
    site.fill(old + new)
    with closing(site.open()) as store:  # beside a running ingest
        site.prune(CUTOFF)
        assert store.counts() == {"observation": 1, "strip": 1, "event": 1, "evaluation": 2}
        assert [p.t for p in store.history("4", "bp_sys", 0)] == [LATER]
        assert [m.id for m in store.latest("4")] == ["c" * 32]
        assert store.strip("gateway-1", "cuff-1", "ekg", 0, T0 + DAY) == []
        # An outbox that was away sends them again; nobody may store them a second time.
        assert words(store, old) == [
            "duplicate",
            "refused",
            "duplicate",
            "duplicate",
            "duplicate",
            "refused",
            "refused",
        ]
        assert words(store, new) == ["duplicate"] * 5
        # The meter is read again, with another idea of its clock: the record is known all the same.
        again = of_device("a", CUTOFF + DAY, record=7)
        assert words(store, [again, judged(again)]) == ["duplicate", "duplicate"]
        assert words(store, [of_device("a", CUTOFF + DAY, record=7, sys=90.0)]) == ["refused"]
        reasons = {o.reason for o in store.append(old) if o.outcome == "refused"}
        assert reasons == {"older than what this store was pruned to"}
        assert store.counts() == {"observation": 1, "strip": 1, "event": 1, "evaluation": 2}
    assert site.verify().first == {}
    with closing(site.open()) as store:
        assert words(store, old[:2]) == ["duplicate", "refused"], "forgotten by a restart"


def test_one_kind_and_a_dry_run(site: Site) -> None:
    old, new = old_and_new()
    site.fill(old + new)
    days = (SystemClock().now() - CUTOFF) // DAY
    said = site.run("prune", "--older-than", f"{days}d", "--dry-run")
    assert [line.split(" rows")[0] for line in said.splitlines()] == ["observation: 2", "strip: 1", "event: 1"]
    site.run("prune", "--older-than", f"{days}d", answer="n\n")
    with closing(site.open()) as store:
        assert store.counts() == {"observation": 3, "strip": 2, "event": 2, "evaluation": 5}
        assert words(store, old) == ["duplicate"] * 7
    said = site.run("prune", "--older-than", f"{days}d", "--kind", "strip", answer="y\n")
    assert "pruned" in said
    with closing(site.open()) as store:
        assert store.counts() == {"observation": 3, "strip": 1, "event": 2, "evaluation": 5}
        assert words(store, old) == ["duplicate"] * 5 + ["refused", "duplicate"]
    assert site.verify().wrong == 0


def test_a_clock_that_ran_ahead_does_not_empty_the_store(site: Site) -> None:
    old, _ = old_and_new()
    ahead = SystemClock().now() + 4000 * DAY
    site.fill([*old, strip_row(0, stream="ahead", t0=ahead)])  # of a device whose clock runs ahead
    days = (SystemClock().now() - CUTOFF) // DAY
    for kind in ([], ["--kind", "strip"]):
        with pytest.raises(VitalsError, match="this machine's clock"):
            site.run("prune", "--older-than", f"{days}d", "--yes", *kind)
    with closing(site.open()) as store:
        assert store.counts() == {"observation": 2, "strip": 2, "event": 1, "evaluation": 3}


@pytest.mark.parametrize("age", ["0d", "400", "-1d", "d", "1h"])
def test_an_age_is_at_least_a_day(sqlite_site: Site, age: str) -> None:
    with pytest.raises(SettingsError, match="400d"):
        sqlite_site.run("prune", f"--older-than={age}", "--yes")


def test_pruning_that_was_killed_leaves_a_store_in_order_and_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = old_and_new()
    site.fill(old + new)
    kind = sqlite_prune.SqlitePruner if site.server is None else influx_prune.InfluxPruner
    remove = kind.remove

    def killed(self: prune.Pruner, what: prune.PrunedKind, cutoff: int, step: prune.Step) -> None:
        if what == "strip":
            raise KeyboardInterrupt
        remove(self, what, cutoff, step)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(kind, "remove", killed)
        with suppress(KeyboardInterrupt):
            site.prune(CUTOFF)
    report = site.verify()
    assert (report.wrong, set(report.first)) == (0, {"left by a pruning"})
    with closing(site.open()) as store:
        assert "stored" not in words(store, old)
    site.prune(CUTOFF)
    assert site.verify().first == {}


@pytest.mark.parametrize("kind", KINDS_OF_STORE)
def test_a_prune_killed_at_any_step_leaves_a_store_in_order(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """At each change it makes in the file, the ledger or the bucket. What is old never comes back meanwhile."""
    server = None if kind == "sqlite" else request.getfixturevalue("influx")
    old, new = old_and_new()
    steps = 0
    while True:
        (tmp_path / str(steps)).mkdir()
        site = Site(tmp_path / str(steps), server)
        site.fill(old + new)
        with closing(open_pruner(site.settings)) as pruner:
            left = iter(range(steps))
            _stop_when_over(pruner, left)
            with suppress(KeyboardInterrupt):
                prune.run(pruner, CUTOFF, prune.PRUNED_KINDS, lambda rows: None)
                break
        assert site.verify().wrong == 0, f"killed at step {steps}"
        with closing(open_pruner(site.settings)) as pruner:
            assert pruner.unevaluated(CUTOFF) == 0, "the same prune would refuse to finish"
        site.prune(CUTOFF)
        with closing(site.open()) as store:
            assert store.counts() == {"observation": 1, "strip": 1, "event": 1, "evaluation": 2}
            if steps:
                assert "stored" not in words(store, old)
        steps += 1
    assert steps > 8


def _stop_when_over(pruner: prune.Pruner, left: Iterator[int]) -> None:
    """As kill -9 does: before a change, and nothing is done afterwards."""

    def stopping(do: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object, **named: object) -> object:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return do(*arguments, **named)

        return instead

    if isinstance(pruner, sqlite_prune.SqlitePruner):
        pruner._transaction = stopping(pruner._transaction)  # type: ignore[method-assign, assignment]
        return
    assert isinstance(pruner, influx_prune.InfluxPruner)
    bucket, ledger = pruner._bucket, pruner._ledger
    for part, name in ((bucket, "delete"), (bucket, "write"), (ledger, "transaction")):
        setattr(part, name, stopping(getattr(part, name)))


def test_kill_9_in_the_middle_of_a_prune_beside_ingest(sqlite_site: Site) -> None:
    old = [reading(f"{n:032x}", t=T0 + n * NS) for n in range(6_000)]
    sqlite_site.fill([*old, *map(judged, old)])
    days = (SystemClock().now() - CUTOFF) // DAY
    command = [sys.executable, "-m", "vitals.cli", "store", "prune", f"--older-than={days}d", "--yes"]
    new = [reading(f"f{n:031x}", t=LATER + n * NS) for n in range(40)]
    with closing(sqlite_site.open()) as store:
        assert words(store, [new[0], judged(new[0])]) == ["stored"] * 2
        pruning = subprocess.Popen([*command, "-c", str(sqlite_site.config)], cwd=ROOT, stdout=subprocess.DEVNULL)
        for row in new[1:]:
            assert words(store, [row, judged(row)]) == ["stored"] * 2, "ingest had to wait"
        while store.counts()["evaluation"] > 4_500:
            time.sleep(0.005)
        pruning.kill()
        assert pruning.wait() == -signal.SIGKILL
        assert store.counts()["evaluation"] > 40 and store.counts()["observation"] == 6_040
        report = sqlite_site.verify()
        assert (report.wrong, set(report.first)) == (0, {"left by a pruning"})
        assert words(store, [*old[:9], judged(old[0])]) == ["duplicate"] * 10
        sqlite_site.run("prune", f"--older-than={days}d", "--yes")
        assert store.counts() == {"observation": 40, "strip": 0, "event": 0, "evaluation": 40}
        assert words(store, list(old[:9])) == ["refused"] * 9
    assert sqlite_site.verify().first == {}


def test_nothing_younger_goes_not_even_of_the_same_millisecond(site: Site) -> None:
    """A point of InfluxDB stands in its row's millisecond, not at its time."""
    rows: list[Row] = [
        reading(f"{n:032x}", t=CUTOFF + ns) for n, ns in enumerate((-1_000_000, 600_000, 600_001, 999_999))
    ]  # fmt: skip
    rows += [judged(row) for row in rows if isinstance(row, ObservationRow)]
    rows += [strip_row(n * 250, stream=f"s{n}", t0=CUTOFF + 600_000 + n) for n in range(4)]
    site.fill(rows)
    site.prune(CUTOFF + 600_000)
    with closing(site.open()) as store:
        assert store.counts() == {"observation": 3, "evaluation": 3, "strip": 4, "event": 0}
        assert words(store, rows[1:4]) == ["duplicate"] * 3
    assert site.verify().wrong == 0


def test_readings_without_an_evaluation_are_not_deleted_unless_told(site: Site) -> None:
    old, new = old_and_new()
    site.fill([*old, *new, reading("9" * 32, t=T0 + 5 * NS), reading("8" * 32, t=LATER)])
    days = (SystemClock().now() - CUTOFF) // DAY
    with pytest.raises(VitalsError, match="1 readings before") as told:
        site.run("prune", "--older-than", f"{days}d", "--yes")
    assert "--unevaluated" in told.value.do
    with closing(site.open()) as store:
        assert words(store, old) == ["duplicate"] * 7, "nothing was touched"
    site.run("prune", "--older-than", f"{days}d", "--yes", "--kind", "strip")
    site.run("prune", "--older-than", f"{days}d", "--yes", "--unevaluated")
    with closing(site.open()) as store:
        assert store.counts() == {"observation": 2, "strip": 1, "event": 1, "evaluation": 2}


def test_an_evaluation_that_cannot_be_read_stays_as_long_as_its_reading(sqlite_site: Site) -> None:
    """And one of no reading stays: nobody knows that it is old, and `verify` says that it is damaged."""
    old, new = old_and_new()
    sqlite_site.fill(old + new)
    with closing(sqlite_site.db) as db:
        assert db.execute("UPDATE evaluation SET message = x'00'").rowcount == 5
    sqlite_site.prune(CUTOFF)
    with closing(sqlite_site.db) as db:
        left = sorted(key[0] for (key,) in db.execute("SELECT id FROM evaluation"))
    assert left == ["c", "e", "f"], "of the young reading, and both heart rates"


@NEEDS_INFLUX[0]
@NEEDS_INFLUX[1]
def test_the_copy_of_a_pruned_store_takes_nothing_back(site: Site, influx: Influx) -> None:
    old, new = old_and_new()
    site.fill(old + new)
    site.prune(CUTOFF)
    site.run("export", str(site.folder / "out"), "--format", "line")
    (site.folder / "copy").mkdir()
    other = Site(site.folder / "copy", influx)
    for path in (site.folder / "out").iterdir():
        influx.put(other.database, path.read_bytes().decode())
    with closing(other.open()) as store:
        assert "stored" not in words(store, old)
        assert words(store, new) == ["duplicate"] * 5


def test_the_floor_never_goes_back(site: Site) -> None:
    old, _ = old_and_new()
    site.fill(old)
    site.prune(CUTOFF)
    site.prune(T0 - DAY)
    with closing(site.open()) as store:
        assert words(store, [strip_row(0)]) == ["refused"]


def test_identities_go_after_the_horizon_and_then_the_floor_alone_refuses(site: Site) -> None:
    old, _ = old_and_new()
    site.fill(old)
    site.prune(T0 + prune.HORIZON - DAY)
    with closing(site.open()) as store:
        assert words(store, [of_device("a", T0, record=7)]) == ["duplicate"]
    site.prune(T0 + prune.HORIZON + DAY)
    with closing(site.open()) as store:
        assert words(store, [of_device("a", T0, record=7)]) == ["refused"]
    path, table = ("store.db", "observation") if site.server is None else ("state.db", "reading")
    with closing(sqlite3.connect(site.folder / path)) as db:
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), "it would grow for ever"


def test_only_a_meters_records_leave_an_identity(site: Site) -> None:
    """Numbers of a monitor come once a second: 200 bytes each would never end."""
    rows: list[Row] = [of_device("a", T0, record=7)]
    rows += [reading(f"{n:032x}", t=T0 + n * NS) for n in range(50)]
    dated = reading("9" * 32, t=T0 + 99 * NS)
    body = msgspec.structs.replace(dated.message.observation, t_device="2025-11-24T10:00:00")
    half = msgspec.structs.replace(body, t_device="XXXX-11-24T10:00:00")
    rows.append(ObservationRow(AT, msgspec.structs.replace(dated.message, observation=body)))
    rows.append(ObservationRow(AT, msgspec.structs.replace(dated.message, id="8" * 32, observation=half)))
    site.fill(rows)
    site.prune(CUTOFF)
    path, table = ("store.db", "observation") if site.server is None else ("state.db", "reading")
    with closing(sqlite3.connect(site.folder / path)) as db:
        assert sorted(key for (key,) in db.execute(f"SELECT id FROM {table}")) == ["9" * 32, "a" * 32]
        if site.server is None:
            assert db.execute("SELECT sum(length(message)) FROM observation").fetchone() == (0,), "measured data stayed"


def test_pruning_goes_in_steps(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction is short, whatever there is to delete: ingest waits for it."""
    monkeypatch.setattr(sqlite_prune, "STEP", 10)
    readings = [of_device("a", T0 + n * NS) for n in range(35)]
    rows: list[Row] = [
        ObservationRow(AT, msgspec.structs.replace(r.message, id=f"{n:032x}")) for n, r in enumerate(readings)
    ]  # fmt: skip
    rows += [judged(r) for r in rows if isinstance(r, ObservationRow)]
    rows += [strip_row(n * 250) for n in range(25)]
    sqlite_site.fill(rows)
    pauses: list[int] = []
    done: list[int] = []
    pruner = sqlite_prune.SqlitePruner(
        sqlite_site.folder / "store.db", pause=lambda: pauses.append(sqlite_site.db.total_changes)
    )  # fmt: skip
    with closing(pruner):
        prune.run(pruner, CUTOFF, prune.PRUNED_KINDS, done.append)
    assert sum(done) == 60 and max(done) <= 10
    assert len(pauses) >= 14
    with closing(sqlite_site.db) as db:
        for table in ("value", "evaluation", "observation", "strip"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_ingest_writes_on_while_much_is_pruned(site: Site) -> None:
    site.fill([strip_row(n * 250) for n in range(3000)])
    with closing(site.open()) as store, ThreadPoolExecutor(1) as other:
        pruned = other.submit(site.prune, CUTOFF, "strip")
        count = 0
        while not pruned.done() or count < 5:
            rows = [strip_row(n * 250, stream="s2", t0=LATER + n * NS) for n in range(count * 10, count * 10 + 10)]
            assert words(store, list(rows)) == ["stored"] * 10
            count += 1
        pruned.result()
        assert store.counts()["strip"] == 10 * count
    assert site.verify().first == {}


def test_an_influxdb_that_cannot_delete_keeps_all_and_refuses_nothing(
    influx_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As InfluxDB 3, which has no DELETE."""
    old, new = old_and_new()
    influx_site.fill(old + new)
    monkeypatch.setattr("ingest.store.influx_prune.delete_before", lambda measurement, cutoff: "DELETE ALL THAT IS OLD")
    with pytest.raises(StoreDown, match="does not delete"):
        influx_site.prune(CUTOFF)
    with closing(influx_site.open()) as store:
        assert words(store, old) == ["duplicate"] * 7


def test_a_ledger_made_anew_still_knows_the_floor(influx_site: Site) -> None:
    old, new = old_and_new()
    influx_site.fill(old + new)
    influx_site.prune(CUTOFF)
    (influx_site.folder / "state.db").unlink()
    with closing(influx_site.open()) as store:
        assert words(store, [strip_row(0), of_device("b", T0 + NS)]) == ["refused", "refused"]


def test_the_ledger_of_another_bucket_is_not_pruned(influx_site: Site, influx: Influx) -> None:
    old, _ = old_and_new()
    influx_site.fill(old)
    other = Site(influx_site.folder / "other" if (influx_site.folder / "other").mkdir() is None else ROOT, influx)
    other.fill([strip_row(0)])
    shutil.copy(influx_site.folder / "state.db", other.folder / "state.db")
    with pytest.raises(StoreError, match="not of this bucket"):
        other.prune(CUTOFF)


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_what_the_door_and_the_store_refuse_is_shown(sqlite_site: Site, tmp_path: Path) -> None:
    path = refusals_path(sqlite_site.settings)
    assert path == tmp_path / "store.db.refused"
    ingest = Ingest(tmp_path)
    keeping = Refusals(path)
    ingest.service._writer._keep = keeping.keep
    topic = "vitals/v1/clinic/up/gateway-1/4/cuff-1/obs"
    for payload in (
        b"{\x1b[31m",
        encode(observation("1" * 32)),
        encode(observation("1" * 32, bp(200.0, 99.0), seq=2)),
        encode([observation("2" * 32, seq=3), observation("", seq=4)]),
        b'{"v":99,"epoch":"e","seq":1}',
    ):
        ingest.broker.put(topic, payload)
    ingest.service.step()
    keeping.close()
    ingest.store.close()
    with closing(RefusalsReader(path)) as reader:
        kept = list(reader.newest(9))
    assert sorted(one.reason.partition(":")[0] for one in kept) == ["bad value", "malformed", "same id, other content"]
    assert {one.topic for one in kept} == {"gateway-1/4/cuff-1/obs"}
    assert b"{\x1b[31m" in {one.payload for one in kept}
    said = sqlite_site.run("refused")
    assert "3 refused, 3 different ones are kept" in said
    assert "same id, other content" in said
    lines = [json.loads(line) for line in sqlite_site.run("refused", "--json").splitlines()]
    (conflict,) = [line for line in lines if line["reason"] == "same id, other content"]
    assert json.loads(conflict["payload"])["observation"]["quantities"]["bp_sys"]["value"] == 200.0
    assert "\x1b" not in sqlite_site.run("refused", "--json")
    assert len(sqlite_site.run("refused", "--json", "--limit", "1").splitlines()) == 1


def test_the_service_keeps_them_from_its_settings(sqlite_site: Site) -> None:
    """What `vitals ingest` wires is what `vitals store refused` reads."""
    broker = FakeBroker([])
    broker.connect()
    broker.put("vitals/v1/clinic/up/gateway-1/4/cuff-1/obs", b"\xff\x00")
    turns = iter(range(2))

    class Stop:
        def is_set(self) -> bool:
            return next(turns, None) is None

    assert "nothing was refused" in sqlite_site.run("refused")
    run(sqlite_site.settings, broker.factory, ManualClock(T0), Stop())  # type: ignore[arg-type]
    (line,) = sqlite_site.run("refused", "--json").splitlines()
    assert base64.b64decode(json.loads(line)["payload_base64"]) == b"\xff\x00"
    assert "1 messages were refused" in sqlite_site.run("verify")


def test_the_same_again_is_counted_and_takes_no_room(tmp_path: Path) -> None:
    keeping = Refusals(tmp_path / "refused")
    for n in range(5):
        keeping.keep([Refusal("g/4/d/obs", b"x", "malformed")], T0 + n)
    keeping.keep([Refusal("g/4/d/obs", b"x", "oversize")], T0)
    keeping.close()
    with closing(RefusalsReader(tmp_path / "refused")) as reader:
        assert sorted((one.reason, one.times, one.first, one.last) for one in reader.newest(9)) == [
            ("malformed", 5, T0, T0 + 4), ("oversize", 1, T0, T0),
        ]  # fmt: skip
        assert reader.totals() == (2, 6, 0)


@pytest.mark.parametrize(("name", "bound"), [("MAX_REFUSALS", 10), ("MAX_REFUSED_BYTES", 1050)])
def test_the_oldest_go_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bound: int
) -> None:
    monkeypatch.setattr(refusals, name, bound)
    keeping = Refusals(tmp_path / "refused")
    keeping.keep([Refusal("t", bytes([n]) * 100, "r") for n in range(25)], T0)
    for n in range(25, 30):
        keeping.keep([Refusal("t", bytes([n]) * 100, "r")], T0 + n)
    keeping.close()
    with closing(RefusalsReader(tmp_path / "refused")) as reader:
        assert [one.payload[0] for one in reader.newest(99)] == list(range(20, 30))
        assert reader.totals() == (10, 30, 20)


def test_a_large_payload_is_cut_and_its_size_kept(tmp_path: Path) -> None:
    keeping = Refusals(tmp_path / "refused")
    keeping.keep([Refusal("t", b"a" * 300_000, "oversize" + "!" * 5000)], T0)
    keeping.close()
    with closing(RefusalsReader(tmp_path / "refused")) as reader:
        (one,) = reader.newest(9)
    assert (one.size, len(one.payload), len(one.reason)) == (300_000, refusals.MAX_KEPT, refusals.MAX_REASON)


def test_a_file_that_takes_nothing_does_not_stop_ingest(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something else " * 100)
    for path in (tmp_path / "absent" / "refused", tmp_path / "other"):
        Refusals(path).keep([Refusal("t", b"x", "r")], T0)
    with pytest.raises(StoreError, match="cannot be read"):
        RefusalsReader(tmp_path / "other")
    # And what no encoding holds is kept as words.
    assert b"t_determined" in refusals.refused_row(reading("a" * 32, t=2**70), "r").payload


def test_a_damaged_file_of_refused_messages_is_an_error_not_a_traceback(sqlite_site: Site) -> None:
    sqlite_site.fill(sample())
    path = refusals_path(sqlite_site.settings)
    keeping = Refusals(path)
    keeping.keep([Refusal("t", b"%d" % n * 50, "r") for n in range(500)], T0)
    keeping.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)
    for command in ("refused", "verify"):
        with pytest.raises(StoreError, match="cannot be read"):
            sqlite_site.run(command)


# ---- the program -----------------------------------------------------------------------------------------------------


def test_the_program_ends_with_a_code_and_no_traceback(sqlite_site: Site) -> None:
    sqlite_site.fill(sample())
    with closing(sqlite_site.db) as db:
        db.execute("UPDATE observation SET t = 1 WHERE id LIKE 'd%'")
    done = subprocess.run(
        [sys.executable, "-m", "vitals.cli", "store", "verify", "-c", str(sqlite_site.config)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: The store" in done.stderr and "Traceback" not in done.stderr
    assert "t is 1, its message says" in done.stdout


def subcommands() -> Iterator[tuple[str, list[str]]]:
    group = typer.main.get_command(app).commands["store"]  # type: ignore[attr-defined]
    for name, command in group.commands.items():
        yield name, [o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]


def test_every_option_of_every_subcommand_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = text.partition("## `vitals store`")[2].partition("\n## ")[0]
    for name, options in subcommands():
        assert f"`vitals store {name}" in section
        assert [option for option in options if f"`{option}`" not in section] == []


def test_the_columns_of_an_export_are_documented() -> None:
    text = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    for kind in KINDS:
        for samples in (False, True):
            made = table(kind, samples=samples)
            assert f"### `{made.name}.csv`" in text
            section = text.partition(f"### `{made.name}.csv`")[2].partition("\n##")[0]
            missing = [c.name for c in made.columns if c.name not in METRICS and f"`{c.name}`" not in section]
            assert missing == [], made.name
