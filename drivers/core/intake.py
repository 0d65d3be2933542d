"""Drafts on their way to the disk: who waits for which commit, and what waits while the disk takes nothing.

One task commits, everything that waits in one transaction: a reading at once, strips and events about once a second
(32 EKG streams are then one transaction). A disk that refuses is tried again and again. Meanwhile readings are never
dropped; strips and events beyond `MAX_PENDING` are, oldest first, and counted.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from drivers.core.draft import Draft
from drivers.core.losses import Dropped, Losses, events, merge, tally
from vitals.clock import Clock
from vitals.log import Log
from vitals.messages import StripMessage

GROUP_COMMIT_S: Final = 1.0
GATHER_S: Final = 0.1
"""Least time between two commits: the numbers of 32 monitors, each once a second, are ten commits and not 32."""
DISK_RETRY_S: Final = 1.0
MAX_PENDING: Final = 20_000
"""Strips and events in memory, some 20 MB: over three minutes of 32 boards with three signals each."""
MAX_READINGS: Final = 5_000
"""Readings in memory of links that cannot be held up; beyond it they are held up all the same."""
_log = Log("intake")


class _Waiting(NamedTuple):
    """`done`: of whoever must not go on before the commit; None when nobody waits."""

    drafts: Sequence[Draft]
    done: asyncio.Future[None] | None


class Intake:
    """`store(drafts)` commits, or raises sqlite3.Error. `fault`: why the disk takes nothing; empty while it does."""

    def __init__(self, store: Callable[[Sequence[Draft]], Awaitable[None]], clock: Clock, losses: Losses) -> None:
        self._store = store
        self._clock = clock
        self._losses = losses
        self._readings: list[_Waiting] = []
        self._group: deque[Draft] = deque()
        self._dropped: dict[str, Dropped] = {}
        self._wake = asyncio.Event()
        self._give_up_at: int | None = None
        self._under_way: asyncio.Task[bool] | None = None
        self._writing = 0
        self.fault = ""
        self.faults = 0

    @property
    def in_memory(self) -> int:
        """Messages that are not on the disk yet."""
        return self._writing + len(self._group) + sum(len(one.drafts) for one in self._readings)

    async def take(self, drafts: Sequence[Draft], *, hold: bool) -> None:
        """Returns at once for strips and events; with `hold`, for a reading when it is committed.

        Without `hold` the reading waits in memory: a line that is not read for as long as a card may take for a write
        loses samples. Too many of them hold the line up all the same.
        """
        self._group.extend(draft for draft in drafts if not draft.urgent)
        self._bound()
        readings = [draft for draft in drafts if draft.urgent]
        if not readings:
            return
        hold = hold or len(self._readings) >= MAX_READINGS
        done = asyncio.get_running_loop().create_future() if hold else None
        self._readings.append(_Waiting(readings, done))
        self._wake.set()
        if done is not None:
            # A stop cancels whoever waits here, never the commit: `finish` sees to what is still to be committed.
            await asyncio.shield(done)

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), GROUP_COMMIT_S)
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, free_at - loop.time()))
            self._wake.clear()
            if await self.commit():
                free_at = loop.time() + GATHER_S
            else:
                self._wake.set()
                free_at = loop.time() + DISK_RETRY_S

    def give_up_at(self, monotonic: int) -> None:
        """From then on a refusing disk is told to those who wait, so that a stop ends."""
        self._give_up_at = monotonic

    async def finish(self) -> None:
        """Commit what is left. At a stop; ends when all is on the disk or it is time to give up."""
        while not await self.commit() or self.in_memory:
            if self._given_up():
                return
            await asyncio.sleep(0.1)

    async def commit(self) -> bool:
        """Everything that waits, in one transaction. False when the disk refused: then it all still waits.

        A commit under way is waited for; the end of whoever waits is not its end.
        """
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._commit())
        return await asyncio.shield(self._under_way)

    async def _commit(self) -> bool:
        readings, self._readings = self._readings, []
        group, self._group = self._group, deque()
        dropped, self._dropped = self._dropped, {}
        said = events(dropped, "the disk took nothing", self._clock.now())
        drafts = [*(draft for one in readings for draft in one.drafts), *group, *said]
        self._writing = len(drafts)
        try:
            await self._store(drafts)
        except sqlite3.Error as error:
            self._readings = readings + self._readings
            self._group = group + self._group
            self._dropped = merge(dropped, self._dropped)
            self._writing = 0
            self._refused(error)
            return False
        self._writing = 0
        if self.fault:
            _log.info("the disk takes readings again", rows=len(drafts))
        self.fault = ""
        for one in readings:
            _settle(one)
        return True

    def _refused(self, error: sqlite3.Error) -> None:
        self.faults += 1
        self.fault = str(error)
        do = "make room on the disk, or mend it; do not switch the gateway off before"
        _log.error("outbox not writable, trying again", waiting=self.in_memory, error=error, do=do)
        self._bound()
        if self._given_up():
            for one in self._readings:
                do = "look at the devices' own memories"
                _log.error("stopped with readings that no disk took", rows=len(one.drafts), do=do)
                _settle(one, error)

    def _given_up(self) -> bool:
        return self._give_up_at is not None and self._clock.monotonic() > self._give_up_at

    def _bound(self) -> None:
        """What goes is counted at once, and said by an event with the next commit."""
        gone = [self._group.popleft() for _ in range(len(self._group) - MAX_PENDING)]
        if not gone:
            return
        strips = tally((draft.topic, draft.message) for draft in gone if isinstance(draft.message, StripMessage))
        self._losses.add(strips)
        self._losses.rows += len(gone) - sum(one.strips for one in strips.values())
        self._dropped = merge(self._dropped, strips)


def _settle(waiting: _Waiting, error: sqlite3.Error | None = None) -> None:
    if waiting.done is None or waiting.done.done():
        return
    if error is not None:
        waiting.done.set_exception(error)
    else:
        waiting.done.set_result(None)
