"""The independent truth: every vector of six files of ../shared through our code, field by field.

These files come from other people's test suites and were checked by another decoder. Each key of each `expect` is
checked by a function named for it; a key nobody checks fails the test, so nothing is passed over.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from drivers import bp_gatt, ekg_openview, glucometer_ultramini, thermometer_gatt
from drivers.core import gatt
from tests.shared import shared_vectors
from vitals.model import Chunk, DeviceInfo, Event, Fault, Observation, SampleArray, Send
from vitals.wire import Cursor, MedFloat, WireDateTime, crc16_ccitt_false

pytestmark = pytest.mark.shared
AT = 1_764_000_000_000_000_000
Expect = Mapping[str, Any]

UNITS = {"mmHg": "mm[Hg]", "kPa": "kPa"}
SPECIALS = {"NaN", "NRes", "+INF", "-INF", "reserved"}


def data_of(vector: Any) -> bytes:
    return bytes.fromhex(vector["hex"])


def number(found: str) -> float | str:
    """The raw text of a quantity as the vectors write it."""
    return found if found in SPECIALS else float(found)


def wall(expected: Any) -> str:
    """`{"year": null, "month": 4, ...}` or ISO text as our text with X for unknown."""
    if isinstance(expected, str):
        return expected
    year = "XXXX" if expected["year"] is None else f"{expected['year']:04d}"
    month = "XX" if expected["month"] is None else f"{expected['month']:02d}"
    day = "XX" if expected["day"] is None else f"{expected['day']:02d}"
    return f"{year}-{month}-{day}T{expected['time']}"


# -- blood pressure ----------------------------------------------------------------------------------------------

PRESSURES = {"systolic": "bp_sys", "diastolic": "bp_dia", "map": "bp_map", "cuff_pressure": "cuff_pressure"}
RANGES = {"in_range": set(), "above_upper": {"pulse_range_above"}, "below_lower": {"pulse_range_below"}}
RANGE_NAMES = {"pulse_range_above", "pulse_range_below"}


def check_blood_pressure(observation: Observation, key: str, wanted: Any) -> None:
    quantities = observation.quantities
    flags = set(observation.quality) - {bp_gatt.UNIT_DOUBTFUL}
    if key in PRESSURES:
        quantity = quantities[PRESSURES[key]]
        assert number(quantity.raw) == wanted
        if wanted in SPECIALS:
            assert quantity.value is None
        elif quantity.value is not None and quantity.raw_unit == "mm[Hg]":
            assert quantity.value == wanted
    elif key == "pulse_rate":
        assert ("pulse_cuff" in quantities) == (wanted is not None)
        if wanted is not None:
            assert number(quantities["pulse_cuff"].raw) == wanted
            assert quantities["pulse_cuff"].value == (None if wanted in SPECIALS else wanted)
    elif key == "unit":
        named = {quantity.raw_unit for metric, quantity in quantities.items() if metric != "pulse_cuff"}
        assert named == {UNITS[wanted]}
    elif key == "user_id":
        assert observation.context.user == ("" if wanted is None else str(wanted))
    elif key == "timestamp":
        assert observation.t_device == ("" if wanted is None else wall(wanted))
    elif key == "status_flags":
        assert flags - RANGE_NAMES == set(wanted)
    elif key == "pulse_range":
        assert flags & RANGE_NAMES == RANGES[wanted]
    elif key == "status":
        assert wanted in (None, 0)
        assert flags == set()
    else:
        pytest.fail(f"nobody checks {key!r}")


@pytest.mark.parametrize("vector", shared_vectors("gatt_blood_pressure"))
def test_blood_pressure(vector: Any) -> None:
    channel = vector["kind"].split()[0].lower()
    events = bp_gatt.DRIVER.new_session({}).receive(Chunk(data_of(vector), AT, channel))
    expect: Expect = vector["expect"]
    (event,) = events
    if "error" in expect:
        assert isinstance(event, Fault)
        assert event.code == expect["error"]
        return
    if channel == "2a49":
        assert isinstance(event, DeviceInfo)
        assert list(event.features) == expect["features"]
        assert sum(1 << bp_gatt.FEATURES.index(name) for name in event.features) == expect["bitmap"]
        return
    assert isinstance(event, Observation)
    assert event.kind == ("bp" if channel == "2a35" else "cuff_pressure")
    assert event.transient == (channel == "2a36")
    for key, wanted in expect.items():
        check_blood_pressure(event, key, wanted)


@pytest.mark.parametrize("vector", shared_vectors("gatt_blood_pressure"))
def test_no_impossible_pressure_is_shown(vector: Any) -> None:
    channel = vector["kind"].split()[0].lower()
    for event in bp_gatt.DRIVER.new_session({}).receive(Chunk(data_of(vector), AT, channel)):
        if isinstance(event, Observation):
            assert all(quantity.value is None or quantity.value <= 300 for quantity in event.quantities.values())


# -- thermometer -------------------------------------------------------------------------------------------------

SITE_NAMES = {"armpit": "axillary", "mouth": "oral"}
"""The vectors' word for a site where ours, from the rules, is another."""
NO_TYPE = "006e0100ff"
"""36.6 C without a type, for a type that was read to show in."""


def check_temperature(observation: Observation, key: str, wanted: Any) -> None:
    quantity = observation.quantities["temp"]
    if key == "temperature":
        assert number(quantity.raw) == wanted
        assert quantity.value == (None if wanted in SPECIALS else wanted)
    elif key == "unit":
        assert quantity.raw_unit == {"C": "Cel", "F": "[degF]"}[wanted]
    elif key == "timestamp":
        assert observation.t_device == ("" if wanted is None else wall(wanted))
    elif key == "type":
        assert observation.context.site == ("" if wanted is None else SITE_NAMES.get(wanted, wanted))
    else:
        pytest.fail(f"nobody checks {key!r}")


@pytest.mark.parametrize("vector", shared_vectors("gatt_health_thermometer"))
def test_thermometer(vector: Any) -> None:
    channel = vector["kind"].lower()
    session = thermometer_gatt.DRIVER.new_session({})
    events = session.receive(Chunk(data_of(vector), AT, channel))
    expect: Expect = vector["expect"]
    if "error" in expect:
        (event,) = events
        assert isinstance(event, Fault)
        assert event.code == expect["error"]
        return
    if channel == "2a21":
        (event,) = events
        assert isinstance(event, DeviceInfo)
        assert event.features == (f"periodic_{expect['interval_s']}_s",)
        assert set(expect) == {"interval_s"}
        return
    if channel == "2a1d":
        assert events == []
        events = session.receive(Chunk(bytes.fromhex(NO_TYPE), AT, "2a1c"))
    (event,) = events
    assert isinstance(event, Observation)
    assert event.kind == "temp"
    assert not event.transient
    for key, wanted in expect.items():
        check_temperature(event, key, wanted)


# -- glucose meter -----------------------------------------------------------------------------------------------

LINK_BITS = {
    "s": glucometer_ultramini.SENT,
    "e": glucometer_ultramini.EXPECTED,
    "ack": glucometer_ultramini.ACK,
    "disconnect": glucometer_ultramini.DISCONNECT,
}


def check_meter(data: bytes, key: str, wanted: Any) -> None:
    if key == "crc":
        assert crc16_ccitt_false(data) == wanted
        return
    frame = glucometer_ultramini.parse(data)
    if key == "length":
        assert glucometer_ultramini.measure(data, 0) == wanted
    elif key == "message":
        assert frame.message.hex() == wanted
    elif key in LINK_BITS:
        assert bool(frame.link & LINK_BITS[key]) == wanted
    else:
        pytest.fail(f"nobody checks {key!r}")


@pytest.mark.parametrize("vector", shared_vectors("lifescan_onetouch_ultramini"))
def test_meter(vector: Any) -> None:
    data = data_of(vector)
    if vector["kind"] == "packet":
        assert glucometer_ultramini.measure(data, 0) == len(data)
        assert glucometer_ultramini.build(*glucometer_ultramini.parse(data)) == data
    else:
        assert vector["kind"] == "crc input"
    for key, wanted in vector["expect"].items():
        check_meter(data, key, wanted)


NEVER_SENT = {"version_request_es11", "read_unit", "crc_ack_prefix"}
"""Requests for what nobody here needs, and half a frame."""
METER_ANSWERS = (glucometer_ultramini.OK + b"C108SA1BC", glucometer_ultramini.OK + bytes(4), b"\x05\x0f\x01\x00")


@pytest.mark.parametrize("vector", shared_vectors("lifescan_onetouch_ultramini"))
def test_meter_is_asked_as_other_readers_ask_it(vector: Any) -> None:
    """A whole conversation, and every frame of the vectors that belongs to it is sent as it stands there."""
    session = glucometer_ultramini.DRIVER.new_session({})
    answers = [glucometer_ultramini.build(turn % 2, message) for turn, message in enumerate(METER_ANSWERS)]
    events = session.start()
    for answer in (glucometer_ultramini.build(glucometer_ultramini.DISCONNECT), *answers):
        events += session.receive(Chunk(answer, AT))
    sent = {event.data.hex() for event in events if isinstance(event, Send)}
    assert (vector["hex"] in sent) == (vector["name"] not in NEVER_SENT)


# -- OpenView ----------------------------------------------------------------------------------------------------

TRACES = {"ecg": "ekg", "resp": "resp_impedance", "bioz": "resp_impedance", "ir": "ppg_ir", "red": "ppg_red"}
VALUES = {"temp_c": "temp", "resp_rate": "rr", "spo2": "spo2", "heart_rate": "hr_device"}


def check_openview(events: list[Event], data: bytes, key: str, wanted: Any) -> None:
    arrays = {event.metric: event for event in events if isinstance(event, SampleArray)}
    (observation,) = (event for event in events if isinstance(event, Observation))
    if key in TRACES:
        assert arrays[TRACES[key]].samples.tolist() == (wanted if isinstance(wanted, list) else [wanted])
    elif key in VALUES:
        assert observation.quantities[VALUES[key]].value == wanted
    elif key == "lead_off":
        assert arrays["ekg"].lead_off == wanted
    elif key == "type":
        assert data[4] == wanted
    else:
        pytest.fail(f"nobody checks {key!r}")


@pytest.mark.parametrize("vector", shared_vectors("protocentral_openview"))
def test_openview(vector: Any) -> None:
    events = ekg_openview.DRIVER.new_session({}).receive(Chunk(data_of(vector), AT))
    assert not any(isinstance(event, Fault) for event in events)
    for key, wanted in vector["expect"].items():
        check_openview(events, data_of(vector), key, wanted)
    # 80 and 120 are constants of the firmware; as a blood pressure they would be the most dangerous number here.
    for event in events:
        if isinstance(event, Observation):
            assert not {"bp_sys", "bp_dia", "bp_map"} & set(event.quantities)
            assert not {80.0, 120.0} & {quantity.value for quantity in event.quantities.values()}


# -- IEEE 11073 numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", shared_vectors("ieee11073_floats"))
def test_float(vector: Any) -> None:
    cursor = Cursor(data_of(vector))
    found: MedFloat = cursor.sfloat() if vector["kind"].startswith("SFLOAT") else cursor.float32()
    assert cursor.left == 0
    wanted = vector["expect"]["value"]
    if isinstance(wanted, str):
        assert found.text == wanted
        assert found.value is None
    else:
        assert found.value == wanted
        assert float(found.text) == wanted
    assert set(vector["expect"]) == {"value"}


# -- time, battery, PnP ------------------------------------------------------------------------------------------


def _date_time(data: bytes) -> dict[str, Any]:
    return {"date_time": gatt.date_time(data)}


def _current_time(data: bytes) -> dict[str, Any]:
    time = gatt.current_time(data)
    return {
        "date_time": time.at,
        "day_of_week": time.weekday,
        "fractions256": time.fractions256,
        "adjust_reason": time.adjust_reason,
    }


DST_NAMES = {0: "standard", 30: "half_hour_daylight", 60: "daylight", 120: "double_daylight"}


def _dst(data: bytes) -> dict[str, Any]:
    minutes = gatt.dst_minutes(data)
    return {"dst": None if minutes is None else DST_NAMES[minutes]}


def _pnp(data: bytes) -> dict[str, Any]:
    found = gatt.pnp_id(data)
    names = ("vendor_id_source", "vendor_id", "product_id", "product_version")
    return dict(zip(names, found, strict=True))


DECODERS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "2A08": _date_time,
    "2A2B": _current_time,
    "2A0E": lambda data: {"offset_min": gatt.time_zone_minutes(data)},
    "2A0D": _dst,
    "2A19": lambda data: {"percent": gatt.battery_percent(data)},
    "2A50": _pnp,
}


@pytest.mark.parametrize("vector", shared_vectors("gatt_time_device_battery"))
def test_time_device_battery(vector: Any) -> None:
    decode = DECODERS[vector["kind"]]
    expect: Expect = vector["expect"]
    if "error" in expect:
        with pytest.raises(gatt.BadValue) as refused:
            decode(data_of(vector))
        assert refused.value.code == expect["error"]
        return
    found = decode(data_of(vector))
    for key, wanted in expect.items():
        value = found[key]
        assert (value.text if isinstance(value, WireDateTime) else value) == (
            wall(wanted) if key == "date_time" else wanted
        )


BOOKED = [
    vector
    for vector in shared_vectors("gatt_time_device_battery")
    if vector.values[0] is None or vector.values[0]["kind"] in ("2A19", "2A2B")
]


@pytest.mark.parametrize("vector", BOOKED)
def test_cuff_takes_battery_and_clock(vector: Any) -> None:
    """The same bytes through the driver: a bad value is a fault with the code of the vector, never a number."""
    channel = vector["kind"].lower()
    (event,) = bp_gatt.DRIVER.new_session({}).receive(Chunk(data_of(vector), AT, channel))
    expect: Expect = vector["expect"]
    if "error" in expect:
        assert isinstance(event, Fault)
        assert event.code == expect["error"]
    else:
        assert isinstance(event, DeviceInfo)
        assert event.battery == expect.get("percent")
        assert event.clock == (wall(expect["date_time"]) if "date_time" in expect else "")
