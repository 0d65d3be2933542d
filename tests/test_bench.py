"""What `bench.latency` stands on: its board speaks the protocol, and what is lost is not dropped from the figures."""

import math
import re
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench import latency, latency_clinic
from bench.board_line import FINE, LEVELS, RATE, Script
from bench.figures import Row, Seen, level, match, table
from bench.report import BEGIN, END, Measured, part, replaced
from drivers.ekg_openview import DRIVER
from vitals.clock import NS_PER_MS
from vitals.model import Chunk, Fault, Observation, SampleArray

SECONDS = 9
PAGE = Path(__file__).resolve().parents[1] / "docs" / "bench.md"


@pytest.mark.parametrize(("oximeter", "reading", "some"), [(True, "spo2", ["rr"]), (False, "rr", [])])
def test_the_frames_are_a_board_s_and_change_where_they_say(oximeter: bool, reading: str, some: list[str]) -> None:
    script, session = Script("m1", oximeter=oximeter), DRIVER.new_session({"rate_hz": float(RATE)})
    told: dict[str, list[tuple[int, str, int]]] = {"reading": [], "any moment": [], "ekg": []}
    readings: list[tuple[int, Observation]] = []
    trace: list[int] = []
    for index in range(SECONDS * RATE):
        frame, new = script.frame(index)
        for change in new:
            told[change.kind].append((index, change.key, change.value))
        for event in session.receive(Chunk(frame, index)):
            assert not isinstance(event, Fault)
            if isinstance(event, Observation):
                readings.append((index, event))
            elif isinstance(event, SampleArray) and event.metric == "ekg":
                trace += event.samples.tolist()
    assert told["reading"] == [(at, reading, one.quantities[reading].value) for at, one in readings]
    assert len(readings) == SECONDS
    for key in some:
        values = [value for _, _, value in told["any moment"]]
        assert values[:-1] == [one.quantities[key].value for _, one in readings[1:]]
    assert bool(told["any moment"]) == bool(some)
    assert told["ekg"] == [(int(at), "ekg", trace[at]) for at in np.flatnonzero(trace)]
    assert len(told["ekg"]) == SECONDS


def test_heights_of_spikes_in_a_row_are_all_different_and_each_shows_its_level() -> None:
    heights = [LEVELS[n % 4] + n // 4 % FINE for n in range(4 * FINE)]
    assert len(set(heights)) == 4 * FINE
    tallest = max(heights) * 0.189  # px a count, 5 uV at 10 mm/mV
    assert [level(round(h * 0.189), tallest, LEVELS) for h in heights] == [LEVELS[n % 4] for n in range(4 * FINE)]


def seen(what: str, *ms: int) -> list[Seen]:
    return [Seen(what, at * NS_PER_MS) for at in ms]


def test_a_delay_is_to_the_first_sight_after_the_byte() -> None:
    row = match("x", seen("a", 1000, 5000), seen("a", 900, 1040, 1050, 5007))
    assert row.delays_ms == [7.0, 40.0]
    assert row.lost == 0


@pytest.mark.parametrize("sights", [(), (900,), (1000 + 3501,)], ids=["never", "before", "too late to be this one"])
def test_what_never_appeared_is_lost_and_later_than_any_percentile(sights: tuple[int, ...]) -> None:
    row = match("x", [*seen("a", 1000), *seen("b", 1000)], [*seen("a", *sights), *seen("b", 1020)])
    assert (row.sent, row.lost) == (2, 1)
    assert row.percentile(0.5) == 20.0
    assert row.percentile(0.99) == math.inf
    assert table([row])[-1] == "| x | 20 | inf | inf | inf | 2 | 1 |  |"


def test_one_sight_serves_one_byte() -> None:
    row = match("x", seen("a", 1000, 1001), seen("a", 1010))
    assert (len(row.delays_ms), row.lost) == (1, 1)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 100.0), (0.99, 198.0), (1.0, 200.0)])
def test_percentiles_are_of_what_was_sent(share: float, expected: float) -> None:
    assert Row("x", [float(n) for n in range(1, 201)], 200).percentile(share) == expected


def test_nothing_sent_is_no_figure() -> None:
    assert table([Row("x", [], 0)])[-1] == "| x | inf | inf | inf | inf | 0 | 0 |  |"


@pytest.mark.parametrize(
    ("delays", "sent", "verdict"),
    [([150.0] * 100, 100, "150: met"), ([150.0] * 99 + [151.0], 100, "150: met"), ([150.0] * 98 + [151.0] * 2, 100,
     "150: not met"), ([1.0] * 98, 100, "150: not met"), ([], 0, "150: not met")],
    ids=["at the bar", "one of a hundred over", "two over", "two lost", "nothing measured"],
)  # fmt: skip
def test_a_bar_is_for_99_of_100(delays: list[float], sent: int, verdict: str) -> None:
    assert table([Row("x", delays, sent, 150)])[-1].endswith(f"| {verdict} |")


# -- the page ----------------------------------------------------------------------------------------------------


NOTHING: dict[str, list[Seen]] = {stage: [] for stage in ("read", "sent", "flagged", "come", "painted", "inked")}


def test_every_bar_and_every_row_of_a_run_is_told() -> None:
    rows = latency.rows([], NOTHING)
    told = "\n".join(part(Measured("a+b", rows, ["load average 1"])))
    bars = re.findall(r"^\| ([^|]*?) \|.* (\d+): (?:not )?met \|$", told, re.M)
    assert dict(bars) == {
        "**reading: painted**": "150",
        "- of a HealthyPi (SpO₂)": "150",
        "- of an ADS1292R (respiratory rate)": "150",
        "**EKG: at the page**": "300",
        "**EKG: painted**": "600",
    }
    assert "| change at any moment: painted |" in told
    assert "**a+b**" in told
    assert "- load average 1" in told


def test_the_figures_have_their_place_on_the_page_and_nothing_else_changes() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    written = replaced(page, ["new", "| x |"])
    assert written == f"before\n{BEGIN}\nnew\n| x |\n{END}\nafter\n"
    assert replaced(written, ["old"]) == page


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_page_without_one_place_for_the_figures_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        replaced(page, ["x"])


def test_the_page_of_this_project_has_the_place_with_whole_runs_in_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    replaced(text, [])
    figures = text.partition(BEGIN)[2].partition(END)[0]
    tables = re.findall(r"(?:^\|.*\n)+", figures, re.M)
    labels = [row.label for row in latency.rows([], NOTHING)]
    for found in tables:
        assert re.findall(r"^\| ([^|]+?) \|", found, re.M)[1:] == labels, "rows of a run were left out or changed"
    around = text.replace(figures, "")
    assert f"The first {latency.SETTLE_S} s " in around
    for bar in (latency.READING_MS, latency.EKG_AT_PAGE_MS, latency.EKG_PAINTED_MS):
        assert f"{bar} ms" in around


# -- the load ----------------------------------------------------------------------------------------------------


def test_the_load_is_rooms_of_the_demo_and_the_measured_rooms_come_on_top(tmp_path: Path) -> None:
    store = '{ kind = "influx", url = "http://127.0.0.1:1", bucket = "b" }'
    path = latency_clinic.write_settings(tmp_path, store, broker=1, window=2, board=3)
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    everywhere = Counter(["bp_gatt", "thermometer_gatt", "ekg_openview", "glucometer_ultramini"])
    for room in ("1", "2", "3", "4"):
        assert Counter(d["driver"] for d in found["gateway"]["devices"] if d["room"] == room) == everywhere
        assert Counter(d["kind"] for d in found["simulate"]["devices"] if d["room"] == room) == everywhere
    for room in latency_clinic.ROOMS:
        assert [d["port"] for d in found["gateway"]["devices"] if d["room"] == room] == [f"tty-{room}"]
    assert len(found["board"]["rooms"]) == 8
    assert len(found["simulate"]["devices"]) == 16, "the bench is the board of its rooms itself"
    assert found["ingest"]["store"] == {"kind": "influx", "url": "http://127.0.0.1:1", "bucket": "b"}
    assert found["site"]["id"] == latency_clinic.SITE
