"""Simulated devices against the published bytes, their own seeds, and the settings that make them."""

import asyncio
import struct
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import serial
from bleak import BleakClient, BleakScanner

from simulators.bp_gatt import Cuff
from simulators.core import scenario
from simulators.core.blood_pressure import Reading, encode_cuff_pressure
from simulators.core.gatt import AttError
from simulators.core.handover import Handover
from simulators.core.physiology import Physiology, Profile
from simulators.core.registry import Setup, complete, find, load_all
from simulators.core.run import make_all, run
from simulators.core.samples import Samples
from simulators.ekg_openview import OpenView, Panel, encode_ads1292r, encode_v4, encode_v5_ekg, encode_v5_ppg
from simulators.thermometer_gatt import SITES, Temperature, Thermometer, temperature
from tests.shared import shared_vectors
from vitals.cli import demo_settings
from vitals.clock import NS, SystemClock
from vitals.errors import SettingsError
from vitals.model import Chunk, Send, Validity
from vitals.settings import Simulate, SimulatedDevice, load
from vitals.wire import MedFloat, WireDateTime, med_float

START = 1_764_000_000 * NS
MS = NS // 1000


def setup(kind: str, seed: int = 1, patient: Physiology | None = None, **options: Any) -> Setup:
    chosen = complete(kind, find(kind).options, options)
    return Setup(seed, patient or Physiology(seed), START, chosen, ZoneInfo("America/Chicago"))


# --- published bytes -------------------------------------------------------------------------------------------------


def _number(value: float | str) -> MedFloat:
    return MedFloat(0, 0, Validity.NOT_A_NUMBER) if value == "NaN" else med_float(f"{value:g}")


_STATUS = {"body_movement": 1, "cuff_too_loose": 2, "irregular_pulse": 4, "improper_position": 32}
_RANGE = {None: 0, "in_range": 0, "above_upper": 8, "below_lower": 16}


def _standard(vector: dict[str, Any] | None) -> bool:
    """A whole measurement of a device that keeps to the standard (Beurer's BM85 does not)."""
    if vector is None:
        return True
    measured = vector["kind"] == "2A35" and {"systolic", "pulse_rate", "map"} <= set(vector["expect"])
    return measured and not int(vector["hex"][:2], 16) & 0xE0


@pytest.mark.shared
@pytest.mark.parametrize("vector", [p for p in shared_vectors("gatt_blood_pressure") if _standard(p.values[0])])
def test_cuff_encodes_the_published_measurements(vector: dict[str, Any]) -> None:
    expect = vector["expect"]
    data = bytes.fromhex(vector["hex"])
    flags = data[0]
    status = sum(_STATUS[flag] for flag in expect.get("status_flags", ())) | _RANGE[expect.get("pulse_range")]
    reading = Reading(
        _number(expect["systolic"]), _number(expect["diastolic"]), _number(expect["map"]), bool(flags & 1),
        WireDateTime(int.from_bytes(data[7:9], "little"), *data[9:14]) if flags & 2 else None,
        _number(expect["pulse_rate"]) if flags & 4 else None,
        expect["user_id"] if flags & 8 else None,
        status if flags & 16 else None,
    )  # fmt: skip
    ours = reading.encode()
    assert (ours[0], len(ours)) == (flags, len(data))
    assert [_meaning(ours[at : at + 2]) for at in (1, 3, 5)] == [_meaning(data[at : at + 2]) for at in (1, 3, 5)]
    assert ours[7:] == data[7:]


def _meaning(word: bytes) -> float | str:
    """An SFLOAT by a second, independent reading of the standard: the same number has several encodings."""
    (value,) = struct.unpack("<H", word)
    special = {0x07FF: "nan", 0x0800: "nres", 0x07FE: "+inf", 0x0802: "-inf", 0x0801: "reserved"}.get(value)
    if special:
        return special
    mantissa, exponent = value & 0xFFF, value >> 12
    mantissa -= 4096 if mantissa > 2047 else 0
    exponent -= 16 if exponent > 7 else 0
    return round(mantissa * 10.0**exponent, 6)


def test_worked_value_of_the_standard() -> None:
    reading = Reading(
        med_float("18.9"), MedFloat(11, 0, Validity.VALID), med_float("15.9"), True,
        pulse=MedFloat(60, 0, Validity.VALID), status=0x12,
    )  # fmt: skip
    assert reading.encode().hex() == "15bdf00b009ff03c001200"
    assert encode_cuff_pressure(120).hex() == "007800ff07ff07"


def _thermometer(kind: str) -> list[Any]:
    """Whole values of one characteristic of the published set."""
    published = shared_vectors("gatt_health_thermometer")
    return [
        p
        for p in published
        if not p.values[0] or (p.values[0]["kind"] == kind and "error" not in p.values[0]["expect"])
    ]


@pytest.mark.shared
@pytest.mark.parametrize("vector", _thermometer("2A1C"))
def test_thermometer_encodes_the_published_measurements(vector: dict[str, Any]) -> None:
    expect = vector["expect"]
    value, when = expect["temperature"], expect.get("timestamp")
    reading = Temperature(
        MedFloat(0, 0, Validity.NOT_A_NUMBER) if value == "NaN" else med_float(f"{value:.2f}"),
        expect["unit"] == "F",
        WireDateTime(*datetime.fromisoformat(when).timetuple()[:6]) if when else None,
        SITES[expect["type"]] if expect.get("type") else None,
    )
    assert reading.encode().hex() == vector["hex"]


@pytest.mark.shared
@pytest.mark.parametrize("vector", _thermometer("2A1D"))
def test_thermometer_shows_the_published_types(vector: dict[str, Any]) -> None:
    thermometer = Thermometer(setup("thermometer_gatt", site=vector["expect"]["type"], static_site=True))
    assert table_value(thermometer, "2a1d") == bytes.fromhex(vector["hex"])


def test_worked_value_of_the_thermometer_service() -> None:
    reading = Temperature(med_float("37.60"), stamp=WireDateTime(2012, 12, 5, 11, 50, 27), site=SITES["finger"])
    assert reading.encode().hex() == "06b00e00fedc070c050b321b04"
    assert temperature(37.04, fahrenheit=False).text == "37.0"
    assert temperature(37.0, fahrenheit=True).text == "98.6"


def table_value(device: Thermometer, channel: str) -> bytes | None:
    """What the table gives for `channel`; None when it is not there."""
    found = [c.value for service in device.table for c in service.characteristics if c.uuid == channel]
    return found[0] if found else None


@pytest.mark.shared
@pytest.mark.parametrize("vector", shared_vectors("protocentral_openview"))
def test_boards_encode_the_published_packets(vector: dict[str, Any]) -> None:
    e = vector["expect"]
    panel = Panel(e.get("heart_rate", 0), e.get("resp_rate", 0), e.get("spo2", 0), e.get("temp_c", 0.0))
    if vector["name"] == "v4_type2":
        packet = encode_v4(_samples([e["ecg"]], [e["resp"]], [e["ir"]], [e["red"]]), panel)[0]
    elif vector["name"] == "ads1292r_type2":
        packet = encode_ads1292r(_samples([e["ecg"]], [e["resp"]]), panel)[0]
    elif vector["name"] == "v5_type3":
        packet = encode_v5_ekg(_samples(e["ecg"], np.repeat(e["bioz"], 2)), panel)[0]
    else:
        pytest.fail(f"no encoder for {vector['name']}")
    assert packet.hex() == vector["hex"]


def _samples(ekg: Any, resp: Any, ir: Any = None, red: Any = None) -> Samples:
    def counts(values: Any) -> Any:
        return np.zeros(len(ekg), np.int32) if values is None else np.asarray(values, np.int32)

    return Samples(counts(ekg), counts(resp), counts(ir), counts(red))


# --- the board -------------------------------------------------------------------------------------------------------


def parse(stream: bytes, tail: bytes) -> list[tuple[int, bytes]]:
    """Packets of a clean stream, by the layout alone."""
    packets = []
    while stream:
        assert stream[:2] == b"\x0a\xfa"
        length = int.from_bytes(stream[2:4], "little")
        end = 5 + length
        assert stream[end : end + len(tail)] == tail
        packets.append((stream[4], stream[5:end]))
        stream = stream[end + len(tail) :]
    return packets


def play(board: OpenView, seconds: float, step_ms: int = 20) -> bytes:
    ticks = range(step_ms, round(seconds * 1000) + 1, step_ms)
    return b"".join(send.data for at in ticks for send in board.advance(START + at * MS))


def test_v4_sends_its_patient_at_its_rate() -> None:
    patient = Physiology(1)
    packets = parse(play(OpenView(setup("ekg_openview", patient=patient)), 60.0), b"\x00\x0b")
    assert len(packets) == 60 * 125
    assert {kind for kind, _ in packets} == {2}
    fields = struct.unpack("<hhiiH6B", packets[-1][1])
    state = patient.at(60.0)
    assert fields[5:8] == (round(state.rr), round(state.spo2), round(state.hr))
    assert fields[4] == pytest.approx(state.temp * 100, abs=1)
    assert fields[8:10] == (80, 120)
    assert fields[10] & 0x1F == 0
    ekg = np.array([struct.unpack_from("<h", body)[0] for _, body in packets])
    assert 100 < ekg.max() < 400, "an R wave of about 1 mV at 5 uV a count"


def test_step_width_does_not_change_the_stream() -> None:
    assert play(OpenView(setup("ekg_openview")), 6.0, 20) == play(OpenView(setup("ekg_openview")), 6.0, 1000)
    assert play(OpenView(setup("ekg_openview", seed=2)), 6.0) != play(OpenView(setup("ekg_openview")), 6.0)


def test_saturation_by_spo2_is_in_the_light() -> None:
    def ratio(condition: str) -> float:
        board = OpenView(setup("ekg_openview", patient=Physiology(1, Profile(condition=condition))))
        rows = np.array([struct.unpack_from("<hhii", body)[2:] for _, body in parse(play(board, 20), b"\x00\x0b")])
        ac_dc = (rows.max(axis=0) - rows.min(axis=0)) / rows.mean(axis=0)
        return float(ac_dc[1] / ac_dc[0])

    assert 110 - 25 * ratio("healthy") == pytest.approx(98, abs=2)
    assert ratio("hypoxia") > ratio("healthy") + 0.2


def test_lead_off_zeroes_what_comes_from_the_electrodes() -> None:
    board = OpenView(setup("ekg_openview", patient=Physiology(1, Profile(condition="lead_off"))))
    for _, body in parse(play(board, 1.0), b"\x00\x0b"):
        ekg, resp, _, _, temp, rr, spo2, hr, _, _, status = struct.unpack("<hhiiH6B", body)
        assert (ekg, resp, rr, hr) == (0, 0, 0, 0)
        assert status & 0x1F
        assert temp > 3_000
        assert spo2 > 80


def test_v5_packs_eight_samples_and_sends_light_apart() -> None:
    packets = parse(play(OpenView(setup("ekg_openview", board="v5")), 40.0), b"\x0b")
    kinds = Counter(kind for kind, _ in packets)
    assert kinds[3] == 40 * 125 // 8
    assert kinds[4] == pytest.approx(40 * 100 / 8, abs=1)
    assert {len(body) for kind, body in packets if kind == 3} == {50}
    assert {len(body) for kind, body in packets if kind == 4} == {19}
    assert len(encode_v5_ppg(np.zeros(8, np.int16), Panel())) == 5 + 19 + 1


def test_shield_has_packets_of_its_own() -> None:
    packets = parse(play(OpenView(setup("ekg_openview", board="ads1292r")), 2.0), b"\x0b")
    assert {(kind, len(body)) for kind, body in packets} == {(2, 8)}


def test_a_long_pause_is_skipped_not_made_up() -> None:
    board = OpenView(setup("ekg_openview"))
    board.advance(START + NS)
    started = time.process_time()
    board.advance(START + 8 * 3600 * NS)
    assert time.process_time() - started < 1
    assert board.skipped == (8 * 3600 - 1) * 125
    assert board.sent == 8 * 3600 * 125
    assert len(board.advance(START + (8 * 3600 + 1) * NS)) == 125


# --- the cuff --------------------------------------------------------------------------------------------------------


def run_device(device: Handover, begin_s: float, end_s: float) -> list[Send]:
    sends: list[Send] = []
    for ms in range(round(begin_s * 1000), round(end_s * 1000), 50):
        sends += device.advance(START + ms * MS)
    return sends


def test_cuff_inflates_reports_and_hangs_up() -> None:
    patient = Physiology(3)
    cuff = Cuff(setup("bp_gatt", patient=patient, first_s=2.0, user=2))
    assert run_device(cuff, 0, 1.9) == []
    assert not cuff.advertising
    run_device(cuff, 1.9, 2.1)
    assert cuff.advertising
    cuff.connected(START + 2_100 * MS)
    cuff.subscribed("2a35", True, START + 2_200 * MS)
    cuff.subscribed("2a36", True, START + 2_250 * MS)
    sends = run_device(cuff, 2.2, 11.5)
    channels = Counter(send.channel for send in sends)
    assert channels["2a36"] == pytest.approx(40, abs=2)
    assert channels["2a35"] == 1
    pressures = [_meaning(s.data[1:3]) for s in sends if s.channel == "2a36"]
    state = patient.at(10.0)
    assert max(p for p in pressures if isinstance(p, float)) > state.sys
    value = sends[-1].data
    assert value[0] == 0b11110
    assert _meaning(value[1:3]) == pytest.approx(state.sys, abs=8)
    assert _meaning(value[3:5]) == pytest.approx(state.dia, abs=8)
    assert _meaning(value[14:16]) == pytest.approx(state.hr, abs=3)
    assert value[16] == 2
    at = datetime(int.from_bytes(value[7:9], "little"), *value[9:14], tzinfo=ZoneInfo("America/Chicago"))
    assert abs(at.timestamp() - (START / NS + 10.7)) < 1.5, "local wall time of the cuff's zone"
    assert not cuff.hanging_up, "not before it is confirmed"
    cuff.confirmed(sends[-1], START + 11_500 * MS)
    assert not cuff.hanging_up
    run_device(cuff, 11.5, 12.0)
    assert cuff.hanging_up


def test_unconfirmed_readings_are_kept_and_sent_again() -> None:
    cuff = Cuff(setup("bp_gatt", first_s=1.0, interval_s=400.0))
    run_device(cuff, 0, 1.1)
    cuff.connected(START + 1_100 * MS)
    cuff.subscribed("2a35", True, START + 1_100 * MS)
    first = run_device(cuff, 1.1, 12)[-1]
    cuff.disconnected(START + 12_000 * MS)
    run_device(cuff, 12.0, 13.0)
    assert not cuff.advertising, "it rests before it tries again"
    run_device(cuff, 13.0, 18.0)
    assert cuff.advertising
    cuff.connected(START + 18_000 * MS)
    cuff.subscribed("2a35", True, START + 18_000 * MS)
    assert run_device(cuff, 18.0, 20.0) == [first]


def test_measures_without_a_host_and_keeps_a_bounded_memory() -> None:
    cuff = Cuff(setup("bp_gatt", first_s=1.0, interval_s=10.0, advertise_s=1.0, inflate_s=1.0))
    for second in range(600):
        cuff.advance(START + second * NS)
    assert len(cuff.stored) == 30
    cuff.connected(START + 600 * NS)
    cuff.subscribed("2a35", True, START + 600 * NS)
    sends = [s for s in cuff.advance(START + 601 * NS) if s.channel == "2a35"]
    stamps = [struct.unpack("<H5B", s.data[7:14]) for s in sends]
    assert stamps == sorted(stamps), "oldest first"


def test_cuff_units_failures_and_clock() -> None:
    failing = Cuff(setup("bp_gatt", first_s=1.0, fail_rate=1.0, inflate_s=1.0, advertise_s=0.0))
    run_device(failing, 0, 4)
    assert failing.stored[0][:7].hex() == "16ff07ff07ff07"
    assert failing.stored[0][14:].hex() == "ff070000"
    metric = Cuff(setup("bp_gatt", first_s=1.0, unit="kPa", inflate_s=1.0, advertise_s=0.0, stamp=False))
    run_device(metric, 0, 4)
    assert metric.stored[0][0] & 3 == 1
    systolic = _meaning(metric.stored[0][1:3])
    assert isinstance(systolic, float)
    assert 12 < systolic < 22
    now = metric.read("2a2b", START)
    assert now is not None
    assert len(now) == 10
    metric.respond(Chunk(bytes.fromhex("ea07010203040500 00 00".replace(" ", "")), START, "2a2b"))
    assert (metric.read("2a2b", START) or b"")[:7].hex() == "ea070102030405"
    for wrong in ("ea0701", "ea070d02030405000000", "00000000000000000000"):
        with pytest.raises(AttError):
            metric.respond(Chunk(bytes.fromhex(wrong), START, "2a2b"))


@pytest.mark.parametrize(("given", "first"), [({"first_s": 2.0}, 2.0), ({}, 0.5)])
def test_a_cuff_may_measure_more_than_once_a_second(given: dict[str, Any], first: float) -> None:
    busy = Cuff(setup("bp_gatt", interval_s=0.5, inflate_s=0.1, advertise_s=0.0, **given))
    assert busy._due == START + round(first * NS)


def test_same_seed_same_cuff() -> None:
    def story(seed: int) -> list[bytes]:
        cuff = Cuff(setup("bp_gatt", seed=seed, interval_s=20.0, advertise_s=1.0))
        run_device(cuff, 0, 120)
        return list(cuff.stored)

    assert story(4) == story(4) != story(5)


# --- the thermometer -------------------------------------------------------------------------------------------------


def celsius(value: bytes) -> float:
    """The FLOAT of a value in tenths, by the layout alone."""
    assert value[4:5] == b"\xff", "exponent -1"
    return int.from_bytes(value[1:4], "little", signed=True) / 10


def listen(device: Handover, at_ms: int, *channels: str) -> None:
    device.connected(START + at_ms * MS)
    for channel in channels:
        device.subscribed(channel, True, START + at_ms * MS)


def test_thermometer_climbs_reports_and_hangs_up() -> None:
    patient = Physiology(3)
    thermometer = Thermometer(setup("thermometer_gatt", patient=patient, first_s=2.0, site="armpit"))
    assert run_device(thermometer, 0, 2.0) == []
    assert not thermometer.advertising
    run_device(thermometer, 2.0, 2.5)
    assert thermometer.advertising, "it can be found while it measures"
    listen(thermometer, 2_500, "2a1c", "2a1e")
    sends = run_device(thermometer, 2.5, 9)
    climbing, results = ([s.data for s in sends if s.channel == uuid] for uuid in ("2a1e", "2a1c"))
    assert len(climbing) == pytest.approx(11, abs=1)
    assert {(value[0], len(value), value[5]) for value in climbing} == {(0b100, 6, 1)}, "type, no time stamp"
    temps = [celsius(value) for value in climbing]
    assert temps == sorted(temps)
    assert temps[0] < temps[-1] - 1
    (value,) = results
    assert (value[0], len(value), value[12]) == (0b110, 13, 1)
    assert celsius(value) == pytest.approx(patient.at(8.0).temp, abs=0.3)
    at = datetime(int.from_bytes(value[5:7], "little"), *value[7:12], tzinfo=ZoneInfo("America/Chicago"))
    assert abs(at.timestamp() - (START / NS + 8.0)) < 1.5, "local wall time of the thermometer's zone"
    assert not thermometer.hanging_up, "not before it is confirmed"
    thermometer.confirmed(sends[-1], START + 9_000 * MS)
    run_device(thermometer, 9, 9.5)
    assert thermometer.hanging_up
    thermometer.disconnected(START + 9_500 * MS)
    run_device(thermometer, 9.5, 20)
    assert not thermometer.advertising, "idle until the next run"


def test_thermometer_tells_the_climb_only_to_who_subscribed() -> None:
    thermometer = Thermometer(setup("thermometer_gatt", first_s=1.0))
    run_device(thermometer, 0, 1.5)
    listen(thermometer, 1_500, "2a1c")
    assert [send.channel for send in run_device(thermometer, 1.5, 8)] == ["2a1c"]


def test_thermometer_keeps_what_is_not_confirmed() -> None:
    thermometer = Thermometer(setup("thermometer_gatt", first_s=1.0, interval_s=10.0))
    run_device(thermometer, 0, 28)
    kept = list(thermometer.stored)
    assert len(kept) == 3
    listen(thermometer, 28_000, "2a1c")
    sends = run_device(thermometer, 28, 29)
    assert [send.data for send in sends] == kept, "oldest first"
    thermometer.confirmed(sends[0], START + 29_000 * MS)
    thermometer.disconnected(START + 29_000 * MS)
    run_device(thermometer, 29, 30)
    assert not thermometer.advertising, "it rests before it tries again"
    run_device(thermometer, 30, 35)
    assert thermometer.advertising
    listen(thermometer, 35_000, "2a1c")
    assert [send.data for send in run_device(thermometer, 35, 36)] == kept[1:]


def test_thermometer_units_sites_failures_and_clock() -> None:
    def reading(**options: Any) -> bytes:
        thermometer = Thermometer(setup("thermometer_gatt", first_s=1.0, **options))
        run_device(thermometer, 0, 8)
        return thermometer.stored[0]

    assert reading(fail_rate=1.0, stamp=False).hex() == "04ffff7f0006"
    warm = reading(unit="degF", stamp=False, static_site=True)
    assert (warm[0], len(warm)) == (1, 5)
    assert celsius(warm) == pytest.approx(celsius(reading()) * 1.8 + 32, abs=0.2)
    assert int.from_bytes(reading(clock_skew_s=366 * 86_400.0)[5:7], "little") == 2026
    thermometer = Thermometer(setup("thermometer_gatt"))
    assert table_value(thermometer, "2a1d") is None, "the type is in the reading"
    assert b"simulated" in (table_value(thermometer, "2a29") or b"")
    thermometer.respond(Chunk(bytes.fromhex("ea070102030405000000"), START, "2a2b"))
    assert (thermometer.read("2a2b", START) or b"")[:7].hex() == "ea070102030405"
    for wrong in ({"unit": "K"}, {"site": "elbow"}):
        with pytest.raises(ValueError, match="unknown"):
            reading(**wrong)


def test_same_seed_same_thermometer() -> None:
    def story(seed: int) -> list[bytes]:
        thermometer = Thermometer(setup("thermometer_gatt", seed=seed, interval_s=20.0))
        run_device(thermometer, 0, 120)
        return list(thermometer.stored)

    assert story(4) == story(4) != story(5)


# --- settings --------------------------------------------------------------------------------------------------------


def test_every_simulator_is_found_by_existing() -> None:
    stems = {p.stem for p in (Path(__file__).parents[1] / "simulators").glob("*.py")} - {"__init__", "__main__"}
    assert set(load_all()) == stems
    assert {kind.name: kind.transport for kind in load_all().values()}["bp_gatt"] == "ble"


ROOM = [
    SimulatedDevice(kind="bp_gatt", room="exam-1", address="C0:00:00:00:00:01", options={"age": 70, "first_s": 1.0}),
    SimulatedDevice(kind="ekg_openview", room="exam-1", link="/tmp/ekg-1", options={"profile": "fever"}),
]


def test_devices_of_a_room_share_the_patient() -> None:
    made = make_all(Simulate(seed=5, air_socket="/tmp/a", devices=ROOM), START, ZoneInfo("UTC"))
    patients = [simulator._setup.patient for _, simulator in made]  # type: ignore[attr-defined]
    assert patients[0] is patients[1]
    assert patients[0].profile.age_years == 70
    assert patients[0].profile.condition == "fever"


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ([SimulatedDevice(kind="toaster", room="r", link="/tmp/x")], "no simulated device 'toaster'"),
        ([SimulatedDevice(kind="ekg_openview", room="r")], "no place to appear"),
        ([SimulatedDevice(kind="bp_gatt", room="r", link="/tmp/x")], "no place to appear"),
        ([SimulatedDevice(kind="ekg_openview", room="r", link="/x", options={"speed": 1})], "no option 'speed'"),
        ([SimulatedDevice(kind="ekg_openview", room="r", link="/x", options={"rate_hz": "a"})], "wrong type"),
        ([SimulatedDevice(kind="ekg_openview", room="r", link="/x", options={"board": "v9"})], "cannot be made"),
        ([SimulatedDevice(kind="ekg_openview", room="r", link="/x", options={"profile": "?"})], "profile is wrong"),
        ([SimulatedDevice(kind="ekg_openview", room="r", link="/x", options={"episodes": "fever@x"})], "episode"),
        ([SimulatedDevice(kind="ekg_openview", room=r, link="/x") for r in "ab"], "same link"),
        ([*ROOM, SimulatedDevice(kind="ekg_openview", room="exam-1", link="/y", options={"age": 3})], "disagree"),
    ],
)
def test_wrong_settings_are_explained_before_anything_starts(devices: list[SimulatedDevice], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        make_all(Simulate(air_socket="/tmp/a", devices=devices), START, ZoneInfo("UTC"))
    assert refused.value.expected
    assert refused.value.do


def test_each_device_of_the_demo_has_its_reader(tmp_path: Path) -> None:
    written = demo_settings.write(
        tmp_path, scenario.load("busy-morning"), rooms=9, board_port=1, broker_port=2, window=10, seed=3
    )
    read = load(written)
    made = make_all(read.simulate, START, ZoneInfo("UTC"))
    assert Counter(device.kind for device, _ in made) == {fitting.kind: 9 for fitting in demo_settings.FITTINGS}
    simulated = {(d.kind, d.room, d.address, d.link) for d, _ in made}
    assert simulated == {(d.driver, d.room, d.address, d.port) for d in read.gateway.devices}


def bytes_of_a_clinic(folder: Path) -> dict[str, bytes]:
    """What the lines of a demo in that folder send in its first minute, by kind and room."""
    written = demo_settings.write(
        folder, scenario.load("lead-off"), board_port=1, broker_port=2, window=10, seed=3
    )  # fmt: skip
    sent = {}
    for device, simulator in make_all(load(written).simulate, START, ZoneInfo("UTC")):
        if device.link:
            knocked = simulator.respond(Chunk(bytes.fromhex("020608030cae") if "glu" in device.kind else b"", START))
            sends = [*knocked, *(send for s in range(60) for send in simulator.advance(START + s * NS))]
            sent[f"{device.kind} {device.room}"] = b"".join(send.data for send in sends)
    return sent


def test_equal_seeds_are_equal_clinics_in_whatever_folder(tmp_path: Path) -> None:
    one, other = bytes_of_a_clinic(tmp_path / "one"), bytes_of_a_clinic(tmp_path / "a" / "longer" / "name")
    assert one == other
    boards = {data for name, data in one.items() if name.startswith("ekg_openview")}
    assert len(boards) == 6, "and each room's is its own"
    assert min(map(len, boards)) > 20 * 125 * 27


def test_two_of_a_kind_in_a_room_are_not_the_same() -> None:
    devices = [
        SimulatedDevice(kind="glucometer_ultramini", room=room, link=f"/{room}{n}") for room in "ab" for n in (1, 2)
    ]
    made = make_all(Simulate(devices=devices), START, ZoneInfo("UTC"))
    assert len({simulator.serial for _, simulator in made}) == 4  # type: ignore[attr-defined]


@pytest.mark.air
def test_a_room_runs_in_real_time(tmp_path: Path) -> None:
    link, socket = tmp_path / "ekg", tmp_path / "air.sock"
    from simulators.links.air import air_backends

    client, scanner = air_backends(socket)
    devices = [
        SimulatedDevice(
            kind="bp_gatt", room="exam-1", address="C0:00:00:00:00:01",
            options={"first_s": 0.1, "inflate_s": 1.0, "mischief": "repeat=0.000001"},
        ),
        SimulatedDevice(kind="ekg_openview", room="exam-1", link=str(link)),
    ]  # fmt: skip

    async def story() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(
            run(Simulate(seed=1, air_socket=str(socket), devices=devices), SystemClock(), stop, zone=ZoneInfo("UTC"))
        )
        while not link.is_symlink():
            await asyncio.sleep(0.01)
        with serial.Serial(str(link), timeout=2) as port:
            stream = await asyncio.to_thread(port.read, 27 * 125)
        assert stream.count(b"\x00\x0b\x0a\xfa\x14\x00\x02") >= 100
        found = await BleakScanner.find_device_by_address("C0:00:00:00:00:01", 5, backend=scanner)
        assert found is not None
        ended = asyncio.Event()
        values: list[bytes] = []
        async with BleakClient(found, lambda _c: ended.set(), backend=client) as host:
            assert b"simulated" in await host.read_gatt_char("2a29")
            await host.start_notify("2a35", lambda _c, data: values.append(bytes(data)))
            await asyncio.wait_for(ended.wait(), 10)
        assert len(values) == 1
        stop.set()
        await asyncio.wait_for(task, 5)
        assert not link.is_symlink()
        assert not socket.exists()

    asyncio.run(story())
