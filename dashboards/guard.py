"""What the board refuses before it looks closer, and what it tells every browser to refuse."""

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), usb=()",
}
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
FOREIGN_ORIGIN: Final = 4403
"""WebSocket close code: the page that opened it is not ours."""


def host_allowed(headers: Headers, allowed: frozenset[str] | None) -> bool:
    """Whether the browser meant us. Else a foreign name resolved to this address could read the board."""
    host = headers.get("host", "")
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    return allowed is None or name.lower() in allowed


def same_origin(headers: Headers, scheme: str) -> bool:
    """Whether the page that asks was served by us. No Origin at all is no page of ours either."""
    web = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    return headers.get("origin", "") == f"{web}://{headers.get('host', '')}"


class Guard:
    """Middleware: the host check, security headers on every answer, and no caching unless a route said otherwise."""

    def __init__(self, app: ASGIApp, allowed: frozenset[str] | None) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if host_allowed(Headers(scope=scope), self._allowed):
            await self._app(scope, receive, send_guarded)
        else:
            await PlainTextResponse("This board is not served under that name.\n", 421)(scope, receive, send_guarded)
