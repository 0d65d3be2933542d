"""A line of the schema read back into its tags and fields: what a point must hold if its message is what was stored."""

import re
from typing import Any, Final

_TAG: Final = re.compile(r",([^=]+)=((?:\\.|[^,\\])*)")
_FIELD: Final = re.compile(r'([^=,]+)=("(?:\\.|[^"\\])*"|[^,]*)', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_SPACE: Final = re.compile(r"(?<!\\) ")


def fields_of(line: str) -> dict[str, Any]:
    """Tags and fields by name, with the types in which a query answers: `ingest/store/points.py` read backwards.

    Only for lines of ours: without a time, with integers, floats and texts. Raises ValueError for others.
    """
    head, fields = _SPACE.split(line, maxsplit=1)
    found: dict[str, Any] = {name: _ESCAPED.sub(r"\1", value) for name, value in _TAG.findall(head)}
    for name, value in _FIELD.findall(fields):
        found[name] = _value(value)
    return found


def _value(text: str) -> str | int | float:
    if text.startswith('"'):
        return _ESCAPED.sub(r"\1", text[1:-1])
    return int(text[:-1]) if text.endswith("i") else float(text)
