"""What could be read from here: serial lines of this computer, and Bluetooth LE devices that advertise."""

import asyncio
from pathlib import Path
from typing import Any, Final, NamedTuple

from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakError
from serial.tools import list_ports

from drivers.core.link import LinkLost, LossReason
from drivers.transports.ble import Backend, said, short_uuid

BY_ID: Final = Path("/dev/serial/by-id")
"""Names that stay the same when an adapter is plugged in elsewhere (Linux with udev)."""


class SerialLine(NamedTuple):
    """`port` is the lasting name where there is one; `usb` is `vendor:product` in hex, empty for other lines."""

    port: str
    description: str
    usb: str = ""


class Advertiser(NamedTuple):
    """A Bluetooth device heard. `services` are short UUIDs, `rssi` is dBm."""

    address: str
    name: str
    rssi: int
    services: tuple[str, ...]


def serial_lines() -> list[SerialLine]:
    """Every serial line the operating system lists."""
    lasting = {str(link.resolve()): str(link) for link in sorted(BY_ID.glob("*"))}
    return [_line(port, lasting) for port in sorted(list_ports.comports())]


def _line(port: Any, lasting: dict[str, str]) -> SerialLine:
    usb = "" if port.vid is None else f"{port.vid:04x}:{port.pid:04x}"
    description = "" if port.description == "n/a" else str(port.description)
    return SerialLine(lasting.get(port.device, port.device), description, usb)


async def advertisers(backend: Backend, seconds: float) -> list[Advertiser]:
    """Who advertised within `seconds`, strongest first. Raises LinkLost when there is no working radio."""
    heard: dict[str, Advertiser] = {}

    def advertised(device: BLEDevice, data: AdvertisementData) -> None:
        before = heard.get(device.address)
        services = {short_uuid(uuid) for uuid in data.service_uuids} | set(before.services if before else ())
        name = data.local_name or (before.name if before else "")
        heard[device.address] = Advertiser(device.address, name, data.rssi, tuple(sorted(services)))

    try:
        own: dict[str, Any] = {} if backend.scanner is None else {"backend": backend.scanner}
        async with BleakScanner(advertised, **own):
            await asyncio.sleep(seconds)
    except FileNotFoundError:
        raise LinkLost(LossReason.RADIO_OFF, "this computer runs no Bluetooth service") from None
    except (BleakError, OSError, TimeoutError, EOFError) as error:
        raise LinkLost(LossReason.RADIO_OFF, said(error)) from None
    return sorted(heard.values(), key=lambda found: -found.rssi)
