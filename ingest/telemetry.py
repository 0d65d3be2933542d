"""What ingest tells of itself: its measures, and the reasons why it is not well."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ingest.store.contract import EvaluationRow, EventRow, ObservationRow, Row, RowOutcome, StripRow
from vitals.telemetry.report import NO_BROKER, Fact, Histogram, Measure, Reason, Report, Sample, by_label, listed
from vitals.tls import Trouble

RECEIVED: Final = Measure("vitals_ingest_messages_total", "counter", "Messages taken from the broker.")
BATCH: Final = Measure("vitals_ingest_batch_messages", "histogram", "Messages of one batch: it grows with the load.")
FLAGGED: Final = Measure("vitals_ingest_flagged_total", "counter", "Flagged packs published for the board.")
ROWS: Final = Measure(
    "vitals_ingest_rows_total",
    "counter",
    "Rows given to the store, by kind and by what became of them.",
    ("kind", "outcome"),
)
REFUSED: Final = Measure("vitals_ingest_refused_total", "counter", "Messages and rows refused, by reason.", ("reason",))
OVER_QUOTA: Final = Measure(
    "vitals_ingest_over_quota_total",
    "counter",
    "Messages beyond [ingest.quota], by the gateway that sent them.",
    ("gateway",),
)
DROPPED: Final = Measure(
    "vitals_ingest_messages_dropped_total", "counter", "Messages of QoS 0 that came while ingest was too far behind."
)
UNSENT: Final = Measure(
    "vitals_ingest_unsent_total", "counter", "Flagged packs that were not shown: too many for one broken connection."
)
MISSING: Final = Measure(
    "vitals_ingest_missing_seconds",
    "gauge",
    "Signal never received since the start, all devices together.",
    ("gateway",),
)
APPEND: Final = Measure("vitals_ingest_append_seconds", "histogram", "Time of one append to the store that worked.")
FAILED: Final = Measure("vitals_ingest_append_failures_total", "counter", "Appends the store did not take.")
FAULT: Final = Measure("vitals_ingest_store_fault", "gauge", "1 while the store takes nothing, else 0.")
WAITING: Final = Measure("vitals_ingest_waiting_rows", "gauge", "Rows in memory that wait for the store.")
WAITING_BYTES: Final = Measure("vitals_ingest_waiting_bytes", "gauge", "The bytes of their messages.")
BROKER: Final = Measure("vitals_broker_connected", "gauge", "1 while the part is connected to the broker, else 0.")
DENIED: Final = Measure(
    "vitals_broker_denied_total", "counter", "Messages and subscriptions the broker's access rules refused."
)
MEASURES: Final = (
    RECEIVED, BATCH, FLAGGED, ROWS, REFUSED, OVER_QUOTA, DROPPED, UNSENT, MISSING, APPEND, FAILED, FAULT, WAITING,
    WAITING_BYTES, BROKER, DENIED,
)  # fmt: skip
_KINDS: Final[dict[type, str]] = {
    ObservationRow: "observation", StripRow: "strip", EventRow: "event", EvaluationRow: "evaluation",
}  # fmt: skip


class Tally:
    """Counts since the start. Written by ingest's one loop, and read there."""

    def __init__(self) -> None:
        self.received = 0
        self.flagged = 0
        self.failed = 0
        self.unsent = 0
        self.rows: Counter[tuple[str, str]] = Counter()
        self.batch = Histogram(1, 10, 50, 100, 250, 500)
        self.append_s = Histogram(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

    def took(self, messages: int) -> None:
        self.received += messages
        self.batch.observe(messages)

    def appended(self, rows: Sequence[Row], outcomes: Sequence[RowOutcome], seconds: float) -> None:
        self.append_s.observe(seconds)
        self.rows.update((_KINDS[type(row)], told.outcome) for row, told in zip(rows, outcomes, strict=False))


class State(NamedTuple):
    """What a report reads beside the tally. `trouble`: why there is no broker; `busy`: how full the memory is, to 1."""

    trouble: Trouble | None
    denied: int
    dropped: int
    store_fault: str
    waiting: int
    waiting_bytes: int
    busy: float
    refused: Counter[str]
    over_quota: Counter[str]
    missing_s: Mapping[str, float]
    """By gateway/device/metric."""


FULL: Final = 0.8
"""Of the rows or bytes that may wait; beyond all of it heart rates and gaps of ingest's own are dropped."""


def report(tally: Tally, state: State) -> Report:
    facts: dict[str, Fact] = {
        "broker_connected": state.trouble is None,
        "store_fault": state.store_fault,
        "waiting": state.waiting,
        "refused": state.refused.total(),
        "denied": state.denied,
    }
    return Report(list(_reasons(state)), list(_samples(tally, state)), facts, list(_notices(tally, state)))


def _reasons(state: State) -> Iterator[Reason]:
    if state.trouble is not None:
        yield Reason(f"{NO_BROKER}{state.trouble.found}", state.trouble.do)
    if state.store_fault:
        do = "Bring the store back (its service, its disk, its token); readings are shown and wait in the outboxes."
        yield Reason(f"the store takes nothing: {state.store_fault}", do)
    if state.busy > FULL:
        yield Reason(f"{state.waiting} rows wait in memory for the store", "Bring the store back; soon some are lost.")
    if state.denied:
        what = f"the broker's access rules refused {state.denied} messages or subscriptions"
        yield Reason(what, "Correct the broker's ACL; the log names the topics. Then restart ingest.")


def _notices(tally: Tally, state: State) -> Iterator[Reason]:
    if state.refused:
        what = f"refused since the start: {listed(state.refused)}"
        yield Reason(what, "`vitals store refused` shows what is kept of them and why; report what you cannot explain.")
    if state.over_quota:
        what = f"gateways that sent more than [ingest.quota] allows: {listed(state.over_quota)}"
        yield Reason(what, "Look at that gateway; `vitals provision revoke` shuts it out.")
    if state.dropped:
        what = f"{state.dropped} messages of QoS 0 came too fast and were dropped"
        yield Reason(what, "Find who sends them: a gateway of this program uses QoS 1.")
    if tally.unsent:
        what = f"{tally.unsent} flagged packs were not shown, since the connection was away for too long"
        yield Reason(what, "They are stored; the board's history has them. Look at the broker.")


def _samples(tally: Tally, state: State) -> Iterator[Sample]:
    yield Sample(RECEIVED, tally.received)
    yield Sample(BATCH, tally.batch.state())
    yield Sample(FLAGGED, tally.flagged)
    for kind in _KINDS.values():
        for outcome in ("stored", "duplicate", "refused"):
            yield Sample(ROWS, tally.rows[kind, outcome], (kind, outcome))
    yield from by_label(REFUSED, state.refused)
    yield from by_label(OVER_QUOTA, state.over_quota)
    yield Sample(DROPPED, state.dropped)
    yield Sample(UNSENT, tally.unsent)
    yield from by_label(MISSING, _by_gateway(state.missing_s))
    yield Sample(APPEND, tally.append_s.state())
    yield Sample(FAILED, tally.failed)
    yield Sample(FAULT, bool(state.store_fault))
    yield Sample(WAITING, state.waiting)
    yield Sample(WAITING_BYTES, state.waiting_bytes)
    yield Sample(BROKER, state.trouble is None)
    yield Sample(DENIED, state.denied)


def _by_gateway(missing_s: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, seconds in missing_s.items():
        gateway = key.partition("/")[0]
        found[gateway] = found.get(gateway, 0.0) + seconds
    return found
