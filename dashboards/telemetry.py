"""What the board tells of itself: its measures, and the reasons why it is not well."""

from collections.abc import Iterator
from typing import Any, Final, Protocol

from dashboards.feed import Feed
from vitals.clock import Instant
from vitals.telemetry.report import Fact, Measure, Reason, Report, Sample, by_label
from vitals.tls import Trouble

PAGES: Final = Measure("vitals_board_pages", "gauge", "Open pages.")
QUEUED: Final = Measure("vitals_board_queued_messages", "gauge", "Messages waiting for the pages, all together.")
GAPS: Final = Measure(
    "vitals_board_feed_gaps_total", "counter", "Times a page missed something and asked for the whole picture again."
)
OVERLOADED: Final = Measure("vitals_board_pages_closed_total", "counter", "Pages closed because they read too slowly.")
EKG_DROPPED: Final = Measure(
    "vitals_board_ekg_frames_dropped_total", "counter", "EKG frames not sent to a page that reads slowly."
)
DROPPED: Final = Measure(
    "vitals_board_messages_dropped_total",
    "counter",
    "Messages for eyes only that came while the board was too far behind.",
)
FAULTS: Final = Measure("vitals_board_faults_total", "counter", "What could not be shown, by reason.", ("reason",))
BROKER: Final = Measure("vitals_broker_connected", "gauge", "1 while the part is connected to the broker, else 0.")
DENIED: Final = Measure(
    "vitals_broker_denied_total", "counter", "Messages and subscriptions the broker's access rules refused."
)
MEASURES: Final = (PAGES, QUEUED, GAPS, OVERLOADED, EKG_DROPPED, DROPPED, FAULTS, BROKER, DENIED)


class Bus(Protocol):
    """What is read of the broker's connection."""

    @property
    def trouble(self) -> Trouble | None: ...
    @property
    def denied(self) -> int: ...
    @property
    def dropped(self) -> int: ...


def report(feed: Feed, bus: Bus, now: Instant) -> Report:
    facts: dict[str, Fact] = {
        "broker_connected": bus.trouble is None,
        "pages": len(feed.clients),
        "rooms": len(feed.rooms.rooms),
        "denied": bus.denied,
    }
    return Report(list(_reasons(feed, bus, now)), list(_samples(feed, bus)), facts)


def _reasons(feed: Feed, bus: Bus, now: Instant) -> Iterator[Reason]:
    """Only what stops the board as a whole: what is wrong in a room, or with a gateway, stands on the page."""
    if bus.trouble is not None:
        yield Reason(f"no broker: {bus.trouble.found}", bus.trouble.do)
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
    yield Sample(EKG_DROPPED, feed.ekg_dropped + sum(client.ekg_dropped for client in feed.clients))
    yield Sample(DROPPED, bus.dropped)
    yield from by_label(FAULTS, feed.rooms.services.faults)
    yield Sample(BROKER, bus.trouble is None)
    yield Sample(DENIED, bus.denied)
