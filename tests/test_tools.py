"""The tools of a driver writer: `vitals decode`, `devices` and `scan`, called as people call them."""

import json
import os
import re
import shlex
import stat
import time
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason

from drivers.core import registry
from drivers.transports import nearby
from tests import vectors
from tests.clinic import Clinic
from tests.command import Run, Vitals
from tests.shared import needs_shared, shared_vectors
from tests.test_cli import refused
from tests.vectors import Step, Vector
from vitals.cli import decoding
from vitals.cli.event_json import event_line
from vitals.cli.plain import toml_table, toml_text
from vitals.driver import OptionValue
from vitals.model import Fault, Observation, Quantity, SampleArray
from vitals.settings import load

DOCS = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
AT = 1_764_000_000_000_000_000


def events(run: Run) -> list[dict[str, Any]]:
    assert run.returncode == 0, run.stderr
    return [json.loads(line, parse_constant=pytest.fail) for line in run.stdout.splitlines()]


# -- decode: every vector there is -------------------------------------------------------------------------------


def argument(step: Step) -> str:
    if step.tick_ms:
        return f"+{step.tick_ms}"
    return f"{step.channel}:{step.data.hex()}" if step.channel else step.data.hex(" ")


ALL = [vector for stem in vectors.stems() for vector in vectors.load(stem)]
PLAYABLE = [v for v in ALL if any(not s.close for s in v.steps) and not any(s.close for s in v.steps[:-1])]
DRIVERS = registry.load_all(())


def essence(event: Mapping[str, Any]) -> Any:
    """What a vector says of an event that is no sample array, from the file or from the output."""
    kind = {"info": "device_info"}.get(event.get("type", ""), event.get("type") or event["event"])
    if kind == "observation":
        got = {
            metric: (q.get("raw"), q.get("raw_unit"), q.get("validity") or "valid", q.get("comparator"))
            for metric, q in event["quantities"].items()
        }
        return kind, event["kind"], event.get("t_device", ""), tuple(event.get("quality", ())), got
    if kind == "send":
        return kind, event.get("hex", event.get("data")), event.get("channel", "")
    if kind == "fault":
        return kind, event["code"]
    return kind, event.get("serial", ""), event.get("model", ""), event.get("battery"), event.get("clock", "")


def decoded(driver: str, *arguments: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What the command prints, without building the command line again for each of a hundred vectors."""
    chosen = DRIVERS[driver]
    lines = decoding.run(chosen, decoding.parse_options(chosen, options), arguments, "", decoding.RECEIVED_AT, None, ())
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


@pytest.mark.parametrize("vector", PLAYABLE, ids=lambda v: f"{v.driver}:{v.name}")
def test_a_vector_is_decoded_as_the_file_says(vector: Vector) -> None:
    options = [f"{name}={value}" for name, value in vector.options.items()]
    found = decoded(vector.driver, *(argument(s) for s in vector.steps if not s.close), options=options)
    if not vector.steps[-1].close:
        found = [event for event in found if event["step"] != "close"]
    wanted = [essence(e) for e in vector.events if e["type"] != "samples"]
    assert [essence(e) for e in found if e["event"] != "samples"] == wanted
    for metric in {e["metric"] for e in vector.events if e["type"] == "samples"}:
        samples = [n for e in found if e["event"] == "samples" and e["metric"] == metric for n in e["samples"]]
        assert samples == [n for e in vector.events if e.get("metric") == metric for n in e["samples"]]


PRESSURES = [p for p in shared_vectors("gatt_blood_pressure") if p.values[0] is None or p.values[0]["kind"] == "2A35"]


@pytest.mark.shared
@pytest.mark.parametrize("vector", PRESSURES)
def test_a_cuff_reading_of_somebody_elses_test_suite(vector: Any) -> None:
    found = decoded("bp_gatt", f"{vector['kind']}:{vector['hex']}")
    expect = vector["expect"]
    if "error" in expect:
        assert [(event["event"], event["code"]) for event in found] == [("fault", expect["error"])]
        return
    reading = found[-1]["quantities"]
    for key, metric in (("systolic", "bp_sys"), ("diastolic", "bp_dia"), ("pulse_rate", "pulse_cuff")):
        if expect.get(key) is not None:
            raw = reading[metric]["raw"]
            assert (raw if isinstance(expect[key], str) else float(raw)) == expect[key]
    if unit := expect.get("unit"):
        assert reading["bp_sys"]["raw_unit"] == {"mmHg": "mm[Hg]"}.get(unit, unit)


ASKED = ("disconnect", "read_serial", "ack_es11", "read_rtc_es11", "record_count_es00", "record_0")


@pytest.mark.shared
@needs_shared
def test_the_requests_to_a_meter_are_the_published_ones_in_their_order() -> None:
    published = {p.values[0]["name"]: p.values[0]["hex"] for p in shared_vectors("lifescan_onetouch_ultramini")}
    answers = next(v for v in ALL if v.driver == "glucometer_ultramini" and v.name == "two_records")
    sent = [e["data"] for e in decoded(answers.driver, *map(argument, answers.steps)) if e["event"] == "send"]
    places = [sent.index(published[name]) for name in ASKED]
    assert places == sorted(places)


# -- decode: how bytes are given ---------------------------------------------------------------------------------

BP = "1e8a00580078000000041114293b3c00012700"


@pytest.mark.parametrize("channel", ["2a35", "2A35", "00002a35-0000-1000-8000-00805f9b34fb"])
def test_a_characteristic_may_be_short_or_long_and_stand_in_front(vitals: Vitals, channel: str) -> None:
    by_option = vitals("decode", "bp_gatt", "--channel", channel, BP)
    assert by_option.stdout == vitals("decode", "bp_gatt", f"{channel}:{BP}").stdout
    assert events(by_option)[0]["quantities"]["bp_sys"]["value"] == 138


@pytest.mark.parametrize("text", ["0A FA 14", "0a:fa:14", "0x0a 0xFA 0x14", "0afa14", " 0afa 14\n", "0x0afa 14"])
def test_bytes_may_be_written_in_many_ways(vitals: Vitals, text: str) -> None:
    assert events(vitals("decode", "ekg_openview", text))[0]["raw"] == "0afa14"


def test_chunks_keep_their_order_and_standard_input_is_read_where_the_dash_stands(vitals: Vitals) -> None:
    run = vitals("decode", "bp_gatt", "2a19:57", "-", "2a19:58", stdin="# battery\n2a19:63\n\n2a19:60\n")
    assert [(event["step"], event["battery"]) for event in events(run)] == [("1", 87), ("2", 99), ("3", 96), ("4", 88)]


def test_the_same_bytes_give_the_same_lines_and_a_moment_may_be_set(vitals: Vitals) -> None:
    first, second = (vitals("decode", "bp_gatt", "--channel", "2a35", BP) for _ in range(2))
    assert first.stdout == second.stdout
    assert events(first)[0]["t_received"] == AT
    later = vitals("decode", "bp_gatt", "--channel", "2a35", "--at", "2026-11-24T09:00:00.5+01:00", BP)
    assert events(later)[0]["t_received"] == 1_795_507_200_500_000_000


def test_options_reach_the_driver(vitals: Vitals) -> None:
    frame = "0afa14000206ff780039650c00f1fb0900510e0e62485078c0000b"
    run = vitals("decode", "ekg_openview", "--option", "rate_hz=250", "--option", "uv_per_count=2.5", frame)
    ekg, breath = (next(e for e in events(run) if e.get("metric") == m) for m in ("ekg", "resp_impedance"))
    assert (ekg["rate"], ekg["scale"], ekg["unit"], ekg["samples"]) == (250.0, 2.5, "uV", [-250])
    assert (breath["scale"], breath["unit"]) == (None, None), "counts have no unit"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("toaster", "00"), "bp_gatt, ekg_openview"),
        (("bp_gatt", "16"), "2a35:16"),
        (("bp_gatt", "--channel", "2a3", "16"), "'2a3'"),
        (("ekg_openview", "--channel", "2a35", "16"), "no --channel"),
        (("ekg_openview", "0a f"), "'0a f'"),
        (("ekg_openview", "xy"), "'xy'"),
        (("ekg_openview", "1 6"), "'1' in '1 6'"),
        (("ekg_openview", "0x1 0x6"), "'0x1'"),
        (("ekg_openview", "1:6"), "'1:6'"),
        (("ekg_openview", "161:604"), "'161:604'"),
        (("ekg_openview", "16::04"), "'16::04'"),
        (("bp_gatt", "2a35:1 6"), "'1' in '1 6'"),
        (("glucometer_ultramini", "2a35:00"), "which has no channels"),
        (("glucometer_ultramini", "00002a35-0000-1000-8000-00805f9b34fb:00"), "which has no channels"),
        (("bp_gatt", "--capture", "x.jsonl", "--channel", "zz"), "--channel zz"),
        (("bp_gatt", "--capture", "x.jsonl", "--at", "2026-11-24T09:00:00Z"), "without --channel and --at"),
        (("ekg_openview", ""), "no digits"),
        (("ekg_openview",), "standard input"),
        (("ekg_openview", "00", "--capture", "x.jsonl"), "both"),
        (("ekg_openview", "--option", "rate_hz", "00"), "rate_hz=float"),
        (("ekg_openview", "--option", "rate_hz=fast", "00"), "rate_hz=float"),
        (("ekg_openview", "--option", "uv_per_count=nan", "00"), "uv_per_count=float"),
        (("ekg_openview", "--option", "rate_hz=0", "00"), "above 0"),
        (("ekg_openview", "--option", "rate_hz=1e300", "00"), "above 0 and below 100000, got 1e+300"),
        (("ekg_openview", "--option", "colour=red", "00"), "'colour=red'"),
        (("bp_gatt", "--option", "colour=red", "2a35:00"), "no options"),
        (("ekg_openview", "--at", "2026-11-24T09:00:00", "00"), "zone"),
        (("ekg_openview", "--at", "noon", "00"), "noon"),
    ],
)
def test_what_cannot_be_decoded_is_explained(vitals: Vitals, arguments: tuple[str, ...], named: str) -> None:
    assert named in refused(vitals("decode", *arguments), 2)


def test_lines_before_a_bad_one_are_printed(vitals: Vitals) -> None:
    run = vitals("decode", "bp_gatt", "2a19:57", "2a19:5")
    assert json.loads(run.stdout)["battery"] == 87
    assert "'5'" in refused(run, 2)


def test_no_number_in_the_output_is_anything_but_a_number() -> None:
    nan = float("nan")
    odd = Observation("x", {"temp": Quantity(nan, "?", "Cel"), "of_a_plugin": Quantity(1.0, "1", "1")}, AT)
    array = SampleArray("ekg", 0, nan, np.array([1, -2], np.int32), AT, scale=float("inf"))
    for event in (odd, array):
        json.loads(event_line(event, "1"), parse_constant=pytest.fail)
    quantities = json.loads(event_line(odd, "1"))["quantities"]
    assert (quantities["temp"]["value"], quantities["of_a_plugin"]["unit"]) == (None, None)
    assert json.loads(event_line(array, "1"))["dtype"] == "int32"
    assert json.loads(event_line(Fault("c", "d", b"\x01\xff", AT), "1"))["raw"] == "01ff"


# -- decode: the page --------------------------------------------------------------------------------------------


def documented_keys() -> dict[str, list[str]]:
    """`event` to its keys in order, from the tables of the page."""
    found: dict[str, list[str]] = {}
    for kind, table in re.findall(r"^#### `(\w+)`\n(.*?)(?=^#)", DOCS.read_text(encoding="utf-8"), re.M | re.S):
        found[kind] = re.findall(r"^\| `([\w.]+)` \|", table, re.M)
    return found


def keys(event: Mapping[str, Any]) -> list[str]:
    """Keys as the page lists them: the parts of `context` and of one quantity with a dot."""
    found: list[str] = []
    for key, value in event.items():
        found.append(key)
        part = next(iter(value.values()), {}) if key == "quantities" else value
        found += [f"{key}.{name}" for name in part] if isinstance(part, dict) else []
    return found


def test_the_page_lists_every_key_of_every_line(vitals: Vitals) -> None:
    frame = "0afa14000206ff780039650c00f1fb0900510e0e62485078c0000b"
    found = events(vitals("decode", "ekg_openview", frame, "0afa"))
    found += events(vitals("decode", "glucometer_ultramini", "02060803c262"))
    found += events(vitals("decode", "bp_gatt", "2a19:57"))
    by_kind = {event["event"]: keys(event) for event in found}
    assert by_kind == documented_keys()


def test_the_examples_of_the_page_are_true(vitals: Vitals) -> None:
    blocks = re.findall(r"```console\n\$ vitals (decode .*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 3
    for block in blocks:
        command, _, output = block.replace("\\\n", "").partition("\n")
        assert vitals(*shlex.split(command)).stdout == output, command


# -- devices -----------------------------------------------------------------------------------------------------


def test_every_driver_is_listed(vitals: Vitals) -> None:
    found = json.loads(vitals("devices", "--json").stdout)
    drivers = registry.load_all()
    assert [row["name"] for row in found["drivers"]] == sorted(drivers)
    cuff = next(row for row in found["drivers"] if row["name"] == "bp_gatt")
    assert (cuff["transport"], cuff["evidence"], cuff["simulator"]) == ("ble", "strong", True)
    assert cuff["metrics"] == ["bp_sys", "bp_dia", "bp_map", "pulse_cuff", "cuff_pressure"]
    assert cuff["faults"] == len(drivers["bp_gatt"].faults)
    text = vitals("devices").stdout
    assert [name for name in drivers if f"{name}: {drivers[name].title}" not in text] == []


def test_a_plug_in_that_did_not_load_is_shown(vitals: Vitals, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EntryPoint("scale", "no_such_scale:DRIVER", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [plugin])
    (failure,) = json.loads(vitals("devices", "--json").stdout)["failures"]
    assert "no_such_scale" in failure["source"]
    run = vitals("devices")
    assert run.returncode == 0
    assert "NOT LOADED: plug-in scale = no_such_scale:DRIVER\n  cannot be imported: ModuleNotFoundError" in run.stdout


# -- scan --------------------------------------------------------------------------------------------------------

CLINIC = """
[broker]
port = {broker}
[board]
port = {board}
[[board.rooms]]
id = "3"
[gateway.ble]
backend = "air"
air_socket = "air"
[[gateway.devices]]
name = "known"
driver = "thermometer_gatt"
room = "3"
address = "c0:00:00:00:00:02"
[simulate]
air_socket = "air"
[[simulate.devices]]
kind = "bp_gatt"
room = "3"
address = "C0:00:00:00:00:01"
options = {{ first_s = 0.1, interval_s = 2.0 }}
[[simulate.devices]]
kind = "thermometer_gatt"
room = "3"
address = "C0:00:00:00:00:02"
options = {{ first_s = 0.1, interval_s = 2.0 }}
[[simulate.devices]]
kind = "ekg_openview"
room = "3"
link = "tty"
"""


@pytest.mark.air
def test_scan_finds_the_simulated_clinic_and_its_blocks_are_settings(
    tmp_path: Path, vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parents[1]))
    clinic = Clinic(tmp_path, CLINIC, broker_port=1)
    clinic.start("simulate")
    try:
        deadline = time.monotonic() + 60
        found: dict[str, Any] = {"bluetooth": {"devices": []}}
        while len(found["bluetooth"]["devices"]) < 2 and time.monotonic() < deadline:
            found = json.loads(vitals("scan", "--json", "--seconds", "1").stdout)
        text = vitals("scan", "--config", "vitals.toml", "--seconds", "1").stdout
        tty = str(tmp_path / "tty")
        line = next(row for row in found["serial"] if row["port"] == tty)
    finally:
        clinic.stop_all()
    assert (line["description"], line["drivers"]) == ("pseudo terminal", ["ekg_openview"])
    heard = {row["address"]: row for row in found["bluetooth"]["devices"]}
    cuff, thermometer = heard["C0:00:00:00:00:01"], heard["C0:00:00:00:00:02"]
    assert (cuff["name"], cuff["services"], cuff["drivers"]) == ("SIM-BP", ["1810"], ["bp_gatt"])
    assert (thermometer["drivers"], thermometer["device"]) == (["thermometer_gatt"], "known")
    assert "C0:00:00:00:00:02, SIM-TEMP" in text
    assert "in the settings as 'known'" in text
    blocks = text.partition("For the settings file")[2].partition("\n\n")[2]
    pasted = tmp_path / "pasted.toml"
    pasted.write_text(f'[gateway.ble]\nbackend = "air"\nair_socket = "air"\n{blocks}', encoding="utf-8")
    places = {
        device.port or device.address: (device.driver, device.room) for device in load(pasted, {}).gateway.devices
    }
    assert places[tty] == ("ekg_openview", "3")
    assert places["C0:00:00:00:00:01"] == ("bp_gatt", "3")
    assert "C0:00:00:00:00:02" not in places
    assert vitals("check-config", "--config", str(pasted)).returncode == 0


class NoAdapter:
    """What bleak does where there is no Bluetooth."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None: ...

    async def __aenter__(self) -> None:
        raise BleakBluetoothNotAvailableError("no adapter", BleakBluetoothNotAvailableReason.NO_BLUETOOTH)

    async def __aexit__(self, *_exc_info: object) -> None: ...


class Port:
    device = "/dev/ttyUSB7"
    description = "FT232R USB UART"
    vid, pid = 0x0403, 0x6001

    def __lt__(self, _other: object) -> bool:
        return False


def test_without_bluetooth_the_serial_lines_are_listed_all_the_same(
    tmp_path: Path, vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting = tmp_path / "by-id"
    lasting.mkdir()
    monkeypatch.setattr(nearby, "BleakScanner", NoAdapter)
    monkeypatch.setattr(nearby, "BY_ID", lasting)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [Port()])
    run = vitals("scan")
    assert run.returncode == 0
    assert "/dev/ttyUSB7, FT232R USB UART, 0403:6001, ekg_openview, glucometer_ultramini" in run.stdout
    assert "Bluetooth:\n  not available: no adapter" in run.stdout
    assert 'port = "/dev/ttyUSB7"' in run.stdout
    (lasting / "usb-FTDI_A1").symlink_to("/dev/ttyUSB7")
    assert f'port = "{lasting}/usb-FTDI_A1"' in vitals("scan").stdout
    wanted = '[[gateway.devices]]\nname = "cuff"\ndriver = "bp_gatt"\nroom = "1"\naddress = "C0:00:00:00:00:01"\n'
    Path("vitals.toml").write_text(wanted, encoding="utf-8")
    run = vitals("scan")
    assert "no adapter" in refused(run, 5), "the settings count on it"
    assert "FT232R USB UART" in run.stdout


class Stranger:
    """An advertiser whose name would write on the screen, and a serial adapter that does the same."""

    NAME = 'x\x1b[2J\u202e\x9b1m\n\n[[gateway.devices]]\nname = "mine"\r\x00'

    def __init__(self, detection_callback: Any, **_options: Any) -> None:
        self._heard = detection_callback

    async def __aenter__(self) -> None:
        uuid = "00001810-0000-1000-8000-00805f9b34fb"
        data = AdvertisementData(self.NAME, {}, {}, [uuid], None, -40, ())
        self._heard(BLEDevice("C0:00:00:00:00:09", self.NAME, None), data)

    async def __aexit__(self, *_exc_info: object) -> None: ...


class StrangePort(Port):
    device = '/dev/tty"\n\u009b\\'
    description = "A\x1b]0;owned\x07\nB"


def test_what_a_stranger_calls_itself_stays_on_its_line(
    tmp_path: Path, vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearby, "BleakScanner", Stranger)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [StrangePort()])
    text = vitals("scan", "--seconds", "0.1").stdout
    assert all(line.isprintable() for line in text.split("\n"))
    assert '  C0:00:00:00:00:09, x?[2J??1m??[[gateway.devices]]?name = "mine"??, -40 dBm, bp_gatt\n' in text
    assert '  /dev/tty"??\\, A?]0;owned??B, 0403:6001' in text
    pasted = tmp_path / "pasted.toml"
    pasted.write_text(text.partition("For the settings file")[2].partition("\n\n")[2], encoding="utf-8")
    devices = tomllib.loads(pasted.read_text(encoding="utf-8"))["gateway"]["devices"]
    assert [device.get("port") for device in devices] == [StrangePort.device, None]
    assert [device["name"] for device in devices] == ["ekg-1", "bp-1"]
    found = json.loads(vitals("scan", "--seconds", "0.1", "--json").stdout)
    assert [found["bluetooth"]["devices"][0]["name"].isprintable(), found["serial"][0]["port"]] == [
        True,
        StrangePort.device,
    ]


TEXTS = ["", "plain", 'a"b\\c', "line\nline", "\x00\x1f\x7f\x9b\u202e", "Müller 🙂", "\U000e0001"]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_string_of_the_settings_file_reads_back_and_stays_on_its_line(text: str) -> None:
    written = toml_text(text)
    assert written.isprintable()
    assert tomllib.loads(f"x = {written}") == {"x": text}
    assert tomllib.loads(f"x = {toml_table({text: text})}") == {"x": {text: text}}


def test_an_inline_table_keeps_its_kinds() -> None:
    values: dict[str, OptionValue] = {"on": True, "rate": 250.0, "n": 3, "lead": "II"}
    found = tomllib.loads(f"x = {toml_table(values)}")["x"]
    assert found == values
    assert [type(value) for value in found.values()] == [bool, float, int, str]
    assert toml_table({}) == "{}"


def test_no_command_makes_a_file_for_anybody_but_its_owner(tmp_path: Path, vitals: Vitals) -> None:
    os.umask(0)
    vitals("devices")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").write_text("", encoding="utf-8")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made", tmp_path / "made" / "x")] == [
        0o700,
        0o600,
    ]


def test_scan_of_an_air_that_is_not_there(tmp_path: Path, vitals: Vitals) -> None:
    Path("vitals.toml").write_text('[gateway.ble]\nbackend = "air"\nair_socket = "air"\n', encoding="utf-8")
    assert "vitals simulate" in refused(vitals("scan", "--seconds", "0.1"), 5)
