"""Wire primitives shared by drivers and simulators, each pinned by values published elsewhere.

Sources: IEEE 11073-20601 (SFLOAT, FLOAT), Bluetooth SIG GATT Specification Supplement (date time), the CRC
catalogue of Greg Cook (check values over "123456789").
"""

import struct
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Final, NamedTuple

from vitals.model import Validity


class TooShort(Exception):
    """A frame ended before the field that its flags promise. Drivers turn this into a Fault."""


class Cursor:
    """Reads little-endian fields in order and cannot read past the end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises TooShort when fewer are left."""
        if count > self.left:
            raise TooShort(f"expected {count} bytes at offset {self._at}, found {self.left}")
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def i16(self) -> int:
        return int.from_bytes(self.take(2), "little", signed=True)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def i32(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def sfloat(self) -> "MedFloat":
        return decode_sfloat(self.u16())

    def float32(self) -> "MedFloat":
        """IEEE 11073 FLOAT (32 bits, decimal; not IEEE 754)."""
        return decode_float(self.u32())

    def date_time(self) -> "WireDateTime":
        return WireDateTime(self.u16(), *self.take(5))


class MedFloat(NamedTuple):
    """An IEEE 11073 decimal number, exponent kept: 37.60 and 37.6 claim different resolutions."""

    mantissa: int
    exponent: int
    validity: Validity

    @property
    def value(self) -> float | None:
        """The number, or None with the reason in `validity`. Divides by powers of ten: exact to the last digit."""
        if self.validity is not Validity.VALID:
            return None
        if self.exponent >= 0:
            return float(self.mantissa * 10**self.exponent)
        return float(Decimal(self.mantissa).scaleb(self.exponent))

    @property
    def text(self) -> str:
        """`37.60` as the device resolved it; the name of the special value otherwise."""
        if self.validity is not Validity.VALID:
            return _SPECIAL_TEXT[self.validity]
        if self.exponent >= 0:
            return str(self.mantissa * 10**self.exponent)
        return f"{Decimal(self.mantissa).scaleb(self.exponent):f}"


_SPECIAL_TEXT: Final = {
    Validity.NOT_A_NUMBER: "NaN",
    Validity.NOT_AT_RESOLUTION: "NRes",
    Validity.ABOVE_RANGE: "+INF",
    Validity.BELOW_RANGE: "-INF",
    Validity.RESERVED: "reserved",
}
# Special values have exponent zero; the whole word is compared before it is split.
_SFLOAT_SPECIAL: Final = {
    0x07FF: Validity.NOT_A_NUMBER,
    0x0800: Validity.NOT_AT_RESOLUTION,
    0x07FE: Validity.ABOVE_RANGE,
    0x0802: Validity.BELOW_RANGE,
    0x0801: Validity.RESERVED,
}
_FLOAT_SPECIAL: Final = {
    0x007FFFFF: Validity.NOT_A_NUMBER,
    0x00800000: Validity.NOT_AT_RESOLUTION,
    0x007FFFFE: Validity.ABOVE_RANGE,
    0x00800002: Validity.BELOW_RANGE,
    0x00800001: Validity.RESERVED,
}


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def decode_sfloat(word: int) -> MedFloat:
    """16 bits: exponent 4 bits signed, mantissa 12 bits signed."""
    special = _SFLOAT_SPECIAL.get(word)
    if special is not None:
        return MedFloat(0, 0, special)
    return MedFloat(_signed(word & 0xFFF, 12), _signed(word >> 12, 4), Validity.VALID)


def decode_float(word: int) -> MedFloat:
    """32 bits: exponent 8 bits signed, mantissa 24 bits signed."""
    special = _FLOAT_SPECIAL.get(word)
    if special is not None:
        return MedFloat(0, 0, special)
    return MedFloat(_signed(word & 0xFFFFFF, 24), _signed(word >> 24, 8), Validity.VALID)


def encode_sfloat(number: MedFloat) -> bytes:
    """Two bytes, little-endian. Raises ValueError when mantissa or exponent do not fit or collide with a special."""
    return _encode(number, 12, 4, _SFLOAT_SPECIAL)


def encode_float(number: MedFloat) -> bytes:
    """Four bytes, little-endian. Raises ValueError as `encode_sfloat`."""
    return _encode(number, 24, 8, _FLOAT_SPECIAL)


def _encode(number: MedFloat, bits: int, exponent_bits: int, specials: dict[int, Validity]) -> bytes:
    size = (bits + exponent_bits) // 8
    if number.validity is not Validity.VALID:
        word = next(code for code, validity in specials.items() if validity is number.validity)
        return word.to_bytes(size, "little")
    half, exponent_half = 1 << (bits - 1), 1 << (exponent_bits - 1)
    if not -half <= number.mantissa < half or not -exponent_half <= number.exponent < exponent_half:
        raise ValueError(f"{number.mantissa}e{number.exponent} does not fit {bits}+{exponent_bits} bits")
    word = (number.exponent & (2 * exponent_half - 1)) << bits | (number.mantissa & (2 * half - 1))
    if word in specials:
        raise ValueError(f"{number.mantissa}e{number.exponent} is the code of {specials[word]}")
    return word.to_bytes(size, "little")


def med_float(text: str) -> MedFloat:
    """`med_float("37.60")` is mantissa 3760, exponent -2: the resolution written is the resolution sent."""
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"expected a finite decimal, got {text!r}")
    mantissa = int("".join(map(str, digits)))
    return MedFloat(-mantissa if sign else mantissa, exponent, Validity.VALID)


class WireDateTime(NamedTuple):
    """GATT Date Time 0x2A08: wall time of the device, no zone; year, month or day 0 means unknown."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int

    @property
    def in_range(self) -> bool:
        """Whether each field is one the characteristic allows (unknown counts as allowed)."""
        return (
            (self.year == 0 or 1582 <= self.year <= 9999)
            and self.month <= 12
            and self.day <= 31
            and self.hour <= 23
            and self.minute <= 59
            and self.second <= 59
            and self._calendar_ok()
        )

    def _calendar_ok(self) -> bool:
        # 30 February: all fields known and in range, and still no date.
        if not (self.year and self.month and self.day):
            return True
        try:
            date(self.year, self.month, self.day)
        except ValueError:
            return False
        return True

    @property
    def text(self) -> str:
        """ISO 8601, unknown parts as X (extended date-time format): `XXXX-04-17T20:41:59`."""
        year = f"{self.year:04d}" if self.year else "XXXX"
        month = f"{self.month:02d}" if self.month else "XX"
        day = f"{self.day:02d}" if self.day else "XX"
        return f"{year}-{month}-{day}T{self.hour:02d}:{self.minute:02d}:{self.second:02d}"

    def encode(self) -> bytes:
        return struct.pack("<H5B", *self)


def _crc16(poly: int, init: int, *, reflected: bool) -> Callable[[bytes], int]:
    table = []
    for index in range(256):
        register = index if reflected else index << 8
        for _ in range(8):
            if reflected:
                register = register >> 1 ^ (poly if register & 1 else 0)
            else:
                register = (register << 1 ^ (poly if register & 0x8000 else 0)) & 0xFFFF
        table.append(register)

    def crc(data: bytes) -> int:
        register = init
        for byte in data:
            if reflected:
                register = register >> 8 ^ table[(register ^ byte) & 0xFF]
            else:
                register = (register << 8 ^ table[register >> 8 ^ byte]) & 0xFFFF
        return register

    return crc


crc16_ccitt_false: Final = _crc16(0x1021, 0xFFFF, reflected=False)
"""CRC-16/IBM-3740, check 29B1: OneTouch meters."""
crc16_mcrf4xx: Final = _crc16(0x8408, 0xFFFF, reflected=True)
"""CRC-16/MCRF4XX, check 6F91: the optional E2E-CRC of SIG health services."""
crc16_modbus: Final = _crc16(0xA001, 0xFFFF, reflected=True)
"""CRC-16/MODBUS, check 4B37."""
