"""What a transport is: how bytes reach a session and leave it again."""

from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Final, Protocol, Self

from vitals.model import Chunk, Send


class LossReason(StrEnum):
    """Why a link is not there, so that the board can say "radio off" and not "failed"."""

    NO_PATH = "no_path"
    """The serial path does not exist (adapter unplugged)."""
    NO_PERMISSION = "no_permission"
    BUSY = "busy"
    """Another program holds the line."""
    UNPLUGGED = "unplugged"
    """The line went away while it was open."""
    CONNECT_FAILED = "connect_failed"
    LINK_LOST = "link_lost"
    """The radio link broke in the middle of a conversation."""
    RADIO_OFF = "radio_off"
    FLOODED = "flooded"
    """The device sent more than could be decoded; the link was cut to protect the other rooms."""
    INTERNAL_ERROR = "internal_error"
    """A bug of ours in this device's code; the log has the traceback. Please report it."""
    SERVICE_MISSING = "service_missing"
    """The device lacks the service or characteristic the driver needs."""


REMEDY: Final[Mapping[LossReason, str]] = {
    LossReason.NO_PATH: "plug the adapter in, or correct `port` (see /dev/serial/by-id)",
    LossReason.NO_PERMISSION: "add the gateway's user to the group that owns the line (Debian: dialout), restart it",
    LossReason.BUSY: "end the other program that holds the line",
    LossReason.UNPLUGGED: "plug it in again",
    LossReason.CONNECT_FAILED: "switch it on, move it closer, pair it again where it demands pairing",
    LossReason.LINK_LOST: "move it closer; what was not confirmed the device sends again",
    LossReason.RADIO_OFF: "plug the Bluetooth adapter in, switch it on, see that bluetoothd runs",
    LossReason.FLOODED: "look at the device; if it goes on, switch it off and report it",
    LossReason.INTERNAL_ERROR: "report it with the traceback from the gateway's log",
    LossReason.SERVICE_MISSING: "another model than the settings say, or another address: correct the entry",
}
"""What a person does about it. The gateway goes on trying by itself."""


class LinkLost(Exception):
    """The transport could not open or broke; the runner tries again."""

    def __init__(self, reason: LossReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Transport(Protocol):
    """An async context manager that iterates over chunks.

    Entering waits for the link (raises LinkLost). Iteration ends quietly when the device hangs up as a matter of
    course (a cuff that has handed over its readings) and raises LinkLost when the link broke.
    """

    simulated: bool
    """True once the link is known to lead to a simulated device (pseudo terminal, simulated air, replayed file)."""
    address: str
    """The physical address (Bluetooth address, serial path) once entered."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    def __aiter__(self) -> AsyncIterator[Chunk]: ...

    async def send(self, send: Send) -> None:
        """Write to the device. Raises LinkLost."""
        ...

    def confirm(self, chunk: Chunk) -> None:
        """Everything this chunk brought is committed: confirm it to the device, where the stack allows that."""
        ...
