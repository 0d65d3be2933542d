"""Bluetooth LE through bleak's public API; the simulated air is another bleak backend, given by the wiring.

When an indication is confirmed to the device (and so deleted there):
- simulated air: after `confirm`, that is after the outbox committed;
- BlueZ, CoreBluetooth, WinRT: by the operating system as soon as it arrived, before we see it. A power cut of the
  gateway within these milliseconds loses a reading that the cuff believes delivered. No public API changes that.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final, Self

from bleak import BleakClient, BleakScanner
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError

from drivers.core.link import LinkLost, LossReason
from vitals.clock import Clock
from vitals.driver import BleSpec
from vitals.log import Log
from vitals.model import Chunk, Send

CONNECT_TIMEOUT_S: Final = 15.0
RESCAN_S: Final = 10.0
QUEUE_LIMIT: Final = 4_000
"""Values waiting to be decoded; a device that floods us past this loses its link, not our memory."""
_BASE: Final = "-0000-1000-8000-00805f9b34fb"
_log = Log("ble")


class Backend:
    """Which Bluetooth stack bleak drives. Empty: the operating system's."""

    def __init__(
        self,
        client: type[BaseBleakClient] | None = None,
        scanner: type[BaseBleakScanner] | None = None,
        *,
        simulated: bool = False,
    ) -> None:
        self.client = client
        self.scanner = scanner
        self.simulated = simulated


def long_uuid(short: str) -> str:
    """`1810` as the 128-bit UUID bleak speaks; 128-bit ones pass unchanged."""
    return f"0000{short}{_BASE}" if len(short) == 4 else short


def short_uuid(uuid: str) -> str:
    """The 16-bit form of a SIG UUID, in lower case; others unchanged."""
    lower = uuid.lower()
    return lower[4:8] if lower.endswith(_BASE) and lower.startswith("0000") else lower


class Radio:
    """The gateway's one radio: one scan for all devices that wait, one connection attempt at a time.

    A scan for each device would be many discovery sessions, and BlueZ fails a second connect while one is pending.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.connecting = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[BLEDevice]] = {}
        self._scanner: BleakScanner | None = None
        self._scanning_since = 0.0
        self._switching = asyncio.Lock()

    async def find(self, address: str) -> BLEDevice:
        """Wait, however long, until the device advertises. Raises LinkLost when there is no working radio."""
        found: asyncio.Future[BLEDevice] = asyncio.get_running_loop().create_future()
        self._waiting[address.upper()] = found
        try:
            while not found.done():
                await self._switch()
                await asyncio.wait({found}, timeout=RESCAN_S)
            return found.result()
        finally:
            self._waiting.pop(address.upper(), None)
            await asyncio.shield(self._switch())

    async def _switch(self) -> None:
        """Scan exactly while somebody waits; a scan that has found nothing for long is made anew.

        A stack that was restarted under us (bluetoothd, the simulated air) never tells its scanners.
        """
        async with self._switching:
            now = asyncio.get_running_loop().time()
            if self._scanner is not None and (not self._waiting or now - self._scanning_since >= RESCAN_S):
                scanner, self._scanner = self._scanner, None
                try:
                    await scanner.stop()
                except (BleakError, OSError, EOFError) as error:
                    _log.warning("scan did not stop", error=error, do="if it stays so, restart bluetoothd")
            if self._waiting and self._scanner is None:
                scanner = BleakScanner(self._advertised, **_backend_argument(self.backend.scanner))
                await _reasoned(scanner.start(), LossReason.RADIO_OFF)
                self._scanner, self._scanning_since = scanner, now

    def _advertised(self, device: BLEDevice, _advertisement: AdvertisementData) -> None:
        found = self._waiting.get(device.address.upper())
        if found is not None and not found.done():
            found.set_result(device)


def _backend_argument(backend: type | None) -> dict[str, Any]:
    return {} if backend is None else {"backend": backend}


async def _reasoned(call: Awaitable[Any], reason: LossReason) -> Any:
    """Bleak's many failures as one of ours with a reason."""
    try:
        return await call
    except (BleakError, OSError, TimeoutError, EOFError) as error:
        raise LinkLost(reason, said(error)) from None


def said(error: Exception) -> str:
    """Its words. Some of bleak's are a text and a reason code, which prints as a tuple; the text is told."""
    as_tuple = len(error.args) > 1 and type(error).__str__ is BaseException.__str__
    return str(error.args[0] if as_tuple else error) or type(error).__name__


class BleTransport:
    """From waiting for the advertisement to the hang-up of one device."""

    def __init__(self, radio: Radio, address: str, spec: BleSpec, clock: Clock) -> None:
        self.address = address
        self.simulated = radio.backend.simulated
        self._radio = radio
        self._spec = spec
        self._clock = clock
        self._client: BleakClient | None = None
        self._flooded = False
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Self:
        device = await self._radio.find(self.address)
        self.address = device.address
        client = BleakClient(device, self._hung_up, **_backend_argument(self._radio.backend.client))
        async with self._radio.connecting:
            await _reasoned(asyncio.wait_for(client.connect(), CONNECT_TIMEOUT_S), LossReason.CONNECT_FAILED)
        self._client = client
        try:
            await self._prepare(client)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _prepare(self, client: BleakClient) -> None:
        try:
            offered = {short_uuid(c.uuid) for c in client.services.characteristics.values()}
        except BleakError as error:  # the link broke before the table was read
            raise LinkLost(LossReason.LINK_LOST, said(error)) from None
        if self._spec.subscribe[0] not in offered:
            raise LinkLost(LossReason.SERVICE_MISSING, f"no characteristic {self._spec.subscribe[0]} in {offered}")
        for channel in self._spec.read:
            if channel in offered:
                await self._read(client, channel)
        for channel in self._spec.subscribe:
            if channel in offered:
                await _reasoned(client.start_notify(long_uuid(channel), self._arrived), LossReason.LINK_LOST)

    async def _read(self, client: BleakClient, channel: str) -> None:
        # One value that cannot be read (needs pairing, absent after all) must not fail the session.
        try:
            data = await client.read_gatt_char(long_uuid(channel))
        except (BleakError, OSError, EOFError) as error:
            if not client.is_connected:
                raise LinkLost(LossReason.LINK_LOST, said(error)) from None
            do = "pair the device anew if its readings do not come"
            _log.warning("value not readable", channel=channel, address=self.address, error=error, do=do)
            return
        self._chunks.put_nowait(Chunk(bytes(data), self._clock.now(), channel))

    def _arrived(self, source: BleakGATTCharacteristic, data: bytearray) -> "asyncio.Future[None]":
        """Bleak's callback. The future it returns holds back the confirmation where the backend can wait for it."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        chunk = Chunk(bytes(data), self._clock.now(), short_uuid(source.uuid))
        if self._flooded or self._chunks.qsize() >= QUEUE_LIMIT:
            if not self._flooded:
                self._flooded = True
                self._chunks.put_nowait(None)
            confirmed.cancel()
            return confirmed
        self._unconfirmed[id(chunk)] = confirmed
        self._chunks.put_nowait(chunk)
        return confirmed

    def _hung_up(self, _client: BleakClient) -> None:
        self._chunks.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self._chunks.get()
        if chunk is not None:
            return chunk
        if self._flooded:
            raise LinkLost(LossReason.FLOODED, f"{self.address}: more than {QUEUE_LIMIT} values waiting")
        if self._spec.stays:
            raise LinkLost(LossReason.LINK_LOST, f"{self.address} hung up")
        raise StopAsyncIteration

    async def send(self, send: Send) -> None:
        if self._client is None:
            raise LinkLost(LossReason.LINK_LOST, "not connected")
        await _reasoned(self._client.write_gatt_char(long_uuid(send.channel), send.data), LossReason.LINK_LOST)

    def confirm(self, chunk: Chunk) -> None:
        confirmed = self._unconfirmed.pop(id(chunk), None)
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)

    async def __aexit__(self, *_exc_info: object) -> None:
        for confirmed in self._unconfirmed.values():
            confirmed.cancel()  # not committed: the device keeps the reading and sends it again
        self._unconfirmed.clear()
        client, self._client = self._client, None
        if client is not None:
            try:
                await client.disconnect()
            except (BleakError, OSError, EOFError) as error:
                do = "if the device stays away, switch it off and on"
                _log.warning("disconnect failed", address=self.address, error=error, do=do)
