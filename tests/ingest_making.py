"""Messages and rows for the tests of ingest, made by hand and without the code under test."""

import msgspec
import numpy as np

from ingest.store.contract import Address, EvaluationRow, EventRow, ObservationRow, StripRow
from vitals.clock import NS
from vitals.messages import (
    AssociationMessage,
    EventMessage,
    Flag,
    FlaggedMessage,
    FlaggedValue,
    ObservationMessage,
    StripMessage,
)
from vitals.model import Context, Observation, Quantity

T0 = 1_764_000_000 * NS
AT = Address("gateway-1", "4", "cuff-1")


def q(value: float, unit: str = "mm[Hg]", **more: object) -> Quantity:
    return msgspec.structs.replace(Quantity(value, f"{value:g}", unit), **more)


def bp(sys: float, dia: float, mean: float | None = None) -> dict[str, Quantity]:
    values = {"bp_sys": q(sys), "bp_dia": q(dia)}
    return values | ({"bp_map": q(mean)} if mean is not None else {})


def observation(
    key: str = "a" * 32,
    quantities: dict[str, Quantity] | None = None,
    *,
    t: int = T0,
    epoch: str = "e1",
    seq: int = 1,
    kind: str = "bp",
    simulated: bool = False,
    historical: bool = False,
    site: str = "",
    quality: tuple[str, ...] = (),
    method: str = "",
    received: int | None = None,
) -> ObservationMessage:
    body = Observation(
        kind,
        quantities if quantities is not None else bp(118, 76),
        t if received is None else received,
        context=Context(site=site),
        quality=quality,
        historical=historical,
        method=method,
    )
    return ObservationMessage(1, key, epoch, seq, "bp_gatt", body, t, 50, simulated)


def strip(
    first: int = 0,
    samples: np.ndarray | None = None,
    *,
    stream: str = "s1",
    rate: float = 250.0,
    t0: int | None = None,
    epoch: str = "e1",
    seq: int = 1,
    lead_off: bool = False,
    lost_before: int = 0,
    metric: str = "ekg",
    scale: float | None = 5.0,
) -> StripMessage:
    block = np.arange(250, dtype="<i2") if samples is None else samples.astype("<i2")
    start = T0 + round(first / rate * NS) if t0 is None else t0
    return StripMessage(
        1, epoch, seq, "ekg_openview", stream, metric, first, len(block), rate, "<i2", block.tobytes(), start,
        start + NS, scale, "II", lead_off, lost_before, False,
    )  # fmt: skip


def event(seq: int = 1, code: str = "bad_checksum", at: int = T0) -> EventMessage:
    return EventMessage(1, "e1", seq, code, "expected 0a, found 0b", at, 3, "ff00")


def flagged(
    key: str = "a" * 32,
    values: dict[str, tuple[float | None, str]] | None = None,
    *,
    t: int = T0,
    rules: str = "r1",
    version: int = 1,
    historical: bool = False,
    device: str = "cuff-1",
    simulated: bool = False,
    late_s: int = 0,
) -> FlaggedMessage:
    """`values`: metric to (value, level); an empty level is not evaluated."""
    letters = {"normal": "N", "notice": "A", "abnormal": "H", "critical": "HH"}
    made = {
        metric: FlaggedValue(
            "/min", value, flag=Flag(letters[level], level, "rule", "text", "limit") if level else None,
            not_evaluated="" if level else "no patient bound",
        )
        for metric, (value, level) in (values or {"bp_sys": (118.0, "normal")}).items()
    }  # fmt: skip
    return FlaggedMessage(
        1, key, "gateway-1", device, "bp_gatt", "bp", t, 50, t, made, historical=historical, simulated=simulated,
        late_s=late_s, assoc_version=version, rules_hash=rules,
    )  # fmt: skip


def adult(age: int | None = 40, **more: object) -> AssociationMessage:
    lease = AssociationMessage(1, 1, "visit-1", T0 - 3600 * NS, T0 + 3600 * NS, age_years=age)
    return msgspec.structs.replace(lease, **more)


def observation_row(*args: object, at: Address = AT, **more: object) -> ObservationRow:
    return ObservationRow(at, observation(*args, **more))


def strip_row(*args: object, at: Address = AT, **more: object) -> StripRow:
    return StripRow(at, strip(*args, **more))


def event_row(*args: object, at: Address = AT, **more: object) -> EventRow:
    return EventRow(at, event(*args, **more))


def evaluation_row(
    *args: object, room: str = "4", of: ObservationMessage | None = None, ahead: bool = False, **more: object
) -> EvaluationRow:
    return EvaluationRow(room, flagged(*args, **more), of, ahead)
