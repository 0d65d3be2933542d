"""The sample index of a stream without sequence numbers: damage is a gap of the right length, never a stitch."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.ekg_openview import DRIVER
from vitals.model import Chunk, Fault, Observation, SampleArray

AT = 1_764_000_000_000_000_000
FRAMES = 40


def v4(number: int) -> bytes:
    """Frame `number` of a ramp whose ECG value is its own index plus 1000, so that a wrong index is seen."""
    payload = struct.pack(
        "<hhiiHBBBBBB", 1000 + number, number, 70000 + number, 80000 + number, 3665, 14, 98, 72, 80, 120, 0
    )
    return b"\x0a\xfa\x14\x00\x02" + payload + b"\x00\x0b"


def v5(number: int, tail: bytes) -> bytes:
    payload = struct.pack("<iiBiihBBB", 1000 + number, number, 0, 70000 + number, 80000 + number, 3665, 98, 72, 14)
    return b"\x0a\xfa\x16\x00\x02" + payload + tail


def ads(number: int, tail: bytes) -> bytes:
    return b"\x0a\xfa\x08\x00\x02" + struct.pack("<hhhh", 1000 + number, number, 72, 16) + tail


BOARDS = {
    "v4": v4,
    "v5 0B": lambda number: v5(number, b"\x0b"),
    "v5 00 0B": lambda number: v5(number, b"\x00\x0b"),
    "ads1292r 0B": lambda number: ads(number, b"\x0b"),
    "ads1292r 00 0B": lambda number: ads(number, b"\x00\x0b"),
}


def ekg(stream: bytes, step: int = 4096, options: Any = None) -> dict[int, int]:
    """ECG value by sample index."""
    session = DRIVER.new_session(options or {})
    events = [e for at in range(0, len(stream), step) for e in session.receive(Chunk(stream[at : at + step], AT))]
    found: dict[int, int] = {}
    for event in [*events, *session.close()]:
        if isinstance(event, SampleArray) and event.metric == "ekg":
            for offset, value in enumerate(event.samples.tolist()):
                assert event.first_index + offset not in found, "no index twice"
                found[event.first_index + offset] = value
    return found


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("step", [1, 7, 100, 4096])
def test_whole_stream(board: str, step: int) -> None:
    stream = b"".join(map(BOARDS[board], range(FRAMES)))
    assert ekg(stream, step) == {number: 1000 + number for number in range(FRAMES)}


@pytest.mark.parametrize("board", BOARDS)
def test_every_lost_byte_of_a_frame(board: str) -> None:
    """One byte fewer anywhere in frame 10: at most that frame is missing, and all others keep their index."""
    make = BOARDS[board]
    before, after = b"".join(map(make, range(10))), b"".join(map(make, range(11, FRAMES)))
    victim = make(10)
    for cut in range(len(victim)):
        found = ekg(before + victim[:cut] + victim[cut + 1 :] + after)
        wrong = {index: value for index, value in found.items() if value != 1000 + index}
        assert not wrong, f"byte {cut} lost"
        assert len(found) >= FRAMES - 1


@pytest.mark.parametrize("board", BOARDS)
def test_every_flipped_bit_outside_the_samples(board: str) -> None:
    """Start, length, type, tail: the frame is missing and the others keep their index."""
    make = BOARDS[board]
    before, after = b"".join(map(make, range(10))), b"".join(map(make, range(11, FRAMES)))
    victim = make(10)
    tail = 2 if victim.endswith(b"\x00\x0b") and board != "v5 0B" and board != "ads1292r 0B" else 1
    for at in (*range(5), *range(len(victim) - tail, len(victim))):
        for bit in range(8):
            damaged = victim[:at] + bytes([victim[at] ^ 1 << bit]) + victim[at + 1 :]
            found = ekg(before + damaged + after)
            wrong = {index: value for index, value in found.items() if value != 1000 + index}
            assert not wrong, f"byte {at}, bit {bit}"
            assert len(found) == FRAMES - 1


@settings(deadline=None)
@given(st.integers(2, FRAMES - 2), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_noise_in_place_of_frames(first: int, count: int, seed: int) -> None:
    """`count` frames became noise of the same length: the gap has exactly their length."""
    last = min(FRAMES - 1, first + count)
    noise = np.random.default_rng(seed).integers(0x20, 0x7F, 27 * (last - first), dtype=np.uint8).tobytes()
    found = ekg(b"".join(map(v4, range(first))) + noise + b"".join(map(v4, range(last, FRAMES))))
    assert found == {number: 1000 + number for number in range(FRAMES) if not first <= number < last}


def test_first_frame_damaged_does_not_lock_the_tail() -> None:
    """A board with 00 0B whose first frame lost a byte looks like one with 0B; three frames later it is corrected."""
    make = BOARDS["ads1292r 00 0B"]
    first = make(0)
    stream = first[:9] + first[10:] + b"".join(map(make, range(1, FRAMES)))
    found = ekg(stream)
    assert len(found) >= FRAMES - 4
    assert all(found[index] == 1000 + index for index in range(4, FRAMES))


def test_v5_interleaved() -> None:
    """Type 3 and type 4 frames share the line; each signal has its own index and rate."""
    stream = b""
    for number in range(20):
        ecg = range(8 * number, 8 * number + 8)
        stream += (
            b"\x0a\xfa\x32\x00\x03" + struct.pack("<8i4iBB", *(1000 + i for i in ecg), *range(4), 66, 15) + b"\x00\x0b"
        )
        if number % 5:
            stream += b"\x0a\xfa\x13\x00\x04" + struct.pack("<8hhB", *range(8), 3665, 98) + b"\x00\x0b"
    session = DRIVER.new_session({})
    arrays = {event.metric: event for event in session.receive(Chunk(stream, AT)) if isinstance(event, SampleArray)}
    assert arrays["ekg"].samples.tolist() == list(range(1000, 1160))
    assert {metric: (array.rate, len(array.samples)) for metric, array in arrays.items()} == {
        "ekg": (125.0, 160),
        "resp_impedance": (62.5, 80),
        "ppg_red": (100.0, 128),
    }


def test_several_frames_of_two_kinds_lost() -> None:
    """4 seconds of a HealthyPi 5 line gone: each signal moves on by about 4 s of its own rate."""
    type3 = b"\x0a\xfa\x32\x00\x03" + struct.pack("<8i4iBB", *range(1, 9), *range(4), 66, 15) + b"\x0b"
    type4 = b"\x0a\xfa\x13\x00\x04" + struct.pack("<8hhB", *range(8), 3665, 98) + b"\x0b"
    session = DRIVER.new_session({})
    session.receive(Chunk(type3 + type4, AT))
    lost = b"\x55" * round(4 * (15.625 * len(type3) + 12.5 * len(type4)))
    arrays = {
        event.metric: event.first_index
        for event in session.receive(Chunk(lost + type3 + type4, AT))
        if isinstance(event, SampleArray)
    }
    assert arrays["ekg"] == 8 + 8 * 63  # 62.5 frames, rounded
    assert arrays["resp_impedance"] == 4 + 4 * 63
    assert arrays["ppg_red"] == 8 + 8 * 50


def test_one_observation_a_second_of_samples() -> None:
    session = DRIVER.new_session({})
    events = session.receive(Chunk(b"".join(map(v4, range(1000))), AT))
    observations = [event for event in events if isinstance(event, Observation)]
    assert [bytes.fromhex(event.raw)[5:7] for event in observations] == [
        struct.pack("<h", 1000 + second * 125) for second in range(8)
    ]


def test_one_array_a_chunk() -> None:
    session = DRIVER.new_session({})
    events = session.receive(Chunk(b"".join(map(v4, range(100))), AT))
    assert [event.metric for event in events if isinstance(event, SampleArray)] == [
        "ekg", "resp_impedance", "ppg_ir", "ppg_red",
    ]  # fmt: skip
    assert not any(isinstance(event, Fault) for event in events)


def test_the_status_bits_alone_say_lead_off() -> None:
    """Offset 19 of the sheet: any of the low five bits. A frame whose EKG and rate are not zero yet counts as well."""
    frame = bytearray.fromhex("0afa14000206ff780039650c00f1fb0900510e0e62485078c0000b")
    for bit in range(5):
        frame[24] = 0xC0 | 1 << bit
        events = DRIVER.new_session({}).receive(Chunk(bytes(frame), 1))
        (ekg,) = (event for event in events if isinstance(event, SampleArray) and event.metric == "ekg")
        (monitor,) = (event for event in events if isinstance(event, Observation))
        assert ekg.lead_off
        assert monitor.quantities["hr_device"].value is None
        assert monitor.quantities["spo2"].value == 98, "the finger is still in"
