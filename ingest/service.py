"""The shell of ingest: takes batches from the broker, shows them flagged, stores them, answers the gateways.

A batch is what has come meanwhile, at most `batch_limit` messages: under load batches grow while the store works, at
rest a reading is alone and waits for nobody. Flags go out before the store is asked, so a store that is down never
blinds the board.
"""

import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from ingest.store.contract import Store
from ingest.store.opening import open_store, refusals_path
from ingest.store.refusals import Refusal, Refusals
from ingest.telemetry import State, Tally, report
from ingest.work import Publication, Work
from ingest.writer import Writer
from vitals.broker import Message, Will
from vitals.clock import NS, Clock, Instant
from vitals.log import Log
from vitals.messages import VERSION, IngestStatus, Receipts, encode
from vitals.settings import Settings
from vitals.telemetry.watch import Watch
from vitals.tls import Trouble
from vitals.topics import Topics

BATCH: Final = 500
TAKE_S: Final = 0.05
TICK_S: Final = 0.5
STATUS_S: Final = 1.0
"""Counts are published at most so often; a fault of the store at once."""
BEAT_S: Final = 10.0
"""Said again so often though nothing changed: a hung ingest is then known by its silence."""
REMEMBERED: Final = 100_000
"""Ids read from the store at the start, so that resent readings are not shown and alarmed again."""
MAX_UNSENT: Final = 1000
"""Packs of flagged readings kept over a broken connection; older ones the board finds in the store."""
_log = Log("ingest")


class BrokerPort(Protocol):
    """What is used of `vitals.broker.Broker`."""

    @property
    def connected(self) -> bool: ...
    @property
    def trouble(self) -> Trouble | None: ...
    @property
    def denied(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str = "",
    ) -> bool: ...
    def take(self, limit: int, timeout_s: float) -> list[Message]: ...
    def ack(self, messages: Sequence[Message]) -> None: ...


class BrokerFactory(Protocol):
    """Makes a connection that is not started yet. `on_connect` may run in any thread."""

    def __call__(
        self, *, subscriptions: Sequence[tuple[str, int]], will: Will, on_connect: Callable[[], None]
    ) -> BrokerPort: ...


def run(
    settings: Settings,
    broker_factory: BrokerFactory,
    clock: Clock,
    stop: threading.Event,
    *,
    batch_limit: int = BATCH,
    watch: Watch | None = None,
) -> None:
    """Serve until `stop` is set. Raises SettingsError or StoreError before the first connection."""
    site_file = Path(settings.ingest.rules_file) if settings.ingest.rules_file else None
    rules = load_rules(settings.ingest.profile, site_file)
    store = open_store(settings, stop)
    refusals = Refusals(refusals_path(settings))
    try:
        pipeline = Pipeline(
            Topics(settings.site.id),
            rules,
            session=secrets.token_hex(8),
            simulated_alarms=settings.ingest.simulated_alarms,
            limits=settings.ingest.quota,
        )
        pipeline.resume(store.recent_ids(REMEMBERED), store.tails())
        Service(
            pipeline, store, broker_factory, clock, batch_limit=batch_limit, keep=refusals.keep, watch=watch
        ).serve(stop)  # fmt: skip
    finally:
        refusals.close()
        store.close()


class Service:
    """One connection, one store, one loop in the caller's thread."""

    def __init__(
        self, pipeline: Pipeline, store: Store, broker_factory: BrokerFactory, clock: Clock, *,
        batch_limit: int = BATCH, keep: Callable[[Sequence[Refusal], Instant], None] = lambda refusals, now: None,
        watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self._watch = watch
        self._tally = Tally()
        self._pipeline = pipeline
        self._store = store
        self._store_id = store.store_id
        self._clock = clock
        self._limit = batch_limit
        self._since = clock.now()
        self._reconnected = threading.Event()
        will = Will(pipeline.topics.ingest_status, encode(self._status(online=False)))
        self._broker = broker_factory(
            subscriptions=pipeline.subscriptions(), will=will, on_connect=self._reconnected.set
        )
        self._writer = Writer(
            store, clock, ack=self._broker.ack, receipt=self._send_receipt, refused=pipeline.refused, keep=keep,
            tally=self._tally,
        )  # fmt: skip
        self._unsent: deque[Publication] = deque(maxlen=MAX_UNSENT)
        self._tick_at = 0
        self._status_at = 0
        self._beat_at = 0
        self._said: IngestStatus | None = None

    def serve(self, stop: threading.Event) -> None:
        self._writer.stop = stop
        self._broker.start()
        _log.info("ingest started", profile=self._pipeline.rules.profile, rules=self._pipeline.rules.hash)
        try:
            while not stop.is_set():
                self.step()
        finally:
            self._writer.close()
            self._broker.publish(
                self._pipeline.topics.ingest_status, encode(self._status(online=False)), qos=1, retain=True
            )
            self._broker.stop()

    def step(self) -> None:
        """One turn: greet a new connection, take a batch, flag, show, store, and let time pass."""
        if self._reconnected.is_set():
            self._reconnected.clear()
            self._said = None
            unsent, self._unsent = self._unsent, deque(maxlen=MAX_UNSENT)
            self._send([*self._pipeline.retained(), *unsent])
        self._tell_status()
        messages = self._broker.take(self._limit, 0.0 if self._writer.draining else TAKE_S)
        if messages:
            self._tally.took(len(messages))
            self._take(messages)
        else:
            self._writer.finish()
        now = self._clock.monotonic()
        if now >= self._tick_at:
            self._tick_at = now + round(TICK_S * NS)
            work = self._pipeline.tick(self._clock.now())
            self._send(work.publish)
            self._writer.add(work, [])
        self._writer.retry()
        if not self._writer.under_way:  # the store is used by one thread at a time
            self._store_id = self._store.store_id
        if self._watch is not None and self._watch.due():
            self._watch.publish(report(self._tally, self._state()))

    def _state(self) -> State:
        writer, pipeline = self._writer, self._pipeline
        return State(
            self._broker.trouble, self._broker.denied, self._broker.dropped, writer.fault, writer.waiting_rows,
            writer.waiting_bytes, writer.busy, pipeline.refused, pipeline.over_quota,
            pipeline.streams.missing(),
        )  # fmt: skip

    def _take(self, messages: Sequence[Message]) -> None:
        try:
            work = self._pipeline.process(messages, self._clock.now())
        except Exception:  # noqa: BLE001  a bug of ours in one message must not stop the room next door
            _log.exception("batch failed", messages=len(messages), do="report it with this traceback")
            if len(messages) > 1:
                for message in messages:
                    self._take([message])
                return
            # Its gateway keeps it, and sends it again after the upgrade that mends us.
            self._pipeline.refused["internal error"] += 1
            work = Work()
        self._send(work.publish)
        # Under load the store works while the next batch is judged; else the answer is waited for.
        self._writer.add(work, messages, behind=len(work.rows) > self._limit)

    def _send(self, publications: Sequence[Publication]) -> None:
        """Without a connection retained topics wait for the next one, where all are told anew; readings are kept."""
        for publication in publications:
            topic, payload, retain, expiry_s, content_type = publication
            sent = self._broker.publish(
                topic, payload, qos=1, retain=retain, expiry_s=expiry_s, content_type=content_type
            )  # fmt: skip
            if not sent and not retain:
                self._tally.unsent += len(self._unsent) == MAX_UNSENT
                self._unsent.append(publication)
            self._tally.flagged += topic.endswith("/flagged")

    def _send_receipt(self, gateway: str, receipts: Receipts) -> None:
        self._broker.publish(self._pipeline.topics.stored(gateway), encode(receipts), qos=1)

    def _tell_status(self) -> None:
        """Retained; said on connect, when the store's state changes, and when counts moved."""
        if not self._broker.connected:
            return
        status = self._status(online=True)
        now = self._clock.monotonic()
        urgent = self._said is None or self._said.store_fault != status.store_fault
        if urgent or now >= self._beat_at or (status != self._said and now >= self._status_at):
            self._status_at = now + round(STATUS_S * NS)
            self._beat_at = now + round(BEAT_S * NS)
            timed = msgspec.structs.replace(status, now=self._clock.now())
            if self._broker.publish(self._pipeline.topics.ingest_status, encode(timed), qos=1, retain=True):
                self._said = status

    def _status(self, *, online: bool) -> IngestStatus:
        return IngestStatus(
            v=VERSION,
            session=self._pipeline.session,
            online=online,
            since=self._since,
            store_id=self._store_id,
            store_fault=self._writer.fault if online else "",
            rules_hash=self._pipeline.rules.hash,
            profile=self._pipeline.rules.profile,
            refused=dict(self._pipeline.refused),
            over_quota=dict(self._pipeline.over_quota),
            denied=self._broker.denied if online else 0,
            missing_s={key: round(seconds, 1) for key, seconds in self._pipeline.streams.missing().items()},
        )
