"""The streaming QRS detector and heart rate, on recordings annotated by others and on made-up signals."""

import warnings
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.ekg.coverage import SETTLE, Coverage
from ingest.ekg.rate import HeartRate
from ingest.ekg.simple import QrsDetector
from ingest.ekg.streams import Streams
from ingest.store.contract import StripTail, strip_end
from tests.ingest_making import AT, T0, strip
from tests.shared import SHARED, needs_shared
from vitals.clock import NS

BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
"""Annotation codes that are beats (WFDB); the others mark rhythm, noise and waves."""


def record(name: str, seconds: int = 1800) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(channel 0 in counts, beats as sample indices, rate, microvolt a count)."""
    wfdb = pytest.importorskip("wfdb")
    path = str(SHARED / "ekg" / "mitdb" / name)
    data = wfdb.rdrecord(path, physical=False, channels=[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb's own use of pandas is going out of date
        marks = wfdb.rdann(path, "atr")
    end = seconds * 360
    beats = np.array([s for s, code in zip(marks.sample, marks.symbol, strict=True) if code in BEATS and s < end])
    return data.d_signal[:end, 0].astype(np.int16), beats, float(data.fs), 1000.0 / data.adc_gain[0]


def detect(samples: np.ndarray, rate: float, scale: float | None, chunk: int) -> list[int]:
    detector = QrsDetector(rate, scale)
    return [b for i in range(0, len(samples), chunk) for b in detector.push(samples[i : i + chunk], i)]


def f1(truth: np.ndarray, found: list[int], window: int) -> float:
    """Each annotated beat matches at most one found within the window, and the other way round."""
    i = j = hits = 0
    while i < len(truth) and j < len(found):
        if abs(int(truth[i]) - found[j]) <= window:
            hits, i, j = hits + 1, i + 1, j + 1
        elif truth[i] < found[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(truth) + len(found))


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(("name", "bar"), [("101", 0.99), ("115", 0.99), ("122", 0.99), ("118", 0.99)])
def test_clean_records(name: str, bar: float) -> None:
    samples, beats, rate, scale = record(name)
    assert f1(beats, detect(samples, rate, scale, 360), window=round(0.150 * rate)) >= bar


@needs_shared
@pytest.mark.shared
def test_slices_of_any_size_give_the_same_beats() -> None:
    samples, _, rate, scale = record("101", seconds=40)
    whole = detect(samples, rate, scale, len(samples))
    assert len(whole) > 30
    for chunk in (1, 7, 72, 360):
        assert detect(samples, rate, scale, chunk) == whole, chunk


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize("name", ["101", "122"])
def test_heart_rate_follows_the_annotations(name: str) -> None:
    """Against the mean of the last 12 annotated RR, a minute into the record and from then on each second."""
    samples, beats, rate, scale = record(name, seconds=300)
    detector, shown = QrsDetector(rate, scale), HeartRate(rate)
    off = []
    for second in range(300):
        start = second * 360
        for beat in detector.push(samples[start : start + 360], start):
            shown.beat(beat)
        last = beats[beats < start + 360][-13:]
        if second >= 60:
            value, why = shown.at(start + 360)
            assert value is not None, why
            off.append(abs(value - 60.0 / np.diff(last / rate).mean()))
    assert max(off) <= 5.0


@needs_shared
@pytest.mark.shared
def test_a_beat_is_told_within_six_tenths_of_a_second() -> None:
    samples, _, rate, scale = record("122", seconds=120)
    detector = QrsDetector(rate, scale)
    delays = [
        (i + 36 - beat) / rate
        for i in range(0, len(samples), 36)
        for beat in detector.push(samples[i : i + 36], i)
        if i > 10 * rate
    ]
    assert np.percentile(delays, 99) <= 0.6


# ---- made-up signals -------------------------------------------------------------------------------------------


def spikes(bpm: float, seconds: float, rate: float = 250.0, height: int = 200) -> np.ndarray:
    """A triangle of 80 ms each beat, 1 mV at 5 uV a count."""
    wave = np.zeros(round(seconds * rate))
    shape = np.concatenate([np.linspace(0, height, 10), np.linspace(height, 0, 10)])
    for start in np.arange(0.5, seconds - 0.2, 60.0 / bpm):
        at = round(start * rate)
        wave[at : at + 20] += shape
    return wave.astype(np.int16)


def rate_of(samples: np.ndarray, rate: float = 250.0) -> float | None:
    detector, shown = QrsDetector(rate, 5.0), HeartRate(rate)
    for beat in detector.push(samples, 0):
        shown.beat(beat)
    return shown.at(len(samples))[0]


@pytest.mark.parametrize("bpm", [30, 40, 60, 80, 120, 180, 220])
def test_steady_rates(bpm: int) -> None:
    value = rate_of(spikes(bpm, 30))
    assert value == pytest.approx(bpm, abs=max(1.0, 0.02 * bpm))


@pytest.mark.parametrize(("before", "after"), [(80, 120), (80, 40)])
def test_step_response_within_eleven_seconds(before: int, after: int) -> None:
    """Monitors declare less than 11 s (clinical rules 10.2)."""
    samples = np.concatenate([spikes(before, 30), spikes(after, 11)])
    value = rate_of(samples)
    assert value == pytest.approx(after, abs=5)


@pytest.mark.parametrize("level", [0, 32767, -32768, 1000])
def test_a_flat_line_has_no_beats(level: int) -> None:
    assert QrsDetector(250.0, 5.0).push(np.full(10_000, level, np.int16), 0) == []


def test_less_than_the_floor_is_no_beat() -> None:
    """Deflections up to 0.15 mV are ignored where the scale is known."""
    assert QrsDetector(250.0, 5.0).push(spikes(60, 20, height=10), 0) == []
    rng = np.random.default_rng(3)
    assert QrsDetector(250.0, 5.0).push(rng.integers(-4, 5, 20_000).astype(np.int16), 0) == []


def test_an_artefact_does_not_deafen_for_long() -> None:
    samples = spikes(75, 60).astype(np.int32)
    samples[500:520] = 2_000_000
    beats = QrsDetector(250.0, 5.0).push(samples, 0)
    assert sum(b > 15 * 250 for b in beats) >= 0.95 * 45 * 75 / 60


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["noise", "rails", "steps"]),
    cuts=st.lists(st.integers(1, 700), min_size=1, max_size=12),
)
def test_any_input_is_bounded_ordered_and_independent_of_slicing(seed: int, kind: str, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    size = sum(cuts)
    top = 2**31 - 1
    made = {
        "noise": rng.integers(-top, top, size),
        "rails": rng.choice([-top, top], size),
        "steps": np.repeat(rng.integers(-2000, 2000, size // 50 + 1), 50)[:size],
    }
    samples = made[kind].astype(np.int32)
    detector, sliced, at = QrsDetector(250.0), [], 0
    for cut in cuts:
        sliced += detector.push(samples[at : at + cut], at)
        at += cut
    assert sliced == QrsDetector(250.0).push(samples, 0)
    assert all(b - a >= 50 for a, b in pairwise(sliced)), "two beats within the refractory period"
    assert len(detector._waiting) < 25 and len(detector._band) == 750 and len(detector._pending) <= 64


def test_a_gap_starts_anew_and_equals_a_fresh_detector() -> None:
    samples = spikes(70, 20)
    detector = QrsDetector(250.0, 5.0)
    detector.push(samples, 0)
    after = detector.push(samples, 9000)
    assert [b - 9000 for b in after] == QrsDetector(250.0, 5.0).push(samples, 0)


def test_lead_off_samples_are_not_looked_at() -> None:
    detector = QrsDetector(250.0, 5.0)
    assert detector.push(spikes(70, 20), 0, lead_off=True) == []
    assert detector.push(spikes(70, 20), 5000) == [5000 + b for b in QrsDetector(250.0, 5.0).push(spikes(70, 20), 0)]


@pytest.mark.parametrize("rate", [0.0, 49.0, 4001.0, float("nan"), float("inf"), -250.0])
def test_rates_the_method_is_not_made_for(rate: float) -> None:
    with pytest.raises(ValueError, match="samples a second"):
        QrsDetector(rate)


# ---- heart rate, by hand ---------------------------------------------------------------------------------------


def beats_at(*ms: float) -> HeartRate:
    shown = HeartRate(1000.0)
    for t in np.cumsum((0, *ms)):
        shown.beat(int(t))
    return shown


def test_shortest_and_longest_of_twelve_are_dropped() -> None:
    """Ten of 800 ms, one of 400 and one of 1600: the mean is 800 ms, 75 a minute."""
    shown = beats_at(*[800] * 5, 400, 1600, *[800] * 5)
    assert shown.at(10_500) == (75.0, "")


def test_only_the_last_twelve_count() -> None:
    assert beats_at(*[500] * 20, *[1000] * 12).at(22_500) == (60.0, "")


def test_slow_hearts_use_the_last_four() -> None:
    """Three above 1200 ms: (1000 + 3 x 1500) / 4 = 1375 ms."""
    value, _ = beats_at(*[1000] * 9, 1500, 1500, 1500).at(13_600)
    assert value == pytest.approx(60_000 / 1375)
    assert beats_at(*[1000] * 9, 1200, 1500, 1500).at(13_300)[0] == pytest.approx(
        60_000 / ((8 * 1000 + 1200 + 1500) / 10)
    )


def test_no_rate_before_some_beats_and_none_after_silence() -> None:
    assert beats_at(800, 800).at(1700) == (None, "waiting for beats")
    shown = beats_at(*[800] * 6)
    assert shown.at(4800 + 4000)[0] == 75.0
    assert shown.at(4800 + 4001) == (None, "no beat seen for 4 s")
    shown.beat(20_000)
    assert shown.at(20_100) == (None, "waiting for beats")


# ---- what was not received ---------------------------------------------------------------------------------------


def fed(*strips, now: int = T0) -> Coverage:
    coverage = Coverage()
    for s in strips:
        coverage.add(s, strip_end(s), now)
    return coverage


def test_nothing_missing() -> None:
    coverage = fed(strip(0), strip(250), strip(500))
    assert (coverage.open_s, coverage.due(T0 + 10 * SETTLE), coverage.missing_s) == (0, [], 0)


def test_a_jump_is_missing_once_nothing_fills_it() -> None:
    coverage = fed(strip(0), strip(1000))
    assert coverage.open_s == 3.0
    assert coverage.due(T0 + SETTLE) == []
    assert coverage.due(T0 + SETTLE + 1) == [3.0]
    assert (coverage.missing_s, coverage.missing_samples, coverage.open_s) == (3.0, 750, 0)


def test_what_the_gateway_knows_to_be_lost_is_told_at_once() -> None:
    coverage = fed(strip(0))
    late = strip(1000, lost_before=750)
    assert coverage.add(late, strip_end(late), T0).lost == [3.0]
    assert coverage.open_s == 0


def test_a_backlog_fills_the_gap_in_any_order() -> None:
    coverage = fed(strip(0), strip(1000), strip(500))
    assert coverage.open_s == 2.0
    coverage.add(strip(750), T0 + 4 * NS, T0)
    coverage.add(strip(250), T0 + 2 * NS, T0)
    coverage.add(strip(250), T0 + 2 * NS, T0)
    assert (coverage.open_s, coverage.due(T0 + 10 * SETTLE)) == (0, [])


def test_a_draining_backlog_keeps_the_gap_open() -> None:
    coverage = fed(strip(0), strip(1000))
    coverage.add(strip(250), T0 + 2 * NS, T0 + SETTLE)
    assert coverage.due(T0 + SETTLE + NS) == []
    assert coverage.due(T0 + 2 * SETTLE + 1) == [2.0]


def test_between_two_link_ups_time_counts() -> None:
    coverage = fed(strip(0), strip(77, stream="s2", t0=T0 + round(13.3 * NS)))
    assert coverage.due(T0 + SETTLE + 1) == [pytest.approx(12.3)]
    assert coverage.missing_samples == 0


def test_the_old_streams_tail_fills_what_lies_between() -> None:
    coverage = fed(strip(0), strip(0, stream="s2", t0=T0 + 4 * NS))
    for first in (250, 500, 750):
        coverage.add(strip(first), T0 + (first // 250 + 1) * NS, T0)
    assert coverage.open_s == 0


@pytest.mark.parametrize("away_s", [0.3, 5 * 3600])
def test_jitter_and_a_device_put_away_are_no_gap(away_s: float) -> None:
    coverage = fed(strip(0), strip(0, stream="s2", t0=T0 + NS + round(away_s * NS)))
    assert coverage.open_s == 0


def test_a_restarted_ingest_sees_the_gap_against_the_store() -> None:
    streams = Streams()
    streams.resume(StripTail("gateway-1", "cuff-1", "4", "ekg", "s1", 250, T0 + NS))
    streams.take(AT, strip(500), T0)
    assert streams.missing() == {"gateway-1/cuff-1/ekg": 1.0}
    assert [lost.seconds for lost in streams.due(T0 + SETTLE + 1)] == [1.0]


def test_gaps_without_end_stay_bounded_and_are_all_counted() -> None:
    coverage = fed(*[strip(n * 500) for n in range(200)])
    assert len(coverage._open) <= 64
    assert coverage.missing_s + coverage.open_s == 199.0


# ---- streams -----------------------------------------------------------------------------------------------------


def beating(bpm: float, seconds: int, *, stream: str = "s1", first: int = 0) -> list:
    wave = spikes(bpm, seconds)
    return [
        strip(first + i, wave[i : i + 250], stream=stream, t0=T0 + (first + i) * NS // 250)
        for i in range(0, len(wave), 250)
    ]


def rates(streams: Streams, strips: list) -> list[tuple[float | None, str]]:
    found = [streams.take(AT, s, strip_end(s))[0] for s in strips]
    return [(r.value, r.reason) for r in found if r is not None]


def test_one_rate_a_second() -> None:
    told = rates(Streams(), beating(75, 12))
    assert len(told) == 12
    assert told[0] == (None, "waiting for beats")
    assert told[-1] == (75.0, "")


def test_short_packs_share_a_rate() -> None:
    wave = spikes(75, 12)
    packs = [strip(i, wave[i : i + 25], t0=T0 + i * NS // 250) for i in range(0, len(wave), 25)]
    assert 10 <= len(rates(Streams(), packs)) <= 14


def test_a_resent_or_late_strip_is_never_analysed() -> None:
    streams, strips = Streams(), beating(75, 12)
    assert len(rates(streams, strips)) == 12
    assert rates(streams, strips) == []
    assert rates(streams, beating(75, 3, stream="older")) == []


def test_a_clock_put_right_after_running_ahead_silences_no_new_stream() -> None:
    """An hour ahead, then stepped back with a new link-up: 60 strips, 60 answers, and no hour is missing."""
    streams, ahead = Streams(), 3600 * NS
    for s in beating(75, 5):
        streams.take(AT, msgspec.structs.replace(s, t0=s.t0 + ahead), strip_end(s))
    after = [msgspec.structs.replace(s, t0=s.t0 + 5 * NS) for s in beating(75, 60, stream="s2")]
    told = rates(streams, after)
    assert len(told) == 60
    assert told[-1] == (75.0, "")
    assert streams.missing() == {}


def test_after_a_restart_strips_that_are_stored_are_not_analysed_again() -> None:
    streams, strips = Streams(), beating(75, 12)
    streams.resume(StripTail("gateway-1", "cuff-1", "4", "ekg", "s1", 2500, T0 + 10 * NS))
    assert rates(streams, strips[:10]) == []
    assert rates(streams, strips[10:]) == [(None, "waiting for beats")] * 2


def test_a_backlog_is_analysed_as_late_once() -> None:
    streams, strips = Streams(), beating(75, 20)
    rates(streams, [strips[0], strips[19]])
    late = [streams.take(AT, s, T0 + 30 * NS)[0] for s in strips[1:19]]
    assert [rate.live for rate in late if rate] == [False] * 18
    assert late[-1] is not None and late[-1].value == 75.0
    assert rates(streams, strips) == []


def test_lead_off_and_gaps_take_the_rate_away() -> None:
    streams, strips = Streams(), beating(75, 30)
    rates(streams, strips[:10])
    assert rates(streams, [strip(2500, lead_off=True)]) == [(None, "lead off")]
    assert rates(streams, strips[11:12]) == [(None, "waiting for beats")]
    assert rates(streams, strips[12:20])[-1] == (75.0, "")
    assert rates(streams, strips[25:26]) == [(None, "waiting for beats")]


def test_a_rate_of_samples_nobody_can_analyse() -> None:
    slow = strip(0, np.arange(25), rate=25.0)
    assert rates(Streams(), [slow]) == [(None, "no heart rate at 25 samples a second")]


def test_other_signals_are_not_analysed() -> None:
    assert rates(Streams(), [strip(0, metric="ppg_ir")]) == []
