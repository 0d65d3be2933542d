"""A capture holds what came, byte for byte; played back it gives the same events; a damaged one says where."""

import asyncio
from pathlib import Path

import pytest

from drivers.core.capture import Capture, read_capture
from drivers.ekg_openview import DRIVER
from drivers.transports.memory import MemoryTransport
from vitals.errors import VitalsError
from vitals.model import Chunk, Observation

T0 = 1_764_000_000_000_000_000
FRAME = bytes.fromhex("0afa14000206ff780039650c00f1fb0900510e0e62485078c0000b")
CHUNKS = [Chunk(FRAME[:10], T0), Chunk(FRAME[10:] + FRAME, T0 + 1), Chunk(b"\x00\xff", T0 + 2, "2a35")]


def write(folder: Path) -> Path:
    capture = Capture(folder / "new", "ekg", "ekg_openview", "/dev/ttyUSB0", T0, simulated=True)
    for chunk in CHUNKS:
        capture.chunk(chunk)
    capture.close()
    return capture.path


def test_what_was_captured_is_read_back_unchanged(tmp_path: Path) -> None:
    head, chunks = read_capture(write(tmp_path))
    assert (head["driver"], head["address"], head["simulated"]) == ("ekg_openview", "/dev/ttyUSB0", True)
    assert list(chunks) == CHUNKS


def test_a_capture_played_back_gives_the_same_events(tmp_path: Path) -> None:
    async def play() -> list[Observation]:
        session = DRIVER.new_session({})
        events = []
        async with MemoryTransport(read_capture(write(tmp_path))[1], paced=True) as transport:
            async for chunk in transport:
                events += session.receive(chunk)
        return [event for event in events if isinstance(event, Observation)]

    direct = DRIVER.new_session({})
    expected = [e for chunk in CHUNKS for e in direct.receive(chunk) if isinstance(e, Observation)]
    assert asyncio.run(play()) == expected
    assert expected[0].quantities["spo2"].value == 98


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no capture"),
        ("no json\n", "no capture"),
        ('{"capture":2}\n', "no capture"),
        ('{"capture":1}\n{"t":1,"hex":"zz"}\n', "line 2"),
        ('{"capture":1}\n{"t":1,"hex":"00"}\n{"hex":"00"}\n', "line 3"),
    ],
)
def test_a_file_that_is_no_capture_says_where(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VitalsError, match=named) as told:
        list(read_capture(path)[1])
    assert told.value.do


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(VitalsError, match="no capture"):
        read_capture(tmp_path / "none.jsonl")
