"""Characteristics that many Bluetooth devices share: device information, battery, current time, time zone.

Sources: Bluetooth SIG GATT Specification Supplement and the 0x180A, 0x180F, 0x1805 services. All little-endian.

    2a19 battery        u8 percent; above 100 has no agreed meaning and is refused, never clamped
    2a23 system id      5 bytes maker id, 3 bytes organisation id, both little-endian
    2a24..2a29          text; may be padded, may hold bytes that are not UTF-8, may be a template never filled in
    2a2b current time   7 bytes date time, weekday 0-7, 1/256 s, adjust reason; weekdays often contradict the date
    2a0e time zone      s8, 15 minutes, -48..+56, -128 unknown
    2a0d DST offset     0 standard, 2 half an hour, 4 one hour, 8 two hours, 255 unknown
    2a50 PnP id         source (1 SIG, 2 USB), vendor, product, version as u16

Decoders raise `BadValue`; `InfoBook` makes a Fault of it. A device information value that cannot be read costs that one
field, never the session.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from vitals.clock import Instant
from vitals.model import Chunk, DeviceInfo, Event, Fault
from vitals.wire import Cursor, WireDateTime

BAD_LENGTH: Final = "bad_length"
OUT_OF_RANGE: Final = "out_of_range"

MAX_TEXT: Final = 128
"""Characters kept of a device information text; real ones are under 30, an attribute may hold 512 bytes."""

MAX_RAW: Final = 64
"""Bytes of a bad value that a fault keeps: more than any good one has."""


class BadValue(Exception):
    """A value that breaks its characteristic's definition; `code` becomes the fault's."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def fault(code: str, detail: str, chunk: Chunk) -> Fault:
    """A fault about one value, naming its characteristic."""
    return Fault(code, f"{chunk.channel}: {detail}", chunk.data[:MAX_RAW], chunk.received_at)


def need_length(data: bytes, length: int, what: str) -> None:
    """Raises BadValue unless `data` has exactly `length` bytes."""
    if len(data) != length:
        raise BadValue(BAD_LENGTH, f"{what}: expected {length} bytes, found {len(data)}")


def battery_percent(data: bytes) -> int:
    """2a19. Above 100 the sources disagree (error, or unknown): refused, so that nobody reads a full battery."""
    need_length(data, 1, "battery level")
    if data[0] > 100:
        raise BadValue(OUT_OF_RANGE, f"battery level: expected 0 to 100 %, found {data[0]}")
    return data[0]


_TEMPLATES: Final = frozenset(
    {
        "manufacturer", "manufacturer name", "manufacturer name string", "model number", "model number string",
        "serial number", "serial number string", "hardware revision", "hardware revision string",
        "firmware revision", "firmware revision string", "software revision", "software revision string",
    }
)  # fmt: skip
"""Some devices answer with the name of the field, left in from a vendor's template."""


def clean_text(data: bytes) -> str:
    """A device information text without padding; empty where the device has nothing to say."""
    text = data.decode("utf-8", "replace").strip("\0 \t\r\n").split("\0")[0]
    text = "".join(letter for letter in text if letter.isprintable()).strip()[:MAX_TEXT]
    return "" if text.casefold() in _TEMPLATES else text


def system_id(data: bytes) -> str:
    """2a23 as 16 hex digits, organisation first, as an EUI-64 is printed: the wire has it back to front."""
    need_length(data, 8, "system id")
    return data[::-1].hex()


class CurrentTime(NamedTuple):
    """2a2b. `weekday` 1 is Monday, 0 unknown; it is never checked against the date: devices get it wrong."""

    at: WireDateTime
    weekday: int
    fractions256: int
    adjust_reason: int


def current_time(data: bytes) -> CurrentTime:
    """2a2b, 10 bytes."""
    need_length(data, 10, "current time")
    cursor = Cursor(data)
    time = CurrentTime(cursor.date_time(), cursor.u8(), cursor.u8(), cursor.u8())
    if not time.at.in_range or time.weekday > 7:
        raise BadValue(OUT_OF_RANGE, f"current time: no such time {data.hex()}")
    return time


def date_time(data: bytes) -> WireDateTime:
    """2a08 as a whole value, 7 bytes."""
    need_length(data, 7, "date time")
    wall = Cursor(data).date_time()
    if not wall.in_range:
        raise BadValue(OUT_OF_RANGE, f"date time: no such time {data.hex()}")
    return wall


def time_zone_minutes(data: bytes) -> int | None:
    """2a0e: minutes east of UTC without daylight saving, None unknown."""
    need_length(data, 1, "time zone")
    quarters = int.from_bytes(data, signed=True)
    if quarters == -128:
        return None
    if not -48 <= quarters <= 56:
        raise BadValue(OUT_OF_RANGE, f"time zone: expected -48 to 56 quarter hours, found {quarters}")
    return quarters * 15


_DST_MINUTES: Final[dict[int, int | None]] = {0: 0, 2: 30, 4: 60, 8: 120, 255: None}


def dst_minutes(data: bytes) -> int | None:
    """2a0d: minutes that daylight saving adds now, None unknown. UTC = wall time - zone - this."""
    need_length(data, 1, "DST offset")
    if data[0] not in _DST_MINUTES:
        raise BadValue(OUT_OF_RANGE, f"DST offset: expected 0, 2, 4, 8 or 255, found {data[0]}")
    return _DST_MINUTES[data[0]]


class PnpId(NamedTuple):
    """2a50: who made it, in the numbers of the Bluetooth SIG (source 1) or of USB (source 2)."""

    vendor_source: int
    vendor: int
    product: int
    version: int


def pnp_id(data: bytes) -> PnpId:
    """2a50, 7 bytes."""
    need_length(data, 7, "PnP id")
    cursor = Cursor(data)
    found = PnpId(cursor.u8(), cursor.u16(), cursor.u16(), cursor.u16())
    if found.vendor_source not in (1, 2):
        raise BadValue(OUT_OF_RANGE, f"PnP id: expected source 1 or 2, found {found.vendor_source}")
    return found


INFO_TEXTS: Final = {
    "2a29": "manufacturer",
    "2a24": "model",
    "2a25": "serial",
    "2a27": "hardware",
    "2a26": "firmware",
    "2a28": "software",
}
"""Characteristic to the field of DeviceInfo it fills."""

INFO_READS: Final = (*INFO_TEXTS, "2a23", "2a19", "2a2b")
"""What a driver of a Bluetooth device asks to be read after link-up; an absent characteristic is skipped."""


class InfoBook:
    """Gathers a DeviceInfo from the characteristics as they are read, for any driver of a Bluetooth device."""

    def __init__(self, features: tuple[str, Callable[[bytes], tuple[str, ...]]] | None = None) -> None:
        """`features`: the characteristic that lists what the device can do, and its decoder."""
        self._info = DeviceInfo()
        self._features = features
        self._told: DeviceInfo | None = None

    def knows(self, channel: str) -> bool:
        """Whether `read` takes values of this characteristic."""
        return channel in INFO_READS or (self._features is not None and channel == self._features[0])

    def read(self, chunk: Chunk) -> list[Event]:
        """All that is known so far, when it changed; a fault for a value that cannot be.

        Raises TooShort from the features' decoder.
        """
        events: list[Event] = []
        try:
            fields = self._fields(chunk.channel, chunk.data, chunk.received_at)
        except BadValue as error:
            events.append(fault(error.code, str(error), chunk))
            # A battery that now reports nonsense is unknown, not as full as it was before.
            fields = {"battery": None} if chunk.channel == "2a19" else {}
        self._info = msgspec.structs.replace(self._info, **fields)
        if self._info != self._told and not (events and self._told is None):
            self._told = self._info
            events.append(self._info)
        return events

    def _fields(self, channel: str, data: bytes, at: Instant) -> dict[str, object]:
        if channel in INFO_TEXTS:
            return {INFO_TEXTS[channel]: clean_text(data)}
        if channel == "2a19":
            return {"battery": battery_percent(data)}
        if channel == "2a23":
            return {"system_id": system_id(data)}
        if channel == "2a2b":
            # Kept so that the device's time stamps can be moved to ours by the difference. The clock is never written.
            return {"clock": current_time(data).at.text, "clock_read_at": at}
        return {} if self._features is None else {"features": self._features[1](data)}
