"""The store that ingest writes when its rows go to InfluxDB: the bucket, and the ledger that makes that idempotent.

The order of one append, each step harmless when it is repeated after a crash: look for what may be there already;
promise the times in the ledger (durable); write readings, strips and events; note what came of it; write the values of
the evaluations, then the evaluations, so that one that is there has its values.
"""

import secrets
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from ingest.store.contract import (
    DUPLICATE,
    IMPOSSIBLE,
    REFUSED_BY_STORE,
    STORED,
    TOO_OLD,
    EvaluationRow,
    ObservationRow,
    Row,
    RowOutcome,
    StoreDown,
    StripRow,
    StripTail,
    below,
    refusal,
    strip_end,
)
from ingest.store.influx import WRITE_BYTES, Bucket, Refused
from ingest.store.influx_look import half_written, look
from ingest.store.influx_plan import Plan, Seen, as_promised, promised_as
from ingest.store.influx_reader import STORE_QUERY, InfluxReader
from ingest.store.influx_restore import restore
from ingest.store.influxql import Record, select
from ingest.store.ledger import Kept, Ledger, unusable
from ingest.store.points import Draft, draft, store_line
from vitals.clock import NS, Clock, Instant, SystemClock
from vitals.log import Log

APPEND_S: Final = 8.0
"""Of one append, when the next request would begin. Ingest's loop waits for it: nothing is flagged meanwhile."""
APPEND_MAX_S: Final = 60.0
"""The bound doubles up to this with each append that passes it: a store that is merely slow gets there in the end."""
SPLIT: Final = 8
"""Parts into which refused lines are cut to find the bad ones: nine requests for eight bad rows, and not fifteen."""
MAX_HALF_SEEN: Final = 3
"""After so many tries a point without all its fields is no write under way but damage, and is met as it is."""
MAX_KNOWN_BAD: Final = 10_000
"""Rows found refused by an append that was then given up; far more than one append has."""
_ROWS_OWN_FAULT: Final = (ValueError, OverflowError, ZeroDivisionError, TypeError)
_WITH_ID: Final = (ObservationRow, EvaluationRow)
_log = Log("ingest.store")


class InfluxStore(InfluxReader):
    """Used by one thread at a time. Opening needs the ledger only: ingest shows readings while InfluxDB is down."""

    def __init__(self, bucket: Bucket, ledger: Ledger, clock: Clock | None = None) -> None:
        super().__init__(bucket)
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._allowed_s = APPEND_S
        self._until = 0
        self._bad: dict[Hashable, str] = {}
        """Rows of the append that was given up which the server refuses, and why: the next one begins with them."""
        self._half_seen = 0
        """Appends in a row that met points of which only some fields could be seen."""
        self._known = False
        """Whether this bucket was seen to be the ledger's; asked again after each failure."""
        try:
            self._recognise()
        except StoreDown as down:
            _log.warning("started without the store", reason=down.reason, do="bring InfluxDB back; it is asked again")
        except sqlite3.Error as error:
            self.close()
            raise unusable(ledger.path, error) from None

    @property
    def store_id(self) -> str:
        return self._ledger.store_id

    def close(self) -> None:
        super().close()
        self._ledger.close()

    def recent_ids(self, limit: int) -> list[str]:
        try:
            return self._ledger.recent_ids(limit)
        except sqlite3.Error as error:
            raise unusable(self._ledger.path, error) from None

    def tails(self) -> list[StripTail]:
        try:
            return self._ledger.tails()
        except sqlite3.Error as error:
            raise unusable(self._ledger.path, error) from None

    def append(self, rows: Sequence[Row]) -> list[RowOutcome]:
        if not rows:
            return []
        try:
            self._recognise()
            self._until = self._clock.monotonic() + round(self._allowed_s * NS)
            outcomes = self._append(rows)
            self._bad.clear()
            self._half_seen = 0
            self._allowed_s = APPEND_S
            return outcomes
        except sqlite3.Error as error:
            raise StoreDown(f"ledger {self._ledger.path}: {error}") from None
        except StoreDown:
            self._known = False
            raise

    # -- the same bucket as ever -------------------------------------------------------------------------------

    def _recognise(self) -> None:
        """A bucket that was emptied, or is another one, must not have its missing readings called duplicates."""
        if self._known:
            return
        found = self._bucket_id()
        if self._ledger.settled:
            self._insist(found)
        else:
            self._settle(found)
        self._known = True

    def _bucket_id(self) -> str:
        return next((str(point["id"]) for point in self._bucket.query(STORE_QUERY)), "")

    def _insist(self, found: str) -> None:
        expected = self._ledger.store_id
        if found != expected:
            state = f"is store {found}" if found else "is empty or names no store"
            raise StoreDown(
                f"the bucket {self._bucket.place.bucket!r} {state}, but the ledger {self._ledger.path} is of store"
                f" {expected}: bring the bucket back, or move the ledger away to begin with this bucket"
            )

    def _settle(self, found: str) -> None:
        """A new ledger takes the bucket's id and learns what is in it; a new bucket is given an id."""
        restore(self._bucket, self._ledger)
        name = found or self._ledger.store_id or secrets.token_hex(8)
        with self._ledger.transaction(durable=True):
            self._ledger.adopt(name, settled=False)
        if not found:
            self._bucket.write([store_line(name)])
        if self._bucket_id() != name:
            raise StoreDown(
                f"what is written to the bucket {self._bucket.place.bucket!r} is not found by /query: on InfluxDB 2"
                " map the database and retention policy to that bucket (influx v1 dbrp)"
            )
        with self._ledger.transaction(durable=True):
            self._ledger.adopt(name, settled=True)

    # -- appending -----------------------------------------------------------------------------------------------

    def _append(self, rows: Sequence[Row], *, last: bool = False) -> list[RowOutcome]:
        outcomes: dict[int, RowOutcome] = {}
        drafts: dict[int, Draft] = {}
        for number, row in enumerate(rows):
            try:
                drafts[number] = draft(row)
            except _ROWS_OWN_FAULT as error:
                outcomes[number] = refusal(IMPOSSIBLE, error)
        kept = self._promised(drafts)
        outcomes |= self._pruned(drafts, kept)
        for number in outcomes:
            drafts.pop(number, None)
        if any(before.stored for before in kept.values()):
            # Only the ledger says so: is this still the bucket that has them?
            self._insist(self._bucket_id())
        seen = self._look(drafts.values())
        with self._ledger.transaction(durable=True):
            plan = Plan(drafts, kept, seen, self._ledger)
        refused = self._write_all(plan.rows(), drafts)
        with self._ledger.transaction(durable=False):
            self._note(plan, refused)
        refused |= self._write_all(plan.values(refused), drafts)
        refused |= self._write_all(plan.evaluations(refused), drafts)
        outcomes |= plan.outcomes
        outcomes |= dict.fromkeys(plan.times, STORED)
        outcomes |= {n: refusal(REFUSED_BY_STORE, refused[n]) for n in plan.times.keys() & refused.keys()}
        outcomes |= self._orphans(plan, refused, rows, last=last)
        return [outcomes[number] for number in range(len(rows))]

    def _pruned(self, drafts: Mapping[int, Draft], kept: Mapping[str, Kept]) -> dict[int, RowOutcome]:
        """Rows from before the floor: none is taken, but for readings that the ledger still knows."""
        floors = self._ledger.floors()
        if not any(floors):
            return {}
        found = {n: one for n, one in drafts.items() if below(one.row, floors)}
        return {
            n: DUPLICATE if isinstance(one.row, EvaluationRow) else TOO_OLD
            for n, one in found.items()
            if not (isinstance(one.row, ObservationRow) and one.key in kept and kept[one.key].stored)
        }  # fmt: skip

    def _orphans(
        self, plan: Plan, refused: Mapping[int, str], rows: Sequence[Row], *, last: bool
    ) -> dict[int, RowOutcome]:
        """What was called a duplicate of a row that then was refused: tried for itself, once."""
        orphans = plan.orphans(refused)
        again = plan.again(orphans)
        if last:
            return {n: refusal(REFUSED_BY_STORE, refused[orphans[n]]) if n in again else DUPLICATE for n in orphans}
        outcomes = dict.fromkeys(orphans, DUPLICATE)
        if again:
            outcomes |= dict(zip(again, self._append([rows[n] for n in again], last=True), strict=True))
        return outcomes

    def _promised(self, drafts: dict[int, Draft]) -> dict[str, Kept]:
        """What the ledger has of these readings. One that was promised by a batch that failed, and now comes
        otherwise, is looked for in the bucket: it may have been written all the same. With another time only, it takes
        the promised one, as a write that is still on its way would."""
        kept = self._ledger.find({d.row.message.id for d in drafts.values() if isinstance(d.row, _WITH_ID)})
        if all(before.stored for before in kept.values()):
            return kept  # nearly always: no batch failed before
        firsts: dict[str, Instant] = {}
        for one in drafts.values():
            if isinstance(one.row, ObservationRow):
                firsts.setdefault(one.key, one.t)
        for number, found in drafts.items():
            drafts[number] = as_promised(found, kept, firsts)
        for one in drafts.values():
            before = kept.get(one.key)
            if before and not before.stored and isinstance(one.row, ObservationRow) and not promised_as(before, one):
                points = self._query(select('"id"', "observation", start=before.ts, stop=before.ts))
                if any(point["id"] == one.key for point in points):
                    kept[one.key] = before._replace(stored=True)
                    with self._ledger.transaction(durable=True):
                        self._ledger.keep([one.key])
        return kept

    def _look(self, drafts: Iterable[Draft]) -> Seen:
        """What the bucket already has around the times of these rows, by lane; readings are in the ledger.

        A clock that ran ahead leaves its lane's mark ahead: then every row is looked for, which is slower and right.
        """
        lanes: dict[str, list[Draft]] = {}
        marks: dict[str, int] = {}
        for one in drafts:
            if isinstance(one.row, ObservationRow):
                continue
            if one.lane not in marks:
                marks[one.lane] = self._ledger.mark(one.lane)
            if one.wished <= marks[one.lane]:
                lanes.setdefault(one.lane, []).append(one)
        seen = {lane: look(self._query, found) for lane, found in lanes.items()}
        if self._half_seen < MAX_HALF_SEEN and any(half_written(lanes[lane][0], seen[lane]) for lane in seen):
            self._half_seen += 1
            raise StoreDown("InfluxDB is still writing rows of an earlier try")
        return seen

    def _note(self, plan: Plan, refused: Mapping[int, str]) -> None:
        readings = [(n, one.key) for n, one, _ in plan.written(ObservationRow)]
        self._ledger.keep([key for n, key in readings if n not in refused])
        self._ledger.release([key for n, key in readings if n in refused] if refused else [])
        strips = sorted([*plan.met(), *plan.written(StripRow)], key=lambda strip: strip[1].t)
        for row in {one.lane: row for n, one, row in strips if n not in refused}.values():
            self._ledger.note_tail(_tail(row), row.message.t0)

    # -- requests ------------------------------------------------------------------------------------------------

    def _write_all(self, lines: Mapping[int, str], drafts: Mapping[int, Draft]) -> dict[int, str]:
        """Write the lines of each row; those the server will never take come back with its reason."""
        refused: dict[int, str] = {}
        if self._bad:
            refused = {n: self._bad[name] for n in lines if (name := _name(drafts[n])) in self._bad}
            lines = {n: text for n, text in lines.items() if n not in refused}
        parts = list(_parts(lines))
        while parts:
            part = parts.pop()
            self._in_time()
            try:
                self._bucket.write([lines[number] for number in part])
            except Refused as error:
                # The server says that lines are bad, not which: cut until one is left. Writing again is harmless.
                if len(part) == 1:
                    refused[part[0]] = self._note_bad(drafts[part[0]], lines[part[0]], error.reason)
                else:
                    size = -(-len(part) // SPLIT)
                    parts += [part[i : i + size] for i in range(0, len(part), size)]
        return refused

    def _note_bad(self, one: Draft, line: str, reason: str) -> str:
        """The reason, without the line should the server quote it."""
        if len(self._bad) >= MAX_KNOWN_BAD:
            self._bad.clear()
        series = line.partition(" ")[0]
        self._bad[_name(one)] = reason.partition(series)[0].rstrip(' "`') or "no words but the line's"
        return self._bad[_name(one)]

    def _query(self, statement: str) -> list[Record]:
        self._in_time()
        return self._bucket.query(statement)

    def _in_time(self) -> None:
        if self._clock.monotonic() >= self._until:
            allowed, self._allowed_s = self._allowed_s, min(2 * self._allowed_s, APPEND_MAX_S)
            raise StoreDown(f"InfluxDB at {self._bucket.place.url} is slow: one batch took over {allowed:g} s")


def _name(one: Draft) -> Hashable:
    """The same for the same row, whichever number or place it has in a batch."""
    return one.lane, one.key, one.same, one.wished


def _tail(row: StripRow) -> StripTail:
    m, a = row.message, row.address
    return StripTail(a.gateway, a.device, a.room, m.metric, m.stream, m.first_index + m.count, strip_end(m))


def _parts(lines: Mapping[int, str]) -> Iterator[list[int]]:
    """Row numbers in parts of one request each."""
    if sum(map(len, lines.values())) <= WRITE_BYTES:
        if lines:
            yield list(lines)
        return
    part: list[int] = []
    size = 0
    for number, text in lines.items():
        if part and size + len(text) > WRITE_BYTES:
            yield part
            part, size = [], 0
        part.append(number)
        size += len(text)
    if part:
        yield part
