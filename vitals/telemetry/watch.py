"""The last report of a service, and the watch over its main loop.

The loop makes a report about once a second; any other thread may read the last one. So the answer never waits for the
service and touches nothing the loop is using, and a loop that hangs is known by its silence.
"""

from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from vitals.clock import NS, Clock
from vitals.telemetry.report import Measure, Reason, Report, Sample

REPORT_S: Final = 1.0
STALLED_S: Final = 20.0
"""Longer than any one wait of a loop that works: ingest waits up to 5 s for one answer of InfluxDB, several times."""
STARTING_S: Final = 600.0
"""A start may take far longer than a turn: a full outbox is checked, and a damaged one read page by page. Who restarted
it for that would begin it again for ever."""
Word: TypeAlias = Literal["ok", "degraded", "stalled"]

INFO: Final = Measure(
    "vitals_info", "gauge", "Always 1: which part this is, its name, its version.", ("part", "name", "version")
)
HEALTHY: Final = Measure("vitals_healthy", "gauge", "1 while the part's /health says ok, else 0.")
TURN_AGE: Final = Measure("vitals_loop_age_seconds", "gauge", "Time since the main loop last made a report.")
STALLED: Final = Measure("vitals_stalled", "gauge", "1 while the part's /health says stalled, else 0.")
REASONS: Final = Measure("vitals_health_reasons", "gauge", "How many reasons /health gives.")
NOTICES: Final = Measure("vitals_health_notices", "gauge", "How many notices /health gives.")
MEASURES: Final = (INFO, HEALTHY, STALLED, TURN_AGE, REASONS, NOTICES)

_STALLED: Final = "Restart it. Keep its log: a loop that hangs is a fault of this program, or of the disk under it."
_STARTING: Final = Reason(
    "it is starting", "Wait: a large or damaged outbox is read first, which takes minutes. Its log says what it does."
)


class _Made(NamedTuple):
    report: Report
    at: int


class Watch:
    """`name` is the site's name for this part: the gateway's id, else the part itself."""

    def __init__(self, part: str, name: str, clock: Clock, *, stalled_s: float = STALLED_S) -> None:
        self._part = part
        self._name = name
        self._clock = clock
        self._stalled_s = stalled_s
        self._version = version("exam-room-vitals")
        self._starting = self._last = _Made(Report([_STARTING], [], {}), clock.monotonic())

    def due(self) -> bool:
        """Whether the loop should report again."""
        return self._last is self._starting or self._age_s(self._last) >= REPORT_S

    def publish(self, report: Report) -> None:
        """The main loop's report of this moment. Called by that loop only."""
        self._last = _Made(report, self._clock.monotonic())

    def word(self) -> Word:
        return self._judge(self._last)[0]

    def health(self) -> tuple[Word, bytes]:
        """The word, and the JSON body of `/health`."""
        last = self._last
        word, reasons = self._judge(last)
        body: dict[str, Any] = {
            "part": self._part, "name": self._name, "version": self._version, "health": word,
            "reasons": [reason._asdict() for reason in reasons],
            "notices": [notice._asdict() for notice in last.report.notices],
            "age_s": round(self._age_s(last), 1), "facts": last.report.facts,
        }  # fmt: skip
        return word, msgspec.json.format(msgspec.json.encode(body)) + b"\n"

    def samples(self) -> list[Sample]:
        """Those of the last report, and the watch's own."""
        last = self._last
        word, reasons = self._judge(last)
        return [
            Sample(INFO, 1, (self._part, self._name, self._version)),
            Sample(HEALTHY, word == "ok"),
            Sample(STALLED, word == "stalled"),
            Sample(TURN_AGE, self._age_s(last)),
            Sample(REASONS, len(reasons)),
            Sample(NOTICES, len(last.report.notices)),
            *last.report.samples,
        ]

    def _age_s(self, last: _Made) -> float:
        return (self._clock.monotonic() - last.at) / NS

    def _judge(self, last: _Made) -> tuple[Word, list[Reason]]:
        age_s = self._age_s(last)
        if age_s > (STARTING_S if last is self._starting else self._stalled_s):
            return "stalled", [Reason(f"its main loop has not turned for {age_s:.0f} s", _STALLED)]
        return ("degraded" if last.report.reasons else "ok"), last.report.reasons
