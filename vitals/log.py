"""Log lines as `key=value`, for people and machines alike, on stderr. No patient identifier ever belongs in one.

A line that comes again and again fills no disk: see `Throttle`.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

BURST: Final = 5
PERIOD_S: Final = 60
"""Of one kind of line, so many in so long are printed: 7,200 a day at most, below 2 MB."""
MAX_KINDS: Final = 512
"""Kinds of line told apart; further ones share a count by their event alone."""
_WHICH: Final = ("device", "room", "gateway", "address", "topic", "reason", "found")
"""The fields that make two lines of one event different kinds: what it happened to, and why."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _KeyValue(logging.Formatter):
    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        head = f"ts={self.formatTime(record)} level={record.levelname.lower()} part={record.name} "
        line = head + " ".join(
            [f"event={_quote(record.getMessage())}", *(f"{k}={_quote(v)}" for k, v in fields.items())]
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quote(value: object) -> str:
    """One word, or in quotes. A topic is its sender's word: it must neither begin a line nor steer a terminal."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    if text and not any(c in text for c in ' ="'):
        return text
    return '"' + text.replace('"', '\\"') + '"'


class Throttle(logging.Filter):
    """Lets through the first `BURST` lines of a kind in `PERIOD_S`; the next after that says how many were left out.

    Time is that of the records. Nothing is hidden for good: what is left out here is counted in the metrics and events.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, ...], list[float]] = {}
        """For each kind: when its period began, lines in it, lines left out since the last that was printed."""

    def filter(self, record: logging.LogRecord) -> bool:
        seen = self._kinds.setdefault(self._kind(record), [record.created, 0, 0])
        if not 0 <= record.created - seen[0] < PERIOD_S:  # over, or the clock was set back
            seen[:2] = record.created, 0
        seen[1] += 1
        if seen[1] > BURST:
            seen[2] += 1
            return False
        if seen[2]:
            record.fields = {**getattr(record, "fields", {}), "left_out": round(seen[2])}
            seen[2] = 0
        return True

    def _kind(self, record: logging.LogRecord) -> tuple[str, ...]:
        fields = getattr(record, "fields", {})
        event = record.getMessage() if hasattr(record, "fields") else str(record.msg)  # a library's line by its pattern
        kind = (record.name, event[:100], *(str(fields.get(name, ""))[:100] for name in _WHICH))
        return kind if kind in self._kinds or len(self._kinds) < MAX_KINDS else (record.name, event[:100])


class Log:
    """A named log whose calls take the facts as keywords: `log.warning("link lost", device="cuff-1")`."""

    def __init__(self, part: str) -> None:
        self._logger = logging.getLogger(part)

    def info(self, event: str, **fields: object) -> None:
        self._logger.info("%s", event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        self._logger.warning("%s", event, extra={"fields": fields})

    def error(self, event: str, **fields: object) -> None:
        self._logger.error("%s", event, extra={"fields": fields})

    def exception(self, event: str, **fields: object) -> None:
        """With the traceback: only for what is a bug of ours."""
        self._logger.error("%s", event, exc_info=True, extra={"fields": fields})  # noqa: LOG014


def set_up(level: str = "info", *, quiet: Sequence[str] = ()) -> None:
    """Send all logs to stderr as key=value lines, but for the parts `quiet`. Called once, by the command line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_KeyValue())
    handler.addFilter(Throttle())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    logging.getLogger("bleak").setLevel(logging.WARNING)
    logging.getLogger("bumble").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # three lines for each page that is opened
    for part in quiet:
        logging.getLogger(part).setLevel(logging.CRITICAL)
