"""The only loop: keeps one device's link up and carries its bytes through the session to the sink."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from drivers.core.capture import Capture, Sent, Step, Tick
from drivers.core.feed import DeviceFeed, Output
from drivers.core.link import REMEDY, LinkLost, LossReason, Transport
from vitals.clock import Clock
from vitals.driver import Driver, Options, Session
from vitals.log import Log
from vitals.model import Chunk, Event, Send

TICK_S: Final = 0.25
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 10.0
_log = Log("runner")


class Runner:
    """`commit(output)` makes drafts durable and publishes; over a link that can confirm it returns only then."""

    def __init__(
        self,
        feed: DeviceFeed,
        driver: Driver,
        options: Options,
        connect: Callable[[], Transport],
        commit: Callable[[Output], Awaitable[None]],
        clock: Clock,
        open_capture: Callable[[str, bool], Capture] | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._feed = feed
        self._driver = driver
        self._options = options
        self._connect = connect
        self._commit = commit
        self._clock = clock
        self._open_capture = open_capture
        self._jitter = jitter or random.Random()
        self._backoff = BACKOFF_FIRST_S
        self._capture: Capture | None = None
        self._where = {"device": feed.device.name, "room": feed.device.room}

    async def run(self) -> None:
        """For ever; ends by cancellation, handing on what it holds."""
        hangs_up = not getattr(self._driver.spec, "stays", True)
        while True:
            waiting = "idle" if hangs_up else "connecting"
            if self._feed.state != "lost":
                self._feed.set_state(waiting, "", self._clock.now())  # type: ignore[arg-type]
            try:
                await self._link_once()
                self._backoff = BACKOFF_FIRST_S
                self._feed.set_state("idle" if hangs_up else "off", "", self._clock.now())
            except LinkLost as loss:
                self._lost(loss)
                await self._commit(self._feed.link_down())
            except Exception as error:  # noqa: BLE001  a bug in one device's code must not stop the other rooms
                _log.exception("device code failed", **self._where, do="report it with this traceback")
                self._lost(LinkLost(LossReason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"))
                await self._commit(self._feed.link_down())
            await asyncio.sleep(self._backoff * self._jitter.uniform(0.7, 1.3))

    def _lost(self, loss: LinkLost) -> None:
        now = self._clock.now()
        if (self._feed.state, self._feed.reason) != ("lost", loss.reason.value):
            # Once for each loss, not for each attempt to mend it.
            self._feed.fault(f"link_{loss.reason}", loss.detail, b"", now)
            remedy = REMEDY[loss.reason]
            _log.warning("link lost", **self._where, reason=loss.reason, detail=loss.detail, do=remedy)
        self._feed.set_state("lost", loss.reason.value, now)
        self._backoff = min(BACKOFF_MAX_S, self._backoff * 2)

    async def _link_once(self) -> None:
        async with self._connect() as transport:
            self._feed.link_up(transport.address, simulated=transport.simulated, at=self._clock.now())
            _log.info("link up", **self._where, address=transport.address)
            self._backoff = BACKOFF_FIRST_S
            session = self._driver.new_session(self._options)
            self._capture = self._start_capture(transport)
            try:
                await self._converse(transport, session)
            finally:
                if self._capture is not None:
                    self._capture.close()
                # Also on cancellation: bytes already received are not lost by a stop.
                await asyncio.shield(self._close(session))

    async def _close(self, session: Session) -> None:
        await self._commit(self._feed.take(session.close()))
        await self._commit(self._feed.link_down())

    def _start_capture(self, transport: Transport) -> Capture | None:
        """A capture is a convenience: a folder that cannot be written costs the capture, not the readings."""
        if self._open_capture is None:
            return None
        try:
            return self._open_capture(transport.address, transport.simulated)
        except OSError as error:
            _log.error("no capture", **self._where, error=error, do="make gateway.capture_dir writable")
            return None

    def _tee(self, step: Step) -> None:
        if self._capture is None:
            return
        try:
            self._capture.add(step)
        except OSError as error:
            _log.error("capture ended", **self._where, error=error, do="make room for gateway.capture_dir")
            self._capture = None

    async def _converse(self, transport: Transport, session: Session) -> None:
        await self._handle(transport, session.start())
        async for chunk in _with_ticks(transport):
            now = self._clock.now()
            stepped = self._feed.clock(now, self._clock.monotonic())
            if stepped.drafts:
                await self._commit(stepped)
            if chunk is None:
                self._tee(Tick(now))
                await self._handle(transport, session.tick(now))
                await self._commit(self._feed.tick(now))
                continue
            self._tee(chunk)
            await self._handle(transport, session.receive(chunk))
            transport.confirm(chunk)

    async def _handle(self, transport: Transport, events: Sequence[Event]) -> None:
        if not events:
            return
        output = self._feed.take(events)
        if output.drafts or output.live:
            await self._commit(output)
        for event in events:
            if isinstance(event, Send):
                await transport.send(event)
                self._tee(Sent(self._clock.now(), event))


async def _with_ticks(transport: Transport) -> AsyncIterator[Chunk | None]:
    """The chunks, with None at least each `TICK_S`: time passes for the session even when the line is silent."""
    loop = asyncio.get_running_loop()
    due = loop.time() + TICK_S
    chunks = aiter(transport)
    pending: asyncio.Task[Chunk] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(chunks))
            done, _ = await asyncio.wait({pending}, timeout=max(0.0, due - loop.time()))
            if done:
                chunk_task, pending = pending, None
                try:
                    yield chunk_task.result()
                except StopAsyncIteration:
                    return
            if loop.time() >= due:
                due = loop.time() + TICK_S
                yield None
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
