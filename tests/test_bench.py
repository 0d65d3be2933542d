"""What `bench.latency` stands on: its board speaks the protocol, and what is lost is not dropped from the figures."""

import math

import numpy as np
import pytest

from bench.board_line import FINE, LEVELS, RATE, Script
from bench.figures import Row, Seen, level, match, table
from drivers.ekg_openview import DRIVER
from vitals.clock import NS_PER_MS
from vitals.model import Chunk, Fault, Observation, SampleArray

SECONDS = 9


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
    assert table([row])[-1] == "| x | 20 | inf | inf | inf | 2 | 1 |"


def test_one_sight_serves_one_byte() -> None:
    row = match("x", seen("a", 1000, 1001), seen("a", 1010))
    assert (len(row.delays_ms), row.lost) == (1, 1)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 100.0), (0.99, 198.0), (1.0, 200.0)])
def test_percentiles_are_of_what_was_sent(share: float, expected: float) -> None:
    assert Row("x", [float(n) for n in range(1, 201)], 200).percentile(share) == expected


def test_nothing_sent_is_no_figure() -> None:
    assert table([Row("x", [], 0)])[-1] == "| x | inf | inf | inf | inf | 0 | 0 |"
