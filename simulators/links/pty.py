"""A serial line without a cable: a pseudo terminal in raw mode, found by programs at a path of our choice.

Two ways to write. `write` is a UART: what nobody listens to, or what does not fit while the reader sleeps, is lost and
counted, and the writer never waits. `write_all` is for replay faster than real time: it waits for a reader and for
room, so that nothing is lost between us and the reader.

Notes on Linux ptys, found by trying: with the last slave descriptor closed the master polls HUP, which is how an
absent reader is seen; epoll would spin on that, so the line is polled instead. tcgetattr on the master shows the
slave's mode. In packet mode the master is told of a tcflush by the reader, which is how a reader that flushes its
input on opening (pyserial) loses nothing of a replay.
"""

import asyncio
import errno
import os
import select
import struct
import termios
import tty
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Final, Self

from simulators.core.contract import Simulator
from vitals.clock import Clock, Instant
from vitals.errors import VitalsError
from vitals.model import Chunk, Send

READ_SIZE: Final = 4_096
TICK_S: Final = 0.04
"""How often the lines are served: 5 samples of 125 Hz at once, and the time a meter takes to answer."""
ROOM_POLL_S: Final = 0.001
SETTLE_S: Final = 0.3
"""A new reader that does not flush its input within this time is taken to be one that does not."""
QUIET_POLLS: Final = 5
_FLUSH_READ: Final = 0x01
"""TIOCPKT_FLUSHREAD."""


class PtyLine:
    """`async with PtyLine(path)`: the line is there while the block runs; the link at `path` goes with it.

    Raises VitalsError when `path` cannot be made or holds something that is not a symbolic link.
    """

    def __init__(self, link: Path) -> None:
        self.link = link
        self.device = ""
        """The slave's own path, `/dev/pts/N`."""
        self.dropped = 0
        """Bytes lost as on a real line: nobody listened, or the reader was too slow."""
        self._master = -1
        self._flushed = False
        self._present = False
        self._received = bytearray()

    async def __aenter__(self) -> Self:
        master, slave = os.openpty()
        self._master = master
        self.device = os.ttyname(slave)
        try:
            tty.setraw(slave)
            os.set_blocking(master, False)
            ioctl(master, termios.TIOCPKT, struct.pack("i", 1))
            self._publish()
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return self

    def _publish(self) -> None:
        """Replace whatever link is there in one step: a reader sees the old line or the new one."""
        if self.link.exists() and not self.link.is_symlink():
            raise VitalsError(
                f"The simulated serial line cannot appear at {self.link}.", expected="a free path, or a symbolic link",
                found="something else", do="Remove it, or set another link for the simulated device.",
            )  # fmt: skip
        try:
            self.link.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.link.with_name(f".{self.link.name}.{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.device)
            fresh.replace(self.link)
        except OSError as error:
            raise VitalsError(
                f"The simulated serial line cannot appear at {self.link}.", expected="a writable folder",
                found=str(error), do="Set another link for the simulated device.",
            ) from None  # fmt: skip

    async def __aexit__(self, *_exc_info: object) -> None:
        self.unplug()

    def unplug(self) -> None:
        """Pull the plug: a reader sees the line die. Twice does no harm."""
        if self._master < 0:
            return
        os.close(self._master)
        self._master = -1
        if self.link.is_symlink() and str(self.link.readlink()) == self.device:
            self.link.unlink()

    @property
    def connected(self) -> bool:
        """Whether some program has the line open."""
        poll = select.poll()
        poll.register(self._master, 0)
        return not any(events & select.POLLHUP for _, events in poll.poll(0))

    def write(self, data: bytes) -> int:
        """Send as a UART does; returns how many bytes were taken, the rest is lost and counted. Never waits."""
        taken = self._push(data) if data and self.connected else 0
        self.dropped += len(data) - taken
        return taken

    async def write_all(self, data: bytes) -> None:
        """Send all, waiting for a reader and for room."""
        view = memoryview(data)
        while view:
            if not self.connected:
                self._present = False
            if not self._present:
                await self.reader()
            taken = self._push(view)
            view = view[taken:]
            if view:
                await asyncio.sleep(ROOM_POLL_S)

    async def drain(self) -> None:
        """Wait until the reader took everything (or went away): unplugging earlier would destroy what it has not."""
        slave = os.open(self.device, os.O_RDWR | os.O_NOCTTY)
        try:
            quiet = 0
            while quiet < QUIET_POLLS:
                await asyncio.sleep(TICK_S)
                # Bytes waiting in the reader's queue; the kernel refills it from behind, hence several looks.
                waiting = struct.unpack("i", ioctl(slave, termios.FIONREAD, bytes(4)))[0]
                quiet = 0 if waiting else quiet + 1
        finally:
            os.close(slave)

    def _push(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self._master, data)
        except BlockingIOError:
            return 0

    async def reader(self) -> None:
        """Wait until a program has the line open and is done with setting it up."""
        while not self.connected:  # noqa: ASYNC110  the kernel offers nothing to wait on but a spinning HUP
            await asyncio.sleep(TICK_S)
        self._collect()
        self._flushed = False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_S
        while loop.time() < deadline and not self._flushed:
            await asyncio.sleep(ROOM_POLL_S)
            self._collect()
        self._present = True

    def read(self) -> bytes:
        """What the host wrote since the last call; never waits."""
        self._collect()
        data = bytes(self._received)
        self._received.clear()
        return data

    def _collect(self) -> None:
        while True:
            try:
                packet = os.read(self._master, READ_SIZE)
            except OSError as error:
                if error.errno in (errno.EIO, errno.EAGAIN):  # EIO: nobody has the line open
                    return
                raise
            if packet[:1] == b"\0":
                self._received += packet[1:]
            elif packet and packet[0] & _FLUSH_READ:
                self._flushed = True
            if len(self._received) > READ_SIZE:  # the simulator is not asked for what it answers to: keep the newest
                del self._received[:-READ_SIZE]
            if not packet:
                return


async def serve(lines: Sequence[tuple[PtyLine, Simulator]], clock: Clock, stop: asyncio.Event) -> None:
    """Run simulated devices on open lines in real time, until `stop` is set. One wake-up serves them all."""
    while not stop.is_set():
        for line, simulator in lines:
            line.write(b"".join(send.data for send in turn(line, simulator, clock.now())))
        await asyncio.sleep(TICK_S)


def turn(line: PtyLine, simulator: Simulator, now: Instant) -> list[Send]:
    """What the device has to say now: answers to what the host wrote, then what time brought."""
    data = line.read()
    answers = simulator.respond(Chunk(data, now)) if data else []
    return answers + simulator.advance(now)
