"""A driver's events as JSON, one object a line: the output of `vitals decode`. docs/commands.md lists every key.

Every key is always there, with null, empty or false for what the device did not say, so that a reader needs no
defaults. Bytes are hex, instants are nanoseconds. A number that is not a number is null; NaN never appears.
"""

from typing import Any

import msgspec

from vitals.metrics import METRICS
from vitals.model import Context, DeviceInfo, Event, Fault, Observation, Quantity, SampleArray, Send


def event_line(event: Event, step: str) -> str:
    """One line without its end. `step` says which part of the input gave the event."""
    kind, fields = _fields(event)
    return msgspec.json.encode({"event": kind, "step": step, **fields}).decode()


def _fields(event: Event) -> tuple[str, dict[str, Any]]:
    if isinstance(event, Observation):
        return "observation", _observation(event)
    if isinstance(event, SampleArray):
        return "samples", _samples(event)
    if isinstance(event, DeviceInfo):
        return "device_info", _all(event)
    if isinstance(event, Fault):
        return "fault", {**_all(event), "raw": event.raw.hex()}
    return "send", _send(event)


def _all(struct: msgspec.Struct) -> dict[str, Any]:
    """Every field under its name on the wire, also those at their defaults."""
    pairs = zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True)
    return {wire: getattr(struct, name) for wire, name in pairs}


def _observation(event: Observation) -> dict[str, Any]:
    quantities = {metric: _quantity(metric, quantity) for metric, quantity in event.quantities.items()}
    context: Context = event.context
    return {**_all(event), "quantities": quantities, "context": _all(context)}


def _quantity(metric: str, quantity: Quantity) -> dict[str, Any]:
    return {"value": quantity.value, "unit": _unit(metric), **_all(quantity)}


def _samples(event: SampleArray) -> dict[str, Any]:
    return {
        "metric": event.metric,
        "unit": None if event.scale is None else _unit(event.metric),
        "scale": event.scale,
        "rate": event.rate,
        "first_index": event.first_index,
        "dtype": event.samples.dtype.name,
        "samples": event.samples.tolist(),
        "lead": event.lead,
        "lead_off": event.lead_off,
        "t_received": event.received_at,
    }


def _send(event: Send) -> dict[str, Any]:
    return {"data": event.data.hex(), "channel": event.channel}


def _unit(metric: str) -> str | None:
    """The metric's one unit (UCUM); None for a metric that only a plug-in knows."""
    known = METRICS.get(metric)
    return None if known is None else known.unit
