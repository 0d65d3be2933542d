"""The SQLite store read from end to end, as it was at one instant: a read transaction, and cursors that stream.

Ingest may go on meanwhile. Its write-ahead log is not cut back before the scan has ended.
"""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from ingest.store.contract import (
    Address,
    EvaluationRow,
    EventRow,
    Floors,
    ObservationRow,
    Row,
    StoreDown,
    StripRow,
    same_reading,
    same_strip,
)
from ingest.store.scan import Found, Kind, Pack, Span, differences
from ingest.store.sqlite import AHEAD, PRUNED, digest, open_for_tools, read_floors
from vitals.clock import Instant
from vitals.messages import EventMessage, FlaggedMessage, ObservationMessage, StripMessage

_BROKEN: Final = (msgspec.MsgspecError, ValueError, OverflowError, ZeroDivisionError, TypeError, KeyError)
_OBSERVATION: Final = msgspec.json.Decoder(ObservationMessage)
_EVENT: Final = msgspec.json.Decoder(EventMessage)
_FLAGGED: Final = msgspec.json.Decoder(FlaggedMessage)
_STRIP: Final = msgspec.msgpack.Decoder(StripMessage)
_QUERIES: Final[dict[Kind, tuple[str, str]]] = {
    "observation": (
        "id, gateway, room, device, t, same, message",
        f"observation WHERE t >= :since AND t < :until AND (:room = '' OR room = :room) AND NOT {PRUNED}",
    ),
    "strip": (
        "gateway, room, device, stream, metric, first_index, next_index, t0, t_end, same, message",
        "strip WHERE t0 >= :since AND t0 < :until AND (:room = '' OR room = :room)",
    ),
    "event": (
        "gateway, room, device, epoch, seq, at, message",
        "event WHERE at >= :since AND at < :until AND (:room = '' OR room = :room)",
    ),
    "evaluation": ("no, id, rules_hash, assoc_version, message", "evaluation"),
}
UNEVALUATED: Final = (
    f"observation o WHERE t >= :since AND t < :until AND NOT {PRUNED}"
    " AND NOT EXISTS (SELECT 1 FROM evaluation e WHERE e.id = o.id)"
)


class SqliteScan:
    """A snapshot of the file from the first look on."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError."""
        self._db, found = open_for_tools(path)
        self.store_id: str = found
        self._db.execute("BEGIN")
        self._rooms: list[str] | None = None
        self._readers: dict[Kind, Callable[..., Found]] = {
            "observation": self._observation, "strip": self._strip, "event": self._event,
            "evaluation": self._evaluation,
        }  # fmt: skip

    def close(self) -> None:
        self._db.close()

    def total(self, kind: Kind, span: Span) -> int:
        (count,) = next(self._ask(f"SELECT count(*) FROM {_QUERIES[kind][1]}", span._asdict()))
        return int(count)

    def rows(self, kind: Kind, span: Span) -> Iterator[Found]:
        columns, source = _QUERIES[kind]
        read = self._readers[kind]
        for found in self._ask(f"SELECT {columns} FROM {source}", span._asdict()):
            one = read(*found)
            # An evaluation has its time and room in its message and values only.
            if kind != "evaluation" or one.row is None or _within(one.row, span):
                yield one

    def packs(self) -> Iterator[Pack]:
        order = "gateway, device, stream, metric, first_index"
        query = f"SELECT gateway, device, metric, stream, first_index, next_index FROM strip ORDER BY {order}"
        for gateway, device, metric, stream, first, stop in self._ask(query, {}):
            yield Pack(f"{gateway}/{device}/{metric}", stream, first, stop)

    def damage(self) -> list[str]:
        """What SQLite's own check says of the file; empty when it is sound."""
        found = [str(line) for (line,) in self._ask("PRAGMA integrity_check(20)", {})]
        return [] if found == ["ok"] else found

    def room_and_time(self, key: str) -> tuple[str, Instant] | None:
        """Where and when the reading of that id was taken; None when there is none."""
        query = f"SELECT room, t FROM observation WHERE id = :id AND NOT {PRUNED}"
        found = next(self._ask(query, {"id": key}), None)
        return (str(found[0]), int(found[1])) if found else None

    def unevaluated(self, since: Instant) -> Iterator[str]:
        span = {"since": since, "until": Span().until}
        return (str(key) for (key,) in self._ask(f"SELECT id FROM {UNEVALUATED}", span))

    def read_floors(self) -> Floors:
        try:
            return read_floors(self._db)
        except sqlite3.Error as error:
            raise StoreDown(f"the store's file cannot be read: {error}") from None

    # -- one row -----------------------------------------------------------------------------------------------

    def _observation(self, key: str, gateway: str, room: str, device: str, t: int, same: bytes, body: bytes) -> Found:
        where = f"observation {key} of {gateway}/{device}"
        return _read(
            where, lambda: ObservationRow(Address(gateway, room, device), _OBSERVATION.decode(body)),
            {"id": key, "t": t}, lambda row: digest(same_reading(row.message)) == same,
        )  # fmt: skip

    def _strip(
        self, gateway: str, room: str, device: str, stream: str, metric: str, first: int, stop: int, t0: int,
        t_end: int, same: bytes, body: bytes,
    ) -> Found:  # fmt: skip
        columns = {"stream": stream, "metric": metric, "first_index": first, "next_index": stop, "t0": t0,
                   "t_end": t_end, "samples": stop - first}  # fmt: skip
        return _read(
            f"strip {stream}/{first} of {gateway}/{device}/{metric}",
            lambda: StripRow(Address(gateway, room, device), _STRIP.decode(body)),
            columns, lambda row: digest(same_strip(row.message)) == same,
        )  # fmt: skip

    def _event(self, gateway: str, room: str, device: str, epoch: str, seq: int, at: int, body: bytes) -> Found:
        return _read(
            f"event {epoch}/{seq} of {gateway}/{device}",
            lambda: EventRow(Address(gateway, room, device), _EVENT.decode(body)),
            {"epoch": epoch, "seq": seq, "at": at}, lambda row: True,
        )  # fmt: skip

    def _evaluation(self, no: int, key: str, rules_hash: str, version: int, body: bytes) -> Found:
        where = f"evaluation {no} of {key}"
        try:
            message = _FLAGGED.decode(body)
            values, room, ahead = self._values(no, message)
            row = EvaluationRow(room, message, ahead=ahead)
            columns = {"id": key, "rules_hash": rules_hash, "assoc_version": version, "values": values}
            return Found(where, row, differences(row, columns), no)
        except _BROKEN as error:
            return Found(where, None, _cannot(error), no)

    def _values(self, no: int, message: FlaggedMessage) -> tuple[list[tuple[str, float | None, str, str]], str, bool]:
        """Its values as they are charted, its room, and whether its clock runs ahead."""
        if self._rooms is None:
            self._rooms = [room for (room,) in self._ask("SELECT DISTINCT room FROM value", {})]
        query = (
            "SELECT metric, value, validity, interpretation, room, historical FROM value WHERE room = ? AND metric = ?"
            " AND historical IN (0, 1, 2) AND t = ? AND id = ? AND evaluation = ?"
        )
        found = [
            value for room in self._rooms for metric in message.values
            for value in self._ask(query, (room, metric, message.t, message.id, no))
        ]  # fmt: skip
        values = sorted((value[0], value[1], value[2], value[3]) for value in found)
        return values, found[0][4] if found else "", bool(found) and found[0][5] == AHEAD

    def _ask(self, query: str, values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            raise StoreDown(f"the store's file cannot be read: {error}") from None


def _within(row: Row, span: Span) -> bool:
    return (
        isinstance(row, EvaluationRow) and span.since <= row.message.t < span.until and span.room in ("", row.room)
    )  # fmt: skip


def _read(where: str, make: Callable[[], Row], columns: dict[str, Any], same: Callable[[Any], bool]) -> Found:
    try:
        row = make()
        problem = differences(row, columns) or ("" if same(row) else "its digest is of another content")
        return Found(where, row, problem)
    except _BROKEN as error:
        return Found(where, None, _cannot(error))


def _cannot(error: Exception) -> str:
    return f"cannot be decoded: {error}"
