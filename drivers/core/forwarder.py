"""From outbox to broker and back: what is published when, and what a receipt does. No I/O of its own but the outbox.

- A fresh row is published once, at once, whatever the backlog.
- Backlog goes in packs, at most `WINDOW` rows without a receipt; it is sent (again) after a reconnect, after a new
  ingest birth, and after a growing pause while ingest is online. Never while ingest says it is offline, or says
  nothing: an absent subscriber's queue would only collect copies.
- A row leaves the outbox only when a receipt of the pinned store names it, or, a strip, to make room in a full one.
- Receipts wait for the next commit: what they settle costs no transaction of its own.
"""

import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from vitals.clock import NS, Clock, Instant
from vitals.log import Log
from vitals.messages import MAX_PAYLOAD, IngestStatus, Outcome, OutcomeWord, Receipts
from vitals.outbox import AgedOut, Outbox, Row

WINDOW: Final = 1_000
PACK: Final = 50
READ: Final = 500
"""Rows of backlog read at a time and gathered by topic: 32 boards come row by row, and would be packs of one."""
RESEND_FIRST_S: Final = 5
RESEND_MAX_S: Final = 60
SILENT_S: Final = 35
"""Ingest says again every 10 s that it is there. The state that a broker kept over a power cut is no such word."""
CLOCK_SAMPLES: Final = 20
"""Receipts come about once a second while an EKG runs, and ingest's state every 10 s: so many until a clock of
ingest's that was set back is known to be. Our own being set is known at once."""
HOLD_S: Final = 300
"""A held row (its message version is newer than ingest) is offered again after this, or at the next ingest birth."""
MAX_UNSETTLED: Final = 20_000
"""Receipts that wait for a disk that takes nothing; those beyond it are left out, and their rows sent again."""
_log = Log("forwarder")


class _Sent(NamedTuple):
    """When a row was last sent, and how often: one row that never gets a receipt is asked for ever less often."""

    at: int
    tries: int

    def overdue(self, now: int) -> bool:
        wait_s = min(RESEND_MAX_S, RESEND_FIRST_S << min(self.tries - 1, 8))
        return now - self.at > wait_s * NS


class Forwarder:
    """`publish(topic, payload) -> bool` sends with QoS 1 and says False while there is no connection."""

    def __init__(
        self, outbox: Outbox, publish: Callable[[str, bytes], bool], clock: Clock, pinned_store: str = ""
    ) -> None:
        self._outbox = outbox
        self._publish = publish
        self._clock = clock
        self.store_id = pinned_store or outbox.recall("store_id")
        self._differences: deque[int] = deque(maxlen=CLOCK_SAMPLES)
        """Our monotonic clock less ingest's, and on top each message's way here."""
        self._least: int | None = None
        self.foreign_receipts = 0
        self.committed = 0
        self.published = 0
        """Rows, each time they are sent."""
        self.outcomes: Counter[OutcomeWord] = Counter()
        self._ingest = ""
        self._heard = 0
        self._cursor = 0
        self._sent: dict[tuple[str, int], _Sent] = {}
        self._held: dict[tuple[str, int], int] = {}
        self._unsettled: dict[tuple[str, int], Outcome] = {}

    @property
    def unsettled(self) -> bool:
        """Whether a receipt waits for the next commit."""
        return bool(self._unsettled)

    @property
    def held(self) -> int:
        """Rows that ingest is too old to read."""
        return len(self._held)

    @property
    def ingest_online(self) -> bool:
        return bool(self._ingest) and self._clock.monotonic() - self._heard <= SILENT_S * NS

    @property
    def clock_off_ns(self) -> int | None:
        """Our clock less ingest's; None while it is not known.

        A message's way here only adds to the difference: the least of the last few is the clock's.
        """
        least = self._least
        return None if least is None else self._clock.now() - self._clock.monotonic() + least

    def commit(self, rows: Sequence[Row]) -> AgedOut:
        """Keep these rows and apply the receipts that wait, in one transaction; then publish the rows.

        Raises sqlite3.Error when the disk refuses; then none of the rows is kept. Returns what aged out to make room.
        """
        outcomes = list(self._unsettled.values())
        try:
            aged = self._outbox.commit(rows, outcomes)
        except sqlite3.Error:
            # Receipts make room: what is too much together may go one after the other.
            if outcomes:
                self._outbox.settle(outcomes)
                self._settled(outcomes)
            raise
        self._settled(outcomes)
        self.committed += len(rows)
        gone = {(row.epoch, row.seq) for kind in aged for row in kind}
        for key in gone:
            self._sent.pop(key, None)
            self._held.pop(key, None)
        self.fresh([row for row in rows if (row.epoch, row.seq) not in gone] if gone else rows)
        return aged

    def fresh(self, rows: Sequence[Row]) -> None:
        """Rows just committed. What cannot be published now is backlog, and so is what passes a full window: while
        the store is down for hours only so many receipts are waited for."""
        for row in rows:
            if not self._publish(row.topic, row.payload):
                continue
            self.published += 1
            if self.ingest_online and len(self._sent) < WINDOW:
                self._sent[row.epoch, row.seq] = _Sent(self._clock.monotonic(), 1)

    def reconnected(self) -> None:
        """Whatever was under way may be lost with the connection: all that has no receipt is sent again."""
        self._sent.clear()
        self._cursor = 0

    def ingest_status(self, status: IngestStatus, *, retained: bool = False) -> None:
        """A new session is a birth: it may never have seen what we sent to the one before.

        That of an ingest with another store is none of ours: two of them would be a birth every few seconds.
        """
        if self.store_id and status.store_id and status.store_id != self.store_id:
            self._log_foreign("state of a foreign ingest ignored", status.store_id)
            return
        if not status.online:
            if retained or status.session == self._ingest:  # else the late will of one that was replaced
                self._ingest = ""
            return
        self._heard = self._clock.monotonic()
        self._time(status.now, retained=retained)
        if status.session != self._ingest:
            self._ingest = status.session
            self._held.clear()
            self.reconnected()

    def _time(self, theirs: Instant, *, retained: bool = False) -> None:
        """What ingest's clock said when it sent. A retained message is of any age, so it can prove us behind only."""
        if theirs and not (retained and self._clock.now() >= theirs):
            self._differences.append(self._clock.monotonic() - theirs)
            self._least = min(self._differences)

    def _log_foreign(self, event: str, found: str) -> None:
        do = "set gateway.store_id if the store was replaced on purpose; else two ingests are running"
        _log.error(event, expected=self.store_id, found=found, do=do)

    def receipts(self, receipts: Receipts) -> None:
        """Take them for the next commit, unless they come from a store that is not ours.

        Raises sqlite3.Error when the store cannot be pinned.
        """
        if not self.store_id:
            self._outbox.remember("store_id", receipts.store_id)
            self.store_id = receipts.store_id
            _log.info("store pinned", store=receipts.store_id)
        if receipts.store_id != self.store_id:
            self.foreign_receipts += 1
            self._log_foreign("receipt of a foreign store ignored", receipts.store_id)
            return
        self._time(receipts.now)
        for outcome in receipts.outcomes:
            if len(self._unsettled) < MAX_UNSETTLED:
                self._unsettled[outcome.epoch, outcome.seq] = outcome

    def _settled(self, outcomes: Sequence[Outcome]) -> None:
        self._unsettled.clear()
        for outcome in outcomes:
            self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        row = (outcome.epoch, outcome.seq)
        self.outcomes[outcome.outcome] += 1
        self._sent.pop(row, None)
        self._held.pop(row, None)
        if outcome.outcome == "hold":
            self._held[row] = self._clock.monotonic() + HOLD_S * NS
        elif outcome.outcome == "refused":
            do = "kept in the outbox's table `refused`; `vitals doctor` lists the reasons"
            _log.warning("reading refused by ingest", seq=outcome.seq, reason=outcome.reason, do=do)

    def pump(self) -> int:
        """Send backlog as far as the window allows. Returns the number of rows sent. Call it often."""
        if not self.ingest_online:
            return 0
        now = self._clock.monotonic()
        room = WINDOW - len(self._sent) + self._go_back(now)
        sent = 0
        while sent < room:
            rows = self._outbox.after(self._cursor, min(READ, room - sent))
            if not rows:
                break
            due = [row for row in rows if self._is_due(row, now)]
            if not self._send_packs(due, now):
                break
            self._cursor = rows[-1].seq
            sent += len(due)
        return sent

    def _go_back(self, now: int) -> int:
        """Rows without a receipt for too long, and holds that are over, are passed again. Returns how many."""
        overdue = [key for key, sent in self._sent.items() if sent.overdue(now)]
        again = overdue + [key for key, until in self._held.items() if until <= now]
        if again:
            self._cursor = min(self._cursor, min(seq for _, seq in again) - 1)
        if overdue:
            do = "if it goes on, look at ingest's log: is its store down?"
            _log.warning("no receipts, sending again", rows=len(overdue), do=do)
        for key in again:
            self._held.pop(key, None)
        return len(overdue)

    def _is_due(self, row: Row, now: int) -> bool:
        key = (row.epoch, row.seq)
        sent = self._sent.get(key)
        return key not in self._held and (sent is None or sent.overdue(now))

    def _send_packs(self, rows: Sequence[Row], now: int) -> bool:
        by_topic: dict[str, list[Row]] = {}
        for row in rows:
            by_topic.setdefault(row.topic, []).append(row)
        for topic, group in by_topic.items():
            for pack in _bounded(group):
                payload = pack[0].payload if len(pack) == 1 else _join(topic, pack)
                if not self._publish(topic, payload):
                    return False
                self.published += len(pack)
                for row in pack:
                    self._sent[row.epoch, row.seq] = self._again(row, now)
        return True

    def _again(self, row: Row, now: int) -> "_Sent":
        before = self._sent.get((row.epoch, row.seq))
        return _Sent(now, before.tries + 1 if before else 1)


def _bounded(rows: Sequence[Row]) -> list[list[Row]]:
    """Packs of at most `PACK` rows, whose payload stays below half of what a reader accepts."""
    packs: list[list[Row]] = [[]]
    size = 0
    for row in rows:
        if packs[-1] and (size + len(row.payload) > MAX_PAYLOAD // 2 or len(packs[-1]) == PACK):
            packs.append([])
            size = 0
        packs[-1].append(row)
        size += len(row.payload)
    return packs if packs[0] else []


def _join(topic: str, rows: Sequence[Row]) -> bytes:
    raw = [msgspec.Raw(row.payload) for row in rows]
    return msgspec.msgpack.encode(raw) if topic.endswith("/strip") else msgspec.json.encode(raw)
