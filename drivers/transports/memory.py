"""Chunks from memory: the transport of tests and of captures played back."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Self

from vitals.clock import NS
from vitals.model import Chunk, Send


class MemoryTransport:
    """Yields the chunks, then hangs up. `sent` keeps what the session wrote.

    `paced` waits between chunks as long as their receive times lie apart; otherwise they come at once.
    """

    def __init__(
        self, chunks: Iterable[Chunk], *, address: str = "memory", simulated: bool = True, paced: bool = False
    ):
        self.address = address
        self.simulated = simulated
        self.sent: list[Send] = []
        self.confirmed: list[Chunk] = []
        self._chunks = iter(chunks)
        self._paced = paced
        self._last: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        pass

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        if self._paced and self._last is not None:
            await asyncio.sleep(max(0.0, (chunk.received_at - self._last) / NS))
        self._last = chunk.received_at
        return chunk

    async def send(self, send: Send) -> None:
        self.sent.append(send)

    def confirm(self, chunk: Chunk) -> None:
        self.confirmed.append(chunk)
