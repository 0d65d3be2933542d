"""The serial transport on a real pseudo terminal: bytes, unplugging, and errors with a reason."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.core.link import LinkLost, LossReason
from drivers.transports.serial import SerialTransport
from vitals.clock import SystemClock
from vitals.driver import SerialSpec
from vitals.model import Send

SPEC = SerialSpec(115_200)


class Line:
    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.path = os.ttyname(slave)
        os.close(slave)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    try:
        os.close(line.master)
    except OSError:
        pass


async def gather(transport: SerialTransport, count: int) -> bytes:
    data = b""
    async with asyncio.timeout(5):
        while len(data) < count:
            data += (await anext(transport)).data
    return data


def test_bytes_come_through_unchanged_in_both_directions(line: Line) -> None:
    every_byte = bytes(range(256)) * 4

    async def run() -> None:
        async with SerialTransport(line.path, SPEC, SystemClock()) as transport:
            os.write(line.master, every_byte)
            assert await gather(transport, len(every_byte)) == every_byte
            await transport.send(Send(b"\x00\x03\x04\x11\x13\x0d\x0a\xff"))
            assert os.read(line.master, 100) == b"\x00\x03\x04\x11\x13\x0d\x0a\xff"

    asyncio.run(run())


def test_a_pseudo_terminal_is_known_to_be_simulated_even_behind_a_link(line: Line, tmp_path: Path) -> None:
    (tmp_path / "ttyEKG").symlink_to(line.path)

    async def run() -> bool:
        async with SerialTransport(str(tmp_path / "ttyEKG"), SPEC, SystemClock()) as transport:
            return transport.simulated

    assert asyncio.run(run())


def test_a_sender_faster_than_the_reader_waits_and_loses_nothing(line: Line) -> None:
    sent = os.urandom(300_000)
    writer = threading.Thread(target=lambda: _write_all(line.master, sent))

    async def run() -> bytes:
        async with SerialTransport(line.path, SPEC, SystemClock()) as transport:
            writer.start()
            return await gather(transport, len(sent))

    assert asyncio.run(run()) == sent
    writer.join()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def test_unplugging_is_a_loss_with_a_reason(line: Line) -> None:
    async def run() -> LossReason:
        async with SerialTransport(line.path, SPEC, SystemClock()) as transport:
            os.close(line.master)
            with pytest.raises(LinkLost) as lost:
                await asyncio.wait_for(anext(transport), 5)
            return lost.value.reason

    assert asyncio.run(run()) is LossReason.UNPLUGGED


@pytest.mark.parametrize(
    ("port", "reason"),
    [
        ("/dev/no-such-line", LossReason.NO_PATH),
        ("/etc/hostname", LossReason.CONNECT_FAILED),
        ("socket://127.0.0.1:1", LossReason.CONNECT_FAILED),
        ("nonsense://x", LossReason.CONNECT_FAILED),
    ],
)
def test_a_line_that_cannot_be_opened_says_why(port: str, reason: LossReason) -> None:
    async def run() -> LossReason:
        with pytest.raises(LinkLost) as lost:
            async with SerialTransport(port, SPEC, SystemClock()):
                pass
        return lost.value.reason

    assert asyncio.run(run()) is reason


def test_a_line_in_use_says_so(line: Line) -> None:
    async def run() -> LossReason:
        async with SerialTransport(line.path, SPEC, SystemClock()):
            with pytest.raises(LinkLost) as lost:
                async with SerialTransport(line.path, SPEC, SystemClock()):
                    pass
        return lost.value.reason

    assert asyncio.run(run()) is LossReason.BUSY


def test_a_serial_server_on_the_network() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    async def run() -> bytes:
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        async with SerialTransport(url, SPEC, SystemClock()) as transport:
            peer, _ = server.accept()
            peer.sendall(b"hello")
            data = await gather(transport, 5)
            peer.close()
            return data

    assert asyncio.run(run()) == b"hello"
    server.close()
