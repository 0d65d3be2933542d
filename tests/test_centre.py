"""The zero of an EKG trace: a constant offset goes, the shape stays, and a move is told."""

import numpy as np
import pytest

from dashboards.centre import Centre

RATE = 125.0


def run(signal: np.ndarray, uv: float | None = 5.0, pack: int = 10) -> tuple[np.ndarray, list[int]]:
    """The placed signal and the sample numbers at which the zero was moved."""
    centre, out, moves = Centre(uv), [], []
    for start in range(0, len(signal), pack):
        placed, moved = centre.place(signal[start : start + pack].astype(float), RATE)
        out.append(placed)
        if moved:
            moves.append(start)
    return np.concatenate(out), moves


def ekg(seconds: float) -> np.ndarray:
    """Counts of 5 uV: flat, with a 1 mV spike of 40 ms each second."""
    t = np.arange(int(seconds * RATE)) / RATE
    return np.where((t % 1.0 > 0.5) & (t % 1.0 < 0.54), 200.0, 0.0)


@pytest.mark.parametrize("offset", [0, 1024, -60_000])
def test_an_offset_is_taken_off_and_the_shape_kept(offset: int) -> None:
    placed, moves = run(ekg(20) + offset)
    assert np.array_equal(placed, ekg(20))
    assert moves == []


def test_a_first_pack_inside_a_beat_is_put_right_after_a_second() -> None:
    signal = np.roll(ekg(20), -63) + 1024  # begins on the spike
    placed, moves = run(signal, pack=5)
    assert len(moves) == 1
    assert 100 <= moves[0] <= 130
    assert np.median(placed[200:]) == 0


def test_a_trace_that_left_its_place_comes_back_with_a_break() -> None:
    signal = ekg(30)
    signal[1250:] += 1000  # 5 mV: a lead was moved
    placed, moves = run(signal)
    assert len(moves) == 1
    assert 1250 < moves[0] < 1250 + 4 * RATE
    assert np.median(placed[-500:]) == 0


def test_ordinary_wander_moves_nothing() -> None:
    t = np.arange(int(60 * RATE)) / RATE
    _, moves = run(ekg(60) + 60 * np.sin(2 * np.pi * 0.2 * t))  # 0.3 mV either way
    assert moves == []


def test_counts_without_a_calibration_are_placed_by_their_own_height() -> None:
    placed, moves = run(ekg(20) * 40 + 500_000, uv=None)
    assert np.array_equal(placed, ekg(20) * 40)
    assert moves == []
