"""A published recording, byte for byte through the simulated board and the simulated line."""

import asyncio
import builtins
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serial

from simulators.core.record import open_record
from simulators.core.run import replay
from simulators.core.samples import ArraySource
from tests.shared import SHARED, needs_shared
from vitals.errors import VitalsError

RECORD = SHARED / "ekg" / "mitdb" / "101"


def decode(stream: bytes) -> np.ndarray:
    """ECG of HealthyPi v4 packets, by the published layout alone."""
    packets = [stream[at : at + 27] for at in range(0, len(stream), 27)]
    assert all(p[:5] == b"\x0a\xfa\x14\x00\x02" and p[25:] == b"\x00\x0b" for p in packets)
    return np.array([struct.unpack_from("<h", p, 5)[0] for p in packets], np.int16)


async def play_and_read(source: Any, link: Path, speed: float | None, expected: int) -> tuple[Any, bytes]:
    task = asyncio.create_task(replay(source, link, speed=speed, stop=asyncio.Event()))
    while not link.is_symlink():
        await asyncio.sleep(0.01)

    def read() -> bytes:
        with serial.Serial(str(link), timeout=5) as port:
            return port.read(expected)

    stream = await asyncio.to_thread(read)
    return await asyncio.wait_for(task, 30), stream


@pytest.mark.shared
@needs_shared
def test_record_101_arrives_to_the_bit(tmp_path: Path) -> None:
    source = open_record(RECORD)
    import wfdb  # after open_record, which knows how to import it quietly

    truth = wfdb.rdrecord(str(RECORD), physical=False, sampto=108_000).d_signal[:, 0]
    assert (source.rate_hz, source.lead, source.uv_per_count, source.baseline) == (360.0, "MLII", 5.0, 1024)
    assert len(source) == 650_000
    source = ArraySource(source.counts[:108_000], source.rate_hz)
    counts, stream = asyncio.run(play_and_read(source, tmp_path / "ekg", None, 27 * 108_000))
    assert (counts.frames, counts.samples, counts.bytes, counts.complete) == (108_000, 108_000, 2_916_000, True)
    assert np.array_equal(decode(stream), truth)


@pytest.mark.shared
@needs_shared
def test_leads_by_name_and_number() -> None:
    assert open_record(RECORD.with_suffix(".hea"), "V1").lead == "V1"
    assert open_record(str(RECORD), "1").lead == "V1"
    with pytest.raises(VitalsError, match="no lead 'aVR'") as refused:
        open_record(RECORD, "aVR")
    assert "MLII" in refused.value.expected
    with pytest.raises(VitalsError, match="no lead 2"):
        open_record(RECORD, 2)


def test_missing_and_broken_records_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VitalsError, match="no record"):
        open_record(tmp_path / "nothing")
    (tmp_path / "bad.hea").write_text("bad 1 360 1000\nbad.dat 212 200 11 1024 995 -22131 0 MLII\n")
    with pytest.raises(VitalsError, match="cannot be read"):
        open_record(tmp_path / "bad")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wfdb":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(VitalsError, match="needs the package wfdb") as refused:
        open_record(tmp_path / "bad")
    assert "records" in refused.value.do


def test_real_time_and_faster(tmp_path: Path) -> None:
    async def story() -> None:
        counts = np.arange(-500, 500, dtype=np.int16)
        loop = asyncio.get_running_loop()
        for speed, seconds in ((1.0, 1.0), (4.0, 0.25)):
            started = loop.time()
            sent, stream = await play_and_read(ArraySource(counts, 1000.0), tmp_path / f"x{speed}", speed, 27_000)
            assert loop.time() - started > seconds
            assert sent.complete
            assert np.array_equal(decode(stream), counts)

    asyncio.run(story())


def test_stopped_replay_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(
            replay(ArraySource(np.zeros(9, np.int16), 1.0), tmp_path / "e", speed=1.0, stop=stop)
        )
        await asyncio.sleep(0.05)
        stop.set()
        counts = await asyncio.wait_for(task, 5)
        assert (counts.samples, counts.complete) == (0, False)
        assert not (tmp_path / "e").is_symlink()

    asyncio.run(story())
