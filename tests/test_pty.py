"""The simulated serial line, from the reader's side: a plain pyserial port."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from pathlib import Path

import pytest
import serial

from simulators.links.pty import PtyLine, serve
from vitals.clock import SystemClock
from vitals.errors import VitalsError
from vitals.model import Chunk, Send


def run(coroutine: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(coroutine, 60)

    asyncio.run(limited())


def open_port(path: Path, timeout: float = 2.0) -> serial.Serial:
    return serial.Serial(str(path), 115_200, timeout=timeout, exclusive=True)


EVERY_BYTE = bytes(range(256))


def test_bytes_pass_unchanged_both_ways(tmp_path: Path) -> None:
    async def story() -> None:
        async with PtyLine(tmp_path / "ekg") as line:
            assert not line.connected
            with open_port(line.link) as port:
                assert line.connected
                assert line.write(EVERY_BYTE) == 256
                assert await asyncio.to_thread(port.read, 256) == EVERY_BYTE
                port.write(EVERY_BYTE)
                assert line.read() == EVERY_BYTE
                assert line.read() == b""
            assert not line.connected

    run(story())


def test_what_nobody_listens_to_is_lost_and_counted(tmp_path: Path) -> None:
    async def story() -> None:
        async with PtyLine(tmp_path / "ekg") as line:
            assert line.write(b"before") == 0
            assert line.dropped == 6
            with open_port(line.link, timeout=0.1) as port:
                assert await asyncio.to_thread(port.read, 1) == b""
                assert line.write(b"now") == 3
                assert await asyncio.to_thread(port.read, 3) == b"now"
            line.write(b"after")
            assert line.dropped == 11

    run(story())


def test_sleeping_reader_neither_blocks_nor_grows_us(tmp_path: Path) -> None:
    async def story() -> None:
        async with PtyLine(tmp_path / "ekg") as line:
            with open_port(line.link):
                taken = sum(line.write(b"x" * 4096) for _ in range(500))
            assert 4_000 <= taken < 500 * 4096, "the kernel holds a bounded amount"
            assert line.dropped == 500 * 4096 - taken

    run(story())


def test_write_all_waits_for_the_reader_and_loses_nothing(tmp_path: Path) -> None:
    sent = os.urandom(300_000)

    async def story() -> None:
        async with PtyLine(tmp_path / "replay") as line:
            writing = asyncio.create_task(line.write_all(sent))
            await asyncio.sleep(0.1)
            assert not writing.done()

            def read_all() -> bytes:
                with open_port(line.link) as port:
                    return port.read(len(sent))

            received = await asyncio.to_thread(read_all)
            await writing
            assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
            assert line.dropped == 0

    run(story())


def test_unplugging_is_seen_by_the_reader_and_removes_the_link(tmp_path: Path) -> None:
    async def story() -> None:
        async with PtyLine(tmp_path / "ekg") as line:
            with open_port(line.link) as port:
                line.unplug()
                with pytest.raises(serial.SerialException):
                    await asyncio.to_thread(port.read, 1)
            assert not line.link.is_symlink()

    run(story())


def test_link_is_replaced_at_once_and_only_ours_is_removed(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "deep" / "ekg"
        old = PtyLine(path)
        async with old:
            async with PtyLine(path) as new:
                assert str(path.readlink()) == new.device != old.device
                old.unplug()
                assert path.is_symlink(), "the newer line is still there"
            assert not path.is_symlink()
        (tmp_path / "file").write_text("mine")
        with pytest.raises(VitalsError, match="cannot appear"):
            await PtyLine(tmp_path / "file").__aenter__()
        assert (tmp_path / "file").read_text() == "mine"

    run(story())


class Parrot:
    """Answers what it hears, and says hello once."""

    def __init__(self) -> None:
        self.greeted = False

    def respond(self, chunk: Chunk) -> list[Send]:
        return [Send(chunk.data.upper())]

    def advance(self, until: int) -> list[Send]:
        if self.greeted:
            return []
        self.greeted = True
        return [Send(b"hello ")]


def test_serve_asks_and_answers(tmp_path: Path) -> None:
    async def story() -> None:
        stop = asyncio.Event()
        async with PtyLine(tmp_path / "meter") as line:
            with open_port(line.link) as port:
                task = asyncio.create_task(serve([(line, Parrot())], SystemClock(), stop))
                assert await asyncio.to_thread(port.read, 6) == b"hello "
                port.write(b"polly")
                assert await asyncio.to_thread(port.read, 5) == b"POLLY"
                stop.set()
                await task

    run(story())


def test_a_host_that_floods_a_deaf_device_is_bounded(tmp_path: Path) -> None:
    async def story() -> None:
        async with PtyLine(tmp_path / "ekg") as line:
            with open_port(line.link) as port:
                for _ in range(8):
                    port.write(b"y" * 2_000)
                    line._collect()
                assert len(line.read()) <= 4_096

    run(story())
