"""The columns of an export, and the cells of each row, which may come to several lines: its values, its samples."""

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from ingest.store.contract import EvaluationRow, EventRow, ObservationRow, Row, StripRow
from ingest.store.scan import Kind
from vitals.clock import NS, Instant, to_datetime
from vitals.messages import FlaggedValue
from vitals.metrics import METRICS

CellKind: TypeAlias = Literal["text", "int", "float", "bool", "bytes"]
Cells: TypeAlias = list[Any]
"""One for each column; None where there is nothing."""


class Column(NamedTuple):
    name: str
    kind: CellKind


class Table(NamedTuple):
    """`name` is the file's stem."""

    name: str
    columns: tuple[Column, ...]


def _columns(words: str) -> tuple[Column, ...]:
    """`name` or `name:kind`, text where no kind is given."""
    pairs = (word.partition(":") for word in words.split())
    return tuple(Column(name, kind or "text") for name, _, kind in pairs)  # type: ignore[arg-type]


_METRICS: Final = tuple(key for key, metric in METRICS.items() if metric.pace != "wave")
_PLACE: Final = "gateway room device "
_OBSERVATION: Final = Table(
    "observation",
    _columns(
        "id " + _PLACE + "driver kind time t_ns:int uncertainty_ms:int t_device record_no:int received_ns:int"
        " historical:bool simulated:bool site position meal user method quality "
    )
    + tuple(Column(key, "float") for key in _METRICS)
    + _columns("message"),
)
_EVALUATION: Final = Table(
    "evaluation",
    _columns(
        "no:int id " + _PLACE + "driver kind time t_ns:int historical:bool simulated:bool derived:bool ahead:bool"
        " late_s:int assoc_version:int rules_hash metric unit value:float comparator validity interpretation level rule"
        " text limit not_evaluated raw raw_unit message"
    ),
)
_STRIP: Final = Table(
    "strip",
    _columns(
        _PLACE + "driver metric lead stream first_index:int count:int rate:float dtype scale:float time t_ns:int"
        " received_ns:int lead_off:bool lost_before:int simulated:bool historical:bool epoch seq:int block:bytes"
    ),
)
_SAMPLE: Final = Table(
    "sample",
    _columns(_PLACE + "metric lead stream index:int time t_ns:int sample:int value:float lead_off:bool simulated:bool"),
)
_EVENT: Final = Table(
    "event", _columns(_PLACE + "epoch seq:int time t_ns:int code detail count:int raw simulated:bool")
)
_TABLES: Final[dict[Kind, Table]] = {
    "observation": _OBSERVATION, "evaluation": _EVALUATION, "strip": _STRIP, "event": _EVENT,
}  # fmt: skip


def table(kind: Kind, *, samples: bool) -> Table:
    """`samples`: one line for each sample, not one for each strip."""
    return _SAMPLE if samples and kind == "strip" else _TABLES[kind]


def cells(row: Row, no: int, *, samples: bool) -> Iterator[Cells]:
    """The lines that a row comes to. `no`: an evaluation's number."""
    if isinstance(row, ObservationRow):
        return _observation(row)
    if isinstance(row, EvaluationRow):
        return _evaluation(row, no)
    if isinstance(row, EventRow):
        return _event(row)
    return _samples(row) if samples else _strip(row)


def shown(t: Instant) -> str:
    """`2026-11-24T08:58:01.250000001Z`: all nine digits, which a spreadsheet would round in a number."""
    return f"{to_datetime(t):%Y-%m-%dT%H:%M:%S}.{t % NS:09d}Z"


def _observation(row: ObservationRow) -> Iterator[Cells]:
    m, o, c = row.message, row.message.observation, row.message.observation.context
    values = [o.quantities[key].value if key in o.quantities else None for key in _METRICS]
    yield [
        m.id, *row.address, m.driver, o.kind, shown(m.t_determined), m.t_determined, m.uncertainty_ms, o.t_device,
        o.record_no, o.received_at, o.historical, m.simulated, c.site, c.position, c.meal, c.user, o.method,
        " ".join(o.quality), *values, _json(m),
    ]  # fmt: skip


def _evaluation(row: EvaluationRow, no: int) -> Iterator[Cells]:
    m = row.message
    head = [
        no, m.id, m.gateway, row.room, m.device, m.driver, m.kind, shown(m.t), m.t, m.historical, m.simulated,
        m.derived, row.ahead, m.late_s, m.assoc_version, m.rules_hash,
    ]  # fmt: skip
    for metric, value in sorted(m.values.items()):
        yield [*head, metric, *_value(value), _json(m)]
    if not m.values:
        yield [*head, *[None] * 13, _json(m)]


def _value(v: FlaggedValue) -> Cells:
    flag = [v.flag.interpretation, v.flag.level, v.flag.rule, v.flag.text, v.flag.limit] if v.flag else [None] * 5
    return [v.unit, v.value, v.comparator, v.validity.value, *flag, v.not_evaluated, v.raw, v.raw_unit]


def _strip(row: StripRow) -> Iterator[Cells]:
    m = row.message
    yield [
        *row.address, m.driver, m.metric, m.lead, m.stream, m.first_index, m.count, m.rate, m.dtype, m.scale,
        shown(m.t0), m.t0, m.t_received, m.lead_off, m.lost_before, m.simulated, m.historical, m.epoch, m.seq, m.block,
    ]  # fmt: skip


def _samples(row: StripRow) -> Iterator[Cells]:
    """Sample i was taken at t0 + i/rate; its value is the count times the scale, where that is known."""
    m = row.message
    for number, sample in enumerate(m.samples().tolist()):
        t = m.t0 + round(number / m.rate * NS)
        value = None if m.scale is None else sample * m.scale
        yield [
            *row.address, m.metric, m.lead, m.stream, m.first_index + number, shown(t), t, sample, value, m.lead_off,
            m.simulated,
        ]  # fmt: skip


def _event(row: EventRow) -> Iterator[Cells]:
    m = row.message
    yield [*row.address, m.epoch, m.seq, shown(m.at), m.at, m.code, m.detail, m.count, m.raw, m.simulated]


def _json(message: msgspec.Struct) -> str:
    return msgspec.json.encode(message).decode()
