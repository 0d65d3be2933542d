"""The host's side of the air: a bumble host on the hub's socket, and a GATT client that may hold a confirmation back.

One adapter serves one scan or one connection and is closed with it, so nothing can leak from one to the next.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakError,
    BleakGATTProtocolError,
)
from bumble import att, core, gatt_client, hci
from bumble.device import Device
from bumble.transport.common import StreamPacketSink, StreamPacketSource

from vitals.log import Log

CONFIRM_TIMEOUT_S: Final = 20.0
"""An indication not committed by then is not confirmed; below ATT's 30 s, so that it is we who end it."""
Value: TypeAlias = bytearray
Handler: TypeAlias = Callable[[Value], object]
T = TypeVar("T")
_log = Log("air")


def uuid_text(uuid: Any) -> str:
    """A bumble UUID as bleak writes it: 128 bits, lower case."""
    return str(UUID(bytes=bytes(reversed(uuid.to_bytes(force_128=True)))))


class _Source(StreamPacketSource):  # type: ignore[misc]  # bumble has no types for us (follow_imports = skip)
    """Packets from the hub; tells when the hub is gone."""

    def __init__(self, lost: "asyncio.Future[str]") -> None:
        super().__init__()
        self._lost = lost
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result("the simulated air is gone")
        # Not on_transport_lost: it logs a traceback for the command in flight, which `Adapter.run` fails anyway.
        if self.sink is not None:
            self.sink.emit("flush")
        if not self.closed.done():
            self.closed.set_result(None)


class GattClient(gatt_client.Client):  # type: ignore[misc]
    """bumble's GATT client with three departures.

    An indication is confirmed when its handler is done, which may be later (an awaitable) or never (it failed, or
    took longer than CONFIRM_TIMEOUT_S): then the link is closed. Link loss fails the pending request with BleakError
    instead of cancelling it, which would look like the caller's own cancellation. A raising handler is contained.
    """

    def __init__(self, connection: Any, drop: Callable[[str], None]) -> None:
        super().__init__(connection)
        connection.gatt_client = self
        self.handlers: dict[int, Handler] = {}
        self.confirm_timeout_s = CONFIRM_TIMEOUT_S
        self._drop = drop
        self._handing_over: asyncio.Task[None] | None = None

    def on_disconnection(self, *_reason: object) -> None:
        if self._handing_over is not None:
            self._handing_over.cancel()
        if self.pending_response and not self.pending_response.done():
            self.pending_response.set_exception(BleakError("the link was lost"))

    def on_att_handle_value_notification(self, notification: Any) -> None:
        handler = self.handlers.get(notification.attribute_handle)
        if handler is not None:
            try:
                handler(bytearray(notification.attribute_value))
            except Exception:  # noqa: BLE001  the user's callback may raise anything; the stack lives on
                _log.exception("notification callback failed")

    def on_att_handle_value_indication(self, indication: Any) -> None:
        if self._handing_over is not None and not self._handing_over.done():
            self._drop("an indication before the one before was confirmed")
            return
        handler = self.handlers.get(indication.attribute_handle)
        if handler is None:
            self.send_confirmation(att.ATT_Handle_Value_Confirmation())
            return
        self._handing_over = asyncio.create_task(self._hand_over(handler, bytearray(indication.attribute_value)))

    async def _hand_over(self, handler: Handler, value: Value) -> None:
        try:
            result = handler(value)
            if isinstance(result, Awaitable):
                await self._committed(result)
        except TimeoutError:
            self._drop(f"an indication was not committed within {self.confirm_timeout_s:g} s")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._drop("the host gave up an indication")
        except Exception:  # noqa: BLE001  whatever failed, it is not committed
            _log.exception("indication callback failed")
            self._drop("the host failed to take an indication")
        else:
            self.send_confirmation(att.ATT_Handle_Value_Confirmation())

    async def _committed(self, result: Awaitable[object]) -> None:
        # Not wait_for: it would cancel the caller's future, and the commit may still come.
        future = asyncio.ensure_future(result)
        done, _ = await asyncio.wait({future}, timeout=self.confirm_timeout_s)
        if not done:
            raise TimeoutError
        future.result()


class Adapter:
    """A radio of this process on the air at `path`. `lost` resolves with the reason when it or its link is gone."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.device: Any = None
        self._source: Any = None
        self._transport: asyncio.BaseTransport | None = None
        self._left: set[asyncio.Future[Any]] = set()

    @classmethod
    async def open(cls, path: str) -> "Adapter":
        """Raises BleakBluetoothNotAvailableError when nobody serves the socket: there is no radio."""
        adapter = cls()
        try:
            await adapter._open(path)
        except BaseException:
            await adapter.close()
            raise
        return adapter

    async def _open(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._transport, self._source = await loop.create_unix_connection(lambda: _Source(self.lost), path)
        except OSError as error:
            raise BleakBluetoothNotAvailableError(
                f"no simulated air at {path}: {error}", BleakBluetoothNotAvailableReason.NO_BLUETOOTH
            ) from None
        address = hci.Address.generate_static_address()
        self.device = Device.with_hci("host", address, self._source, StreamPacketSink(self._transport))
        await self.run(self.device.power_on())

    async def run(self, call: Awaitable[T], timeout_s: float | None = None) -> T:
        """Await one operation of the stack.

        Raises BleakError when link or hub are lost meanwhile, TimeoutError after `timeout_s`. A cancelled caller
        leaves the operation running: an abandoned request's answer would be taken for that of the next one.
        """
        task = asyncio.ensure_future(call)
        self._left.add(task)
        task.add_done_callback(self._finished)
        either: set[asyncio.Future[Any]] = {task, self.lost}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            if self.lost.done():
                raise BleakError(self.lost.result())
            raise TimeoutError
        try:
            return task.result()
        except asyncio.CancelledError:  # bumble's own: it cancels what waits when it flushes
            raise BleakError(self.lost.result() if self.lost.done() else "the link was lost") from None
        except att.ATT_Error as error:
            raise BleakGATTProtocolError(int(error.error_code)) from None
        except (core.BaseBumbleError, hci.HCI_Error) as error:
            raise BleakError(f"{type(error).__name__}: {error}") from error

    def _finished(self, task: "asyncio.Future[Any]") -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that an abandoned failure is not reported as forgotten

    def lose(self, reason: str) -> None:
        """The link is gone for this reason."""
        if not self.lost.done():
            self.lost.set_result(reason)

    def abandon(self) -> None:
        """Leave the air at once; `close` still has to follow for a tidy end."""
        if self._transport is not None:
            self._transport.close()

    async def close(self) -> None:
        """Off the air; the hub ends what was connected. Twice does no harm."""
        self.lose("closed")
        for task in list(self._left):
            task.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.close()
            await self._source.closed
