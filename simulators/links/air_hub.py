"""The shared medium: one Controller for each host that connects to a unix socket, all on one link.

H4 packets over the socket, so any bumble host may join. bumble 0.0.236 is mended here where its virtual controller
departs from a real one; the list is in `simulators.links.air`.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final, Self

from bumble import core, hci, ll
from bumble.controller import Controller
from bumble.link import LocalLink
from bumble.transport.common import PacketParser

from vitals.errors import VitalsError
from vitals.log import Log

BACKLOG_LIMIT: Final = 1 << 20
"""Bytes not read by a host before it is cut off: a stuck host may not grow the hub's memory."""
PATH_LIMIT: Final = 107
"""sockaddr_un holds 108 bytes with the final NUL."""
CONNECTION_TIMEOUT: Final = 0x08
"""HCI error: the peer fell silent (Core Vol 1 Part F)."""
FAILED_TO_ESTABLISH: Final = 0x3E
UNKNOWN_CONNECTION: Final = 0x02
_log = Log("air")


class _AirLink(LocalLink):  # type: ignore[misc]  # bumble has no types for us (follow_imports = skip)
    """Delivers advertisements to those who listen, and a connection request to the one it is meant for."""

    def send_advertising_pdu(self, sender_controller: Any, packet: Any) -> None:
        if isinstance(packet, ll.ConnectInd):
            self._connect(sender_controller, packet)
            return
        loop = asyncio.get_running_loop()
        for controller in self.controllers:
            if controller is not sender_controller and (controller.le_scan_enable or controller.pending_le_connection):
                loop.call_soon(controller.on_ll_advertising_pdu, packet)

    def _connect(self, initiator: Any, packet: Any) -> None:
        # Delivered at once, so that of two hosts that heard the same advertisement only the first gets the device;
        # the other learns it as on a real radio: connected, and lost before the first exchange.
        for controller in self.controllers:
            if controller is not initiator and controller.advertises_as(packet.advertiser_address):
                controller.on_ll_advertising_pdu(packet)
                return
        asyncio.get_running_loop().call_soon(initiator.fail_connection, packet.advertiser_address)


class _AirController(Controller):  # type: ignore[misc]
    """bumble's virtual controller with its gaps closed."""

    le_acl_data_packet_length = 251  # 27 cuts every value longer than 20 bytes into packets; radios since 4.2 take 251
    pending_le_connection: Any = None

    def advertises_as(self, address: Any) -> bool:
        sets = (s for s in self.advertising_sets.values() if s.enabled and s.address == address)
        legacy = self.le_legacy_advertiser
        return next(sets, None) is not None or (legacy.enabled and legacy.address == address)

    def fail_connection(self, peer: Any) -> None:
        connection = self.le_connections.get(peer)
        if connection is not None:
            self.on_le_disconnected(connection, FAILED_TO_ESTABLISH)

    def on_hci_le_create_connection_cancel_command(self, _command: Any) -> Any:
        # A no-op in bumble: the host's cancel would wait for ever for the event that ends the attempt.
        pending = self.pending_le_connection
        self.pending_le_connection = None
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        event = hci.HCI_LE_Connection_Complete_Event(
            status=UNKNOWN_CONNECTION, connection_handle=0, role=hci.Role.CENTRAL,
            peer_address_type=pending.peer_address.address_type, peer_address=pending.peer_address,
            connection_interval=0, peripheral_latency=0, supervision_timeout=0, central_clock_accuracy=0,
        )  # fmt: skip
        asyncio.get_running_loop().call_soon(self.send_hci_packet, event)
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def on_ll_control_pdu(self, sender_address: Any, packet: Any) -> None:
        if sender_address in self.le_connections:  # both ends may terminate in the same moment
            super().on_ll_control_pdu(sender_address, packet)

    def break_links(self, reason: int) -> None:
        """End every connection as a radio out of reach does: both ends learn it, neither asked for it."""
        for connection in list(self.le_connections.values()):
            with contextlib.suppress(core.InvalidArgumentError):  # the peer is gone as well
                connection.send_ll_control_pdu(ll.TerminateInd(reason))
            self.on_le_disconnected(connection, reason)

    def silence(self) -> None:
        """Stop every timer: nothing of this controller runs on."""
        self.le_legacy_advertiser.stop()
        for advertising in self.advertising_sets.values():
            advertising.stop()
        self.pending_le_connection = None
        self.host = None


class _Socket(asyncio.Protocol):
    """One host on the unix socket, and the controller it talks to."""

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._controller: Any = None
        self._parser: Any = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a unix stream transport by construction
        self.transport = transport
        self._controller = self._hub.add_controller("host")
        self._controller.host = self
        self._parser = PacketParser(self._controller)
        self._hub.sockets.add(self)

    def on_packet(self, packet: bytes) -> None:
        """The controller's events and data, on their way to the host (bumble's sink interface)."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() > BACKLOG_LIMIT:
            _log.warning("host does not read, cut off", limit=BACKLOG_LIMIT)
            self.transport.abort()
            return
        self.transport.write(packet)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except core.InvalidPacketError as error:
            _log.warning("not H4, cut off", error=error)
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._hub.sockets.discard(self)
        self._hub.remove_controller(self._controller)


class Hub:
    """`async with Hub(path)`: the simulated air, reachable by other processes through the unix socket at `path`.

    Raises VitalsError when the socket cannot be made. The socket is for the owner only (mode 0600).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.link = _AirLink()
        self.sockets: set[_Socket] = set()
        self._server: asyncio.Server | None = None

    def add_controller(self, name: str) -> Any:
        """A controller of the shared link for a host in this process (bumble's `Controller`)."""
        return _AirController(name, link=self.link)

    def remove_controller(self, controller: Any) -> None:
        """Take a controller off the air; its peers see the link time out. Twice does no harm."""
        if controller in self.link.controllers:
            controller.break_links(CONNECTION_TIMEOUT)
            controller.silence()
            self.link.remove_controller(controller)

    @property
    def controller_count(self) -> int:
        return len(self.link.controllers)

    async def __aenter__(self) -> Self:
        if len(str(self.path).encode()) > PATH_LIMIT:
            raise VitalsError(
                "The path of the simulated air's socket is too long.", expected=f"at most {PATH_LIMIT} bytes",
                found=str(self.path), do="Set air_socket to a shorter path.",
            )  # fmt: skip
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Socket(self), str(self.path))
            self.path.chmod(0o600)
        except OSError as error:
            raise VitalsError(
                f"The simulated air cannot listen on {self.path}.", expected="a writable folder",
                found=str(error), do="Correct air_socket.",
            ) from None  # fmt: skip
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        if self._server is not None:
            self._server.close()
            for socket in list(self.sockets):
                if socket.transport is not None:
                    socket.transport.abort()
            await asyncio.sleep(0)  # let connection_lost run
            await self._server.wait_closed()
            self.path.unlink(missing_ok=True)
        for controller in list(self.link.controllers):
            self.remove_controller(controller)
