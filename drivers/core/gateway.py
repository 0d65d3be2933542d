"""The gateway: devices on one side, outbox and broker on the other.

One asyncio loop runs the devices; one thread owns the outbox, so that a slow disk never holds up a serial line.
`intake.py` says what is committed when. A row is published after its commit, never before.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from drivers.core.capture import Capture
from drivers.core.draft import Draft
from drivers.core.feed import DeviceFeed, Output
from drivers.core.forwarder import Forwarder
from drivers.core.intake import Intake
from drivers.core.link import Transport
from drivers.core.losses import Losses, aged_out_events
from drivers.core.runner import Runner
from drivers.core.telemetry import CLOCK_OFF_S, Backlog, Parts, report
from drivers.transports.ble import Backend, BleTransport, Radio
from drivers.transports.serial import SerialTransport
from vitals.broker import Broker, Message, Will
from vitals.clock import NS, NS_PER_MS, Clock
from vitals.driver import BleSpec, Driver, SerialSpec, complete_options
from vitals.errors import SettingsError
from vitals.log import Log
from vitals.messages import SCHEMA_EVENT, SCHEMA_OBS, SCHEMA_STRIP, VERSION, GatewayStatus, IngestStatus, Receipts
from vitals.outbox import AgedOut, Outbox, Row
from vitals.settings import Device, Settings
from vitals.telemetry.watch import REPORT_S, Watch
from vitals.topics import Topics

PUMP_S: Final = 0.25
STATUS_S: Final = 10.0
STOP_PATIENCE_S: Final = 10
"""At a stop, a disk that takes nothing gets this long; then the loss is logged rather than the stop refused."""
WAVE_EXPIRY_S: Final = 5
OBS_EXPIRY_S: Final = 3_600
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
        watch: Watch | None = None,
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._clock = clock
        self._topics = Topics(settings.site.id)
        self._id = settings.gateway.id
        self._session = secrets.token_hex(8)
        self._started = clock.now()
        self._budget = settings.gateway.outbox_max_mb * 1_000_000
        self._outbox = Outbox(Path(settings.gateway.outbox), max_bytes=self._budget, clock=clock)
        self._outbox.account = self._account
        self._disk = ThreadPoolExecutor(1, "outbox")
        self._losses = Losses()
        self._intake = Intake(self._keep, clock, self._losses)
        self._disk_faults = 0
        self._told: tuple[object, ...] = ()
        self._inbox = asyncio.Event()
        self._must_republish = asyncio.Event()
        self._broker = make_broker(
            will=Will(self._topics.gateway_status(self._id), self._farewell_status()),
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
        # Only over Bluetooth can a device be told "received", and so must wait; a serial line would only overflow.
        commit = partial(self._commit, hold=driver.transport == "ble")
        return feed, Runner(feed, driver, options, connect, commit, self._clock, capture)

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
        work = [self._intake.run(), self._forwards(), self._states(), self._mail()]
        if self._watch is not None:
            work.append(self._reports(self._watch))
        chores = [asyncio.create_task(chore) for chore in work]
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({stopped, *runners, *chores}, return_when=asyncio.FIRST_COMPLETED)
        self._intake.give_up_at(self._clock.monotonic() + STOP_PATIENCE_S * NS)
        for task in (*runners, stopped):
            task.cancel()
        await asyncio.gather(*runners, return_exceptions=True)  # while the chores still commit what they hand on
        for task in chores:
            task.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        await self._farewell()
        for task in done - {stopped}:
            task.result()  # a part that ended by itself ended by a bug: let it be seen

    async def _farewell(self) -> None:
        await self._intake.finish()
        for feed, _ in self._devices:
            feed.set_state("off", "gateway stopped", self._clock.now())
            self._publish_retained(feed)
        self._broker.publish(self._topics.gateway_status(self._id), self._farewell_status(), qos=1, retain=True)
        await asyncio.sleep(0.2)  # paho's thread needs a moment to write what was handed to it
        await asyncio.to_thread(self._broker.stop)
        self._disk.shutdown()
        self._outbox.close()
        _log.info("gateway stopped", gateway=self._id, commits=self._outbox.commits)

    # -- outbox ----------------------------------------------------------------------------------------------

    async def _on_disk(self, call: Callable[..., T], *args: object) -> T:
        """All use of the outbox, one call after the other, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, partial(self._guarded, call, *args))

    def _guarded(self, call: Callable[..., T], *args: object) -> T:
        """A file that turns out to be damaged is replaced, and the call made again."""
        try:
            return call(*args)
        except sqlite3.Error as error:
            if not self._outbox.broken_by(error):
                raise
            self._outbox.renew(error)
            self._forwarder.reconnected()
            return call(*args)

    async def _commit(self, output: Output, *, hold: bool = True) -> None:
        for topic, payload in output.live:
            self._broker.publish(topic, payload, expiry_s=WAVE_EXPIRY_S)
        await self._intake.take(output.drafts, hold=hold)

    async def _keep(self, drafts: Sequence[Draft]) -> None:
        if drafts or self._forwarder.unsettled:
            self._losses.aged_out(await self._on_disk(self._store, drafts))

    def _store(self, drafts: Sequence[Draft]) -> AgedOut:
        """In the outbox's thread: identity, commit, publish."""
        return self._forwarder.commit(self._finish(drafts))

    def _finish(self, drafts: Sequence[Draft]) -> list[Row]:
        """What a bug of ours made unfit for a message must not hold up all the others for ever."""
        now = self._clock.now()
        rows = []
        for draft in drafts:
            try:
                rows.append(draft.finish(*self._outbox.stamp(), now))
            except Exception:  # noqa: BLE001
                self._losses.rows += 1
                _log.exception("message cannot be encoded", topic=draft.topic, do="report it with this traceback")
        return rows

    def _account(self, aged: AgedOut) -> list[Row]:
        counts = {kind: len(rows) for kind, rows in aged._asdict().items()}
        budget_mb = self._settings.gateway.outbox_max_mb
        _log.error("outbox full", budget_mb=budget_mb, **counts, do="bring ingest or the store back: EKG is lost")
        return self._finish(aged_out_events(aged, self._clock.now()))

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
                await self._unless_refused(self._forwarder.pump)

    async def _unless_refused(self, call: Callable[[], T]) -> T | None:
        """What can wait for a disk that does not answer: it is asked again before long."""
        try:
            return await self._on_disk(call)
        except sqlite3.Error as error:
            self._disk_faults += 1
            _log.error("outbox not readable", error=error, do="look at the disk and its space")
            return None

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
                    status = msgspec.json.decode(message.payload, type=IngestStatus)
                    self._forwarder.ingest_status(status, retained=message.retain)
            elif message.topic == self._topics.stored(self._id):
                self._forwarder.receipts(msgspec.json.decode(message.payload, type=Receipts))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            do = "give ingest and gateway the same version"
            _log.error("message not understood", topic=message.topic, error=error, do=do)
        except sqlite3.Error as error:
            # The rows stay, are sent again, and come back as duplicates: a receipt that is lost costs nothing.
            self._disk_faults += 1
            _log.error("receipt not applied", error=error, do="look at the disk and its space")

    # -- health ----------------------------------------------------------------------------------------------

    async def _reports(self, watch: Watch) -> None:
        """For ever. A disk that hangs must not stop the reports that say so."""
        backlog, asked_at = Backlog(), self._clock.monotonic()
        asking: asyncio.Task[Backlog | None] | None = None
        while True:
            if asking is None:
                asked_at = self._clock.monotonic()
                asking = asyncio.create_task(self._unless_refused(self._backlog))
            await asyncio.wait({asking}, timeout=REPORT_S)
            late_s = (self._clock.monotonic() - asked_at) / NS
            if asking.done():
                backlog, asking, late_s = asking.result() or backlog._replace(unreadable=True), None, 0.0
            watch.publish(report(self._parts(), backlog._replace(late_s=late_s)))
            await asyncio.sleep(REPORT_S)

    def _backlog(self) -> Backlog:
        """In the outbox's thread."""
        waiting, refused = self._outbox.counts()
        oldest = self._outbox.oldest()
        age_s = 0.0 if oldest is None else max(0.0, (self._clock.now() - oldest) / NS)
        return Backlog(waiting, refused, age_s, self._outbox.used())

    def _parts(self) -> Parts:
        feeds = [feed for feed, _ in self._devices]
        return Parts(
            self._id, self._budget, feeds, self._intake, self._forwarder, self._losses, self._broker,
            self._outbox.set_aside, self._disk_faults,
        )  # fmt: skip

    # -- retained states -------------------------------------------------------------------------------------

    async def _states(self) -> None:
        beat = 0.0
        while True:
            await asyncio.sleep(PUMP_S)
            beat += PUMP_S
            everything = beat >= STATUS_S
            if everything:
                beat = 0.0
                await self._unless_refused(self._outbox.give_back)
            if self._broker.connected:
                await self._publish_states(everything=everything)

    async def _publish_states(self, *, everything: bool) -> None:
        for feed, _ in self._devices:
            if everything or feed.changed:
                self._publish_retained(feed)
        news = self._news()
        if everything or news != self._told:
            self._told = news
            waiting, refused = await self._unless_refused(self._outbox.counts) or (0, 0)
            payload = msgspec.json.encode(self._status(waiting, refused))
            self._broker.publish(self._topics.gateway_status(self._id), payload, qos=1, retain=True)

    def _publish_retained(self, feed: DeviceFeed) -> None:
        feed.changed = False
        for topic, payload in feed.retained():
            self._broker.publish(topic, payload, qos=1, retain=True)

    def _news(self) -> tuple[object, ...]:
        """What is told at once and not with the next beat: ingest binds no reading of a clock that is off."""
        off = self._forwarder.clock_off_ns
        clock_is_off = off is not None and abs(off) > CLOCK_OFF_S * NS
        lost, denied = self._losses.strips > 0, self._broker.denied > 0
        return clock_is_off, self._intake.fault, self._outbox.set_aside, lost, denied

    def _status(self, waiting: int, refused: int) -> GatewayStatus:
        off = self._forwarder.clock_off_ns
        return GatewayStatus(
            VERSION,
            self._session,
            True,
            self._started,
            self._clock.now(),
            waiting,
            refused,
            None if off is None else off // NS_PER_MS,
            in_memory=self._intake.in_memory,
            outbox_fault=self._intake.fault,
            set_aside=self._outbox.set_aside,
            aged_out_strips=self._losses.strips,
            aged_out_s={key: round(seconds, 1) for key, seconds in self._losses.seconds.items()},
            aged_out_rows=self._losses.rows,
            foreign_receipts=self._forwarder.foreign_receipts,
            denied=self._broker.denied,
        )

    def _farewell_status(self) -> bytes:
        """Also the last will, which is made at the start and can know nothing."""
        return msgspec.json.encode(GatewayStatus(VERSION, self._session, False, self._started, self._clock.now()))


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
