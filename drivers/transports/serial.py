"""Serial lines through pyserial: a path, or a URL (`socket://`, `rfc2217://`).

A plain path is read through its file descriptor by the event loop; there is no queue in between, so a slow consumer
slows the line down instead of growing memory. A URL has no descriptor to wait on and is read in a thread.
"""

import asyncio
import errno
import os
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import serial

from drivers.core.link import LinkLost, LossReason
from vitals.clock import Clock
from vitals.driver import SerialSpec
from vitals.model import Chunk, Send

READ_SIZE: Final = 65_536
GATHER_S: Final = 0.03
"""Bytes trickle in a few at a time; waiting this long first makes one wake-up of many. It is part of the latency."""
FULL_READ: Final = 4_000
"""A read this large means a sender faster than real time: read again at once (a pty holds 4,096 bytes)."""
THREAD_TIMEOUT_S: Final = 0.2

_REASONS: Final = {
    errno.ENOENT: LossReason.NO_PATH,
    errno.ENODEV: LossReason.NO_PATH,
    errno.ENXIO: LossReason.NO_PATH,
    errno.EACCES: LossReason.NO_PERMISSION,
    errno.EPERM: LossReason.NO_PERMISSION,
    errno.EBUSY: LossReason.BUSY,
    errno.EAGAIN: LossReason.BUSY,
}


class SerialTransport:
    """One open line. `simulated` is set when the path leads to a pseudo terminal: no real device hangs on one."""

    def __init__(self, port: str, spec: SerialSpec, clock: Clock, baudrate: int | None = None) -> None:
        self.address = port
        self.simulated = False
        self._spec = spec
        self._clock = clock
        self._baudrate = baudrate or spec.baudrate
        self._line: Any = None
        self._descriptor: int | None = None
        self._was_full = False

    async def __aenter__(self) -> Self:
        self._line = await asyncio.to_thread(self._open)
        if "://" not in self.address:
            self._descriptor = self._line.fileno()
            self.simulated = os.path.realpath(self.address).startswith("/dev/pts/")  # noqa: ASYNC240  no disk read
        return self

    def _open(self) -> Any:
        try:
            return serial.serial_for_url(
                self.address,
                baudrate=self._baudrate,
                bytesize=self._spec.bytesize,
                parity=self._spec.parity,
                stopbits=self._spec.stopbits,
                timeout=THREAD_TIMEOUT_S,
                write_timeout=2,
                **({} if "://" in self.address else {"exclusive": True}),
            )
        except (OSError, ValueError, termios.error) as error:  # termios.error, unplugged while opening, is no OSError
            raise LinkLost(_reason(error, self.address), str(error)) from None

    async def __aexit__(self, *_exc_info: object) -> None:
        line, self._line = self._line, None
        if line is not None:
            await asyncio.to_thread(line.close)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        data = await (self._read_thread() if self._descriptor is None else self._read_descriptor(self._descriptor))
        return Chunk(data, self._clock.now())

    async def _read_descriptor(self, descriptor: int) -> bytes:
        await _readable(descriptor)
        if not self._was_full:
            await asyncio.sleep(GATHER_S)
        try:
            data = os.read(descriptor, READ_SIZE)
        except OSError as error:
            raise LinkLost(LossReason.UNPLUGGED, f"{self.address}: {error}") from None
        if not data:
            raise LinkLost(LossReason.UNPLUGGED, f"{self.address}: end of file")
        self._was_full = len(data) >= FULL_READ
        return data

    async def _read_thread(self) -> bytes:
        while True:
            try:
                data = bytes(await asyncio.to_thread(lambda: self._line.read(max(1, self._line.in_waiting))))
            except (OSError, serial.SerialException, termios.error) as error:
                raise LinkLost(LossReason.UNPLUGGED, f"{self.address}: {error}") from None
            if data:
                return data

    async def send(self, send: Send) -> None:
        try:
            await asyncio.to_thread(self._line.write, send.data)
        except (OSError, serial.SerialException, termios.error) as error:
            raise LinkLost(LossReason.UNPLUGGED, f"{self.address}: {error}") from None

    def confirm(self, chunk: Chunk) -> None:
        """A serial line confirms nothing by itself; protocols that acknowledge do so with a Send."""


def _reason(error: Exception, address: str) -> LossReason:
    number = getattr(error, "errno", None)
    if number is None and "://" not in address and not Path(address).exists():
        return LossReason.NO_PATH
    if "exclusively lock" in str(error):
        return LossReason.BUSY
    return _REASONS.get(number or 0, LossReason.CONNECT_FAILED)


async def _readable(descriptor: int) -> None:
    """Until the descriptor has bytes (or an error to tell)."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
