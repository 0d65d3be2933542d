"""A simulated Bluetooth thermometer: Health Thermometer Service 0x1809, written from the SIG's documents.

Every `interval_s` it measures, host or no host, and can be found while it does: 2A1E climbs towards the value, then
2A1C is indicated and the link ended. What no host confirmed stays in its memory and is sent again at the next
connection, oldest first.

2A1C and 2A1E: flags u8 (bit 0 Fahrenheit, 1 time stamp, 2 type) | temperature FLOAT | date time 7 | type u8. A device
says where it measures either there or, when that never changes, in 2A1D (`static_site`), not in both. A failed run is
NaN.
"""

import math
from typing import Final

import msgspec

from simulators.core.gatt import Characteristic, Property, Service
from simulators.core.handover import BATTERY, DAYS_OFF, FIRST, LOW_BATTERY, Handover, about
from simulators.core.physiology import State
from simulators.core.registry import Setup, SimulatedKind
from vitals.clock import NS, Instant
from vitals.driver import Option
from vitals.model import Validity
from vitals.wire import MedFloat, WireDateTime, encode_float

SITES: Final = {
    "armpit": 1, "body": 2, "ear": 3, "finger": 4, "gastro-intestinal": 5, "mouth": 6, "rectum": 7, "toe": 8,
    "tympanum": 9,
}  # fmt: skip
"""Temperature Type 0x2A1D."""
UNITS: Final = ("Cel", "degF")
_NAN: Final = MedFloat(0, 0, Validity.NOT_A_NUMBER)
_BELOW_CEL: Final = 4.0
"""How much too cold the probe is when a run begins."""
_ERROR_CEL: Final = 0.05


class Temperature(msgspec.Struct, frozen=True):
    """One 2A1C or 2A1E value, the temperature in the stated unit."""

    value: MedFloat
    fahrenheit: bool = False
    stamp: WireDateTime | None = None
    site: int | None = None

    def encode(self) -> bytes:
        """The characteristic's value. Raises ValueError when the number does not fit a FLOAT."""
        flags = int(self.fahrenheit) | 2 * (self.stamp is not None) | 4 * (self.site is not None)
        value = bytes([flags]) + encode_float(self.value)
        value += self.stamp.encode() if self.stamp is not None else b""
        return value + (bytes([self.site]) if self.site is not None else b"")


def temperature(celsius: float, *, fahrenheit: bool) -> MedFloat:
    """As thermometers resolve it: tenths of a degree."""
    shown = celsius * 9 / 5 + 32 if fahrenheit else celsius
    return MedFloat(round(shown * 10), -1, Validity.VALID)


class Thermometer(Handover):
    """The device (a `GattDevice`). Raises ValueError for a unit or site there is not."""

    name = "SIM-TEMP"
    advertised = ("1809",)
    measurement = "2a1c"
    intermediate = "2a1e"
    step_ns = NS // 2

    def __init__(self, setup: Setup) -> None:
        options = setup.options
        super().__init__(setup, float(options["measure_s"]))
        unit, site = str(options["unit"]), str(options["site"])
        for name, value, known in (("unit", unit, UNITS), ("site", site, tuple(SITES))):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        self._fahrenheit = unit == "degF"
        static = bool(options["static_site"])
        self._site = None if static else SITES[site]
        service = [
            Characteristic(self.measurement, Property.INDICATE),
            Characteristic(self.intermediate, Property.NOTIFY),
        ]
        if static:
            service.append(Characteristic("2a1d", Property.READ, bytes([SITES[site]])))
        self.table = (Service("1809", tuple(service)), *about(self.name, setup))

    def _glimpse(self, part: float, state: State) -> bytes:
        climbing = state.temp - _BELOW_CEL * math.exp(-5 * part)
        return Temperature(
            temperature(climbing, fahrenheit=self._fahrenheit), self._fahrenheit, site=self._site
        ).encode()  # fmt: skip

    def _take(self, state: State, at: Instant) -> bytes:
        failed = self._rng.random() < float(self._setup.options["fail_rate"])
        celsius = state.temp + float(self._rng.normal(0.0, _ERROR_CEL))
        value = _NAN if failed else temperature(celsius, fahrenheit=self._fahrenheit)
        return Temperature(value, self._fahrenheit, self._stamp(at), self._site).encode()


SIMULATOR: Final = SimulatedKind(
    name="thermometer_gatt",
    title="Bluetooth thermometer (SIG profile)",
    transport="ble",
    factory=Thermometer,
    options=(
        Option("interval_s", float, "Seconds from one reading to the next.", 300.0),
        FIRST,
        Option("measure_s", float, "Seconds a run takes.", 6.0),
        Option("unit", str, "Cel or degF.", "Cel"),
        Option("site", str, f"Where it measures: {', '.join(SITES)}.", "mouth"),
        Option("static_site", bool, "Whether 2A1D says where, and not each reading.", False),
        Option("stamp", bool, "Whether readings carry the thermometer's wall time.", True),
        Option("clock_skew_s", float, "How far the thermometer's clock is ahead.", 0.0),
        Option("fail_rate", float, "Share of runs that fail (NaN), 0 to 1.", 0.0),
        BATTERY,
    ),
    tricks={"wrong_clock": DAYS_OFF, "wrong_unit": {"unit": "degF"}, "low_battery": LOW_BATTERY},
)
