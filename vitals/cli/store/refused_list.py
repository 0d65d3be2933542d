"""A refused message for people. Whatever its bytes, it cannot steer the terminal: all that is not ASCII is escaped."""

import base64
import json

from ingest.store.refusals import Refused
from vitals.clock import iso


def as_text(one: Refused) -> str:
    times = f", {one.times} times, last {iso(one.last)}" if one.times > 1 else ""
    return f"{iso(one.first)}  {_safe(one.topic)}  {_safe(one.reason)}  ({one.size} bytes{times})"


def as_json(one: Refused) -> str:
    """`payload` is text where it is UTF-8, else `payload_base64`; a large one is cut, then `size` is more."""
    told: dict[str, object] = {
        "first": iso(one.first), "last": iso(one.last), "times": one.times, "topic": one.topic, "reason": one.reason,
        "size": one.size,
    }  # fmt: skip
    try:
        told["payload"] = one.payload.decode()
    except UnicodeDecodeError:
        told["payload_base64"] = base64.b64encode(one.payload).decode()
    return json.dumps(told, ensure_ascii=True)


def _safe(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)[1:-1]
