"""The gateway: devices on one side, outbox and broker on the other.

One asyncio loop runs the devices; one thread owns the outbox, so that a slow disk never holds up a serial line. A
spot reading is committed at once; strips and events are committed together about once a second (32 EKG streams are
then one transaction). A row is published after its commit, never before.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from drivers.core.capture import Capture
from drivers.core.feed import DeviceFeed, Draft, Output
from drivers.core.forwarder import Forwarder
from drivers.core.link import Transport
from drivers.core.runner import Runner
from drivers.transports.ble import Backend, BleTransport, Radio
from drivers.transports.serial import SerialTransport
from vitals.broker import Broker, Message, Will
from vitals.clock import NS, NS_PER_MS, Clock
from vitals.driver import BleSpec, Driver, SerialSpec, complete_options
from vitals.errors import SettingsError
from vitals.log import Log
from vitals.messages import SCHEMA_EVENT, SCHEMA_OBS, SCHEMA_STRIP, VERSION, GatewayStatus, IngestStatus, Receipts
from vitals.outbox import Outbox
from vitals.settings import Device, Settings
from vitals.topics import Topics

GROUP_COMMIT_S: Final = 1.0
PUMP_S: Final = 0.25
STATUS_S: Final = 10.0
DISK_RETRY_S: Final = 1.0
STOP_PATIENCE_S: Final = 10
"""At a stop, a disk that takes nothing gets this long; then the loss is logged rather than the stop refused."""
WAVE_EXPIRY_S: Final = 5
OBS_EXPIRY_S: Final = 3_600
MAX_PENDING: Final = 20_000
"""Drafts waiting for a disk that does not answer: five minutes of 32 streams; then the links are held up."""
_CONTENT: Final = {"obs": SCHEMA_OBS, "strip": SCHEMA_STRIP, "event": SCHEMA_EVENT}
_log = Log("gateway")
T = TypeVar("T")


class Gateway:
    """`make_broker(will, subscriptions, on_connect, wake)` is given by the wiring."""

    def __init__(
        self,
        settings: Settings,
        drivers: Mapping[str, Driver],
        clock: Clock,
        make_broker: Callable[..., Broker],
        backend: Backend,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._topics = Topics(settings.site.id)
        self._id = settings.gateway.id
        self._session = secrets.token_hex(8)
        self._started = clock.now()
        self._outbox = Outbox(Path(settings.gateway.outbox))
        self._disk = ThreadPoolExecutor(1, "outbox")
        self._pending: list[Draft] = []
        self._commits: set[asyncio.Task[None]] = set()
        self._give_up_at = 0
        self.outbox_faults = 0
        self._inbox = asyncio.Event()
        self._must_republish = asyncio.Event()
        self._broker = make_broker(
            will=Will(self._topics.gateway_status(self._id), self._status(online=False)),
            subscriptions=[(self._topics.stored(self._id), 1), (self._topics.ingest_status, 1)],
        )
        self._forwarder = Forwarder(self._outbox, self._publish_row, clock, settings.gateway.store_id)
        self._radio = Radio(backend)
        self._devices = [self._prepare(device, drivers) for device in settings.gateway.devices]

    def _prepare(self, device: Device, drivers: Mapping[str, Driver]) -> tuple[DeviceFeed, Runner]:
        driver, options = check_device(device, drivers)
        feed = DeviceFeed(
            device,
            driver,
            gateway=self._id,
            topics=self._topics,
            session=self._session,
            zone=ZoneInfo(self._settings.site.timezone),
        )
        capture = partial(self._capture, device) if self._settings.gateway.capture_dir else None
        connect = partial(self._transport, device, driver)
        return feed, Runner(feed, driver, options, connect, self._commit, self._clock, capture)

    def _transport(self, device: Device, driver: Driver) -> Transport:
        if isinstance(driver.spec, BleSpec):
            return BleTransport(self._radio, device.address, driver.spec, self._clock)
        return SerialTransport(device.port, driver.spec, self._clock, device.baudrate)

    def _capture(self, device: Device, address: str, simulated: bool) -> Capture:
        folder = Path(self._settings.gateway.capture_dir)
        return Capture(
            folder,
            device.name,
            device.driver,
            address,
            self._clock.now(),
            simulated=simulated or device.simulated,
            options=device.options,
        )

    # -- life ------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then every link is closed, the last packs are committed, and the farewell is sent."""
        loop = asyncio.get_running_loop()
        self._broker.on_connect = partial(_in_loop, loop, self._reconnected)
        self._broker.wake = partial(_in_loop, loop, self._inbox.set)
        self._broker.start()
        waiting, refused = self._outbox.counts()
        _log.info("gateway started", gateway=self._id, devices=len(self._devices), backlog=waiting, refused=refused)
        runners = [asyncio.create_task(runner.run()) for _, runner in self._devices]
        chores = [
            asyncio.create_task(chore)
            for chore in (self._group_commits(), self._forwards(), self._states(), self._mail())
        ]
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({stopped, *runners, *chores}, return_when=asyncio.FIRST_COMPLETED)
        self._give_up_at = self._clock.monotonic() + STOP_PATIENCE_S * NS
        for task in (*runners, *chores, stopped):
            task.cancel()
        await asyncio.gather(*runners, return_exceptions=True)
        await asyncio.gather(*chores, return_exceptions=True)
        await self._farewell()
        for task in done - {stopped}:
            task.result()  # a part that ended by itself ended by a bug: let it be seen

    async def _farewell(self) -> None:
        await asyncio.gather(*self._commits, return_exceptions=True)
        await asyncio.gather(self._commit_group(), return_exceptions=True)
        for feed, _ in self._devices:
            feed.set_state("off", "gateway stopped", self._clock.now())
            self._publish_retained(feed)
        self._broker.publish(self._topics.gateway_status(self._id), self._status(online=False), qos=1, retain=True)
        await asyncio.sleep(0.2)  # paho's thread needs a moment to write what was handed to it
        await asyncio.to_thread(self._broker.stop)
        self._disk.shutdown()
        self._outbox.close()
        _log.info("gateway stopped", gateway=self._id)

    # -- outbox ----------------------------------------------------------------------------------------------

    async def _on_disk(self, call: Callable[..., T], *args: object) -> T:
        """All use of the outbox, one call after the other, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, partial(call, *args))

    async def _commit(self, output: Output) -> None:
        for topic, payload in output.live:
            self._broker.publish(topic, payload, expiry_s=WAVE_EXPIRY_S)
        urgent = [draft for draft in output.drafts if draft.urgent]
        self._pending += [draft for draft in output.drafts if not draft.urgent]
        if urgent:
            await self._durably(urgent)
        if len(self._pending) > MAX_PENDING:
            await self._commit_group()

    async def _group_commits(self) -> None:
        while True:
            await asyncio.sleep(GROUP_COMMIT_S)
            await self._commit_group()

    async def _commit_group(self) -> None:
        drafts, self._pending = self._pending, []
        if drafts:
            await self._durably(drafts)

    async def _durably(self, drafts: list[Draft]) -> None:
        """A stop cancels whoever waits here, never the commit itself: `_farewell` waits for those under way."""
        commit = asyncio.create_task(self._store_patiently(drafts))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        await asyncio.shield(commit)

    async def _store_patiently(self, drafts: list[Draft]) -> None:
        """A disk that refuses holds the link up and is tried again: nothing that was received is dropped."""
        while True:
            try:
                return await self._on_disk(self._store, drafts)
            except sqlite3.Error as error:
                self.outbox_faults += 1
                _log.error("outbox not writable, trying again", rows=len(drafts), error=error)
                if self._give_up_at and self._clock.monotonic() > self._give_up_at:
                    _log.error("stopped with readings that no disk took", rows=len(drafts))
                    raise
                await asyncio.sleep(DISK_RETRY_S)

    def _store(self, drafts: list[Draft]) -> None:
        """In the outbox's thread: identity, commit, publish."""
        now = self._clock.now()
        rows = [draft.finish(*self._outbox.stamp(), now) for draft in drafts]
        self._outbox.put(rows)
        self._forwarder.fresh(rows)

    # -- broker ----------------------------------------------------------------------------------------------

    def _publish_row(self, topic: str, payload: bytes) -> bool:
        content = _CONTENT[topic.rpartition("/")[2]]
        return self._broker.publish(topic, payload, qos=1, expiry_s=OBS_EXPIRY_S, content_type=content)

    def _reconnected(self) -> None:
        self._must_republish.set()
        self._inbox.set()

    async def _forwards(self) -> None:
        while True:
            await asyncio.sleep(PUMP_S)
            if self._broker.connected:
                await self._on_disk(self._forwarder.pump)

    async def _mail(self) -> None:
        while True:
            await self._inbox.wait()
            self._inbox.clear()
            if self._must_republish.is_set():
                self._must_republish.clear()
                await self._on_disk(self._forwarder.reconnected)
                await self._publish_states(everything=True)
            while messages := self._broker.take(500, 0):
                for message in messages:
                    await self._on_disk(self._receive, message)
                self._broker.ack(messages)

    def _receive(self, message: Message) -> None:
        """A receipt or ingest's state. What cannot be read is reported and changes nothing."""
        try:
            if message.topic == self._topics.ingest_status:
                if message.payload:
                    self._forwarder.ingest_status(msgspec.json.decode(message.payload, type=IngestStatus))
            elif message.topic == self._topics.stored(self._id):
                self._forwarder.receipts(msgspec.json.decode(message.payload, type=Receipts))
        except msgspec.DecodeError as error:
            _log.error("message not understood", topic=message.topic, error=error)
        except sqlite3.Error as error:
            # The rows stay, are sent again, and come back as duplicates: a receipt that is lost costs nothing.
            self.outbox_faults += 1
            _log.error("receipt not applied", error=error)

    # -- retained states -------------------------------------------------------------------------------------

    async def _states(self) -> None:
        beat = 0.0
        while True:
            await asyncio.sleep(PUMP_S)
            beat += PUMP_S
            everything = beat >= STATUS_S
            if everything:
                beat = 0.0
            if self._broker.connected:
                await self._publish_states(everything=everything)

    async def _publish_states(self, *, everything: bool) -> None:
        for feed, _ in self._devices:
            if everything or feed.changed:
                self._publish_retained(feed)
        if everything:
            counts = await self._on_disk(self._outbox.counts)
            status = self._status(online=True, counts=counts)
            self._broker.publish(self._topics.gateway_status(self._id), status, qos=1, retain=True)

    def _publish_retained(self, feed: DeviceFeed) -> None:
        feed.changed = False
        for topic, payload in feed.retained():
            self._broker.publish(topic, payload, qos=1, retain=True)

    def _status(self, *, online: bool, counts: tuple[int, int] = (0, 0)) -> bytes:
        forwarder = getattr(self, "_forwarder", None)
        off = None if forwarder is None or forwarder.clock_off_ns is None else forwarder.clock_off_ns // NS_PER_MS
        status = GatewayStatus(VERSION, self._session, online, self._started, self._clock.now(), *counts, off)
        return msgspec.json.encode(status)


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """From the broker's thread into the loop; nothing once the loop has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def check_device(device: Device, drivers: Mapping[str, Driver]) -> tuple[Driver, dict[str, str | int | float | bool]]:
    """The device's driver and its complete options. Raises SettingsError saying what is wrong with the entry."""
    entry = f"gateway.devices, name {device.name!r}"
    driver = drivers.get(device.driver)
    if driver is None:
        raise SettingsError(
            f"{entry}: no such driver.",
            expected="one of: " + ", ".join(sorted(drivers)),
            found=repr(device.driver),
            do="Correct `driver`.",
        )
    try:
        options = complete_options(driver, device.options)
    except ValueError as error:
        raise SettingsError(
            f"{entry}: wrong options.", expected="options of this driver", found=str(error), do="Correct `options`."
        ) from None
    if isinstance(driver.spec, BleSpec) and not device.address:
        raise SettingsError(
            f"{entry}: {driver.name} is read over Bluetooth, and no address is named.",
            expected='address = "AA:BB:CC:DD:EE:FF", the one printed on the device',
            found="no address",
            do="Add `address`: without it any device of this kind within radio reach would count as this room's.",
        )
    if isinstance(driver.spec, SerialSpec) and not device.port:
        raise SettingsError(
            f"{entry}: {driver.name} is read over a serial line, and none is named.",
            expected='port = "/dev/ttyUSB0" or a socket:// URL',
            found="no port",
            do="Add `port`.",
        )
    return driver, options
