"""`/health` and `/metrics` over HTTP, in a thread and a loop of their own: whatever asks, the service is not held up.

Two paths, GET only, no body, one answer a connection. Whoever sends his request slowly, or opens many connections, is
cut off (`REQUEST_S`, `MAX_OPEN`).
"""

import asyncio
import threading
from http import HTTPStatus
from typing import Final

from vitals.log import Log
from vitals.telemetry.exposition import CONTENT_TYPE, render
from vitals.telemetry.watch import Watch

REQUEST_S: Final = 2.0
"""For the whole request, and again for taking the answer."""
REQUEST_BYTES: Final = 4096
MAX_OPEN: Final = 16
"""Connections at once: a Prometheus, a monitor and a person need three."""
START_S: Final = 5.0
_log = Log("health")


class HealthServer:
    """Listens from `start` to `stop`. A port that is taken costs the health page, never the readings: it is logged."""

    def __init__(self, watch: Watch, host: str, port: int, setting: str) -> None:
        self._watch = watch
        self._host = host
        self._setting = setting
        self.port = port
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(START_S)

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(START_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:
            _log.error(
                "no health page", host=self._host, port=self.port, error=error,
                do=f"end what listens there, or set {self._setting} to a free port (0: none)",
            )  # fmt: skip
        finally:
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, self._host, self.port, limit=REQUEST_BYTES)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            _log.info("health page", url=f"http://{self._host}:{self.port}/health")
            self._ready.set()
            await self._done.wait()
        open_ = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_OPEN:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answered(head))
            async with asyncio.timeout(REQUEST_S):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        except asyncio.CancelledError:  # by `stop`; passed on, asyncio would log it as an error of ours
            writer.transport.abort()
        finally:
            self._open -= 1

    def _answered(self, head: bytes) -> bytes:
        """A bug of ours is an error to whoever asks: he must not wait for an answer that never comes."""
        try:
            return self._answer(head)
        except Exception:  # noqa: BLE001
            _log.exception("health page failed", do="report it with this traceback; the readings are not touched")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"this page failed; see the log\n")

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET only\n")
        if path == "/health":
            word, body = self._watch.health()
            status = HTTPStatus.OK if word == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
            return _response(status, "application/json", body)
        if path == "/metrics":
            return _response(HTTPStatus.OK, CONTENT_TYPE, render(self._watch.samples()))
        return _response(HTTPStatus.NOT_FOUND, "text/plain", b"/health and /metrics\n")


def _response(status: HTTPStatus, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
