"""The simulated Bluetooth air, through bleak's public API and real HCI, L2CAP and ATT bytes."""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bleak import BleakClient, BleakScanner
from bleak.exc import BleakBluetoothNotAvailableError, BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError

from simulators.core.gatt import AttError, Characteristic, Property, Service
from simulators.links.air import Peripheral, air_backends, on_air
from simulators.links.air_hub import Hub
from vitals.clock import SystemClock
from vitals.errors import VitalsError
from vitals.model import Chunk, Send

pytestmark = pytest.mark.air

ROOT = Path(__file__).parents[1]
ADDRESS = "C0:11:22:33:44:55"
SERVICE = "00001810-0000-1000-8000-00805f9b34fb"
MEASUREMENT = "00002a35-0000-1000-8000-00805f9b34fb"
PRESSURE = "00002a36-0000-1000-8000-00805f9b34fb"
NAME = "00002a29-0000-1000-8000-00805f9b34fb"
ECHO = "00000001-1212-efde-1523-785feabcd123"


class Box:
    """A device with a memory: what is put in `stored` is indicated until it is confirmed."""

    name = "Simulated box"
    table = (
        Service(
            "1810",
            (Characteristic("2a35", Property.INDICATE), Characteristic("2a36", Property.NOTIFY)),
        ),
        Service("180a", (Characteristic("2a29", Property.READ, b"simulated"),)),
        Service(
            "00000000-1212-efde-1523-785feabcd123",
            (Characteristic(ECHO, Property.WRITE | Property.NOTIFY), Characteristic("2a2b", Property.READ)),
        ),
    )
    advertised = ("1810",)

    def __init__(self, *stored: bytes) -> None:
        self.stored = list(stored)
        self.sent = 0
        self.listening = False
        self.hang_up_when_empty = True
        self.advertising = True

    @property
    def hanging_up(self) -> bool:
        return self.listening and not self.stored and self.hang_up_when_empty

    def connected(self, at: int) -> None:
        self.sent = 0

    def disconnected(self, at: int) -> None:
        self.listening = False

    def subscribed(self, channel: str, on: bool, at: int) -> None:
        self.listening = self.listening or (on and channel == "2a35")

    def read(self, channel: str, at: int) -> bytes | None:
        if channel == "2a2b":
            raise AttError(0x80)
        return None

    def confirmed(self, send: Send, at: int) -> None:
        self.stored.remove(send.data)

    def respond(self, chunk: Chunk) -> list[Send]:
        if chunk.data == b"fail":
            raise RuntimeError("broken simulator")
        return [Send(chunk.data, ECHO)]

    def advance(self, until: int) -> list[Send]:
        if not self.listening or self.sent:
            return []
        self.sent = 1
        return [Send(b"\x99", "2a36"), *(Send(data, "2a35") for data in self.stored)]


@asynccontextmanager
async def box_on_air(tmp_path: Path, box: Box) -> AsyncIterator[tuple[Peripheral, Any, Any]]:
    socket = tmp_path / "air.sock"
    client, scanner = air_backends(socket)
    async with on_air(socket, {ADDRESS: box}, SystemClock()) as peripherals:
        yield peripherals[0], client, scanner


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def run(coroutine: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(coroutine, 60)

    asyncio.run(limited())


def test_scan_connect_read_write(tmp_path: Path) -> None:
    async def story() -> None:
        async with box_on_air(tmp_path, Box()) as (_, client, scanner):
            found = await BleakScanner.find_device_by_filter(
                lambda _device, ad: SERVICE in ad.service_uuids, timeout=5, backend=scanner
            )
            assert found is not None
            assert (found.address, found.name) == (ADDRESS, "Simulated box")
            assert await BleakScanner.discover(0.2, service_uuids=[NAME], backend=scanner) == []
            async with BleakClient(found, backend=client) as host:
                assert host.mtu_size == 247
                assert host.services.get_characteristic(MEASUREMENT).properties == ["indicate"]
                assert await host.read_gatt_char(NAME) == b"simulated"
                with pytest.raises(BleakGATTProtocolError) as refused:
                    await host.read_gatt_char(MEASUREMENT)
                assert refused.value.code == 0x02
                with pytest.raises(BleakGATTProtocolError) as refused:
                    await host.read_gatt_char("2a2b")
                assert refused.value.code == 0x80
                with pytest.raises(BleakGATTProtocolError):
                    await host.write_gatt_char(NAME, b"x", response=True)
                with pytest.raises(BleakGATTProtocolError) as refused:
                    await host.write_gatt_char(ECHO, b"fail", response=True)
                assert refused.value.code == 0x0E
                echoed: list[bytes] = []
                await host.start_notify(ECHO, lambda _c, data: echoed.append(bytes(data)))
                await host.write_gatt_char(ECHO, bytes(range(200)), response=True)
                await until(lambda: bool(echoed))
                assert echoed == [bytes(range(200))]
                await host.stop_notify(ECHO)

    run(story())


def test_confirmed_only_after_commit_then_device_hangs_up(tmp_path: Path) -> None:
    async def story() -> None:
        box = Box(b"first", b"second")
        async with box_on_air(tmp_path, box) as (_, client, _scanner):
            ended = asyncio.Event()
            commits: list[tuple[bytes, asyncio.Future[None]]] = []

            def arrived(_characteristic: object, data: bytearray) -> "asyncio.Future[None]":
                commits.append((bytes(data), asyncio.get_running_loop().create_future()))
                return commits[-1][1]

            host = BleakClient(ADDRESS, lambda _client: ended.set(), backend=client)
            await host.connect()
            pressures: list[bytes] = []
            await host.start_notify(PRESSURE, lambda _c, data: pressures.append(bytes(data)))
            await host.start_notify(MEASUREMENT, arrived)
            await until(lambda: len(commits) == 1)
            await asyncio.sleep(0.2)
            assert [data for data, _ in commits] == [b"first"], "the second may not come before the first is confirmed"
            assert box.stored == [b"first", b"second"]
            commits[0][1].set_result(None)
            await until(lambda: len(commits) == 2)
            assert box.stored == [b"second"]
            commits[1][1].set_result(None)
            await asyncio.wait_for(ended.wait(), 5)
            assert box.stored == []
            assert pressures == [b"\x99"]
            assert not host.is_connected
            with pytest.raises(BleakError):
                await host.read_gatt_char(NAME)
            await host.disconnect()

    run(story())


@pytest.mark.parametrize("failure", ["future fails", "future cancelled", "too late", "callback raises"])
def test_not_committed_is_kept_and_sent_again(tmp_path: Path, failure: str) -> None:
    async def story() -> None:
        box = Box(b"kept")
        async with box_on_air(tmp_path, box) as (_, client, _scanner):
            ended = asyncio.Event()

            def arrived(_characteristic: object, _data: bytearray) -> "asyncio.Future[None]":
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                if failure == "callback raises":
                    raise RuntimeError("disk full")
                if failure == "future fails":
                    future.set_exception(OSError("disk full"))
                if failure == "future cancelled":
                    future.cancel()
                return future

            async with BleakClient(ADDRESS, lambda _client: ended.set(), backend=client) as host:
                host._backend._gatt.confirm_timeout_s = 0.1  # type: ignore[attr-defined]
                await host.start_notify(MEASUREMENT, arrived)
                await asyncio.wait_for(ended.wait(), 5)
                assert not host.is_connected
            await until(lambda: not box.listening)
            assert box.stored == [b"kept"]

            received: list[bytes] = []
            ended.clear()
            async with BleakClient(ADDRESS, lambda _client: ended.set(), backend=client) as host:
                await host.start_notify(MEASUREMENT, lambda _c, data: received.append(bytes(data)))
                await asyncio.wait_for(ended.wait(), 5)
            assert received == [b"kept"]
            assert box.stored == []

    run(story())


def test_link_loss_is_an_error_and_a_callback(tmp_path: Path) -> None:
    async def story() -> None:
        box = Box(b"kept")
        async with box_on_air(tmp_path, box) as (peripheral, client, _scanner):
            ended = asyncio.Event()
            host = BleakClient(ADDRESS, lambda _client: ended.set(), backend=client)
            await host.connect()
            reading = asyncio.create_task(host.read_gatt_char(NAME))
            await asyncio.sleep(0)
            peripheral.drop_link()
            with pytest.raises(BleakError, match="link"):
                await reading
            await asyncio.wait_for(ended.wait(), 2)
            await host.disconnect()
            await host.connect()
            assert await host.read_gatt_char(NAME) == b"simulated"
            await host.disconnect()

    run(story())


def test_hub_death_is_an_error_and_a_callback(tmp_path: Path) -> None:
    async def story() -> None:
        ended = asyncio.Event()
        box = Box(b"kept")
        async with box_on_air(tmp_path, box) as (_, client, scanner):
            host = BleakClient(ADDRESS, lambda _client: ended.set(), backend=client)
            await host.connect()
        await asyncio.wait_for(ended.wait(), 2)
        assert not host.is_connected
        with pytest.raises(BleakError):
            await host.read_gatt_char(NAME)
        with pytest.raises(BleakBluetoothNotAvailableError):
            await host.connect()
        with pytest.raises(BleakBluetoothNotAvailableError):
            await BleakScanner(backend=scanner).start()
        await host.disconnect()

    run(story())


def test_a_dead_host_leaves_the_device_free(tmp_path: Path) -> None:
    async def story() -> None:
        box = Box(b"kept")
        async with box_on_air(tmp_path, box) as (_, client, _scanner):
            host = BleakClient(ADDRESS, backend=client)
            await host.connect()
            await host.start_notify(MEASUREMENT, lambda _c, _d: asyncio.get_running_loop().create_future())
            await until(lambda: box.sent == 1)
            host._backend._adapter._transport.abort()  # type: ignore[attr-defined]  # as when the gateway's process is killed
            await until(lambda: not box.listening)
            assert box.stored == [b"kept"]
            await host.disconnect()

    run(story())


def test_absent_device_is_not_found_and_cancelling_leaves_no_trace(tmp_path: Path) -> None:
    async def story() -> None:
        box = Box()
        async with box_on_air(tmp_path, box) as (peripheral, client, _scanner):
            with pytest.raises(BleakDeviceNotFoundError):
                await BleakClient("C0:00:00:00:00:01", timeout=0.2, backend=client).connect()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(BleakClient("C0:00:00:00:00:01", backend=client).connect(), 0.2)
            with pytest.raises(BleakDeviceNotFoundError):
                await BleakClient("no address", timeout=0.2, backend=client).connect()
            await until(lambda: peripheral._hub.controller_count == 1)

    run(story())


def test_of_two_hosts_one_gets_the_device(tmp_path: Path) -> None:
    async def story() -> None:
        box = Box(b"once")
        async with box_on_air(tmp_path, box) as (_, client, _scanner):
            hosts = [BleakClient(ADDRESS, timeout=1, backend=client) for _ in range(2)]
            outcomes = await asyncio.gather(*(host.connect() for host in hosts), return_exceptions=True)
            assert sorted(type(o).__name__ for o in outcomes if o is not None) in (
                ["BleakError"], ["BleakDeviceNotFoundError"],
            )  # fmt: skip
            for host in hosts:
                await host.disconnect()

    run(story())


def test_fifty_connections_leak_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        box = Box()
        box.hang_up_when_empty = False
        async with box_on_air(tmp_path, box) as (peripheral, client, _scanner):

            async def cycle() -> None:
                box.stored.append(b"x")
                async with BleakClient(ADDRESS, backend=client) as host:
                    await host.start_notify(MEASUREMENT, lambda _c, _d: None)
                    await until(lambda: not box.stored)

            for _ in range(3):
                await cycle()
            await until(lambda: peripheral._hub.controller_count == 1)
            gc.collect()
            tasks, objects = len(asyncio.all_tasks()), len(gc.get_objects())
            for _ in range(50):
                await cycle()
            await until(lambda: peripheral._hub.controller_count == 1)
            gc.collect()
            assert len(asyncio.all_tasks()) == tasks
            assert len(gc.get_objects()) < objects + 2_000

    run(story())


def test_a_host_that_talks_rubbish_is_cut_off(tmp_path: Path) -> None:
    async def story() -> None:
        async with Hub(tmp_path / "air.sock") as hub:
            reader, writer = await asyncio.open_unix_connection(str(hub.path))
            writer.write(b"\xff not H4")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            await until(lambda: hub.controller_count == 0)

    run(story())


def test_a_swallowed_cancellation_does_not_keep_the_air_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As asyncio.wait_for does before Python 3.12, when the answer comes together with the cancellation."""
    at_it = asyncio.Event()

    async def swallow_the_first(_self: Peripheral) -> None:
        first = not at_it.is_set()
        at_it.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not first:
                raise

    monkeypatch.setattr(Peripheral, "_steer", swallow_the_first)

    async def story() -> None:
        async with asyncio.timeout(10):
            async with box_on_air(tmp_path, Box()):
                await at_it.wait()

    run(story())


def test_a_failing_device_ends_the_air_loudly(tmp_path: Path) -> None:
    class Broken(Box):
        def advance(self, until: int) -> list[Send]:
            raise RuntimeError("broken simulator")

    async def story() -> None:
        with pytest.raises(ExceptionGroup) as failed:
            async with box_on_air(tmp_path, Broken()):
                await asyncio.sleep(5)
        assert failed.group_contains(RuntimeError, match="broken simulator")

    run(story())


def test_names_that_do_not_fit_and_paths_too_long_are_refused(tmp_path: Path) -> None:
    async def story() -> None:
        box = Box()
        box.name = "a name too long for thirty-one bytes"
        with pytest.raises(ValueError, match="31 fit"):
            async with box_on_air(tmp_path, box):
                pass
        with pytest.raises(VitalsError, match="too long"):
            async with Hub(tmp_path / ("x" * 120)):
                pass

    run(story())


def test_the_blocks_own_failure_comes_out_unchanged(tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(KeyError, match="mine"):
            async with box_on_air(tmp_path, Box()):
                raise KeyError("mine")

    run(story())


CHILD = """
import asyncio, sys
from pathlib import Path
from simulators.links.air import on_air
from tests.test_air import ADDRESS, Box
from vitals.clock import SystemClock

async def main():
    async with on_air(Path(sys.argv[1]), {ADDRESS: Box(b"x")}, SystemClock()):
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_killed_air_process_is_seen_and_a_new_one_is_joined(tmp_path: Path) -> None:
    socket = tmp_path / "air.sock"
    client, _ = air_backends(socket)

    async def story() -> None:
        for _ in range(2):  # the second finds the dead socket file of the first
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, str(socket), cwd=ROOT)
            try:
                ended = asyncio.Event()
                host = BleakClient(ADDRESS, lambda _client, ended=ended: ended.set(), timeout=10, backend=client)
                for _attempt in range(100):
                    try:
                        await host.connect()
                        break
                    except BleakBluetoothNotAvailableError:
                        await asyncio.sleep(0.1)
                assert await host.read_gatt_char(NAME) == b"simulated"
            finally:
                child.kill()
                await child.wait()
            await asyncio.wait_for(ended.wait(), 5)
            with pytest.raises(BleakError):
                await host.read_gatt_char(NAME)
            await host.disconnect()

    run(story())
