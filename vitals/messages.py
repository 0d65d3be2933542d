"""What travels over MQTT. Observations, events and states are JSON; sample arrays are MessagePack.

A payload is one message or a list of them (a backlog draining goes in packs). `v` is the message version: a reader
answers a newer one with the outcome `hold`, so it is kept and sent again after an upgrade. Who sent a message and
for which room stands in the topic only, which the broker enforces.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from vitals.clock import Instant
from vitals.model import Comparator, Context, DeviceInfo, Observation, SampleArray, Validity

VERSION: Final = 1
SCHEMA_OBS: Final = "application/vnd.vitals.obs+json;v=1"
SCHEMA_STRIP: Final = "application/vnd.vitals.strip+msgpack;v=1"
SCHEMA_EVENT: Final = "application/vnd.vitals.event+json;v=1"
MAX_PAYLOAD: Final = 262_144
"""Bytes. A pack of 50 observations is below 40 kB; a hostile larger payload is refused before it is decoded."""


class ObservationMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One observation with its identity and its determined time, both fixed once before the outbox."""

    v: int
    id: str
    epoch: str
    seq: int
    driver: str
    observation: Observation
    t_determined: Instant
    uncertainty_ms: int
    simulated: bool = False


class StripMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pack of consecutive samples (`strip` through the outbox; `wave` with an empty epoch, for eyes only).

    `stream` is random for each link-up of a device: an index means something only within its stream.
    `block` holds `count` little-endian integers of type `dtype`. Sample i was taken at `t0` + i/`rate` s.
    `lost_before` counts samples known to be missing just before this pack.
    """

    v: int
    epoch: str
    seq: int
    driver: str
    stream: str
    metric: str
    first_index: int
    count: int
    rate: float
    dtype: Literal["<i2", "<i4"]
    block: bytes
    t0: Instant
    t_received: Instant
    scale: float | None = None
    lead: str = ""
    lead_off: bool = False
    lost_before: int = 0
    simulated: bool = False
    historical: bool = False

    def samples(self) -> npt.NDArray[np.int16] | npt.NDArray[np.int32]:
        """The samples as an array. Raises ValueError when the block does not hold `count` of them."""
        array: npt.NDArray[np.int16] | npt.NDArray[np.int32] = np.frombuffer(self.block, self.dtype)
        if len(array) != self.count:
            raise ValueError(f"expected {self.count} samples of {self.dtype}, found {len(self.block)} bytes")
        return array


class EventMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Faults and link changes of one device, coalesced by code and second, with a count and the first bytes."""

    v: int
    epoch: str
    seq: int
    code: str
    detail: str
    at: Instant
    count: int = 1
    raw: str = ""
    simulated: bool = False


Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What a column of 64 bits can hold: a larger number in a message is refused while decoding."""
OutcomeWord: TypeAlias = Literal["stored", "duplicate", "refused", "hold"]


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of one outbox row. `refused` is final and has a reason; `hold` asks to send again later."""

    epoch: str
    seq: Count
    outcome: OutcomeWord
    reason: str = ""


class Receipts(msgspec.Struct, frozen=True):
    """Ingest to one gateway, after the append. `now` is ingest's clock, so a gateway can see its own is off."""

    v: int
    store_id: str
    now: Count
    outcomes: list[Outcome]


DeviceState: TypeAlias = Literal["connecting", "online", "idle", "lost", "off"]
"""`idle`: a device that links up only to hand over a reading; waiting for it is its normal state."""


class DeviceStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Retained, republished on every connect. `faults` counts by code since the gateway started."""

    v: int
    session: str
    state: DeviceState
    since: Instant
    reason: str = ""
    faults: dict[str, int] = {}
    lost_samples: int = 0


class DeviceBirth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Retained. What the device is; `info` grows as it tells."""

    v: int
    session: str
    driver: str
    title: str
    transport: str
    metrics: tuple[str, ...]
    info: DeviceInfo
    simulated: bool = False


class GatewayStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Retained; `online` false is also the last will. A will of an older session than the birth's is ignored."""

    v: int
    session: str
    online: bool
    since: Instant
    now: Instant = 0
    backlog: int = 0
    refused: int = 0
    clock_off_ms: int | None = None
    in_memory: int = 0
    """Messages that are not on the disk yet. More than a second's worth while `outbox_fault` says why."""
    outbox_fault: str = ""
    """Why the outbox takes nothing at the moment; empty while it does."""
    set_aside: str = ""
    """A damaged outbox was replaced since the start: what became of it, in words."""
    aged_out_strips: int = 0
    aged_out_s: dict[str, float] = {}
    """Seconds of a signal dropped for want of room since the start, by device/metric."""
    aged_out_rows: int = 0
    """Refused rows, events and numbers of monitors dropped for want of room since the start."""
    foreign_receipts: int = 0
    """Receipts of a store that is not the pinned one, ignored."""
    denied: int = 0
    """Messages the broker's access rules did not let pass since the gateway started: the broker knows it, nobody
    else would."""


class IngestStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Retained; `online` false is also the last will. A new `session` is a birth: gateways resend their backlog."""

    v: int
    session: str
    online: bool
    since: Instant
    store_id: str = ""
    store_fault: str = ""
    """Why nothing can be stored at the moment; empty when storing works."""
    rules_hash: str = ""
    profile: str = ""
    refused: dict[str, int] = {}
    """Messages refused since the start, by reason."""
    over_quota: dict[str, int] = {}
    """Of those, what gateways sent beyond [ingest.quota], by gateway."""
    denied: int = 0
    """Ingest's own messages that the broker's access rules did not let pass: readings no board is shown."""
    missing_s: dict[str, float] = {}
    """Seconds of a signal that were never received since the start, by gateway/device/metric."""
    now: Count = 0
    """Ingest's clock when it said so: a gateway learns how far off its own is before its first receipt. 0: not told."""


Level: TypeAlias = Literal["normal", "notice", "abnormal", "critical"]
Interpretation: TypeAlias = Literal["N", "A", "L", "H", "LL", "HH"]


class Flag(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a rule says of a value, with everything needed to check it by hand.

    `limit` is for people; `metric`, `op` and `threshold` (in the metric's unit) say the same for a display that
    converts. The metric may be another than the value's: a blood pressure is flagged by the worse of its pressures.
    """

    interpretation: Interpretation
    level: Level
    rule: str = ""
    text: str = ""
    limit: str = ""
    metric: str = ""
    op: str = ""
    threshold: float | None = None
    source: str = ""
    evidence: str = ""


class FlaggedValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A quantity with its flag, or with the reason why it has none. Exactly one of `flag`, `not_evaluated` is set
    unless there is no value at all; then `not_evaluated` says why."""

    unit: str
    value: float | None = None
    validity: Validity = Validity.VALID
    comparator: Comparator | None = None
    raw: str = ""
    raw_unit: str = ""
    flag: Flag | None = None
    not_evaluated: str = ""


class FlaggedMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ingest to the board, before storing. `derived` marks values computed from strips, not sent by a device."""

    v: int
    id: str
    gateway: str
    device: str
    driver: str
    kind: str
    t: Instant
    uncertainty_ms: int
    t_received: Instant
    values: dict[str, FlaggedValue]
    t_device: str = ""
    context: Context = Context()
    method: str = ""
    quality: tuple[str, ...] = ()
    historical: bool = False
    simulated: bool = False
    derived: bool = False
    late_s: int = 0
    assoc_version: int = 0
    rules_hash: str = ""


Priority: TypeAlias = Literal["high", "med", "low"]


class AlertMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One alert condition of one room, retained while it lasts; an empty retained payload ends it."""

    v: int
    id: str
    priority: Priority
    technical: bool
    metric: str
    text: str
    since: Instant
    limit: str = ""
    limit_of: str = ""
    op: str = ""
    threshold: float | None = None
    device: str = ""
    simulated: bool = False
    assoc_version: int = 0
    """Association of the reading that raised it; 0: nobody was bound."""


class AssociationMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose readings a room's readings are, as far as rules need it. An opaque visit token, never a name.

    A lease: renewed by the board, worth nothing after `expires`. None means not known, and then the rules that
    need it are not evaluated.
    """

    v: int
    version: int
    visit: str
    since: Instant
    """When the visit began: a reading determined earlier is not of this visit, however late it arrives."""
    expires: Instant
    age_years: int | None = None
    age_days: int | None = None
    sex: Literal["female", "male"] | None = None
    pregnant: bool | None = None
    spo2_scale: Literal[1, 2] = 1


class _Header(msgspec.Struct):
    """What every version of a message through the outbox will keep: enough to answer `hold`."""

    v: int
    epoch: str = ""
    seq: int = -1


class NewerVersion(Exception):
    """A message of a version we do not know; `rows` are the (epoch, seq) to hold."""

    def __init__(self, version: int, rows: list[tuple[str, int]]) -> None:
        super().__init__(f"expected message version {VERSION}, found {version}")
        self.version = version
        self.rows = rows


M = TypeVar("M", ObservationMessage, StripMessage, EventMessage)
_JSON: Final = msgspec.json.Encoder()
_PACK: Final = msgspec.msgpack.Encoder()
_OBS: Final = msgspec.json.Decoder(list[ObservationMessage] | ObservationMessage)
_EVENTS: Final = msgspec.json.Decoder(list[EventMessage] | EventMessage)
_STRIPS: Final = msgspec.msgpack.Decoder(list[StripMessage] | StripMessage)
_JSON_HEADERS: Final = msgspec.json.Decoder(list[_Header] | _Header)
_PACK_HEADERS: Final = msgspec.msgpack.Decoder(list[_Header] | _Header)


def encode(message: msgspec.Struct | Sequence[msgspec.Struct]) -> bytes:
    """One message, or a pack of them, as the bytes its kind travels in."""
    first = message if isinstance(message, msgspec.Struct) else message[0]
    return _PACK.encode(message) if isinstance(first, StripMessage) else _JSON.encode(message)


def decode_observations(payload: bytes) -> list[ObservationMessage]:
    """Raises msgspec.DecodeError (malformed) or NewerVersion."""
    return _decode(payload, _OBS, _JSON_HEADERS)


def decode_events(payload: bytes) -> list[EventMessage]:
    """Raises msgspec.DecodeError (malformed) or NewerVersion."""
    return _decode(payload, _EVENTS, _JSON_HEADERS)


def decode_strips(payload: bytes) -> list[StripMessage]:
    """Raises msgspec.DecodeError (malformed) or NewerVersion."""
    return _decode(payload, _STRIPS, _PACK_HEADERS)


def _decode(
    payload: bytes,
    decoder: msgspec.json.Decoder[list[M] | M] | msgspec.msgpack.Decoder[list[M] | M],
    headers: msgspec.json.Decoder[list[_Header] | _Header] | msgspec.msgpack.Decoder[list[_Header] | _Header],
) -> list[M]:
    try:
        decoded = decoder.decode(payload)
    except msgspec.DecodeError:
        _refuse_newer(headers.decode(payload))
        raise
    messages = decoded if isinstance(decoded, list) else [decoded]
    if any(message.v != VERSION for message in messages):
        _refuse_newer(headers.decode(payload))
    return messages


def _refuse_newer(decoded: list[_Header] | _Header) -> None:
    headers = decoded if isinstance(decoded, list) else [decoded]
    newest = max((header.v for header in headers), default=VERSION)
    if newest > VERSION:
        raise NewerVersion(newest, [(header.epoch, header.seq) for header in headers if header.seq >= 0])


def strip_message(
    array: SampleArray, *, stream: str, driver: str, t0: Instant, simulated: bool, historical: bool = False,
    lost_before: int = 0, epoch: str = "", seq: int = 0,
) -> StripMessage:  # fmt: skip
    """A sample array as it travels."""
    dtype: Literal["<i2", "<i4"] = "<i2" if array.samples.dtype.itemsize == 2 else "<i4"
    return StripMessage(
        v=VERSION,
        epoch=epoch,
        seq=seq,
        driver=driver,
        stream=stream,
        metric=array.metric,
        first_index=array.first_index,
        count=len(array.samples),
        rate=array.rate,
        dtype=dtype,
        block=array.samples.astype(dtype, copy=False).tobytes(),
        t0=t0,
        t_received=array.received_at,
        scale=array.scale,
        lead=array.lead,
        lead_off=array.lead_off,
        lost_before=lost_before,
        simulated=simulated,
        historical=historical,
    )


def reading_id(*parts: str | int | None) -> str:
    """A 128-bit id of what makes a reading itself; None and "" are told apart by their length prefix."""
    digest = blake2b(digest_size=16)
    for part in parts:
        text = "~" if part is None else str(part)
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()


def observation_id(observation: Observation, *, physical: str, epoch: str, seq: int) -> str:
    """The identity of a reading.

    A reading the device recorded (it has a record number or a full device time) is the same reading however often
    and through whichever gateway it is sent: the hash takes the physical device, kind, record number, device time
    and raw values, never the configured name or room. Any other is identified by its first place in an outbox.
    """
    if observation.record_no is None and (not observation.t_device or "X" in observation.t_device):
        return reading_id("outbox", epoch, seq)
    raw = "|".join(f"{key}={q.raw}{q.raw_unit}" for key, q in sorted(observation.quantities.items()))
    return reading_id("device", physical, observation.kind, observation.record_no, observation.t_device, raw)
