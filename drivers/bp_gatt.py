"""Blood pressure cuffs that speak the Bluetooth Blood Pressure Service 0x1810.

A&D UA-651BLE, Omron, Beurer, Medisana and many more. The cuff is the peripheral: it advertises after a reading, hands
over what it has stored and hangs up, which is success and no error.

Blood Pressure Measurement 2a35 (indicated) and Intermediate Cuff Pressure 2a36 (notified), little-endian, fields in
this order, those with a flag only where it is set, so every offset moves:

    +-------+---------+---------+---------+-----------+---------+------+--------+
    | flags | SFLOAT  | SFLOAT  | SFLOAT  | date time | SFLOAT  | user | status |
    |   1   | sys 2   | dia 2   | mean 2  |     7     | pulse 2 |  1   |   2    |
    +-------+---------+---------+---------+-----------+---------+------+--------+
    flags: bit 0 kPa (else mmHg), 1 date time, 2 pulse, 3 user, 4 status, 5-7 reserved (ignored)
    2a36 carries the cuff pressure in the first SFLOAT, the next two are unused

    status: bit 0 body movement, 1 cuff too loose, 2 irregular pulse, 3-4 pulse range (1 above, 2 below), 5 position

Blood Pressure Feature 2a49, u16: what the cuff can notice, in the order of FEATURES below.

How it is known: SIG Blood Pressure Service 1.1.1 and the characteristic definitions; vectors of the test suites of
Nordic's Android BLE library and nRF Toolbox and of blood-pressure-monitor-fl, among them real captures. Strong.

Quirks, each with a vector:
- A failed run sends NaN in every field and status 0 though the display shows an error: the numbers are NaN, the
  status does not say so.
- Mean pressure NaN or 0: the cuff does not compute it. It is marked not available.
- Beurer BM85 (flags 0x56, 19 bytes): reserved bit 6 set, user byte sent although bit 3 is clear, pulse and status
  big-endian. Recognised by bit 6, clear bit 3 and the length, which no conformant frame with these flags has.
- Some samples set the kPa flag on numbers that are mmHg (121 "kPa" would be 907 mmHg). Above 40 kPa no systolic
  pressure is possible and nobody knows which of flag and number is wrong, so no value is given: raw text and unit are
  kept, every pressure of the frame is not available, and the quality says `unit_doubtful`.
- A date time that cannot be is a fault, but the reading counts, without a device time. Zero year, month, day: unknown.
- User id 255 is an unknown user. Two-user cuffs are why the user is kept: the other patient's reading must be tellable.
- Trailing bytes and reserved flags are tolerated, as the service asks for.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from drivers.core.gatt import BAD_LENGTH, INFO_READS, OUT_OF_RANGE, InfoBook, fault
from vitals.clock import Instant
from vitals.driver import BleSpec, Driver, Options
from vitals.metrics import METRICS
from vitals.model import Chunk, Context, Event, Observation, Quantity, Validity
from vitals.units import convert
from vitals.wire import Cursor, MedFloat, TooShort, WireDateTime, decode_sfloat

SERVICE: Final = "1810"
MEASUREMENT: Final = "2a35"
CUFF_PRESSURE: Final = "2a36"
FEATURE: Final = "2a49"

KPA, HAS_TIME, HAS_PULSE, HAS_USER, HAS_STATUS, BM85_MARK = (1 << bit for bit in (0, 1, 2, 3, 4, 6))
BM85_FLAGS: Final = BM85_MARK | HAS_TIME | HAS_PULSE | HAS_STATUS
BM85_LENGTH: Final = 19
USER_UNKNOWN: Final = 255

STATUS: Final = {0: "body_movement", 1: "cuff_too_loose", 2: "irregular_pulse", 5: "improper_position"}
PULSE_RANGE: Final = {1: "pulse_range_above", 2: "pulse_range_below"}
UNIT_DOUBTFUL: Final = "unit_doubtful"
MAX_KPA: Final = 40.0
"""300 mmHg: no living patient's systolic pressure. Above, flag and numbers contradict each other."""
MAX_CUFF_KPA: Final = 42.66
"""320 mmHg: cuffs may inflate a little beyond 300 mmHg before they vent."""

FEATURES: Final = (
    "body_movement_detection",
    "cuff_fit_detection",
    "irregular_pulse_detection",
    "pulse_rate_range_detection",
    "measurement_position_detection",
    "multiple_bond",
    "e2e_crc",
    "user_data_service",
    "user_facing_time",
)


class Frame(NamedTuple):
    """The fields of 2a35 and 2a36 as sent. None: absent."""

    unit: str
    pressures: tuple[MedFloat, MedFloat, MedFloat]
    time: WireDateTime | None
    pulse: MedFloat | None
    user: int | None
    status: int


def parse(data: bytes) -> Frame:
    """Raises TooShort when the flags promise more than there is; trailing bytes are allowed."""
    cursor = Cursor(data)
    flags = cursor.u8()
    unit = "kPa" if flags & KPA else "mm[Hg]"
    pressures = cursor.sfloat(), cursor.sfloat(), cursor.sfloat()
    time = cursor.date_time() if flags & HAS_TIME else None
    if _is_bm85(flags, len(data)):
        pulse = decode_sfloat(int.from_bytes(cursor.take(2), "big"))
        return Frame(unit, pressures, time, pulse, cursor.u8(), int.from_bytes(cursor.take(2), "big"))
    return Frame(
        unit,
        pressures,
        time,
        cursor.sfloat() if flags & HAS_PULSE else None,
        cursor.u8() if flags & HAS_USER else None,
        cursor.u16() if flags & HAS_STATUS else 0,
    )


def _is_bm85(flags: int, length: int) -> bool:
    return flags & (BM85_FLAGS | HAS_USER) == BM85_FLAGS and length == BM85_LENGTH


def features(data: bytes) -> tuple[str, ...]:
    """2a49. Raises TooShort."""
    bits = Cursor(data).u16()
    return tuple(name for bit, name in enumerate(FEATURES) if bits >> bit & 1)


def quality(status: int) -> Iterator[str]:
    """The status bits that are set, by name; reserved ones mean nothing yet."""
    for bit, name in STATUS.items():
        if status >> bit & 1:
            yield name
    pulse_range = PULSE_RANGE.get(status >> 3 & 3)
    if pulse_range is not None:
        yield pulse_range


class _Session:
    def __init__(self) -> None:
        self._book = InfoBook((FEATURE, features))

    def start(self) -> list[Event]:
        return []

    def receive(self, chunk: Chunk) -> list[Event]:
        try:
            if chunk.channel == MEASUREMENT:
                return _reading(chunk)
            if chunk.channel == CUFF_PRESSURE:
                return _inflating(chunk)
            if self._book.knows(chunk.channel):
                return self._book.read(chunk)
        except TooShort as error:
            return [fault("too_short", str(error), chunk)]
        return [fault("unexpected_channel", "nobody asked for this characteristic", chunk)]

    def tick(self, now: Instant) -> list[Event]:
        return []

    def close(self) -> list[Event]:
        return []


def _reading(chunk: Chunk) -> list[Event]:
    frame = parse(chunk.data)
    systolic, diastolic, mean = frame.pressures
    doubtful = _unit_doubtful(frame.unit, frame.pressures, MAX_KPA)
    quantities = {
        "bp_sys": _pressure(systolic, frame.unit, doubtful=doubtful),
        "bp_dia": _pressure(diastolic, frame.unit, doubtful=doubtful),
        "bp_map": _mean_pressure(mean, frame.unit, doubtful=doubtful),
    }
    return _observe("bp", quantities, frame, chunk, doubtful=doubtful)


def _inflating(chunk: Chunk) -> list[Event]:
    frame = parse(chunk.data)
    cuff = frame.pressures[0]
    doubtful = _unit_doubtful(frame.unit, (cuff,), MAX_CUFF_KPA)
    quantities = {"cuff_pressure": _pressure(cuff, frame.unit, doubtful=doubtful)}
    return _observe("cuff_pressure", quantities, frame, chunk, doubtful=doubtful)


def _observe(kind: str, quantities: dict[str, Quantity], frame: Frame, chunk: Chunk, *, doubtful: bool) -> list[Event]:
    events: list[Event] = []
    t_device = ""
    if frame.time is not None and frame.time.in_range:
        t_device = frame.time.text
    elif frame.time is not None:
        events.append(fault("bad_time", f"no such date or time: {frame.time.text}", chunk))
    if frame.pulse is not None:
        quantities["pulse_cuff"] = Quantity(frame.pulse.value, frame.pulse.text, "/min", frame.pulse.validity)
    observation = Observation(
        kind,
        quantities,
        chunk.received_at,
        t_device=t_device,
        context=Context(user=_user(frame.user)),
        quality=(*quality(frame.status), *((UNIT_DOUBTFUL,) if doubtful else ())),
        transient=kind == "cuff_pressure",
        raw=chunk.data.hex(),
    )
    return [*events, observation]


def _unit_doubtful(unit: str, pressures: tuple[MedFloat, ...], limit: float) -> bool:
    return unit == "kPa" and any(number.value is not None and number.value > limit for number in pressures)


def _pressure(number: MedFloat, unit: str, *, doubtful: bool) -> Quantity:
    if number.value is None:
        return Quantity(None, number.text, unit, number.validity)
    if doubtful:
        return Quantity(None, number.text, unit, Validity.NOT_AVAILABLE)
    return Quantity(convert(number.value, unit, METRICS["bp_sys"].unit), number.text, unit)


def _mean_pressure(number: MedFloat, unit: str, *, doubtful: bool) -> Quantity:
    if number.validity is Validity.NOT_A_NUMBER or number.value == 0:
        return Quantity(None, number.text, unit, Validity.NOT_AVAILABLE)
    return _pressure(number, unit, doubtful=doubtful)


def _user(user: int | None) -> str:
    if user is None:
        return ""
    return "unknown" if user == USER_UNKNOWN else str(user)


def _new_session(options: Options) -> _Session:
    return _Session()


DRIVER: Final = Driver(
    name="bp_gatt",
    title="Blood pressure cuff, Bluetooth Blood Pressure Service",
    transport="ble",
    spec=BleSpec(service=SERVICE, subscribe=(MEASUREMENT, CUFF_PRESSURE), read=(FEATURE, *INFO_READS)),
    metrics=("bp_sys", "bp_dia", "bp_map", "pulse_cuff", "cuff_pressure"),
    faults={
        "too_short": "a value ends before the fields its flags promise",
        "bad_time": "a reading's date or time cannot be; the reading was kept without it",
        BAD_LENGTH: "a battery, system id or clock value has the wrong length",
        OUT_OF_RANGE: "a battery level above 100 % or a clock value that cannot be",
        "unexpected_channel": "a value of a characteristic nobody asked for",
    },
    new_session=_new_session,
    evidence="strong",
)
