"""What a simulated Bluetooth LE device shows on the air: a small GATT table, and what is told to the device.

Pure description, no Bluetooth stack: `simulators.links` puts it on the simulated air. UUIDs are the 16-bit short form
in lower case (`2a35`) or 128-bit. Property bits: the characteristic declaration (Core Vol 3 Part G 3.3.1.1).
"""

from enum import IntFlag
from typing import Final, Protocol

import msgspec

from simulators.core.contract import Simulator
from vitals.clock import Instant
from vitals.model import Send


class Property(IntFlag):
    """How a characteristic may be used."""

    READ = 0x02
    WRITE_NO_RESPONSE = 0x04
    WRITE = 0x08
    NOTIFY = 0x10
    INDICATE = 0x20


class Characteristic(msgspec.Struct, frozen=True):
    """One characteristic. `value` is what a read gives unless the device computes it (`GattDevice.read`)."""

    uuid: str
    properties: Property
    value: bytes = b""


class Service(msgspec.Struct, frozen=True):
    """One primary service."""

    uuid: str
    characteristics: tuple[Characteristic, ...]


class AttError(Exception):
    """The device refuses a read or write with this ATT error code (Core Vol 3 Part F 3.4.1.1)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ATT error 0x{code:02X}")
        self.code = code


UNLIKELY_ERROR: Final = 0x0E
"""The ATT code of a device that failed inside."""


class GattDevice(Simulator, Protocol):
    """A simulated Bluetooth LE peripheral.

    `advance` returns what it notifies or indicates; `respond` is told of each write. An indication counts as handed
    over only when `confirmed` names it; a device with a memory keeps the others and sends them at the next connection.
    """

    name: str
    """Complete local name in the advertisement; at most 20 bytes of UTF-8 fit beside three 16-bit UUIDs."""
    table: tuple[Service, ...]
    advertised: tuple[str, ...]
    """Service UUIDs in the advertisement."""

    @property
    def advertising(self) -> bool:
        """Whether the device wants to be found now. Not asked while it is connected."""
        ...

    @property
    def hanging_up(self) -> bool:
        """Whether the device wants to end the connection now."""
        ...

    def connected(self, at: Instant) -> None:
        """A host connected; nothing is subscribed yet."""
        ...

    def disconnected(self, at: Instant) -> None:
        """The link ended, whoever ended it."""
        ...

    def subscribed(self, channel: str, on: bool, at: Instant) -> None:
        """The host wrote the client configuration of `channel`."""
        ...

    def read(self, channel: str, at: Instant) -> bytes | None:
        """A computed value; None: the table's. Raises AttError to refuse."""
        ...

    def confirmed(self, send: Send, at: Instant) -> None:
        """The host confirmed this indication: it need not be kept any longer."""
        ...
