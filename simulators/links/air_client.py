"""bleak's client on the simulated air: `BleakClient(..., backend=...)`."""

from typing import Any, ClassVar, Final, cast

from bleak.args import SizedBuffer
from bleak.assigned_numbers import CharacteristicPropertyName
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError
from bumble import core, hci

from simulators.links.air_adapter import Adapter, GattClient, uuid_text
from vitals.log import Log

MTU: Final = 247
"""What common radios agree on: one value of 244 bytes fits one packet of 251."""
DISCONNECT_TIMEOUT_S: Final = 5.0
REMOTE_USER_TERMINATED: Final = 0x13
_CCCD: Final = core.UUID.from_16_bits(0x2902)
_PROPERTIES: Final[tuple[tuple[int, CharacteristicPropertyName], ...]] = (
    (0x01, "broadcast"),
    (0x02, "read"),
    (0x04, "write-without-response"),
    (0x08, "write"),
    (0x10, "notify"),
    (0x20, "indicate"),
    (0x40, "authenticated-signed-writes"),
    (0x80, "extended-properties"),
)
_log = Log("air")


class AirClient(BaseBleakClient):
    """A GATT client on the simulated air. Use a bound subclass from `air_backends`.

    A plain callback given to `start_notify` may return an awaitable: the indication is confirmed when it resolves.
    (bleak wraps coroutine functions and loses what they return, so those count as confirmed at once.)
    """

    socket_path: ClassVar[str] = ""

    def __init__(self, address_or_ble_device: BLEDevice | str, **kwargs: Any) -> None:
        super().__init__(
            address_or_ble_device,
            disconnected_callback=kwargs.get("disconnected_callback"),
            timeout=kwargs.get("timeout", 30.0),
        )
        known = isinstance(address_or_ble_device, BLEDevice)
        self._name = cast(BLEDevice, address_or_ble_device).name if known else None
        self._adapter: Adapter | None = None
        self._connection: Any = None
        self._gatt: GattClient | None = None
        self._reported = True

    @property
    def name(self) -> str:
        return self._name or self.address

    @property
    def mtu_size(self) -> int:
        return int(self._gatt.mtu) if self._gatt is not None else 23

    @property
    def is_connected(self) -> bool:
        return self._adapter is not None and self._gatt is not None and not self._adapter.lost.done()

    async def connect(self, pair: bool, **kwargs: Any) -> None:
        """Connect and read the table. Raises BleakDeviceNotFoundError when it does not advertise in time."""
        if self.is_connected:
            raise BleakError("already connected")
        if pair:
            _log.warning("the simulated air does not pair", address=self.address)
        await self._close()
        adapter = self._adapter = await Adapter.open(self.socket_path)
        try:
            await self._establish(adapter, float(kwargs.get("timeout", self._timeout)))
        except BaseException:
            await self._close()
            raise
        self._reported = False
        adapter.lost.add_done_callback(lambda _lost: self._report())

    async def _establish(self, adapter: Adapter, timeout_s: float) -> None:
        try:
            wanted = hci.Address(self.address.upper())
            self._connection = await adapter.run(adapter.device.connect_le(wanted, timeout=None), timeout_s)
        except (TimeoutError, ValueError, core.InvalidArgumentError):
            raise BleakDeviceNotFoundError(
                self.address, f"{self.address} did not advertise within {timeout_s:g} s"
            ) from None
        self._connection.on("disconnection", lambda reason: adapter.lose(f"the link ended (HCI reason 0x{reason:02X})"))
        if adapter.device.lookup_connection(self._connection.handle) is None:
            raise BleakError("the connection was not established")  # another host was faster; before we could listen
        self._gatt = GattClient(self._connection, self._drop)
        await adapter.run(self._gatt.request_mtu(MTU))
        self.services = await adapter.run(self._discover(self._gatt))

    async def _discover(self, client: GattClient) -> BleakGATTServiceCollection:
        found = BleakGATTServiceCollection()
        for service in await client.discover_services():
            shown = BleakGATTService(service, service.handle, uuid_text(service.uuid))
            found.add_service(shown)
            for characteristic in await client.discover_characteristics((), service):
                bits = int(characteristic.properties)
                described = BleakGATTCharacteristic(
                    characteristic,
                    characteristic.handle,
                    uuid_text(characteristic.uuid),
                    [name for bit, name in _PROPERTIES if bits & bit],
                    lambda: self.mtu_size - 3,
                    shown,
                )
                found.add_characteristic(described)
                for descriptor in await client.discover_descriptors(characteristic):
                    kind = uuid_text(descriptor.type)
                    found.add_descriptor(BleakGATTDescriptor(descriptor, descriptor.handle, kind, described))
        return found

    def _drop(self, reason: str) -> None:
        """End the link ourselves: the device must not believe that we have its value."""
        _log.warning("link closed", address=self.address, reason=reason)
        if self._adapter is not None:
            self._adapter.lose(reason)

    def _report(self) -> None:
        """Link lost, whoever lost it: free the radio and tell the user once."""
        if self._reported:
            return
        self._reported = True
        if self._adapter is not None:
            self._adapter.abandon()
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        """Hang up. Twice does no harm."""
        adapter, connection = self._adapter, self._connection
        if adapter is not None and connection is not None and not adapter.lost.done():
            try:
                await adapter.run(connection.disconnect(REMOTE_USER_TERMINATED), DISCONNECT_TIMEOUT_S)
            except (BleakError, TimeoutError):
                pass  # gone already, or the hub does not answer: closing the socket ends it
        await self._close()

    async def _close(self) -> None:
        adapter, self._adapter, self._connection, self._gatt = self._adapter, None, None, None
        self.services = None
        if adapter is not None:
            await adapter.close()

    async def pair(self, *args: Any, **kwargs: Any) -> None:
        raise BleakError("the simulated air does not pair")

    async def unpair(self) -> None:
        raise BleakError("the simulated air does not pair")

    def _ready(self) -> tuple[Adapter, GattClient]:
        if self._adapter is None or self._gatt is None:
            raise BleakError("not connected")
        if self._adapter.lost.done():
            raise BleakError(self._adapter.lost.result())
        return self._adapter, self._gatt

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        adapter, client = self._ready()
        return bytearray(await adapter.run(client.read_value(characteristic.handle)))

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        adapter, client = self._ready()
        return bytearray(await adapter.run(client.read_value(descriptor.handle)))

    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: SizedBuffer, response: bool) -> None:
        adapter, client = self._ready()
        if not response and len(data) > self.mtu_size - 3:
            raise BleakError(f"{len(data)} bytes without response; at most {self.mtu_size - 3} fit")
        await adapter.run(client.write_value(characteristic.handle, bytes(data), with_response=response))

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: SizedBuffer) -> None:
        adapter, client = self._ready()
        await adapter.run(client.write_value(descriptor.handle, bytes(data), with_response=True))

    async def start_notify(
        self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **kwargs: Any
    ) -> None:
        _, client = self._ready()
        client.handlers[characteristic.handle] = callback  # before the write: the first value may follow at once
        await self._configure(characteristic, b"\1\0" if "notify" in characteristic.properties else b"\2\0")

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        await self._configure(characteristic, b"\0\0")
        _, client = self._ready()
        client.handlers.pop(characteristic.handle, None)

    async def _configure(self, characteristic: BleakGATTCharacteristic, bits: bytes) -> None:
        adapter, client = self._ready()
        cccd = characteristic.obj.get_descriptor(_CCCD)
        if cccd is None:
            raise BleakError(f"{characteristic.uuid} neither notifies nor indicates")
        await adapter.run(client.write_value(cccd.handle, bits, with_response=True))
