"""Plays a recording as a HealthyPi v4 would send it, over a pseudo terminal, to whoever opens the line.

Unlike a real board it waits for the reader and loses nothing: it begins when the line is opened, and a reader that is
slow slows it down.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from simulators.core.samples import SampleSource
from simulators.ekg_openview import Panel, encode_v4
from simulators.links.pty import TICK_S, PtyLine

FAST_BLOCK: Final = 512
"""Samples encoded at once when only the reader sets the pace: about 14 kB."""


class ReplayCounts(msgspec.Struct):
    """What went out. `complete` is false when it was stopped before the end."""

    frames: int = 0
    samples: int = 0
    bytes: int = 0
    complete: bool = False


async def replay(
    source: SampleSource,
    link: Path,
    *,
    speed: float | None,
    stop: asyncio.Event,
    progress: Callable[[int], None] | None = None,
) -> ReplayCounts:
    """Play `source` to its end on a line at `link`; `speed` 1 is real time, None or 0 as fast as the reader takes it.

    `progress` is told the samples sent so far. Returns when the reader has taken everything, or when `stop` is set.
    Raises VitalsError when the line cannot be made.
    """
    counts = ReplayCounts()
    async with PtyLine(link) as line:
        playing = asyncio.create_task(_play(source, line, speed or 0.0, counts, progress))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
        finally:
            playing.cancel()
            stopping.cancel()
            await asyncio.gather(playing, stopping, return_exceptions=True)
    return counts


async def _play(
    source: SampleSource, line: PtyLine, speed: float, counts: ReplayCounts, progress: Callable[[int], None] | None
) -> None:
    await line.reader()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        due = FAST_BLOCK if not speed else int((loop.time() - begun) * speed * source.rate_hz) - counts.samples
        if due > 0:
            samples = source.take(min(due, FAST_BLOCK))
            if not len(samples):
                break
            packets = encode_v4(samples, Panel())
            data = b"".join(packets)
            await line.write_all(data)
            counts.frames += len(packets)
            counts.samples += len(samples)
            counts.bytes += len(data)
            if progress is not None:
                progress(counts.samples)
        await asyncio.sleep(TICK_S if speed and due <= FAST_BLOCK else 0)
    await line.drain()
    counts.complete = True
