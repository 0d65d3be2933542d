"""Batches on their way into the store. The only place that acknowledges, and it does so after the append.

While the store is down, rows wait in bounded memory and the broker's window is freed early for messages that an
outbox keeps: without a receipt its gateway sends them again. A message that no outbox keeps stays unacknowledged.
When the store is back, what waited is written a little in each turn, since readings are shown between the turns.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, NamedTuple

from ingest.store.contract import RowOutcome, Store, StoreDown
from ingest.store.refusals import Refusal, refused_row
from ingest.telemetry import Tally
from ingest.work import Work
from vitals.broker import Message
from vitals.clock import NS, Clock, Instant
from vitals.log import Log
from vitals.messages import VERSION, Outcome, Receipts

MAX_WAITING_ROWS: Final = 20_000
"""Five minutes of 32 EKG streams with their rates; what comes later is shown, and waits in the outboxes alone."""
MAX_WAITING_BYTES: Final = 64_000_000
"""Payload bytes waiting, where messages are large."""
MAX_LOOSE: Final = 200
"""Messages without an outbox held unacknowledged: well below the broker's window of 1,000, or the board went blind."""
RETRY_FIRST_S: Final = 0.5
RETRY_MAX_S: Final = 10.0
DRAIN_S: Final = 0.2
"""Of one turn, for what has waited. Until it is over no reading is flagged or shown."""
MERGED_ROWS: Final = 500
"""Of batches that waited, in one append: a store across a network costs by the request, not by the row."""
MAX_RECEIPT: Final = 500
"""Outcomes of one receipt message, about 20 kB."""
_log = Log("ingest.store")


class _Batch(NamedTuple):
    """`size`: bytes of the payloads its rows were made from, whether or not the messages are still held."""

    work: Work
    messages: Sequence[Message]
    size: int


class _UnderWay(NamedTuple):
    """An append in its own thread, and when it began (monotonic)."""

    batch: _Batch
    outcomes: Future[list[RowOutcome]]
    began: int


class Writer:
    """`fault` says why nothing can be stored at the moment; empty when storing works.

    All of it runs in ingest's one loop, but for a single `append`, which may run behind it: the store is waited for
    while the next batch is judged. There is never more than one, so the order of the batches is the order of appending.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        ack: Callable[[Sequence[Message]], None],
        receipt: Callable[[str, Receipts], None],
        refused: Counter[str],
        keep: Callable[[Sequence[Refusal], Instant], None] = lambda refusals, now: None,
        tally: Tally | None = None,
    ) -> None:
        """`keep`: takes what is refused for good, for a person to see."""
        self._store = store
        self._clock = clock
        self._ack = ack
        self._receipt = receipt
        self._refused = refused
        self._keep = keep
        self._tally = tally or Tally()
        self._waiting: deque[_Batch] = deque()
        self._rows = 0
        self._bytes = 0
        self._loose = 0
        self._delay = RETRY_FIRST_S
        self._retry_at = 0
        self.fault = ""
        self._thread = ThreadPoolExecutor(1, "append")
        self._under_way: _UnderWay | None = None
        self.stop = threading.Event()
        """Set when ingest is ending."""

    @property
    def under_way(self) -> bool:
        """The store is in use by the other thread."""
        return self._under_way is not None

    def close(self) -> None:
        """Wait for what is under way, and end the thread."""
        self.finish()
        self._thread.shutdown()

    @property
    def waiting_rows(self) -> int:
        return self._rows

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    @property
    def busy(self) -> float:
        """How much of what may wait does, 0 to 1."""
        return max(self._rows / MAX_WAITING_ROWS, self._bytes / MAX_WAITING_BYTES)

    @property
    def draining(self) -> bool:
        """Rows wait, and the store takes them: nobody should sleep before the next `retry`."""
        return bool(self._waiting) and not self.fault

    def add(self, work: Work, messages: Sequence[Message], *, behind: bool = False) -> None:
        """Store now, or keep for later when the store is down. `behind`: return before it is stored; see `finish`."""
        self.finish()
        batch = _Batch(work, messages, sum(len(message.payload) for message in messages))
        self._keep(work.refused, self._clock.now())
        if not work.rows:
            self._settle(batch, [])
            return
        began = self._clock.monotonic()
        if behind and not self._waiting and not self.fault:
            self._under_way = _UnderWay(batch, self._thread.submit(self._store.append, work.rows), began)
        elif self._waiting or self.fault or not self._append([batch]):
            self._wait(batch)

    def finish(self) -> None:
        """Wait for the append under way, if there is one, and tell what became of it."""
        if self._under_way is not None:
            (batch, outcomes, began), self._under_way = self._under_way, None
            if not self._appended([batch], outcomes.result, began):
                self._wait(batch)

    def _wait(self, batch: _Batch) -> None:
        batch = self._free(batch)
        if batch.work.rows:
            self._waiting.append(batch)
            self._rows += len(batch.work.rows)
            self._bytes += batch.size

    def retry(self) -> None:
        """Write what waits, when it is time to try, for about DRAIN_S; the next turn goes on with it."""
        began = self._clock.monotonic()
        if self.fault and began < self._retry_at:
            return
        while self._waiting and self._append(some := self._some()):
            for batch in some:
                self._waiting.popleft()
                self._rows -= len(batch.work.rows)
                self._bytes -= batch.size
                self._loose -= len(batch.work.loose)
            if self._clock.monotonic() - began >= DRAIN_S * NS:
                return

    def _some(self) -> list[_Batch]:
        """The oldest batches, as many as one append takes; one alone to try whether the store is back."""
        some = [self._waiting[0]]
        rows = len(some[0].work.rows)
        for batch in islice(self._waiting, 1, None):
            rows += len(batch.work.rows)
            if self.fault or rows > MERGED_ROWS:
                break
            some.append(batch)
        return some

    def _append(self, batches: Sequence[_Batch]) -> bool:
        began = self._clock.monotonic()
        rows = [row for batch in batches for row in batch.work.rows]
        return self._appended(batches, lambda: self._store.append(rows), began)

    def _appended(self, batches: Sequence[_Batch], result: Callable[[], list[RowOutcome]], began: int) -> bool:
        """Whether it was. `result` raises StoreDown when not."""
        try:
            outcomes = result()
        except StoreDown as down:
            self._tally.failed += 1
            if not self.fault:
                _log.error("store down", reason=down.reason, do="bring it back; readings wait in the outboxes")
            self.fault = down.reason
            self._retry_at = self._clock.monotonic() + round(max(self._delay, down.retry_s) * NS)
            self._delay = min(2 * self._delay, RETRY_MAX_S)
            return False
        if self.fault:
            _log.info("store works again")
        self.fault, self._delay = "", RETRY_FIRST_S
        took_s = (self._clock.monotonic() - began) / NS
        self._tally.appended([row for batch in batches for row in batch.work.rows], outcomes, took_s)
        left = iter(outcomes)
        for batch in batches:
            self._settle(batch, list(islice(left, len(batch.work.rows))))
        return True

    def _settle(self, batch: _Batch, outcomes: Sequence[RowOutcome]) -> None:
        """The rows are durable, or refused for good: acknowledge, and tell each gateway."""
        refused = [(row, o) for row, o in zip(batch.work.rows, outcomes, strict=False) if o.outcome == "refused"]
        self._refused.update(outcome.kind for _, outcome in refused)
        self._keep([refused_row(row, outcome.reason) for row, outcome in refused], self._clock.now())
        self._ack(batch.messages)
        by_gateway: dict[str, list[Outcome]] = {}
        for claim in batch.work.claims:
            word, reason = (claim.outcome, claim.reason) if claim.row is None else outcomes[claim.row]
            by_gateway.setdefault(claim.gateway, []).append(Outcome(claim.epoch, claim.seq, word, reason))
        for gateway, told in by_gateway.items():
            for i in range(0, len(told), MAX_RECEIPT):
                part = told[i : i + MAX_RECEIPT]
                self._receipt(gateway, Receipts(VERSION, self._store.store_id, self._clock.now(), part))

    def _free(self, batch: _Batch) -> _Batch:
        """Give the broker's window back while rows wait, and drop what would pass the bounds."""
        if self.stop.is_set():
            return batch  # the next ingest needs no window of ours, and gets every message that we leave alone
        work = batch.work
        loose = [message for number, message in enumerate(batch.messages) if number in work.loose]
        self._ack([message for number, message in enumerate(batch.messages) if number not in work.loose])
        full = self._rows >= MAX_WAITING_ROWS or self._bytes >= MAX_WAITING_BYTES
        if work.loose and self._loose + len(work.loose) > MAX_LOOSE:
            # Nobody sends these again. Counted, logged, and said on the board by the status; better than no board.
            self._refused["store down, no outbox"] += len(loose)
            do = "bring the store back; who sends without an outbox must send again"
            _log.error("readings lost: store down and no outbox", messages=len(loose), do=do)
            lost = [
                Refusal(message.topic.partition("/up/")[2], message.payload, "store down, no outbox")
                for message in loose
            ]
            self._keep(lost, self._clock.now())
            self._ack(loose)
            loose, work.loose = [], set()
        if full and not work.loose:
            self._drop_own(work)
            return _Batch(Work(), [], 0)  # Every reading and strip is in an outbox and comes again.
        self._loose += len(work.loose)
        return _Batch(work, loose, batch.size)

    def _drop_own(self, work: Work) -> None:
        """Heart rates and gaps are ingest's own and come from nowhere again: said, not hidden."""
        own = len(work.own_rows())
        if own:
            self._refused["store down, rates and gaps"] += own
            _log.error("heart rates and gaps lost: store down for too long", rows=own, do="bring the store back")
