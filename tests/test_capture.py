"""A capture holds one conversation, byte for byte; run again it gives the same events; a damaged one says where.

The last part is the whole road: simulated devices, a real `vitals gateway --capture`, and `vitals replay` of what it
captured to a second gateway, over the same transports.
"""

import json
import os
import re
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from drivers.core.capture import Capture, Sent, Step, Tick, read_capture, rerun
from drivers.core.registry import load_all
from drivers.ekg_openview import DRIVER
from simulators.core.playback import CapturedDevice, Line, Playback
from tests.clinic import Clinic
from tests.command import Vitals
from tests.parts import wait_until
from tests.test_cli import refused
from vitals.driver import complete_options
from vitals.errors import VitalsError
from vitals.messages import EventMessage, ObservationMessage, decode_strips
from vitals.model import Chunk, Event, Fault, Observation, SampleArray, Send

T0 = 1_764_000_000_000_000_000
MS = 1_000_000
FRAME = bytes.fromhex("0afa14000206ff780039650c00f1fb0900510e0e62485078c0000b")
STEPS: list[Step] = [
    Sent(T0, Send(b"\x01")),
    Chunk(FRAME[:10], T0 + 1),
    Tick(T0 + 2),
    Chunk(FRAME[10:] + FRAME, T0 + 3),
    Sent(T0 + 4, Send(b"\x02", "2a52")),
    Chunk(b"\x00\xff", T0 + 5, "2a35"),
]


def write(folder: Path, steps: list[Step] = STEPS, driver: str = "ekg_openview") -> Path:
    options = {"rate_hz": 250.0, "lead": 'V"1'}
    capture = Capture(folder / "new", "ekg", driver, "/dev/ttyUSB0", T0, simulated=True, options=options)
    for step in steps:
        capture.add(step)
    capture.close()
    return capture.path


# -- the file ----------------------------------------------------------------------------------------------------


def test_what_was_captured_is_read_back_unchanged(tmp_path: Path) -> None:
    recording = read_capture(write(tmp_path))
    head = recording.head
    assert (head.driver, head.address, head.simulated, head.started) == ("ekg_openview", "/dev/ttyUSB0", True, T0)
    assert head.options == {"rate_hz": 250.0, "lead": 'V"1'}
    assert list(recording.steps()) == STEPS
    assert [number for number, _ in recording.numbered()] == [2, 3, 4, 5, 6, 7]


def test_two_links_in_one_millisecond_are_two_captures(tmp_path: Path) -> None:
    first, second, third = (write(tmp_path) for _ in range(3))
    assert len({first, second, third}) == 3
    assert {path.suffix for path in (first, second, third)} == {".jsonl"}
    for path in (first, second, third):
        assert list(read_capture(path).steps()) == STEPS


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_capture_is_for_its_owner_only(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        path = write(tmp_path)
    finally:
        os.umask(umask)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_capture_of_the_first_version_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text(
        '{"capture":1,"driver":"bp_gatt","address":"C0:00:00:00:00:01","simulated":true,"t":5}\n'
        '{"t":6,"hex":"57","ch":"2a19"}\n',
        encoding="utf-8",
    )
    assert list(read_capture(path).steps()) == [Chunk(b"\x57", 6, "2a19")]


def test_a_capture_run_again_gives_the_same_events(tmp_path: Path) -> None:
    direct = DRIVER.new_session({})
    expected = [*direct.receive(STEPS[1]), *direct.tick(T0 + 2), *direct.receive(STEPS[3])]  # type: ignore[arg-type]
    again = list(rerun(DRIVER.new_session({}), read_capture(write(tmp_path, STEPS[:4])).steps()))
    assert [e for e in again if isinstance(e, Observation)] == [e for e in expected if isinstance(e, Observation)]
    assert observations(again)[0].quantities["spo2"].value == 98


def test_time_passes_in_a_capture_run_again(tmp_path: Path) -> None:
    """Half a frame and then silence is a fault only because the ticks are in the file."""
    second = 1000 * MS
    steps: list[Step] = [
        Chunk(FRAME[:10], T0),
        *(Tick(T0 + n * second) for n in range(1, 9)),
        Chunk(FRAME, T0 + 9 * second),
    ]
    found = list(rerun(DRIVER.new_session({}), read_capture(write(tmp_path, steps)).steps()))
    assert next(event for event in found if isinstance(event, Fault)).at < T0 + 9 * second, "before the next frame came"


OLD = '{"capture":1,"driver":"bp_gatt"}\n'
DAMAGED = [
    ("", "no capture", "an empty file"),
    ("no json\n", "no capture", "malformed"),
    ("5\n", "no capture", "object"),
    ('{"capture":2}\n', "no capture", "driver"),
    ('{"capture":3,"driver":"bp_gatt"}\n', "no capture", "version 3"),
    (OLD + '{"t":1,"hex":"zz"}\n', "line 2", "non-hex"),
    (OLD + '{"t":1,"hex":"00"}\n{"hex":"00"}\n', "line 3", "'t'"),
    (OLD + '{"t":1}\n', "line 2", "'hex'"),
    (OLD + '{"t":1,"hex":"00","ch":"x"}\n', "line 2", "'x'"),
    (OLD + "[]\n", "line 2", "list"),
    (OLD + '{"t":1,"hex":"00","ch":"2a19"}\n{"t":2,"he', "line 3", "Unterminated"),
    (OLD + '{"t":1,"hex":"\xff"}\n', "line 2", "non-hex"),
    (OLD + '{"t":1e400,"hex":"00"}\n', "line 2", "inf is no time"),
    (OLD + '{"t":1.5,"hex":"00"}\n', "line 2", "1.5 is no time"),
    (OLD + '{"t":-1,"hex":"00"}\n', "line 2", "-1 is no time"),
    (OLD + '{"t":9223372036854775808,"hex":"00"}\n', "line 2", "is no time"),
    (OLD + '{"t":true,"hex":"00"}\n', "line 2", "is no time"),
    (OLD + '{"t":NaN,"hex":"00"}\n', "line 2", "nan is no time"),
    (OLD + "[" * 100_000 + "\n", "line 2", "recursion"),
    ('{"capture":2,"driver":"bp_gatt","t":1e400}\n', "no capture", "out of range"),
]


@pytest.mark.parametrize(("text", "where", "found"), DAMAGED, ids=lambda text: text[:40])
def test_a_file_that_is_no_capture_says_where(tmp_path: Path, text: str, where: str, found: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VitalsError, match=where) as told:
        list(read_capture(path).steps())
    assert found in told.value.found
    assert told.value.do


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(VitalsError, match="no capture"):
        read_capture(tmp_path / "none.jsonl")


# -- commands given a wrong one ----------------------------------------------------------------------------------

HEAD = '{{"capture":2,"driver":"{driver}"}}\n'
UNPLAYABLE = [
    ("", "empty file"),
    (HEAD.format(driver="toaster"), "bp_gatt, ekg_openview"),
    (HEAD.format(driver="ekg_openview"), "nothing to replay"),
    (HEAD.format(driver="ekg_openview") + '{"t":1,"sent":"00"}\n{"t":2,"tick":true}\n', "nothing to replay"),
    (HEAD.format(driver="ekg_openview") + '{"t":1,"hex":"00"}\n{"t":', "line 3"),
    (HEAD.format(driver="ekg_openview") + '{"t":1,"hex":"00","ch":"2a35"}\n', "does not fit ekg_openview"),
    (HEAD.format(driver="bp_gatt") + '{"t":1,"hex":"00"}\n', "does not fit bp_gatt"),
    (HEAD.format(driver="bp_gatt") + '{"t":1,"hex":"00","ch":"2a1c"}\n', "does not subscribe to"),
]


@pytest.mark.parametrize(("text", "named"), UNPLAYABLE, ids=lambda text: text[-40:])
def test_a_capture_that_cannot_be_replayed_is_explained(
    tmp_path: Path,
    vitals: Vitals,
    text: str,
    named: str,
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    assert named in refused(vitals("replay", str(path)), 1)
    assert list(tmp_path.iterdir()) == [path], "nothing appears before the whole file was found in order"


def test_a_capture_is_decoded_by_its_own_driver_and_options(tmp_path: Path, vitals: Vitals) -> None:
    path = write(tmp_path, STEPS[:4])
    lines = [json.loads(line) for line in vitals("decode", "ekg_openview", "--capture", str(path)).stdout.splitlines()]
    ekg = next(line for line in lines if line.get("metric") == "ekg")
    assert (ekg["step"], ekg["rate"], ekg["lead"], ekg["t_received"]) == ("5", 250.0, 'V"1', T0 + 3)
    changed = vitals("decode", "ekg_openview", "--option", "rate_hz=125", "--capture", str(path)).stdout
    assert '"rate":125.0' in changed
    assert "'ekg_openview'" in refused(vitals("decode", "bp_gatt", "--capture", str(path)), 2)
    assert "no capture" in refused(vitals("decode", "bp_gatt", "--capture", "none"), 1)


# -- the device's side, without a line ---------------------------------------------------------------------------


def playback(*lines: Line, speed: float = 1.0, conversation: bool = False) -> Playback:
    return Playback(lambda: lines, speed, conversation=conversation)


def said(sends: list[Send]) -> list[bytes]:
    return [send.data for send in sends]


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_chunks_come_with_the_pauses_they_had(speed: float) -> None:
    play = playback(Line(T0, b"a"), Line(T0 + 400 * MS, b"b"), Line(T0 + 800 * MS, b"c"), speed=speed)
    play.connected(7)
    assert said(play.due(7)) == [b"a"]
    assert said(play.due(7 + round(399 * MS / speed))) == []
    assert said(play.due(7 + round(401 * MS / speed))) == [b"b"]
    assert not play.done
    assert said(play.due(7 + round(2000 * MS / speed))) == [b"c"]
    assert play.done
    assert play.said == 3


def test_at_speed_0_everything_comes_at_once() -> None:
    play = playback(Line(T0, b"a"), Line(T0 + 10**15, b"b"), speed=0.0)
    play.connected(0)
    assert said(play.due(0)) == [b"a", b"b"]


ASKED = (
    Line(T0, b"ask1", by_host=True),
    Line(T0 + 50 * MS, b"one"),
    Line(T0 + 60 * MS, b"ask2", by_host=True),
    Line(T0 + 90 * MS, b"two"),
)


def test_an_answer_waits_for_its_question_however_it_is_cut() -> None:
    play = playback(*ASKED, conversation=True)
    play.connected(0)
    assert play.due(10**12) == []
    assert play.waiting_for == b"ask1"
    play.heard(b"as")
    assert play.due(10**12) == []
    play.heard(b"k1ask2")
    assert play.due(10**12) == []
    assert said(play.due(10**12 + 51 * MS)) == [b"one"], "50 ms after the question"
    assert said(play.due(10**12 + 90 * MS)) == [b"two"]
    assert play.done


def test_what_the_capture_does_not_have_is_passed_over_and_remembered() -> None:
    play = playback(*ASKED, speed=0.0, conversation=True)
    play.connected(0)
    play.heard(b"helloas")
    assert play.due(0) == []
    assert play.unexpected == b"hello"
    play.heard(b"k1")
    assert said(play.due(0)) == [b"one"]
    play.heard(bytes(100_000) + b"ask2")
    assert said(play.due(0)) == [b"two"]


def test_a_host_that_connects_anew_is_asked_anew_but_a_stream_goes_on() -> None:
    meter, stream = playback(*ASKED, speed=0.0, conversation=True), playback(ASKED[1], ASKED[3], speed=1.0)
    for play in (meter, stream):
        play.connected(0)
        play.heard(b"ask1")
        assert said(play.due(0)) == [b"one"]
        play.connected(1)
    assert meter.due(1) == []
    meter.heard(b"ask1ask2")
    assert said(meter.due(1)) == [b"one", b"two"]
    assert said(stream.due(1)) == [b"two"]


def test_a_bluetooth_device_says_again_what_was_not_confirmed() -> None:
    play = playback(Line(T0, b"a", "2a35"), Line(T0 + 1, b"b", "2a35"), Line(T0 + 2, b"c", "2a36"), speed=0.0)
    device = CapturedDevice(play, "1810", says=("2a35", "2a36"), reads={"2a19": b"\x57"}, writes=("2a52",))
    offered = {c.uuid: (int(c.properties), c.value) for c in device.table[0].characteristics}
    assert offered == {"2a35": (0x20, b""), "2a36": (0x20, b""), "2a19": (0x02, b"\x57"), "2a52": (0x08, b"")}
    device.connected(0)
    device.subscribed("2a35", True, 0)
    assert device.advance(0) == [], "not before all that is needed is subscribed"
    device.subscribed("2a36", True, 0)
    first, *_ = sends = device.advance(0)
    assert said(sends) == [b"a", b"b", b"c"]
    assert device.advance(0) == []
    device.confirmed(first, 0)
    device.disconnected(1)
    assert device.advertising
    assert not device.finished
    device.connected(2)
    for channel in ("2a35", "2a36"):
        device.subscribed(channel, True, 2)
    again = device.advance(2)
    assert said(again) == [b"b", b"c"]
    for send in again:
        device.confirmed(send, 2)
    assert device.hanging_up
    device.disconnected(3)
    assert device.finished


def test_a_bluetooth_meter_answers_what_is_written() -> None:
    play = playback(Line(T0, b"\x01", "2a52", by_host=True), Line(T0, b"r", "2a18"), speed=0.0, conversation=True)
    device = CapturedDevice(play, "1808", says=("2a18",), reads={}, writes=("2a52",))
    device.connected(0)
    device.subscribed("2a18", True, 0)
    assert device.advance(0) == []
    assert device.respond(Chunk(b"\x01", 0, "2a52")) == []
    assert said(device.advance(0)) == [b"r"]


# -- the whole road ----------------------------------------------------------------------------------------------

SETTINGS = """
[broker]
port = {broker}
[board]
port = {board}
[gateway]
outbox = "outbox.db"
[gateway.ble]
backend = "air"
air_socket = "air"
[[gateway.devices]]
name = "bp"
driver = "bp_gatt"
room = "1"
address = "C0:00:00:00:00:01"
[[gateway.devices]]
name = "thermometer"
driver = "thermometer_gatt"
room = "1"
address = "C0:00:00:00:00:02"
[[gateway.devices]]
name = "ekg"
driver = "ekg_openview"
room = "1"
port = "ekg-tty"
options = {{ uv_per_count = 5.0, lead = "I" }}
[[gateway.devices]]
name = "meter"
driver = "glucometer_ultramini"
room = "1"
port = "meter-tty"
[simulate]
air_socket = "air"
[[simulate.devices]]
kind = "bp_gatt"
room = "1"
address = "C0:00:00:00:00:01"
options = {{ first_s = 0.1, interval_s = 300.0, inflate_s = 2.0 }}
[[simulate.devices]]
kind = "thermometer_gatt"
room = "1"
address = "C0:00:00:00:00:02"
options = {{ first_s = 0.1, interval_s = 300.0, measure_s = 2.0 }}
[[simulate.devices]]
kind = "ekg_openview"
room = "1"
link = "ekg-tty"
options = {{ mischief = "drop=0.02, flip=0.02" }}
[[simulate.devices]]
kind = "glucometer_ultramini"
room = "1"
link = "meter-tty"
options = {{ records = 12, interval_s = 600.0, first_s = 300.0 }}
"""
ENOUGH = {"bp": 1, "thermometer": 1, "meter": 12}
"""Observations of each."""
DEVICES = ("bp", "thermometer", "ekg", "meter")


class Committed(NamedTuple):
    """What one device brought into a gateway's outbox."""

    readings: list[ObservationMessage]
    samples: dict[str, list[int]]
    faults: Counter[str]


def committed(folder: Path, device: str) -> Committed:
    """Read past the outbox's own code; no broker took anything, so all is there."""
    found = Committed([], {}, Counter())
    path = folder / "outbox.db"
    if not path.exists():
        return found
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        rows = db.execute("SELECT topic, payload FROM row ORDER BY seq").fetchall()
    except sqlite3.OperationalError:  # the gateway is just making its tables
        return found
    finally:
        db.close()
    for topic, payload in rows:
        *_, name, leaf = topic.split("/")
        if name != device:
            continue
        if leaf == "obs":
            found.readings.append(msgspec.json.decode(payload, type=ObservationMessage))
        elif leaf == "event":
            event = msgspec.json.decode(payload, type=EventMessage)
            found.faults[event.code] += event.count
        else:
            for strip in decode_strips(payload):
                found.samples.setdefault(strip.metric, []).extend(strip.samples().tolist())
    return found


def of_the_session(faults: Counter[str]) -> Counter[str]:
    """Without those of the link and of the feed, which a session knows nothing of."""
    return Counter({code: n for code, n in faults.items() if not code.startswith(("link_", "samples_", "clock_"))})


def observations(events: list[Event]) -> list[Observation]:
    return [event for event in events if isinstance(event, Observation) and not event.transient]


def timeless(observation: Observation) -> Observation:
    """Whether a reading is historical is for the gateway to say."""
    return msgspec.structs.replace(observation, historical=False)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a gateway that has read four simulated devices, capturing, and was stopped."""
    folder = tmp_path_factory.mktemp("live")
    clinic = Clinic(folder, SETTINGS, broker_port=1)
    try:
        clinic.start("simulate")
        wait_until(lambda: (folder / "ekg-tty").is_symlink(), 30, "the simulated devices")
        clinic.run("gateway", "gateway", "--config", str(clinic.config), "--capture", str(folder / "captures"))

        def enough() -> bool:
            found = {name: committed(folder, name) for name in DEVICES}
            return len(found["ekg"].samples.get("ekg", ())) > 500 and all(
                len(found[name].readings) >= count for name, count in ENOUGH.items()
            )

        wait_until(enough, 60, "readings of all devices")
        assert clinic.stop("gateway") == 0, clinic.log("gateway")
    finally:
        clinic.stop_all()
    yield folder


def captures(folder: Path, device: str) -> list[Path]:
    return sorted((folder / "captures").glob(f"{device}-*.jsonl"))


@pytest.mark.air
@pytest.mark.slow
def test_what_a_gateway_writes_is_for_its_owner_only(live: Path) -> None:
    kept = [*live.glob("outbox.db*"), *(live / "captures").iterdir()]
    assert {path.name for path in kept} >= {"outbox.db", "outbox.db.lock"}
    assert len(kept) >= 2 + len(DEVICES)
    assert {mode(path) for path in kept} == {0o600}
    assert mode(live / "captures") == 0o700


def events_of(path: Path) -> list[Event]:
    recording = read_capture(path)
    driver = load_all(())[recording.head.driver]
    session = driver.new_session(complete_options(driver, recording.head.options))
    return list(rerun(session, recording.steps()))


@pytest.mark.air
@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_capture_decoded_is_what_the_gateway_committed(live: Path, device: str) -> None:
    events = [event for path in captures(live, device) for event in events_of(path)]
    there = committed(live, device)
    assert [timeless(m.observation) for m in there.readings] == [timeless(o) for o in observations(events)]
    samples: dict[str, list[int]] = {}
    for event in events:
        if isinstance(event, SampleArray):
            samples.setdefault(event.metric, []).extend(event.samples.tolist())
    assert there.samples == samples
    assert of_the_session(there.faults) == Counter(event.code for event in events if isinstance(event, Fault))
    if device == "ekg":
        assert of_the_session(there.faults), "the line was made bad, so that faults are compared too"


def fullest(folder: Path, device: str) -> Path:
    """A device may have linked up twice; the capture that holds most."""
    return max(captures(folder, device), key=lambda found: found.stat().st_size)


REPLAYED = ("bp", "ekg", "meter")
"""One for each way: Bluetooth, a stream on a serial line, and a meter that must be asked."""


def block(log: str) -> str:
    """The settings that `vitals replay` printed."""
    return re.split(r"\n\n(?=\[)", log, maxsplit=1)[1]


@pytest.fixture(scope="module")
def replayed(live: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a second gateway, which read the replayed captures by the settings that the replays printed."""
    folder = tmp_path_factory.mktemp("replayed")
    settings = '[broker]\nport = {broker}\n[board]\nport = {board}\n[gateway]\noutbox = "outbox.db"\n'
    clinic = Clinic(folder, settings, broker_port=1)
    try:
        for device in REPLAYED:
            places = ("--link", str(folder / f"{device}-tty"), "--air", str(folder / "air"))
            clinic.run(device, "replay", str(fullest(live, device)), *places, "--speed", "0")
        wait_until(lambda: all("timebase" in clinic.log(device) for device in REPLAYED), 30, "their settings")
        with clinic.config.open("a", encoding="utf-8") as file:
            for device in REPLAYED:
                file.write(block(clinic.log(device)).replace('name = "replay"', f'name = "{device}"'))
        clinic.start("gateway")
        for device in REPLAYED:
            assert clinic.wait(device) == 0, clinic.log(device)
        assert clinic.stop("gateway") == 0, clinic.log("gateway")
    finally:
        clinic.stop_all()
    return folder


@pytest.mark.air
@pytest.mark.slow
@pytest.mark.parametrize("device", REPLAYED)
def test_a_capture_replayed_gives_a_second_gateway_the_same(live: Path, replayed: Path, device: str) -> None:
    first = events_of(fullest(live, device))
    again, there = committed(replayed, device), committed(live, device)
    readings = observations(first)
    assert [essence(m.observation) for m in again.readings] == [essence(o) for o in readings]
    ids = {(m.observation.kind, m.observation.raw, m.observation.received_at): m.id for m in there.readings}
    recorded = [ids[o.kind, o.raw, o.received_at] for o in readings if o.t_device]
    assert [m.id for m in again.readings if m.observation.t_device] == recorded
    assert bool(recorded) is (device != "ekg"), "these devices date their readings"
    for metric, samples in again.samples.items():
        arrays = [e.samples for e in first if isinstance(e, SampleArray) and e.metric == metric]
        assert np.array_equal(samples, np.concatenate(arrays))
    assert set(again.samples) == set(there.samples)
    assert of_the_session(again.faults) == Counter(event.code for event in first if isinstance(event, Fault))
    assert all(m.simulated for m in again.readings)


def essence(observation: Observation) -> Any:
    return msgspec.structs.replace(timeless(observation), received_at=0)
