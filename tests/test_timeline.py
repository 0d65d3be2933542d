"""The line from sample index to UTC: jitter does not bend it, a crooked crystal does not break it, loss is seen."""

import numpy as np
import pytest

from drivers.core.timeline import TimeLine
from vitals.clock import NS

START = 1_764_000_000 * NS


def feed(line: TimeLine, seconds: int, *, rate: float, true_rate: float, jitter_s: float, seed: int = 0) -> int:
    """Arrivals of chunks of 5 samples, each late by an exponential latency. Returns samples said to be lost."""
    rng = np.random.default_rng(seed)
    lost = 0
    for end in range(5, int(seconds * true_rate), 5):
        late = rng.exponential(jitter_s)
        lost += line.observe(end, START + round((end / true_rate + late) * NS))
    return lost


@pytest.mark.parametrize("true_rate", [125.0, 125.0 * 1.01, 125.0 * 0.99])
def test_a_board_off_by_a_percent_is_followed_within_30_ms(true_rate: float) -> None:
    line = TimeLine(125.0)
    assert feed(line, 120, rate=125.0, true_rate=true_rate, jitter_s=0.02) == 0
    index = int(119 * true_rate)
    error_s = (line.at(index) - START) / NS - index / true_rate
    assert abs(error_s) < 0.03


def test_samples_are_evenly_spaced_whatever_the_jitter() -> None:
    line = TimeLine(250.0)
    feed(line, 60, rate=250.0, true_rate=250.0, jitter_s=0.05)
    steps = np.diff([line.at(i) for i in range(10_000, 10_100)])
    assert steps.max() - steps.min() <= 2  # nanoseconds of rounding


def test_a_stall_of_the_host_is_no_loss() -> None:
    line = TimeLine(125.0)
    lost = feed(line, 30, rate=125.0, true_rate=125.0, jitter_s=0.005)
    for end in range(3750, 4125, 5):  # three seconds arrive in one burst
        lost += line.observe(end, START + 33 * NS)
    for end in range(4130, 5000, 5):
        lost += line.observe(end, START + round(end / 125.0 * NS))
    assert lost == 0


def test_bytes_lost_without_a_trace_are_counted_as_a_gap() -> None:
    line = TimeLine(125.0)
    assert feed(line, 30, rate=125.0, true_rate=125.0, jitter_s=0.005) == 0
    hole_s, lost, shift = 2.0, 0, 0
    for end in range(3750, 3750 + 125 * 10, 5):
        found = line.observe(end + shift, START + round((end / 125.0 + hole_s) * NS))
        lost += found
        shift += found
    assert lost == pytest.approx(hole_s * 125, abs=2)
    assert (line.at(5000 + shift) - START) / NS == pytest.approx(5000 / 125.0 + hole_s, abs=0.03)


@pytest.mark.parametrize(("true_rate", "slower"), [(123.75, 0.0101), (126.25, -0.0099), (125.0, 0.0)])
def test_the_pace_is_told_after_a_minute_whatever_the_jitter(true_rate: float, slower: float) -> None:
    line = TimeLine(125.0)
    for second in range(1, 58):
        line.observe(round(second * true_rate), START + second * NS)
    assert line.off_pace is None
    line = TimeLine(125.0)
    feed(line, 80, rate=125.0, true_rate=true_rate, jitter_s=0.02)
    assert line.off_pace == pytest.approx(slower, abs=5e-4)


def test_by_samples_time_runs_with_the_index() -> None:
    line = TimeLine(360.0, by_samples=True)
    line.observe(360, START)
    line.observe(36_000, START + NS)
    assert line.at(36_000) - line.at(0) == 100 * NS


def test_asking_before_anything_arrived_is_an_error() -> None:
    with pytest.raises(ValueError, match="no arrival"):
        TimeLine(125.0).at(0)
