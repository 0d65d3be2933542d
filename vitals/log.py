"""Log lines as `key=value`, for people and machines alike, on stderr. No patient identifier ever belongs in one."""

import logging
from typing import Any

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
    text = str(value).replace("\n", "\\n")
    return f'"{text}"' if " " in text or "=" in text or not text else text


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


def set_up(level: str = "info") -> None:
    """Send all logs to stderr as key=value lines. Called once, by the command line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_KeyValue())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    logging.getLogger("bleak").setLevel(logging.WARNING)
    logging.getLogger("bumble").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
