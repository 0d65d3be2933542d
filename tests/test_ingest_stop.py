"""A stop of ingest is bounded, whatever the store does, and what it gives up comes again."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ingest.store import influx
from ingest.store.contract import StoreDown
from ingest.store.influx import STOP_S, Bucket, Place
from ingest.store.influx_store import InfluxStore
from ingest.store.ledger import Ledger
from tests.ingest_making import T0, observation_row
from tests.test_ingest_service import Ingest
from vitals.clock import NS, ManualClock

ANSWER_S = 0.2


class Slow(http.server.BaseHTTPRequestHandler):
    """An InfluxDB that works, slowly: it has points of a store `s1`, and refuses every line, so that each is tried."""

    def do_GET(self) -> None:
        self._say(200, '{"results":[{"series":[{"name":"store","columns":["time","id"],"values":[[1,"s1"]]}]}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(400, '{"code":"invalid","message":"bad line"}')

    def _say(self, status: int, body: str) -> None:
        time.sleep(ANSWER_S)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_append_to_a_slow_store_is_given_up(slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 refused lines are 73 requests: without the stop 15 s here, and up to a minute at a slower server."""
    monkeypatch.setattr(influx, "STOP_S", 0.5)
    stop = threading.Event()
    ledger = Ledger(tmp_path / "state.db")
    with ledger.transaction(durable=True):
        ledger.adopt("s1", settled=True)
    rows = [observation_row(f"{n:032x}", t=T0 + n * NS) for n in range(64)]
    with closing(Bucket(Place(slow, "b"), stop=stop)) as bucket, closing(InfluxStore(bucket, ledger)) as store:
        store._allowed_s = 60
        threading.Timer(0.5, stop.set).start()
        began = time.monotonic()
        with pytest.raises(StoreDown, match="ingest is stopping"):
            store.append(rows)
        assert 0.9 < time.monotonic() - began < 4, "some of it may be finished, all of it is not waited for"


def test_requests_go_on_for_a_moment_and_then_none_is_sent(slow: str) -> None:
    clock, stop = ManualClock(T0), threading.Event()
    with closing(Bucket(Place(slow, "b"), clock=clock, stop=stop)) as bucket:
        stop.set()
        assert bucket.query("x")
        clock.advance(STOP_S - 0.1)
        assert bucket.query("x")
        clock.advance(0.2)
        with pytest.raises(StoreDown, match="ingest is stopping"):
            bucket.query("x")


def test_what_is_given_up_at_a_stop_is_left_to_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings without an outbox beyond the bound are dropped while the store is down, but not by who is leaving."""
    monkeypatch.setattr("ingest.writer.MAX_LOOSE", 3)
    ingest = Ingest(tmp_path)
    with closing(ingest.store):
        ingest.service._writer.stop.set()
        ingest.store.down = "slow"
        for number in range(5):
            ingest.send(number, epoch="")
            ingest.turn()
        assert ingest.broker.acked == []
        assert not ingest.pipeline.refused
