"""The frame cutter with a toy protocol: STX, length of the whole, payload, sum of all before modulo 256."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.core.framing import HEAD, NOT_A_FRAME, RUN_BYTES, TRUNCATED, WAIT, Framer, Rubbish

SECOND = 1_000_000_000
STX = re.compile(b"\x02")


def frame(payload: bytes) -> bytes:
    body = bytes([2, len(payload) + 3]) + payload
    return body + bytes([sum(body) % 256])


def measure(data: bytes, at: int) -> int | str:
    if len(data) - at < 2:
        return WAIT
    size = data[at + 1]
    if size < 3:
        return NOT_A_FRAME
    if len(data) - at < size:
        return WAIT
    return size if sum(data[at : at + size - 1]) % 256 == data[at + size - 1] else "bad_checksum"


def framer(cap: int = 255) -> Framer:
    return Framer(STX, measure, cap=cap)


A, B = frame(b"first"), frame(b"second")


def test_frames_and_rubbish_in_order() -> None:
    assert framer().feed(b"xx" + A + b"y" + B, 0) == [
        Rubbish(NOT_A_FRAME, 2, b"xx"),
        A,
        Rubbish(NOT_A_FRAME, 1, b"y"),
        B,
    ]


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), max_size=30))
def test_any_cut_gives_the_same(cuts: list[int]) -> None:
    stream = b"boot\r\n" + A + b"\x02\x03\x00" + B + A
    whole = framer().feed(stream, 0)
    cut_framer, pieces, at = framer(), [], 0
    for size in [*cuts, len(stream)]:
        pieces += cut_framer.feed(stream[at : at + size], 0)
        at += size
    assert pieces == whole


def test_what_a_check_found_names_the_run() -> None:
    damaged = A[:3] + b"\x99" + A[4:]
    pieces = framer().feed(b"xx" + damaged + B, 0)
    assert pieces == [Rubbish("bad_checksum", 2 + len(A), b"xx" + damaged), B]


def test_search_goes_on_inside_a_refused_frame() -> None:
    """The length was damaged: the good frame that it covers is found."""
    covering = bytes([2, len(A) + 4]) + A + b"??"
    pieces = framer().feed(covering + B, 0)
    assert A in pieces
    assert B in pieces


def test_partial_is_given_up_after_silence() -> None:
    cutter = framer()
    assert cutter.feed(A[:5], 0) == []
    assert cutter.tick(SECOND // 4) == []
    assert cutter.tick(SECOND) == [Rubbish(TRUNCATED, 5, A[:5])]
    assert cutter.feed(A, SECOND) == [A]


def test_frames_behind_a_false_start_come_out_after_silence() -> None:
    cutter = framer()
    assert cutter.feed(b"\x02\xf0" + A + B, 0) == []
    assert cutter.tick(SECOND) == [Rubbish(TRUNCATED, 2, b"\x02\xf0"), A, B]


def test_a_single_start_byte_is_no_beginning() -> None:
    cutter = framer()
    cutter.feed(b"text \x02", 0)
    assert cutter.tick(SECOND) == [], "boot text goes on; it is one run"
    assert cutter.tick(3 * SECOND) == [Rubbish(NOT_A_FRAME, 6, b"text \x02")]


def test_long_rubbish_is_told_without_a_clock() -> None:
    cutter = framer()
    pieces = [piece for _ in range(10) for piece in cutter.feed(b"z" * 1000, 0)]
    assert pieces == [Rubbish(NOT_A_FRAME, 5000, b"z" * HEAD)] * 2
    assert RUN_BYTES < 5000


def test_close_tells_all() -> None:
    cutter = framer()
    cutter.feed(b"xx" + A[:4], 0)
    assert cutter.close() == [Rubbish(TRUNCATED, 6, b"xx" + A[:4])]
    assert cutter.close() == []
    assert cutter.buffered == 0


def test_waiting_ends_at_the_cap() -> None:
    cutter = framer(cap=8)
    pieces = cutter.feed(b"\x02\xff" + b"z" * 20 + A, 0)
    assert pieces == [Rubbish(NOT_A_FRAME, 22, b"\x02\xff" + b"z" * 20), A]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=40))
def test_nothing_is_lost_and_little_is_kept(chunks: list[bytes]) -> None:
    """Each byte comes out once, as part of a frame or counted as rubbish."""
    cutter = framer(cap=40)
    pieces = []
    for number, chunk in enumerate(chunks):
        pieces += cutter.feed(chunk, number * SECOND)
        assert cutter.buffered <= 40 + HEAD
        pieces += cutter.tick(number * SECOND + SECOND // 2)
    pieces += cutter.close()
    assert sum(piece.size if isinstance(piece, Rubbish) else len(piece) for piece in pieces) == sum(map(len, chunks))


@pytest.mark.parametrize("empty", [b""])
def test_nothing_is_nothing(empty: bytes) -> None:
    cutter = framer()
    assert cutter.feed(empty, 5) == []
    assert cutter.last_byte_at == 0
