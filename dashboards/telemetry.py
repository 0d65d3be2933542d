"""What the board tells of itself: its measures, and the reasons why it is not well."""

from collections.abc import Iterator
from typing import Any, Final, Protocol

from dashboards.feed import Feed
from vitals.clock import Instant
from vitals.telemetry.report import NO_BROKER, Fact, Measure, Reason, Report, Sample, by_label, listed
from vitals.tls import Trouble

PAGES: Final = Measure("vitals_board_pages", "gauge", "Open pages.")
QUEUED: Final = Measure("vitals_board_queued_messages", "gauge", "Messages waiting for the pages, all together.")
GAPS: Final = Measure(
    "vitals_board_feed_gaps_total", "counter", "Times a page missed something and asked for the whole picture again."
)
OVERLOADED: Final = Measure("vitals_board_pages_closed_total", "counter", "Pages closed because they read too slowly.")
TURNED_AWAY: Final = Measure(
    "vitals_board_pages_refused_total", "counter", "Pages turned away because as many as may be were open."
)
EKG_DROPPED: Final = Measure(
    "vitals_board_ekg_frames_dropped_total", "counter", "EKG frames not sent to a page that reads slowly."
)
DROPPED: Final = Measure(
    "vitals_board_messages_dropped_total",
    "counter",
    "Messages for eyes only that came while the board was too far behind.",
)
FAULTS: Final = Measure("vitals_board_faults_total", "counter", "What could not be shown, by reason.", ("reason",))
STORE_FAULT: Final = Measure("vitals_board_store_fault", "gauge", "1 while the board cannot read the store, else 0.")
DEAF: Final = Measure("vitals_board_deaf_seconds", "gauge", "Time since the board last looked for messages.")
BROKER: Final = Measure("vitals_broker_connected", "gauge", "1 while the part is connected to the broker, else 0.")
DENIED: Final = Measure(
    "vitals_broker_denied_total", "counter", "Messages and subscriptions the broker's access rules refused."
)
MEASURES: Final = (
    PAGES, QUEUED, GAPS, OVERLOADED, TURNED_AWAY, EKG_DROPPED, DROPPED, FAULTS, STORE_FAULT, DEAF, BROKER, DENIED,
)  # fmt: skip
DEAF_S: Final = 10.0
"""It looks four times a second."""


class Bus(Protocol):
    """What is read of the broker's connection."""

    @property
    def trouble(self) -> Trouble | None: ...
    @property
    def denied(self) -> int: ...
    @property
    def dropped(self) -> int: ...


def report(feed: Feed, bus: Bus, now: Instant, *, store_fault: str = "", deaf_s: float = 0.0) -> Report:
    """`deaf_s`: since when the broker's messages were not looked for."""
    facts: dict[str, Fact] = {
        "broker_connected": bus.trouble is None,
        "pages": len(feed.clients),
        "rooms": len(feed.rooms.rooms),
        "denied": bus.denied,
    }
    reasons = [*_own(store_fault, deaf_s), *_reasons(feed, bus, now)]
    own = [Sample(STORE_FAULT, bool(store_fault)), Sample(DEAF, deaf_s)]
    return Report(reasons, [*_samples(feed, bus), *own], facts, list(_notices(feed, bus)))


def _own(store_fault: str, deaf_s: float) -> Iterator[Reason]:
    if deaf_s > DEAF_S:
        yield Reason(f"it has not looked for messages for {deaf_s:.0f} s", "Keep its log, then restart it.")
    if store_fault:
        do = "Bring the store back, or let board and ingest name the same [ingest.store]. New readings are shown."
        yield Reason(f"the store cannot be read: {store_fault}", do)


def _notices(feed: Feed, bus: Bus) -> Iterator[Reason]:
    if faults := feed.rooms.services.faults:
        what = f"not shown since the start: {listed(faults)}"
        yield Reason(what, "Report what you cannot explain; the log has more.")
    if bus.dropped:
        what = f"{bus.dropped} messages for eyes only came too fast and were dropped"
        yield Reason(what, "Look at the load of this machine: `vitals board` needs little.")
    if feed.closed or feed.turned_away:
        what = f"{feed.closed} pages were closed for reading too slowly, {feed.turned_away} turned away"
        yield Reason(what, "Look at those screens' computers and network; close pages nobody looks at.")


def _reasons(feed: Feed, bus: Bus, now: Instant) -> Iterator[Reason]:
    """Only what stops the board as a whole: what is wrong in a room, or with a gateway, stands on the page."""
    if bus.trouble is not None:
        yield Reason(f"{NO_BROKER}{bus.trouble.found}", bus.trouble.do)
        return
    band: dict[str, Any] | None = feed.rooms.services.trouble(now)["band"]
    if band is not None:
        yield Reason(str(band["txt"]), "Look at ingest's /health and log; start it if it is down.")
    if bus.denied:
        what = f"the broker's access rules refused {bus.denied} messages or subscriptions"
        yield Reason(what, "Correct the broker's ACL; the log names the topics. Then restart the board.")


def _samples(feed: Feed, bus: Bus) -> Iterator[Sample]:
    yield Sample(PAGES, len(feed.clients))
    yield Sample(QUEUED, sum(len(client.json) + len(client.ekg) for client in feed.clients))
    yield Sample(GAPS, feed.gaps)
    yield Sample(OVERLOADED, feed.closed)
    yield Sample(TURNED_AWAY, feed.turned_away)
    yield Sample(EKG_DROPPED, feed.ekg_dropped + sum(client.ekg_dropped for client in feed.clients))
    yield Sample(DROPPED, bus.dropped)
    yield from by_label(FAULTS, feed.rooms.services.faults)
    yield Sample(BROKER, bus.trouble is None)
    yield Sample(DENIED, bus.denied)
