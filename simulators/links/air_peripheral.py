"""Puts one simulated device on the air: its table as a GATT server, its sends as notifications and indications.

An indication is reported to the device as confirmed when the host's ATT confirmation arrived, and only then.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from bumble import att, core, gatt, hci
from bumble.device import Device
from bumble.transport.common import AsyncPipeSink

from simulators.core.gatt import UNLIKELY_ERROR, AttError, Characteristic, GattDevice, Property
from simulators.links.air_hub import CONNECTION_TIMEOUT, Hub
from vitals.clock import Clock
from vitals.log import Log
from vitals.model import Chunk, Send

TICK_S: Final = 0.05
"""How often a connected device may act; a cuff sends a few values a second."""
IDLE_TICK_S: Final = 0.2
"""How often a device without a host looks whether it wants to advertise."""
ADVERTISING_MS: Final = 50
ADVERTISEMENT_LIMIT: Final = 31
"""Bytes of a legacy advertisement; scan responses are not carried by the simulated link."""
_DISCOVERABLE: Final = bytes([0x06])
"""General discoverable, no BR/EDR."""
_log = Log("air")


def _uuid(text: str) -> Any:
    return core.UUID.from_16_bits(int(text, 16)) if len(text) == 4 else core.UUID(text)


def advertisement(device: GattDevice) -> bytes:
    """Flags, service UUIDs and name as AD structures. Raises ValueError when they do not fit in 31 bytes."""
    short = b"".join(int(u, 16).to_bytes(2, "little") for u in device.advertised if len(u) == 4)
    long = b"".join(bytes(_uuid(u).to_bytes(force_128=True)) for u in device.advertised if len(u) != 4)
    fields = ((0x01, _DISCOVERABLE), (0x03, short), (0x07, long), (0x09, device.name.encode()))
    data = b"".join(bytes([len(body) + 1, kind]) + body for kind, body in fields if body)
    if len(data) > ADVERTISEMENT_LIMIT:
        raise ValueError(f"advertisement of {device.name!r} has {len(data)} bytes, at most {ADVERTISEMENT_LIMIT} fit")
    return data


class Peripheral:
    """One simulated device at `address` on the hub's air. `run` lives until it is cancelled."""

    def __init__(self, device: GattDevice, address: str, clock: Clock, hub: Hub) -> None:
        self.device = device
        self.address = address.upper()
        self.dropped = 0
        """Values nobody was subscribed to."""
        self._clock = clock
        self._hub = hub
        self._controller = hub.add_controller(self.address)
        self._stack: Any = Device.with_hci(
            device.name, hci.Address(self.address), self._controller, AsyncPipeSink(self._controller)
        )
        self._attributes: dict[str, Any] = {}
        self._properties: dict[str, Property] = {}
        self._subscribed: set[str] = set()
        self._answers: list[Send] = []
        self._connection: Any = None
        self._gone: asyncio.Future[None] | None = None
        self._advertising = False
        self._payload = advertisement(device)
        for service in device.table:
            self._stack.add_service(
                gatt.Service(_uuid(service.uuid), [self._attribute(c) for c in service.characteristics])
            )
        self._stack.on("connection", self._on_connection)

    def _attribute(self, described: Characteristic) -> Any:
        channel = described.uuid
        attribute = gatt.Characteristic(
            _uuid(channel),
            gatt.Characteristic.Properties(int(described.properties)),
            gatt.Characteristic.READABLE | gatt.Characteristic.WRITEABLE,
            gatt.CharacteristicValue(read=self._reader(described), write=self._writer(described)),
        )
        attribute.on("subscription", lambda _bearer, n, i: self._on_subscription(channel, n or i))
        self._attributes[channel] = attribute
        self._properties[channel] = described.properties
        return attribute

    def _reader(self, described: Characteristic) -> Callable[[Any], bytes]:
        def read(_connection: Any) -> bytes:
            if Property.READ not in described.properties:
                raise att.ATT_Error(att.ErrorCode.READ_NOT_PERMITTED)
            value = self._ask(lambda: self.device.read(described.uuid, self._clock.now()))
            return described.value if value is None else bytes(value)

        return read

    def _writer(self, described: Characteristic) -> Callable[[Any, bytes], None]:
        def write(_connection: Any, value: bytes) -> None:
            if not described.properties & (Property.WRITE | Property.WRITE_NO_RESPONSE):
                raise att.ATT_Error(att.ErrorCode.WRITE_NOT_PERMITTED)
            chunk = Chunk(bytes(value), self._clock.now(), described.uuid)
            self._answers.extend(self._ask(lambda: self.device.respond(chunk)))

        return write

    @staticmethod
    def _ask(question: Callable[[], Any]) -> Any:
        # Without an answer the host would wait 30 s for the reply that bumble does not send after an exception.
        try:
            return question()
        except AttError as error:
            raise att.ATT_Error(error.code) from None
        except Exception as error:
            _log.exception("simulator failed")
            raise att.ATT_Error(UNLIKELY_ERROR) from error

    def _on_connection(self, connection: Any) -> None:
        self._connection = connection
        self._advertising = False
        self._subscribed.clear()
        self._answers.clear()
        self._gone = asyncio.get_running_loop().create_future()
        connection.on("disconnection", self._on_disconnection)
        self.device.connected(self._clock.now())

    def _on_disconnection(self, _reason: int) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self._connection = None
        self._subscribed.clear()
        self.device.disconnected(self._clock.now())

    def _on_subscription(self, channel: str, on: bool) -> None:
        (self._subscribed.add if on else self._subscribed.discard)(channel)
        self.device.subscribed(channel, on, self._clock.now())

    def drop_link(self) -> None:
        """Lose the link as if the device had been carried away: no goodbye, a supervision timeout at both ends."""
        self._controller.break_links(CONNECTION_TIMEOUT)

    async def run(self) -> None:
        """Be on the air until cancelled."""
        await self._stack.power_on()
        task = asyncio.current_task()
        try:
            # Looked at, not only waited for: `asyncio.wait_for`, which bumble uses, swallows a cancellation that comes
            # together with the answer (before Python 3.12), and the simulators would never end.
            while task is None or not task.cancelling():
                answers, self._answers = self._answers, []
                for send in answers + self.device.advance(self._clock.now()):
                    await self._put(send)
                await self._steer()
                await asyncio.sleep(IDLE_TICK_S if self._connection is None else TICK_S)
        finally:
            self._hub.remove_controller(self._controller)

    async def _steer(self) -> None:
        if self._connection is not None:
            if self.device.hanging_up:
                await self._hang_up()
        elif self.device.advertising and not self._advertising:
            self._advertising = True
            await self._stack.start_advertising(
                advertising_data=self._payload,
                advertising_interval_min=ADVERTISING_MS, advertising_interval_max=ADVERTISING_MS,
            )  # fmt: skip
        elif self._advertising and not self.device.advertising:
            self._advertising = False
            await self._stack.stop_advertising()

    async def _hang_up(self) -> None:
        connection, gone = self._connection, self._gone
        if connection is not None and gone is not None:
            await self._unless_gone(connection.disconnect())

    async def _put(self, send: Send) -> None:
        attribute = self._attributes[send.channel]
        if send.channel not in self._subscribed or self._connection is None:
            self.dropped += 1
            return
        limit = self._connection.att_mtu - 3
        if len(send.data) > limit:  # bumble would cut the value in silence
            raise ValueError(f"{send.channel}: {len(send.data)} bytes, the connection carries {limit}")
        if Property.NOTIFY in self._properties[send.channel]:
            await self._unless_gone(self._stack.notify_subscriber(self._connection, attribute, send.data))
        elif await self._unless_gone(self._stack.indicate_subscriber(self._connection, attribute, send.data)):
            self.device.confirmed(send, self._clock.now())

    async def _unless_gone(self, call: Any) -> bool:
        """Whether the call ended well before the link did. bumble itself would wait 30 s for a dead host."""
        task = asyncio.ensure_future(call)
        gone = self._gone
        assert gone is not None  # noqa: S101  only called while connected
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() or task.cancelled():
                return False
            if task.exception() is None:
                return True
            if not gone.done():  # 30 s without confirmation: the ATT bearer is dead (Core Vol 3 Part F 3.3.3)
                _log.warning("not confirmed, link closed", address=self.address, error=task.exception())
                self.drop_link()
            return False
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
