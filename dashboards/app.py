"""The board as a web application: its routes in one list, and the loop that feeds it.

Loopback by default, no accounts yet: whoever can reach the port sees the board, and nobody can change anything.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dashboards import assets
from dashboards.feed import BEAT_MS, FRAME_MS, MERGE_MS, OVERLOADED, Client, Feed
from dashboards.guard import FOREIGN_ORIGIN, LOOPBACK, Guard, host_allowed, same_origin
from dashboards.history import Point, rows
from dashboards.readings import ms
from dashboards.room import Change
from dashboards.rooms import Rooms
from dashboards.telemetry import Bus, report
from dashboards.visits import Visits
from vitals.clock import NS, Clock, Instant
from vitals.errors import PortTaken
from vitals.log import Log
from vitals.messages import FlaggedMessage
from vitals.settings import Settings
from vitals.telemetry.report import Report
from vitals.telemetry.watch import Watch
from vitals.topics import Topics

TAKE: Final = 500
TAKE_S: Final = 0.25
"""Longest wait for the broker in one turn: how late the loss of its connection is noticed."""
MAX_PAGES: Final = 200
"""Open pages at once; the next is told to try again later."""
TREND_MAX_MIN: Final = 24 * 60
CLOSE_S: Final = 5
REPORT_MS: Final = 1000
FILL_S: Final = 10.0
"""Between looks at the store: what it could not tell at the start is read then, and a dead one is noticed."""
NOT_READ: Final = "the store could not be read; only readings since the board's start are listed"
HELLO_BYTES: Final = 16_384
"""A page sends pings and subscriptions, far below this."""
_MEND_STORE: Final = "see that the store answers and that board and ingest name the same [ingest.store]"
_log = Log("board")


class Arrived(Protocol):
    """A message as the broker hands it over."""

    @property
    def topic(self) -> str: ...

    @property
    def payload(self) -> bytes: ...


A = TypeVar("A", bound=Arrived)


class BrokerLink(Bus, Protocol[A]):
    """What the board needs of vitals.broker.Broker; started and stopped by who made it."""

    connected: bool
    fault: str

    def take(self, limit: int, timeout_s: float) -> list[A]: ...

    def ack(self, messages: Sequence[A]) -> None: ...

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool: ...


class StoreReader(Protocol):
    """What the board reads from the store. Calls may block; they run in a thread, one at a time."""

    def latest(self, room: str) -> Sequence[FlaggedMessage]: ...

    def history(self, room: str, metric: str, since: Instant) -> Sequence[Point]: ...


def subscriptions(site: str) -> list[tuple[str, int]]:
    """(topic filter, QoS) of everything the board listens to."""
    topics = Topics(site)
    return [
        (topics.flagged("+"), 1),
        (topics.alert("+", "+"), 1),
        (topics.ingest_status, 1),
        (topics.gateway_status("+"), 1),
        (topics.up_all("status"), 1),
        (topics.up_all("birth"), 1),
        (topics.up_all("wave"), 0),
        (topics.up_all("live"), 0),
    ]


class Board:
    """The parts of one board, wired; without a socket or a broker it is still whole, which tests use."""

    def __init__(self, config: Settings, clock: Clock, store: StoreReader | None = None) -> None:
        self.config, self.clock, self.store = config, clock, store
        now = clock.now()
        topics = Topics(config.site.id)
        self.visits = Visits(config.board.rooms, topics, now)
        self.rooms = Rooms(config, topics, self.visits.by_room, now)
        self.assets = assets.load(clinic=config.site.name)
        self.store_fault = ""
        """Why the store could not be read when it was last asked; empty when it could."""
        self.pulled = clock.monotonic()
        """When the broker's queue was last looked into."""
        self._store_lock = asyncio.Lock()
        self._unfilled = set(self.rooms.rooms) if store else set()
        """Rooms whose tiles do not yet have what the store knows; their metrics are not known either."""
        self.feed = Feed(self.rooms, clinic=config.site.name, page=self.assets.digest, zone=config.site.timezone)

    def fill(self) -> None:
        """Show what the store knows, before the first page opens. A store that fails costs history, not the board."""
        for room in sorted(self._unfilled):
            try:
                self._show_latest(room, self._latest(room))  # nobody to tell yet
            except Exception as error:  # noqa: BLE001 - any store may stand behind the protocol
                self.rooms.services.fault("history that could not be read")
                self._not_read(room, error)
                return

    def _latest(self, room: str) -> Sequence[FlaggedMessage]:
        stored = self.store.latest(room) if self.store else []
        self.store_fault = ""
        return stored

    def _not_read(self, room: str, error: Exception) -> None:
        self.store_fault = str(error) or type(error).__name__
        _log.warning("store not read", room=room, reason=error, do=_MEND_STORE)

    def _show_latest(self, room: str, stored: Sequence[FlaggedMessage]) -> list[Change]:
        changes = self.rooms.fill(room, stored, self.clock.now())
        self._unfilled.discard(room)
        return changes

    async def keep_filling(self) -> None:
        """For ever: fill the rooms that the store could not be read for; else see that it still can be read."""
        while self.store is not None:
            await asyncio.sleep(FILL_S)
            for room in sorted(self._unfilled) or sorted(self.rooms.rooms)[:1]:
                async with self._store_lock:
                    await self._fill_late(room)
                if self.store_fault:
                    break

    async def _fill_late(self, room: str) -> None:
        """Asked in a thread, with the lock held."""
        try:
            stored = await asyncio.to_thread(self._latest, room)
            if room in self._unfilled:
                self.feed.tell(self._show_latest(room, stored), self.clock.now())
        except Exception as error:  # noqa: BLE001 - any store may stand behind the protocol
            self._not_read(room, error)

    def application(self) -> Starlette:
        """The web application: every route there is."""
        host = self.config.board.host
        allowed = None if host in ("0.0.0.0", "::") else LOOPBACK | {host.lower()}
        routes = [
            Route("/", self._page),
            WebSocketRoute("/ws", self._socket),
            Route("/static/{digest}/{name}", self._static),
            Route("/api/health", self._health),
            Route("/api/rooms/{id}/trend", self._trend),
        ]
        self._allowed = allowed
        return Starlette(routes=routes, middleware=[Middleware(Guard, allowed=allowed)])

    async def _page(self, _request: Request) -> Response:
        return Response(self.assets.page, media_type="text/html; charset=utf-8")

    async def _static(self, request: Request) -> Response:
        """Files of this version only: a page of another version is told so, and never gets a mixture."""
        found = self.assets.static.get(request.path_params["name"])
        if found is None or request.path_params["digest"] != self.assets.digest:
            return Response("Not part of this version.\n", 404, media_type="text/plain")
        media, body = found
        return Response(body, media_type=media, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    async def _health(self, _request: Request) -> Response:
        now = self.clock.now()
        services = self.rooms.services
        return _json({
            "live": services.trouble(now)["band"] is None, "now": ms(now), "boot": self.feed.boot,
            "seq": self.feed.feed_seq, "pages": len(self.feed.clients), "rooms": len(self.rooms.rooms),
            "broker": services.broker_up, "faults": services.faults,
            "waiting": sum(len(client.json) + len(client.ekg) for client in self.feed.clients),
            "turned_away": self.feed.turned_away,
            "ekg_dropped": sum(client.ekg_dropped for client in self.feed.clients),
        })  # fmt: skip

    async def _trend(self, request: Request) -> Response:
        """Readings of the last `m` minutes, oldest first."""
        room = request.path_params["id"]
        minutes = request.query_params.get("m", "30")
        if room not in self.rooms.rooms:
            return _json({"error": "no such room"}, 404)
        if len(minutes) > 4 or not minutes.isascii() or not minutes.isdigit() or not 1 <= int(minutes) <= TREND_MAX_MIN:
            return _json({"error": f"m: expected 1 to {TREND_MAX_MIN} minutes"}, 400)
        now = self.clock.now()
        since = now - int(minutes) * 60 * NS
        async with self._store_lock:
            if room in self._unfilled:
                await self._fill_late(room)
            known = room not in self._unfilled
            stored, fault = await asyncio.to_thread(self._stored, room, since) if known else ({}, NOT_READ)
        found = self.rooms.merge_history(room, stored, ms(since))
        listed, of = rows(found)
        return _json({
            "room": room, "from": ms(since), "to": ms(now), "readings": found, "rows": listed, "of": of, "fault": fault,
        })  # fmt: skip

    def _stored(self, room: str, since: Instant) -> tuple[dict[str, Sequence[Point]], str]:
        if self.store is None:
            return {}, ""
        keys = [key for shown in list(self.rooms.rooms[room].obs) for key in _store_keys(shown)]
        try:
            return {key: self.store.history(room, key, since) for key in keys}, ""
        except Exception as error:  # noqa: BLE001 - any store may stand behind the protocol
            self._not_read(room, error)
            return {}, NOT_READ

    # -- the live socket -----------------------------------------------------------------------------------------

    async def _socket(self, socket_: WebSocket) -> None:
        await socket_.accept()
        headers = socket_.headers
        if not same_origin(headers, socket_.url.scheme) or not host_allowed(headers, self._allowed):
            await socket_.close(FOREIGN_ORIGIN)
            return
        if len(self.feed.clients) >= MAX_PAGES:
            self.feed.turned_away += 1
            _log.warning("page refused", open=MAX_PAGES, do="close pages nobody looks at")
            await socket_.close(OVERLOADED)
            return
        wake, give_up = asyncio.Event(), asyncio.Event()
        client = self.feed.join(self.clock.now(), wake, give_up)
        tasks = [
            asyncio.create_task(self._read(socket_, client)),
            asyncio.create_task(_write(socket_, client, wake)),
            asyncio.create_task(give_up.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.feed.leave(client)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if client.overloaded:
            _log.warning("page too slow, closed", do="look at that screen's computer and network")
            # A reader that has stopped altogether cannot be told either; uvicorn then drops the connection.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(socket_.close(OVERLOADED), CLOSE_S)

    async def _read(self, socket_: WebSocket, client: Client) -> None:
        with contextlib.suppress(WebSocketDisconnect, KeyError):
            while True:
                self.feed.answer(client, await socket_.receive_text(), self.clock.now())

    # -- what runs beside the server ------------------------------------------------------------------------------

    def report(self, broker: BrokerLink[A]) -> Report:
        """For the health page."""
        deaf_s = (self.clock.monotonic() - self.pulled) / NS
        return report(self.feed, broker, self.clock.now(), store_fault=self.store_fault, deaf_s=deaf_s)

    async def every(self, period_ms: int, work: Callable[[], None]) -> None:
        """Call `work` each period, without drift; periods that were missed are skipped, not made up for."""
        loop = asyncio.get_running_loop()
        period = period_ms / 1000
        due = loop.time()
        while True:
            due = max(due + period, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                work()
            except Exception as error:  # noqa: BLE001 - one bad turn must not stop the board
                self.rooms.services.fault("turn of the board that failed")
                reason = f"{type(error).__name__}: {error}"
                _log.error("board turn failed", reason=reason, do="report it; the board goes on")

    async def pull(self, broker: BrokerLink[A]) -> None:
        """Take what the broker has, for ever, and keep the leases of the visits."""
        loop = asyncio.get_running_loop()
        was = False
        while True:
            batch = await loop.run_in_executor(None, broker.take, TAKE, TAKE_S)
            self.pulled = self.clock.monotonic()
            now = self.clock.now()
            connected = broker.connected
            self.feed.link(connected, broker.fault, now)
            self.feed.receive([(message.topic, message.payload) for message in batch], now)
            broker.ack(batch)
            for topic, payload in self.visits.due(now, force=connected and not was) if connected else ():
                broker.publish(topic, payload, qos=1, retain=True)
            was = connected


def _store_keys(key: str) -> tuple[str, ...]:
    """The stored metrics behind a cell; a cuff's pressure while it inflates is never stored."""
    return {"bp": ("bp_sys", "bp_dia"), "cuff_pressure": ()}.get(key, (key,))


async def _write(socket_: WebSocket, client: Client, wake: asyncio.Event) -> None:
    """Send what waits, one at a time: a page that reads slowly holds up nobody but its own queue."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            wake.clear()
            while (item := client.next()) is not None:
                await (socket_.send_text(item) if isinstance(item, str) else socket_.send_bytes(item))
            await wake.wait()


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


class _Server(uvicorn.Server):
    """Leaves signals to the command line, which stops all parts in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """The board's listening socket. Raises PortTaken when another program has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise PortTaken(
            f"The board cannot listen on {host}:{port}.",
            expected="a free port on this machine's address",
            found="another program listens there" if taken else str(error),
            do="Stop that program, or set board.port (VITALS_BOARD__PORT) to another port.",
        ) from None
    return listener


async def serve(
    config: Settings,
    broker: BrokerLink[A],
    store: StoreReader | None,
    clock: Clock,
    stop: asyncio.Event,
    *,
    listener: socket.socket | None = None,
    watch: Watch | None = None,
) -> None:
    """Run the board until `stop` is set. Raises PortTaken before anything else starts."""
    listener = listener or listen(config.board.host, config.board.port)
    board = Board(config, clock, store)
    await asyncio.to_thread(board.fill)
    feed = board.feed
    server = _Server(uvicorn.Config(
        board.application(), log_config=None, access_log=False, server_header=False, ws="websockets-sansio",
        ws_per_message_deflate=False, ws_max_size=HELLO_BYTES, lifespan="off", timeout_graceful_shutdown=2,
    ))  # fmt: skip
    work: list[Awaitable[None]] = [
        board.pull(broker),
        board.every(BEAT_MS, lambda: feed.beat(clock.now())),
        board.every(MERGE_MS, feed.flush),
        board.every(FRAME_MS, lambda: feed.send_frame(clock.now())),
    ]
    if watch is not None:
        work.append(board.every(REPORT_MS, lambda: watch.publish(board.report(broker))))
    tasks = [asyncio.ensure_future(item) for item in work]
    filling = asyncio.create_task(board.keep_filling())  # ends at once where there is no store
    stopping = asyncio.create_task(stop.wait())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    _log.info("board up", url=f"http://{config.board.host}:{listener.getsockname()[1]}/")
    done, _ = await asyncio.wait([*tasks, stopping, serving], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    for task in (*tasks, filling, stopping):
        task.cancel()
    await asyncio.gather(*tasks, filling, stopping, serving, return_exceptions=True)
    listener.close()
    for task in done - {stopping}:
        task.result()
