"""The synthetic EKG has the rate of its patient, waves where they belong, and costs little."""

import time

import numpy as np
import pytest
from scipy.signal import find_peaks

from simulators.core.ekg import Ekg, Lead
from simulators.core.physiology import Physiology, Profile


def detected(uv: np.ndarray, rate: float) -> np.ndarray:
    """A detector that knows nothing of the model: steep and high."""
    slope = np.abs(np.diff(uv, prepend=uv[0]))
    energy = np.convolve(slope, np.ones(round(0.08 * rate)), "same")
    peaks, _ = find_peaks(energy, height=energy.max() * 0.4, distance=round(0.22 * rate))
    return peaks


@pytest.mark.parametrize("condition", ["healthy", "tachycardia", "bradycardia"])
@pytest.mark.parametrize("rate", [125.0, 250.0, 360.0])
def test_detected_rate_is_the_patients(condition: str, rate: float) -> None:
    patient = Physiology(11, Profile(condition=condition))
    seconds = 120
    ekg = Ekg(patient, rate, seed=1)
    uv, _ = ekg.take(int(seconds * rate))
    expected = float(patient.heart_rate(np.arange(0, seconds, 0.05)).mean())
    assert len(detected(uv, rate)) / seconds * 60 == pytest.approx(expected, abs=1.0)


def test_r_peaks_are_the_ground_truth() -> None:
    rate = 250.0
    ekg = Ekg(Physiology(4), rate, seed=2, lead=Lead(noise_uv=0))
    uv, phases = ekg.take(int(60 * rate))
    truth = np.array([t for t in ekg.r_peaks if 1 < t < 59])
    for t in truth:
        around = slice(int((t - 0.06) * rate), int((t + 0.06) * rate))
        top = (around.start + int(np.argmax(uv[around]))) / rate
        assert abs(top - t) < 0.02
        assert abs(phases[round(t * rate)]) < 0.1
    intervals = np.diff(truth)
    assert 0.005 < intervals.std() < 0.15, "a heart is neither a metronome nor in fibrillation"


def test_amplitudes_are_those_of_lead_ii() -> None:
    uv, phases = Ekg(Physiology(4), 250.0, seed=2).take(250 * 60)
    uv = uv[500:]
    phases = phases[500:]
    r = uv[np.abs(phases) < 0.05].mean()
    p = uv[np.abs(phases + np.pi / 3) < 0.1].mean()
    t = uv[np.abs(phases - np.pi / 2) < 0.1].mean()
    s = uv[np.abs(phases - np.pi / 10) < 0.08].mean()
    base = np.median(uv[np.abs(phases) > 2.6])
    assert 700 < r - base < 1_500
    assert 80 < p - base < 400
    assert 150 < t - base < 700
    assert s < base
    assert np.abs(uv).max() < 3_000


def test_same_seed_same_samples_however_they_are_taken() -> None:
    whole, _ = Ekg(Physiology(1), 125.0, seed=3).take(1_000)
    stream = Ekg(Physiology(1), 125.0, seed=3)
    pieces = np.concatenate([stream.take(n)[0] for n in (1, 2, 3, 494, 500)])
    assert np.array_equal(whole, pieces)
    assert not np.array_equal(whole, Ekg(Physiology(1), 125.0, seed=4).take(1_000)[0])


def test_sixteen_streams_cost_a_few_percent_of_a_core() -> None:
    streams = [Ekg(Physiology(n), 125.0, seed=n) for n in range(16)]
    for stream in streams:
        stream.take(125)
    started = time.process_time()
    for _ in range(250):  # 5 s of signal in ticks of 20 ms
        for stream in streams:
            stream.take(3)
    assert (time.process_time() - started) / 6.0 < 0.15
