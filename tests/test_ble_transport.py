"""The cuff on the simulated air, read by the production transport, driver and runner: committed before confirmed."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from bleak import BleakScanner
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason, BleakDBusError, BleakError

from drivers.bp_gatt import DRIVER
from drivers.core.feed import DeviceFeed, Output
from drivers.core.link import LinkLost, LossReason
from drivers.core.runner import Runner
from drivers.transports.ble import Backend, BleTransport, Radio, said
from simulators.core.physiology import Physiology, Profile
from simulators.core.registry import Setup, complete, find
from simulators.links.air import air_backends, on_air
from vitals import settings
from vitals.clock import SystemClock
from vitals.messages import ObservationMessage
from vitals.model import Observation
from vitals.topics import Topics

pytestmark = pytest.mark.air
ADDRESS = "F0:00:00:00:00:01"
CLOCK = SystemClock()


def cuff(**options: Any) -> Any:
    kind = find("bp_gatt")
    given = {"first_s": 0.2, "inflate_s": 0.5, "interval_s": 600.0} | options
    patient = Physiology(1, Profile())
    return kind.factory(Setup(1, patient, CLOCK.now(), complete("cuff", kind.options, given), UTC))


class Road:
    """A runner on the air. `commit` fails as often as it is told to, as a disk that refuses would."""

    def __init__(self, socket: Path) -> None:
        client, scanner = air_backends(socket)
        self.radio = Radio(Backend(client, scanner, simulated=True))
        device = settings.Device(name="cuff", driver="bp_gatt", room="1", address=ADDRESS)
        self.feed = DeviceFeed(device, DRIVER, gateway="g", topics=Topics("s"), session="x", zone=UTC)
        self.outputs: list[Output] = []
        self.fail = 0
        self.runner = Runner(self.feed, DRIVER, {}, self.connect, self.commit, CLOCK, jitter=random.Random(1))

    def connect(self) -> BleTransport:
        return BleTransport(self.radio, ADDRESS, DRIVER.spec, CLOCK)  # type: ignore[arg-type]

    async def commit(self, output: Output) -> None:
        if self.fail and any(draft.urgent for draft in output.drafts):
            self.fail -= 1
            raise LinkLost(LossReason.LINK_LOST, "the disk refused")
        self.outputs.append(output)

    def pressures(self) -> list[Observation]:
        drafts = [draft.message for output in self.outputs for draft in output.drafts]
        return [m.observation for m in drafts if isinstance(m, ObservationMessage)]


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


def on_road(folder: Path, device: Any, work: Callable[[Road], Any]) -> Road:
    async def run() -> Road:
        async with on_air(folder / "air", {ADDRESS: device}, CLOCK):
            road = Road(folder / "air")
            task = asyncio.create_task(road.runner.run())
            try:
                await work(road)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return road

    return asyncio.run(run())


def test_a_reading_crosses_the_air(tmp_path: Path) -> None:
    async def work(road: Road) -> None:
        await until(lambda: bool(road.pressures()))
        await until(lambda: road.feed.state == "idle")

    road = on_road(tmp_path, cuff(), work)
    (reading,) = road.pressures()
    values = {key: q.value for key, q in reading.quantities.items()}
    assert 90 < values["bp_sys"] < 160  # type: ignore[operator]
    assert 40 < values["bp_dia"] < values["bp_map"] < values["bp_sys"]  # type: ignore[operator]
    assert reading.t_device
    drafts = [draft for output in road.outputs for draft in output.drafts]
    assert all(draft.message.simulated for draft in drafts), "air is simulated by itself, whatever the settings say"
    assert "simulated" in road.feed.info.manufacturer.lower()
    assert road.feed.info.battery is not None
    assert road.feed.info.clock
    assert [topic for output in road.outputs for topic, _ in output.live], "cuff pressure while inflating"
    assert road.feed.faults.totals == {}, "a cuff that hangs up is no fault"


def test_a_reading_that_could_not_be_committed_is_sent_again_by_the_cuff(tmp_path: Path) -> None:
    async def work(road: Road) -> None:
        road.fail = 1
        await until(lambda: bool(road.pressures()))

    road = on_road(tmp_path, cuff(), work)
    assert road.fail == 0, "the first attempt was refused"
    assert len(road.pressures()) == 1


def test_a_radio_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    async def run() -> LossReason:
        with pytest.raises(LinkLost) as lost:
            async with Road(tmp_path / "nobody").connect():
                pass
        return lost.value.reason

    assert asyncio.run(run()) is LossReason.RADIO_OFF


class NoAdapter(BleakScanner):
    async def start(self) -> None:
        raise BleakBluetoothNotAvailableError("no adapter", BleakBluetoothNotAvailableReason.NO_BLUETOOTH)


def test_a_missing_adapter_is_told_in_words_and_not_as_a_tuple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.transports.ble.BleakScanner", NoAdapter)

    async def run() -> str:
        with pytest.raises(LinkLost) as lost:
            async with Road(tmp_path / "nobody").connect():
                pass
        return lost.value.detail

    assert asyncio.run(run()) == "no adapter"


@pytest.mark.parametrize(
    ("error", "words"),
    [(BleakDBusError("org.bluez.Error.InProgress", ["busy"]), "[org.bluez.Error.InProgress] busy"),
     (FileNotFoundError(2, "No such file"), "[Errno 2] No such file"), (BleakError("gone"), "gone"),
     (TimeoutError(), "TimeoutError")],
)  # fmt: skip
def test_the_words_of_an_error(error: Exception, words: str) -> None:
    assert said(error) == words


def test_an_air_that_died_under_the_scan_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.transports.ble.RESCAN_S", 0.5)

    async def run() -> Road:
        road = Road(tmp_path / "air")
        async with on_air(tmp_path / "air", {ADDRESS: cuff(first_s=600.0)}, CLOCK):
            task = asyncio.create_task(road.runner.run())
            await asyncio.sleep(1)
        await until(lambda: road.feed.reason == LossReason.RADIO_OFF)
        async with on_air(tmp_path / "air", {ADDRESS: cuff()}, CLOCK):
            await until(lambda: bool(road.pressures()))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return road

    assert len(asyncio.run(run()).pressures()) == 1


def test_a_device_that_floods_us_loses_its_link_not_our_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.transports.ble.QUEUE_LIMIT", 10)

    async def run() -> tuple[int, LossReason]:
        transport = Road(tmp_path / "nobody").connect()
        source = type("Source", (), {"uuid": "00002a36-0000-1000-8000-00805f9b34fb"})()
        for _ in range(1000):
            transport._arrived(source, bytearray(b"x"))
        waiting = transport._chunks.qsize()
        with pytest.raises(LinkLost) as lost:
            while True:
                await anext(transport)
        return waiting, lost.value.reason

    assert asyncio.run(run()) == (11, LossReason.FLOODED)
