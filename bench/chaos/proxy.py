"""A TCP road with faults: between two parts, and told from outside what to do to their bytes."""

import asyncio
import socket
import threading
from typing import Final, Literal, TypeAlias

Mode: TypeAlias = Literal["pass", "cut", "hole", "half", "slow"]
"""`cut`: connections are reset and new ones closed. `hole`: nothing passes, nobody is told. `half`: answers do not
pass. `slow`: each piece waits `DELAY_S`. Bytes held back pass when the mode does, as on a real road."""
DELAY_S: Final = 0.2
PIECE: Final = 65_536
_HELD_UP: Final = frozenset({"hole"})
_HELD_DOWN: Final = frozenset({"hole", "half"})


class Proxy:
    """Listens on a port of its own on loopback, in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._mode: Mode = "pass"
        self.hurt = 0
        """Connections cut and pieces held back or delayed so far: a mode that changed nothing was no fault."""
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Condition()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()

    def set(self, mode: Mode) -> None:
        """From any thread; takes effect within moments."""
        asyncio.run_coroutine_threadsafe(self._set(mode), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._listener)
        await self._ended.wait()
        server.close()
        self._reset()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set(self, mode: Mode) -> None:
        async with self._changed:
            self._mode = mode
            self._changed.notify_all()
        if mode == "cut":
            self._reset()

    def _reset(self) -> None:
        for writer in list(self._open):
            self.hurt += 1
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            if self._mode == "cut":
                self.hurt += 1
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(back)
            self._open.update(ends)
            pumps = [
                asyncio.ensure_future(self._pump(reader, back, _HELD_UP)),
                asyncio.ensure_future(self._pump(there, writer, _HELD_DOWN)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        except OSError:
            pass  # the target is down: its client sees the connection closed
        finally:
            self._open.difference_update(ends)
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: frozenset[str]) -> None:
        try:
            while data := await reader.read(PIECE):
                self.hurt += self._mode in held or self._mode == "slow"
                async with self._changed:
                    await self._changed.wait_for(lambda: self._mode not in held)
                if self._mode == "slow":
                    await asyncio.sleep(DELAY_S)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side is gone: the other is told by the caller
