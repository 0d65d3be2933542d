"""InfluxDB over HTTP: lines in by `/api/v2/write`, InfluxQL out by `/query`. The only file that knows its client.

Both roads exist in InfluxDB 2 and 3, and in 1 the second one (the tests put a rewrite in front for the first). A
failure is one of two: nothing works at the moment (`StoreDown`), or the server will never take these lines
(`Refused`). Only an answer in InfluxDB's own form may refuse: a proxy's error page must not cost a reading.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError, NewConnectionError, TimeoutError

from ingest.store.contract import MAX_REASON, StoreDown
from ingest.store.influxql import NoAnswer, Record, records
from vitals.clock import NS, Clock, Instant, SystemClock

TIMEOUT_S: Final = 5.0
"""Of one request. Ingest's loop waits for it, and says so on the board after it."""
WRITE_BYTES: Final = 4_000_000
"""Of one request: InfluxDB 3 takes 10 MB as delivered, 1 takes 25 MB."""
MAX_RETRY_AFTER_S: Final = 60.0
"""A server that asks for more is asked after this all the same: receipts are waited for."""
STOP_S: Final = 2.0
"""Requests may still begin so long after a stop was asked for: enough for an append in hand, if the server is well."""
READ_BYTES: Final = 1 << 16
_REFUSING: Final = frozenset({400, 413, 422})
_WORDS: Final = {401: "refuses the token", 403: "refuses the token", 404: "does not have the bucket"}
T = TypeVar("T")


class Place(NamedTuple):
    """Where the bucket is. `bucket`: its name, or `DATABASE/POLICY` as InfluxDB 1 has it."""

    url: str
    bucket: str
    org: str = ""
    token: str = ""
    ca_file: str = ""
    gzip: bool = False


class Refused(Exception):
    """The server will not take these lines, however often they are sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Bucket:
    """One kept-alive connection to one bucket. Nothing is sent before the first call.

    Once `stop` is set and STOP_S is over every call raises StoreDown: an append to a slow server is many requests, and
    whoever ends ingest waits for one of them and not for all.
    """

    def __init__(
        self, place: Place, *, timeout_s: float = TIMEOUT_S, clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self.place = place
        self._stop = stop or threading.Event()
        self._stop_seen: Instant | None = None
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._client = InfluxDBClient(
            place.url, place.token, timeout=round(timeout_s * 1000), enable_gzip=place.gzip, org=place.org or "-",
            ssl_ca_cert=place.ca_file or None,
        )  # fmt: skip
        self._write = self._client.write_api(write_options=SYNCHRONOUS)
        database, _, policy = place.bucket.partition("/")
        self._params = [("db", database), *([("rp", policy)] if policy else []), ("epoch", "ns")]

    def close(self) -> None:
        self._client.close()

    def write(self, lines: Sequence[str]) -> None:
        """Durable on return, as far as the server is. Raises StoreDown or Refused."""
        body = "\n".join(lines).encode()
        self._ask(lambda: self._write.write(self.place.bucket, record=body))  # ns by default

    def query(self, statement: str) -> list[Record]:
        """The points a statement finds. Raises StoreDown."""
        try:
            return records(self._ask(lambda: self._get(statement)))
        except Refused as refused:
            raise StoreDown(f"InfluxDB does not answer a query: {refused.reason}") from None
        except NoAnswer as error:
            if "not found" in str(error):
                raise StoreDown(self._words(404, str(error))) from None
            raise StoreDown(f"{self.place.url}: {error}") from None

    def delete(self, statement: str) -> None:
        """Run a `DELETE`. Raises StoreDown, also where this InfluxDB has none."""
        try:
            records(self._ask(lambda: self._call("POST", statement)))
        except (Refused, NoAnswer) as error:
            raise StoreDown(
                f"InfluxDB at {self.place.url} does not delete: {error}. InfluxDB 3 has no DELETE, and deletes by the"
                " retention its database was made with"
            ) from None

    def _get(self, statement: str) -> str:
        return self._call("GET", statement)

    def _call(self, method: str, statement: str) -> str:
        until = self._clock.monotonic() + round(self._timeout_s * NS)
        response: Any = self._client.api_client.call_api(
            "/query", method, query_params=[*self._params, ("q", statement)], _preload_content=False,
            _return_http_data_only=True,
        )  # fmt: skip
        body = bytearray()
        # The client's own bound is of each read: a server that drips would hold us for as long as it likes.
        while part := response.read1(READ_BYTES):
            body += part
            if self._clock.monotonic() > until:
                response.close()
                raise StoreDown(f"InfluxDB at {self.place.url} does not answer in time")
        response.release_conn()
        return body.decode()

    def _go_on(self) -> None:
        if self._stop.is_set():
            now = self._clock.monotonic()
            if self._stop_seen is None:
                self._stop_seen = now
            if now - self._stop_seen >= STOP_S * NS:
                raise StoreDown(f"InfluxDB at {self.place.url} is slow, and ingest is stopping")

    def _ask(self, request: Callable[[], T]) -> T:
        self._go_on()
        try:
            return request()
        except ApiException as error:
            reason = _reason(error)
            if not error.status:  # TLS failed; the client says so in this form.
                raise StoreDown(f"InfluxDB at {self.place.url} cannot be reached: {_one_line(error.reason)}") from None
            if error.status in _REFUSING and reason:
                raise Refused(reason) from None
            words = self._words(error.status, reason or _one_line(error.reason))
            raise StoreDown(words, retry_s=_retry_s(error)) from None
        except (HTTPError, OSError, ValueError) as error:
            # urllib3 counts a refused connection among the timeouts.
            if isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):
                raise StoreDown(f"InfluxDB at {self.place.url} does not answer in time") from None
            raise StoreDown(f"InfluxDB at {self.place.url} cannot be reached: {_cause(error)}") from None

    def _words(self, status: int, reason: str) -> str:
        word = _WORDS.get(status)
        if word is None:
            return f"InfluxDB at {self.place.url} answers {status}: {reason}"
        what = f" {self.place.bucket!r}" if status == 404 else ""
        return f"InfluxDB at {self.place.url} {word}{what}: {reason}"


def _reason(error: ApiException) -> str:
    """What InfluxDB says in its own JSON; empty when the answer is somebody else's (413 needs no words)."""
    body = error.body
    try:
        told = msgspec.json.decode(body or "", type=dict[str, Any])
        return _without_the_point(_one_line(told.get("message") or told.get("error") or ""))
    except msgspec.MsgspecError:
        return "too large" if error.status == 413 else ""


def _retry_s(error: ApiException) -> float:
    """What a busy server asks by Retry-After, in seconds, within bounds; 0 where it names none, or a date."""
    headers: Any = error.headers
    asked = str((headers or {}).get("Retry-After", ""))
    return min(float(asked), MAX_RETRY_AFTER_S) if asked.isascii() and asked.isdigit() else 0.0


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _without_the_point(reason: str) -> str:
    """Up to the line it quotes: reasons go to logs and to the board, and a line is a patient's reading.

    InfluxDB puts names in double quotes, and lines, keys and values in single ones.
    """
    cut = reason.partition("'")[0].strip()[:MAX_REASON]
    return cut or (reason and "no words but the line's")


def _cause(error: BaseException) -> str:
    """The innermost reason, without the addresses of objects that urllib3 puts before it."""
    if isinstance(error, ValueError):
        return f"the request cannot be sent ({type(error).__name__})"  # its words may quote the token
    return str(error).rpartition(">: ")[2] or type(error).__name__
