"""The door: bytes of a topic in, messages that make sense out, the rest as outcomes with a reason.

One bad message of a pack never takes the others with it. Reasons have a short `kind` that is counted (and can be only
one of a few words, whatever a publisher sends) and a detail for the receipt.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from ingest.store.contract import MAX_STRIP_S
from vitals.clock import Instant
from vitals.messages import MAX_PAYLOAD, VERSION, EventMessage, ObservationMessage, OutcomeWord, StripMessage
from vitals.metrics import METRICS
from vitals.model import Quantity, Validity

EARLIEST: Final = 946_684_800_000_000_000
"""2000-01-01: a meter whose clock was never set says about that, and no reading is older."""
LATEST: Final = 7_258_118_400_000_000_000
"""2200-01-01: below what 63 bits hold."""
MAX_TEXT: Final = 256
"""Characters of a short text (ids, units, codes); drivers send below 40."""
MAX_LONG: Final = 8192
"""Characters of a frame in hex, or of a fault's detail."""
MAX_QUANTITIES: Final = 32
MAX_PACK: Final = 5000
"""Messages of one payload: 50 bytes each is less than any real one."""
MAX_INDEX: Final = 1 << 53
RATES: Final = (0.01, 20_000.0)
_BROKEN: Final = (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError, ValueError)


class _Header(msgspec.Struct):
    v: int
    epoch: str = ""
    seq: int = -1


class Refusal(NamedTuple):
    """A message that is not taken. Without an epoch there is nobody to tell; it is counted all the same."""

    kind: str
    detail: str = ""
    epoch: str = ""
    seq: int = -1
    outcome: OutcomeWord = "refused"

    @property
    def reason(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


M = TypeVar("M", ObservationMessage, StripMessage, EventMessage)


class Kind(Generic[M]):
    """How one kind of payload is decoded and checked."""

    def __init__(self, kind: type[M], check: Callable[[M], Refusal | None], *, packed: bool) -> None:
        codec: Any = msgspec.msgpack if packed else msgspec.json
        self._check: Callable[[M], Refusal | None] = check
        self._all = codec.Decoder(list[kind] | kind)  # type: ignore[valid-type]
        self._one = codec.Decoder(kind)
        self._raw = codec.Decoder(list[msgspec.Raw])
        self._header = codec.Decoder(_Header)

    def admit(self, payload: bytes) -> tuple[list[M], list[Refusal]]:
        """Never raises, whatever the bytes."""
        if len(payload) > MAX_PAYLOAD:
            return [], [Refusal("oversize", f"expected at most {MAX_PAYLOAD} bytes, found {len(payload)}")]
        try:
            decoded = self._all.decode(payload)
        except _BROKEN:
            return self._one_by_one(payload)
        messages = decoded if isinstance(decoded, list) else [decoded]
        if len(messages) > MAX_PACK:
            return [], [Refusal("oversize", f"expected at most {MAX_PACK} messages, found {len(messages)}")]
        if [message for message in messages if message.v != VERSION]:
            return self._one_by_one(payload)
        return self._checked(messages)

    def _one_by_one(self, payload: bytes) -> tuple[list[M], list[Refusal]]:
        messages: list[M] = []
        refusals: list[Refusal] = []
        for part in self._split(payload):
            found = self._part(part)
            if isinstance(found, Refusal):
                refusals.append(found)
            else:
                messages.append(found)
        good, more = self._checked(messages)
        return good, refusals + more

    def _split(self, payload: bytes) -> Sequence[bytes]:
        try:
            return [bytes(part) for part in self._raw.decode(payload)[:MAX_PACK]]
        except _BROKEN:
            return [payload]  # One message, or bytes that its own decoding will say more about.

    def _part(self, part: bytes) -> M | Refusal:
        try:
            header = self._header.decode(part)
        except _BROKEN as error:
            return Refusal("malformed", _short(error))
        if header.v > VERSION:
            detail = f"expected {VERSION}, found {header.v}"
            return Refusal("newer version", detail, header.epoch, header.seq, "hold")
        if header.v != VERSION:
            return Refusal("unknown version", f"expected {VERSION}, found {header.v}", header.epoch, header.seq)
        try:
            message: M = self._one.decode(part)
        except _BROKEN as error:
            return Refusal("malformed", _short(error), header.epoch, header.seq)
        return message

    def _checked(self, messages: Sequence[M]) -> tuple[list[M], list[Refusal]]:
        good: list[M] = []
        refusals: list[Refusal] = []
        check = self._check
        for message in messages:
            refusal = _check_row(message.epoch, message.seq) or check(message)
            if refusal is None:
                good.append(message)
            else:
                refusals.append(refusal._replace(epoch=message.epoch[:MAX_TEXT], seq=message.seq))
        return good, refusals


def _short(error: BaseException) -> str:
    return str(error)[:MAX_TEXT] or type(error).__name__


def _check_row(epoch: str, seq: int) -> Refusal | None:
    if len(epoch) > MAX_TEXT or not -1 <= seq < MAX_INDEX:
        return Refusal("bad value", "epoch or seq out of bounds")
    return None


def _check_times(*times: Instant) -> Refusal | None:
    for t in times:
        if not EARLIEST <= t <= LATEST:
            return Refusal("bad time", f"expected 2000 to 2200, found {t} ns")
    return None


def _check_texts(*texts: str) -> Refusal | None:
    if len("".join(texts)) <= MAX_TEXT:  # nearly always, and quicker than to look at each
        return None
    longest = max(map(len, texts))
    return Refusal("bad value", f"a text of {longest} characters, expected {MAX_TEXT}") if longest > MAX_TEXT else None


def check_observation(message: ObservationMessage) -> Refusal | None:
    """What types cannot say of a reading. Units and limits are judged later; here is what cannot be kept at all."""
    o = message.observation
    if not message.id:
        return Refusal("bad value", "empty id")
    if not 0 < len(o.quantities) <= MAX_QUANTITIES:
        return Refusal("bad value", f"{len(o.quantities)} quantities, expected 1 to {MAX_QUANTITIES}")
    if not o.quantities.keys() <= METRICS.keys():
        return Refusal("unknown metric", ", ".join(sorted(o.quantities.keys() - METRICS.keys()))[:MAX_TEXT])
    if o.transient:
        return Refusal("transient", "a value for eyes only is never stored")
    if len(o.raw) > MAX_LONG or len(o.quality) > MAX_QUANTITIES:
        return Refusal("bad value", "raw frame or quality list too long")
    if not 0 <= message.uncertainty_ms < MAX_INDEX or (o.record_no is not None and abs(o.record_no) > MAX_INDEX):
        return Refusal("bad value", "uncertainty or record number out of bounds")
    c = o.context
    refusal = _check_texts(
        message.id, message.driver, o.kind, o.t_device, o.method, c.site, c.position, c.meal, c.user, *o.quality
    ) or _check_times(message.t_determined, o.received_at)
    for key, q in o.quantities.items():
        refusal = refusal or _check_quantity(key, q)
    return refusal


def _check_quantity(metric: str, q: Quantity) -> Refusal | None:
    if q.validity is Validity.VALID or q.comparator is not None:
        if q.value is None or not isfinite(q.value):
            return Refusal("bad value", f"{metric} is {q.validity.value} without a finite number")
    elif q.value is not None:
        return Refusal("bad value", f"{metric} is {q.validity.value} with the number {q.value:g}")
    return _check_texts(q.raw, q.raw_unit)


def check_strip(message: StripMessage) -> Refusal | None:
    """A block that holds what it says, of a length and rate that can be analysed."""
    m = message
    if m.metric not in METRICS:
        return Refusal("unknown metric", m.metric[:MAX_TEXT])
    if not (isfinite(m.rate) and RATES[0] <= m.rate <= RATES[1]):
        return Refusal("bad value", f"rate {m.rate:g}, expected {RATES[0]:g} to {RATES[1]:g}")
    if m.scale is not None and not isfinite(m.scale):
        return Refusal("bad value", "scale is no number")
    if not 0 < m.count <= m.rate * MAX_STRIP_S or not 0 <= m.first_index <= MAX_INDEX or m.lost_before < 0:
        return Refusal("bad value", f"{m.count} samples from index {m.first_index}, {m.lost_before} lost before")
    try:
        m.samples()
    except ValueError as error:
        return Refusal("bad value", _short(error))
    return _check_texts(m.driver, m.stream, m.lead) or _check_times(m.t0, m.t_received)


def check_event(message: EventMessage) -> Refusal | None:
    if len(message.detail) > MAX_LONG or len(message.raw) > MAX_LONG or not 0 <= message.count < MAX_INDEX:
        return Refusal("bad value", "detail, raw or count out of bounds")
    return _check_texts(message.code) or _check_times(message.at)


OBSERVATIONS: Final = Kind(ObservationMessage, check_observation, packed=False)
STRIPS: Final = Kind(StripMessage, check_strip, packed=True)
EVENTS: Final = Kind(EventMessage, check_event, packed=False)
