"""Rows as InfluxDB points: the series and time of each row, and its lines. Pure; docs/store.md has the schema.

InfluxDB merges points of equal series and time into one, without a word. So the time of a point is the row's time cut
to the millisecond, plus six low digits made of its identity; where even that is taken, `place` moves on by 1 ns. The
exact time is in the field `t`.
"""

import base64
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from typing import Final, TypeAlias

import msgspec

from ingest.store.contract import (
    Address,
    EvaluationRow,
    EventRow,
    Floors,
    ObservationRow,
    Row,
    StripRow,
    same_reading,
    same_strip,
    strip_end,
)
from vitals.clock import NS_PER_MS, Instant
from vitals.messages import ObservationMessage, StripMessage
from vitals.model import Validity

EARLIEST: Final = 0
LATEST: Final = 7_258_118_400_000_000_000
"""2200-01-01, where the point stands that names the store; every row is earlier."""
MAX_TEXT: Final = 65_535
"""Bytes of a text field: what InfluxDB 1 and 2 are documented to keep. Larger ones are refused here, with a reason."""
BUMPS: Final = 16
"""How far a taken time is looked for; two identities meet on one nanosecond about once in a million."""
_VALIDITY: Final = {one: one.value for one in Validity}
"""An enumeration's member is slow to write as text."""
_COMPARATOR: Final = {None: "", "<": 'comparator="<",', ">": 'comparator=">",'}
Tags: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, sorted by name, as the server keeps them."""
_ESCAPED_TAG: Final = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ "})
_HEAD: Final = msgspec.json.Decoder(StripMessage)
_JSON: Final = msgspec.json.Encoder()


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A row on its way. `where` are the tags of its lane: the rows among which its `key` is unique and its time too.

    `same` must be equal where keys are. `line` and the lines of its values lack the time, and its number.
    """

    row: Row
    measurement: str
    where: Tags
    lane: str
    key: str
    same: str
    t: Instant
    wished: Instant
    room: str
    line: str
    values: tuple[str, ...] = ()


def draft(row: Row) -> Draft:
    """What a row comes to. Raises ValueError, OverflowError or ZeroDivisionError for what no point can hold."""
    if isinstance(row, ObservationRow):
        return _observation(row)
    if isinstance(row, StripRow):
        return _strip(row)
    if isinstance(row, EventRow):
        return _event(row)
    return _evaluation(row)


def wished_time(t: Instant, key: str) -> Instant:
    """The time of a point: `t` cut to the millisecond, and low digits from the identity."""
    if not EARLIEST <= t < LATEST:
        raise ValueError(f"time out of bounds: expected 1970 to 2200, found {t} ns")
    return t - t % NS_PER_MS + low_digits(key)


@lru_cache(maxsize=4096)
def series(measurement: str, tags: Tags) -> str:
    """As the line protocol writes it. An empty tag is no tag, and is found by `tag = ''`."""
    return measurement + "".join([f",{name}={_tag(value)}" for name, value in tags if value])


@lru_cache(maxsize=4096)
def _place(device: str, gateway: str, room: str, measurement: str) -> tuple[Tags, str]:
    """The tags of a row of that device in that room, and the series they make."""
    tags = (("device", device), ("gateway", gateway), ("room", room))
    return tags, series(measurement, tags)


@lru_cache(maxsize=4096)
def _lane(device: str, gateway: str) -> tuple[Tags, str]:
    """Of evaluations: those of one device, whatever the room."""
    where = (("device", device), ("gateway", gateway))
    return where, series("evaluation", where)


@lru_cache(maxsize=4096)
def _value_series(device: str, gateway: str, metric: str, room: str, state: str) -> str:
    return series(
        "value", (("device", device), ("gateway", gateway), ("metric", metric), ("room", room), ("state", state))
    )  # fmt: skip


def low_digits(key: str) -> int:
    return int(blake2b(key.encode(), digest_size=4).hexdigest(), 16) % NS_PER_MS


def digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def reading_digest(message: ObservationMessage) -> str:
    return digest(same_reading(message))


def strip_of(block: str, head: str) -> StripMessage:
    """The pack as it was sent, from its two fields."""
    return msgspec.structs.replace(_HEAD.decode(head), block=base64.b64decode(block))


def store_line(store_id: str) -> str:
    return _line("store", (), [_text("id", store_id)]) + f" {LATEST}"


def floors_line(floors: Floors) -> str:
    """Fields of the same point: what the bucket was pruned to, for a ledger that is made anew."""
    fields = [_int(f"floor_{kind}", floor) for kind, floor in floors._asdict().items()]
    return _line("store", (), fields) + f" {LATEST}"


def reading_lane(address: Address) -> str:
    return series("observation", _address_tags(address))


def _address_tags(address: Address) -> Tags:
    return (("device", address.device), ("gateway", address.gateway), ("room", address.room))


def _observation(row: ObservationRow) -> Draft:
    m, a = row.message, row.address
    tags, lane = _place(a.device, a.gateway, a.room, "observation")
    t = m.t_determined
    wished = wished_time(t, m.id)
    # A number beside `<` or `>` is where the device's scale ends, not what was measured: it stands in `message` only.
    numbers = "".join([
        f"{_float(metric, q.value)},"
        for metric, q in m.observation.quantities.items()
        if q.value is not None and q.comparator is None
    ])  # fmt: skip
    # A time within the bounds of `wished_time` has less than 64 bits.
    line = (
        f"{lane} {_text('id', m.id)},t={t}i,{_text('kind', m.observation.kind)},{numbers}"
        f"{_text('message', _JSON.encode(m).decode())}"
    )
    return Draft(row, "observation", tags, lane, m.id, reading_digest(m), t, wished, a.room, line)


def _strip(row: StripRow) -> Draft:
    m, a = row.message, row.address
    where = (("device", a.device), ("gateway", a.gateway), ("metric", m.metric))
    key, same = f"{m.first_index}/{m.stream}", digest(same_strip(m))
    fields = [
        _text("key", key), _text("same", same), _text("stream", m.stream), _int("first_index", m.first_index),
        _int("next_index", m.first_index + m.count), _int("count", m.count), _float("rate", m.rate),
        *([] if m.scale is None else [_float("scale", m.scale)]),
        _int("t0", m.t0), _int("t_end", strip_end(m)),
        _text("block", base64.b64encode(m.block).decode()),
        _text("head", msgspec.json.encode(msgspec.structs.replace(m, block=b"")).decode()),
    ]  # fmt: skip
    return _draft(row, "strip", (*where, ("room", a.room)), where, key, same, m.t0, a.room, fields)


def _event(row: EventRow) -> Draft:
    m, a = row.message, row.address
    tags = _address_tags(a)
    message = msgspec.json.encode(m)
    key, same = f"{m.seq}/{m.epoch}", digest(message)
    # The code is a field: a publisher can invent codes, and each value of a tag costs the index for ever.
    fields = [
        _text("key", key), _text("same", same), _text("code", m.code), _int("count", m.count), _int("t", m.at),
        _text("message", message.decode()),
    ]  # fmt: skip
    return _draft(row, "event", tags, (("gateway", a.gateway),), key, same, m.at, a.room, fields)


def _evaluation(row: EvaluationRow) -> Draft:
    m = row.message
    state = "ahead" if row.ahead else "historical" if m.historical else "live"
    where, lane = _lane(m.device, m.gateway)
    _, place = _place(m.device, m.gateway, row.room, "evaluation")
    key = f"{m.assoc_version}/{m.rules_hash}/{m.id}"
    wished = wished_time(m.t, key)
    message = _text("message", _JSON.encode(m).decode())
    common = f"{_text('id', m.id)},t={m.t}i"
    line = f'{place} {_text("key", key)},{common},state="{state}",{message}'
    # Validity, comparator and interpretation are words of ours, and need no escapes.
    values = [
        f"{_value_series(m.device, m.gateway, metric, row.room, state)} {common},"
        f"{'' if v.value is None else _float('value', v.value) + ','}"
        f'validity="{_VALIDITY[v.validity]}",{_COMPARATOR[v.comparator]}'
        f'interpretation="{v.flag.interpretation if v.flag else ""}"'
        for metric, v in m.values.items()
    ]
    return Draft(row, "evaluation", where, lane, key, "", m.t, wished, row.room, line, tuple(values))


def _draft(
    row: Row, measurement: str, tags: Tags, where: Tags, key: str, same: str, t: Instant, room: str,
    fields: Iterable[str],
) -> Draft:  # fmt: skip
    lane = series(measurement, where)
    return Draft(
        row, measurement, where, lane, key, same, t, wished_time(t, key), room, _line(measurement, tags, fields)
    )


def _line(measurement: str, tags: Tags, fields: Iterable[str]) -> str:
    return f"{series(measurement, tags)} {','.join(fields)}"


def _tag(value: str) -> str:
    if "\\" in value or not value.isprintable():
        raise ValueError(f"no tag can be {value!r}")
    return value.translate(_ESCAPED_TAG)


def _text(name: str, value: str) -> str:
    if len(value) * 4 > MAX_TEXT and len(value.encode()) > MAX_TEXT:
        raise ValueError(f"{name} has {len(value.encode())} bytes, expected at most {MAX_TEXT}")
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{value}"'


def _int(name: str, value: int) -> str:
    if not -(2**63) <= value < 2**63:
        raise OverflowError(f"{name} is {value}, expected 64 bits")
    return f"{name}={value}i"


def _float(name: str, value: float) -> str:
    if not isfinite(value):
        raise ValueError(f"{name} is {value}, expected a finite number")
    return f"{name}={float(value)!r}"
