"""Thermometers that speak the Bluetooth Health Thermometer Service 0x1809.

A&D, Beurer, Medisana, Microlife and many more. Ear and forehead thermometers advertise for some seconds after a
reading, hand over one reading or the stored set, and hang up, which is success and no error.

Temperature Measurement 2a1c (indicated) and Intermediate Temperature 2a1e (notified), little-endian, fields in this
order, those with a flag only where it is set, so every offset moves:

    +-------+-------------+-----------+------+
    | flags | FLOAT       | date time | type |
    |   1   | 4           |     7     |  1   |
    +-------+-------------+-----------+------+
    flags: bit 0 Fahrenheit (else Celsius), 1 date time, 2 type, 3-7 reserved (ignored)
    FLOAT is the decimal number of IEEE 11073: exponent 8 bits, mantissa 24 bits; not IEEE 754

    type: 1 armpit, 2 body, 3 ear, 4 finger, 5 gastro-intestinal, 6 mouth, 7 rectum, 8 toe, 9 eardrum; others reserved

Temperature Type 2a1d, u8: the same codes, for a thermometer that measures at one place only. It counts where a
measurement has no type of its own.
Measurement Interval 2a21, u16: seconds between periodic measurements, 0 for none. Read only, never written.

How it is known: SIG Health Thermometer Service 1.0 and the characteristic definitions; vectors of the test suites of
Nordic's Android BLE library and nRF Toolbox, of SpeziBluetooth and of bluetooth-sig-python. Strong.

Quirks, each with a vector:
- Intermediate values climb for up to a minute: they are for the eye and never a result.
- A missing or reserved type is an unknown site: an armpit's 37.6 is not a mouth's. A reserved one is a fault too, and
  it is not replaced by 2a1d, since the device did say something else.
- Some hobby firmwares send an IEEE 754 number. 36.6 would be 1205862 x 10^66 here; no thermometer counts in units of
  more than a hundred degrees, so such an exponent is a fault and no reading.
- NaN is a finished run without a value (probe lifted), +INF and -INF are out of the thermometer's range, whose limits
  the service does not tell.
- A final value below 30 C is kept but marked: most likely the probe was not in place. A finger or toe may be so cold.
- A date time that cannot be is a fault, but the reading counts, without a device time. Zero year, month, day: unknown.
- Trailing bytes and reserved flags are tolerated, as the service asks for.
- HealthyPi 5 has the service but puts its temperature on 2a6e, which is not read here: the link ends with the reason.
"""

from typing import Final, NamedTuple

from drivers.core.gatt import BAD_LENGTH, INFO_READS, OUT_OF_RANGE, BadValue, InfoBook, fault, need_length
from vitals.clock import Instant
from vitals.driver import BleSpec, Driver, Options
from vitals.metrics import METRICS
from vitals.model import Chunk, Context, Event, Observation, Quantity
from vitals.units import convert
from vitals.wire import Cursor, MedFloat, TooShort, WireDateTime

SERVICE: Final = "1809"
MEASUREMENT: Final = "2a1c"
INTERMEDIATE: Final = "2a1e"
TYPE: Final = "2a1d"
INTERVAL: Final = "2a21"

FAHRENHEIT, HAS_TIME, HAS_TYPE = (1 << bit for bit in (0, 1, 2))

SITES: Final = {
    1: "axillary",
    2: "body",
    3: "ear",
    4: "finger",
    5: "gastrointestinal",
    6: "oral",
    7: "rectal",
    8: "toe",
    9: "tympanic",
}
"""Type code to the site's name in `Context`."""

MAX_EXPONENT: Final = 2
"""Units of a hundred degrees. The IEEE 754 numbers from 8 to 128 have exponents of 65 to 67 when read as a FLOAT."""
PROBE_ON_CEL: Final = 30.0
MAY_BE_COLD: Final = ("finger", "toe")
PROBE_OFF: Final = "probe_off_suspected"
NO_TEMPERATURE: Final = "no_temperature"
BAD_TYPE: Final = "bad_type"


class Frame(NamedTuple):
    """The fields of 2a1c and 2a1e as sent. None: absent."""

    unit: str
    temperature: MedFloat
    time: WireDateTime | None
    type: int | None


def parse(data: bytes) -> Frame:
    """Raises TooShort when the flags promise more than there is; trailing bytes are allowed."""
    cursor = Cursor(data)
    flags = cursor.u8()
    return Frame(
        "[degF]" if flags & FAHRENHEIT else "Cel",
        cursor.float32(),
        cursor.date_time() if flags & HAS_TIME else None,
        cursor.u8() if flags & HAS_TYPE else None,
    )


def site(code: int) -> str:
    """Raises BadValue for a reserved code."""
    if code not in SITES:
        raise BadValue(BAD_TYPE, f"temperature type: expected 1 to 9, found {code}")
    return SITES[code]


def static_site(data: bytes) -> str:
    """2a1d. Raises BadValue."""
    need_length(data, 1, "temperature type")
    return site(data[0])


def interval_s(data: bytes) -> int:
    """2a21. Raises BadValue."""
    need_length(data, 2, "measurement interval")
    return Cursor(data).u16()


def features(data: bytes) -> tuple[str, ...]:
    """2a21 as what the thermometer can do. Raises BadValue."""
    seconds = interval_s(data)
    return (f"periodic_{seconds}_s",) if seconds else ()


class _Session:
    def __init__(self) -> None:
        self._book = InfoBook((INTERVAL, features))
        self._static_site = ""

    def start(self) -> list[Event]:
        return []

    def receive(self, chunk: Chunk) -> list[Event]:
        try:
            if chunk.channel in (MEASUREMENT, INTERMEDIATE):
                return self._reading(chunk)
            if chunk.channel == TYPE:
                self._static_site = ""  # a type that cannot be read says nothing about the site
                self._static_site = static_site(chunk.data)
                return []
            if self._book.knows(chunk.channel):
                return self._book.read(chunk)
        except TooShort as error:
            return [fault("too_short", str(error), chunk)]
        except BadValue as error:
            return [fault(error.code, str(error), chunk)]
        return [fault("unexpected_channel", "nobody asked for this characteristic", chunk)]

    def tick(self, now: Instant) -> list[Event]:
        return []

    def close(self) -> list[Event]:
        return []

    def _reading(self, chunk: Chunk) -> list[Event]:
        frame = parse(chunk.data)
        if frame.temperature.exponent > MAX_EXPONENT:
            exponent = frame.temperature.exponent
            raise BadValue(NO_TEMPERATURE, f"units of 10^{exponent} degrees; an IEEE 754 number, perhaps")
        events: list[Event] = []
        t_device = ""
        if frame.time is not None and frame.time.in_range:
            t_device = frame.time.text
        elif frame.time is not None:
            events.append(fault("bad_time", f"no such date or time: {frame.time.text}", chunk))
        where = self._static_site
        if frame.type is not None:
            try:
                where = site(frame.type)
            except BadValue as error:
                where = ""
                events.append(fault(error.code, str(error), chunk))
        transient = chunk.channel == INTERMEDIATE
        quantity = _quantity(frame)
        observation = Observation(
            "temp_intermediate" if transient else "temp",
            {"temp": quantity},
            chunk.received_at,
            t_device=t_device,
            context=Context(site=where),
            quality=() if transient else _quality(quantity, where),
            transient=transient,
            raw=chunk.data.hex(),
        )
        return [*events, observation]


def _quantity(frame: Frame) -> Quantity:
    number = frame.temperature
    if number.value is None:
        return Quantity(None, number.text, frame.unit, number.validity)
    return Quantity(convert(number.value, frame.unit, METRICS["temp"].unit), number.text, frame.unit)


def _quality(quantity: Quantity, where: str) -> tuple[str, ...]:
    cold = quantity.value is not None and quantity.value < PROBE_ON_CEL
    return (PROBE_OFF,) if cold and where not in MAY_BE_COLD else ()


def _new_session(options: Options) -> _Session:
    return _Session()


DRIVER: Final = Driver(
    name="thermometer_gatt",
    title="Thermometer, Bluetooth Health Thermometer Service",
    transport="ble",
    spec=BleSpec(service=SERVICE, subscribe=(MEASUREMENT, INTERMEDIATE), read=(TYPE, INTERVAL, *INFO_READS)),
    metrics=("temp",),
    faults={
        "too_short": "a value ends before the fields its flags promise",
        "bad_time": "a reading's date or time cannot be; the reading was kept without it",
        BAD_TYPE: "a reserved temperature type; the reading was kept without a site",
        NO_TEMPERATURE: "the number is no temperature, most likely written in another format",
        BAD_LENGTH: "a type, interval, battery, system id or clock value has the wrong length",
        OUT_OF_RANGE: "a battery level above 100 % or a clock value that cannot be",
        "unexpected_channel": "a value of a characteristic nobody asked for",
    },
    new_session=_new_session,
    evidence="strong",
)
