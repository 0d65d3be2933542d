"""Blood Pressure Service values as a device encodes them (BLS 1.1.1).

2A35: flags u8 (bit 0 kPa, 1 time stamp, 2 pulse, 3 user, 4 status) | systolic, diastolic, MAP SFLOAT | date time 7 |
pulse SFLOAT | user u8 | status u16. 2A36 has the same order: pressure, then two unused SFLOATs (NaN).
"""

from typing import Final

import msgspec

from vitals.model import Validity
from vitals.wire import MedFloat, WireDateTime, encode_sfloat

NAN: Final = MedFloat(0, 0, Validity.NOT_A_NUMBER)
_PER_KPA: Final = 7.50062
"""mmHg in a kPa."""


class Reading(msgspec.Struct, frozen=True):
    """One 2A35 value: pressures in the stated unit, None sent as NaN."""

    sys: MedFloat
    dia: MedFloat
    map: MedFloat
    kpa: bool = False
    stamp: WireDateTime | None = None
    pulse: MedFloat | None = None
    user: int | None = None
    status: int | None = None

    def encode(self) -> bytes:
        """The characteristic's value. Raises ValueError when a number does not fit an SFLOAT."""
        optional = (self.stamp, self.pulse, self.user, self.status)
        flags = int(self.kpa) | sum(2 << bit for bit, field in enumerate(optional) if field is not None)
        value = bytes([flags]) + b"".join(encode_sfloat(number) for number in (self.sys, self.dia, self.map))
        value += self.stamp.encode() if self.stamp is not None else b""
        value += encode_sfloat(self.pulse) if self.pulse is not None else b""
        value += bytes([self.user]) if self.user is not None else b""
        return value + (self.status.to_bytes(2, "little") if self.status is not None else b"")


def pressure(mmhg: float, *, kpa: bool) -> MedFloat:
    """As cuffs resolve it: whole mmHg, or tenths of a kPa."""
    if kpa:
        return MedFloat(round(mmhg / _PER_KPA * 10), -1, Validity.VALID)
    return MedFloat(round(mmhg), 0, Validity.VALID)


def encode_cuff_pressure(mmhg: float, *, kpa: bool = False) -> bytes:
    """A 2A36 value without optional fields."""
    return bytes([int(kpa)]) + encode_sfloat(pressure(mmhg, kpa=kpa)) + encode_sfloat(NAN) * 2
