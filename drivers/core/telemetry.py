"""What a gateway tells of itself: its measures, and the reasons why it is not well.

A device that was switched off or carried away is no reason: that is everyday life, and the board says it. A reason is
what somebody must mend at the gateway, or behind it.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, get_args

from drivers.core.faults import OF_ANY_DEVICE
from drivers.core.feed import DeviceFeed
from drivers.core.forwarder import Forwarder
from drivers.core.intake import Intake
from drivers.core.link import REMEDY, LossReason
from drivers.core.losses import Losses
from vitals.broker import Broker
from vitals.clock import NS
from vitals.messages import DeviceState, OutcomeWord
from vitals.telemetry.report import NO_BROKER, Fact, Measure, Reason, Report, Sample

OLD_S: Final = 600
"""A reading that waits this long though ingest is there does not get through."""
FILLING: Final = 0.8
"""Of the budget: time to act before EKG is dropped."""
CLOCK_OFF_S: Final = 2
"""Beyond it our clock is wrong: readings belong to no visit."""
DISK_S: Final = 5.0
"""A disk that takes longer than this for a few small questions holds readings up."""

WAITING: Final = Measure("vitals_outbox_rows", "gauge", "Rows on the gateway's disk that have no receipt yet.")
OLDEST: Final = Measure("vitals_outbox_oldest_seconds", "gauge", "Age of the oldest of them; 0 when there is none.")
USED: Final = Measure("vitals_outbox_bytes", "gauge", "Bytes in use in the outbox.")
BUDGET: Final = Measure("vitals_outbox_budget_bytes", "gauge", "Its budget, gateway.outbox_max_mb.")
REFUSED: Final = Measure(
    "vitals_outbox_refused_rows", "gauge", "Rows that ingest refused for good and a person should look at."
)
IN_MEMORY: Final = Measure("vitals_outbox_memory_rows", "gauge", "Messages that are not on the disk yet.")
DISK_FAULT: Final = Measure("vitals_outbox_disk_fault", "gauge", "1 while the outbox takes or tells nothing, else 0.")
DISK_FAULTS: Final = Measure(
    "vitals_outbox_disk_faults_total", "counter", "Times the disk did not let the outbox read or write."
)
COMMITTED: Final = Measure("vitals_outbox_committed_total", "counter", "Rows written to the outbox.")
PUBLISHED: Final = Measure("vitals_outbox_published_total", "counter", "Rows handed to the broker, each time.")
RECEIPTS: Final = Measure(
    "vitals_outbox_receipts_total", "counter", "Rows answered by ingest, by what became of them.", ("outcome",)
)
FOREIGN: Final = Measure("vitals_outbox_foreign_receipts_total", "counter", "Receipts of another store, ignored.")
AGED_STRIPS: Final = Measure(
    "vitals_outbox_aged_out_strips_total", "counter", "Strips of EKG dropped for want of room: lost."
)
AGED_SECONDS: Final = Measure(
    "vitals_outbox_aged_out_seconds_total", "counter", "The same as seconds of signal, by device.", ("device",)
)
AGED_ROWS: Final = Measure("vitals_outbox_aged_out_rows_total", "counter", "Other rows dropped for want of room.")
BROKER: Final = Measure("vitals_broker_connected", "gauge", "1 while the part is connected to the broker, else 0.")
DENIED: Final = Measure(
    "vitals_broker_denied_total", "counter", "Messages and subscriptions the broker's access rules refused."
)
INGEST: Final = Measure("vitals_gateway_ingest_online", "gauge", "1 while ingest says that it is there, else 0.")
CLOCK_OFF: Final = Measure("vitals_gateway_clock_offset_seconds", "gauge", "This clock less ingest's, from receipts.")
STATE: Final = Measure(
    "vitals_device_state",
    "gauge",
    "1 for the state the device's link is in, 0 for the others.",
    ("device", "driver", "state"),
)
LINK_UPS: Final = Measure(
    "vitals_device_link_ups_total", "counter", "Times a link came up: reconnects, after the first.", ("device",)
)
FAULTS: Final = Measure(
    "vitals_device_faults_total", "counter", "Faults by the codes of docs/faults.md.", ("device", "code")
)
LOST: Final = Measure("vitals_device_samples_lost_total", "counter", "Samples known to be missing.", ("device",))
MEASURES: Final = (
    WAITING, OLDEST, USED, BUDGET, REFUSED, IN_MEMORY, DISK_FAULT, DISK_FAULTS, COMMITTED, PUBLISHED, RECEIPTS, FOREIGN,
    AGED_STRIPS, AGED_SECONDS, AGED_ROWS, BROKER, DENIED, INGEST, CLOCK_OFF, STATE, LINK_UPS, FAULTS, LOST,
)  # fmt: skip

_NOT_EVERYDAY: Final = frozenset({
    LossReason.NO_PERMISSION, LossReason.BUSY, LossReason.RADIO_OFF, LossReason.SERVICE_MISSING, LossReason.FLOODED,
    LossReason.INTERNAL_ERROR,
})  # fmt: skip
"""Of the others: the device is off or away, or its cable is."""


class Backlog(NamedTuple):
    """What the outbox says of itself. `late_s`: since when it has been asked in vain; 0 when it answered.

    `unreadable`: its disk answered with an error; the rest is what it said before.
    """

    waiting: int = 0
    refused: int = 0
    oldest_s: float = 0.0
    used: int = 0
    late_s: float = 0.0
    unreadable: bool = False


class Parts(NamedTuple):
    """The parts of a gateway that a report reads, in the gateway's loop."""

    gateway: str
    budget: int
    feeds: Sequence[DeviceFeed]
    intake: Intake
    forwarder: Forwarder
    losses: Losses
    broker: Broker
    set_aside: str
    disk_faults: int
    """Of all use of the outbox but the commits, which the intake counts."""


def report(parts: Parts, backlog: Backlog) -> Report:
    reasons, notices = list(_reasons(parts, backlog)), list(_notices(parts, backlog))
    return Report(reasons, list(_samples(parts, backlog)), _facts(parts, backlog), notices)


def _reasons(parts: Parts, backlog: Backlog) -> Iterator[Reason]:
    if backlog.late_s > DISK_S:
        yield Reason(f"the outbox's disk has not answered for {backlog.late_s:.0f} s", "Look at the disk (dmesg).")
    if backlog.unreadable:
        yield Reason("the outbox cannot be read", "Look at the disk (dmesg) and at this gateway's log.")
    if parts.intake.fault:
        what = f"the outbox takes nothing ({parts.intake.fault}); {parts.intake.in_memory} messages wait in memory"
        yield Reason(what, "Make room on that disk, or mend it. Do not switch the gateway off before.")
    if parts.set_aside:
        yield Reason(parts.set_aside, "Look at the disk; keep the file. A restart of the gateway ends this notice.")
    trouble = parts.broker.trouble
    if trouble is not None:
        yield Reason(f"{NO_BROKER}{trouble.found}", trouble.do)
    elif not parts.forwarder.ingest_online:
        yield Reason("ingest is not there", "Start `vitals ingest`; readings wait in the outbox.")
    elif backlog.oldest_s > OLD_S:
        what = f"a reading has waited for its receipt for {backlog.oldest_s / 60:.0f} min"
        yield Reason(what, "Look at ingest's /health and log: is its store down?")
    if parts.forwarder.held:
        what = f"ingest is older than this gateway and cannot read {parts.forwarder.held} rows; they wait"
        yield Reason(what, "Upgrade ingest.")
    if backlog.used > FILLING * parts.budget:
        what = f"the outbox holds {backlog.used // 1_000_000} of {parts.budget // 1_000_000} MB"
        yield Reason(what, "Bring ingest or the store back: at its budget the outbox drops the oldest EKG.")
    if parts.forwarder.foreign_receipts:
        what = f"{parts.forwarder.foreign_receipts} receipts of a store that is not ours, ignored"
        yield Reason(what, "If the store was replaced on purpose, set gateway.store_id; else two ingests are running.")
    if parts.broker.denied:
        what = f"the broker's access rules refused {parts.broker.denied} messages"
        yield Reason(what, "Correct gateway.id or the broker's ACL; the log names the topics. Then restart.")
    off_s = _clock_off_s(parts)
    if abs(off_s) > CLOCK_OFF_S:
        yield Reason(f"its clock differs from ingest's by {off_s:.1f} s", "Turn NTP on, here and where ingest runs.")
    for feed in parts.feeds:
        if feed.state == "lost" and feed.reason in _NOT_EVERYDAY:
            do = REMEDY[LossReason(feed.reason)]
            yield Reason(f"device {feed.device.name} in room {feed.device.room}: {feed.reason}", do)


def _notices(parts: Parts, backlog: Backlog) -> Iterator[Reason]:
    losses = parts.losses
    if losses.strips or losses.rows:
        seconds = sum(length for key, length in losses.seconds.items() if key.endswith("/ekg"))
        what = f"for want of room {losses.strips} strips ({seconds:.0f} s of EKG) and {losses.rows} other rows were"
        yield Reason(f"{what} dropped since the start", "They are lost. Find out why nothing was stored for so long.")
    if backlog.refused:
        what = f"{backlog.refused} rows were refused for good: they are in no store"
        yield Reason(what, "`vitals doctor` on this machine lists the reasons.")
    if faults := _disk_faults(parts):
        yield Reason(f"the outbox's disk failed {faults} times since the start", "Look at the disk (dmesg).")


def _disk_faults(parts: Parts) -> int:
    return parts.intake.faults + parts.disk_faults


def _clock_off_s(parts: Parts) -> float:
    return (parts.forwarder.clock_off_ns or 0) / NS


def _facts(parts: Parts, backlog: Backlog) -> dict[str, Fact]:
    return {
        "broker_connected": parts.broker.connected,
        "ingest_online": parts.forwarder.ingest_online,
        "clock_off_s": None if parts.forwarder.clock_off_ns is None else round(_clock_off_s(parts), 3),
        "waiting": backlog.waiting,
        "oldest_s": round(backlog.oldest_s, 1),
        "refused": backlog.refused,
        "denied": parts.broker.denied,
    }


def _samples(parts: Parts, backlog: Backlog) -> Iterator[Sample]:
    forwarder, losses = parts.forwarder, parts.losses
    yield Sample(WAITING, backlog.waiting)
    yield Sample(OLDEST, backlog.oldest_s)
    yield Sample(USED, backlog.used)
    yield Sample(BUDGET, parts.budget)
    yield Sample(REFUSED, backlog.refused)
    yield Sample(IN_MEMORY, parts.intake.in_memory)
    yield Sample(DISK_FAULT, bool(parts.intake.fault) or backlog.unreadable or backlog.late_s > DISK_S)
    yield Sample(DISK_FAULTS, _disk_faults(parts))
    yield Sample(COMMITTED, forwarder.committed)
    yield Sample(PUBLISHED, forwarder.published)
    for word in get_args(OutcomeWord):
        yield Sample(RECEIPTS, forwarder.outcomes[word], (word,))
    yield Sample(FOREIGN, forwarder.foreign_receipts)
    yield Sample(AGED_STRIPS, losses.strips)
    yield Sample(AGED_ROWS, losses.rows)
    yield Sample(BROKER, parts.broker.connected)
    yield Sample(DENIED, parts.broker.denied)
    yield Sample(INGEST, forwarder.ingest_online)
    if forwarder.clock_off_ns is not None:
        yield Sample(CLOCK_OFF, _clock_off_s(parts))
    for feed in parts.feeds:
        yield from _device(feed, losses)


def _device(feed: DeviceFeed, losses: Losses) -> Iterator[Sample]:
    name = feed.device.name
    for state in get_args(DeviceState):
        yield Sample(STATE, feed.state == state, (name, feed.driver.name, state))
    yield Sample(LINK_UPS, feed.link_ups, (name,))
    yield Sample(LOST, feed.lost_samples, (name,))
    aged = sum(s for key, s in losses.seconds.items() if key.partition("/")[0] == name)
    yield Sample(AGED_SECONDS, aged, (name,))
    yield from _faults(feed)


def _faults(feed: DeviceFeed) -> Iterator[Sample]:
    """A plug-in may invent codes; those it did not declare are one."""
    declared = {*feed.driver.faults, *OF_ANY_DEVICE, *(f"link_{reason}" for reason in LossReason)}
    undeclared = 0
    for code, times in feed.faults.totals.items():
        if code in declared:
            yield Sample(FAULTS, times, (feed.device.name, code))
        else:
            undeclared += times
    if undeclared:
        yield Sample(FAULTS, undeclared, (feed.device.name, "undeclared"))
