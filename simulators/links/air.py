"""The simulated Bluetooth air: real HCI, L2CAP and ATT bytes between bleak and simulated devices, without a radio.

`run_peripherals` hosts the medium (`Hub`, a unix socket) and devices in one process; in any other process
`air_backends(path)` gives the two classes for bleak's public `backend=` argument, so a driver's transport is the same
code on the air and on a radio. bumble 0.0.236 supplies the stack. Its gaps seen so far:

Mended here: connection cancel was a no-op; ACL packets of 27 bytes (251 now); two hosts could both connect to one
advertisement; a host's process that died left its peers connected; READ and WRITE properties were not enforced; a
handler's exception sent no reply; a cancelled request shifted the answers by one; link loss cancelled the request
instead of failing it; a raising callback blocked the confirmation (now the link closes: not committed is not
confirmed); values over MTU - 3 were cut in silence (now refused); a dead host held an indication for 30 s.

Not mended: scan response data is not carried (everything is in the advertisement, checked to fit in 31 bytes);
pairing, bonding and encryption (legacy-bond reconnect picks the wrong key, the CCCD needs a permission of its own)
are not simulated; signal strength is constant; the radio has no limit of connections; supervision timeouts do not
run: a peer is lost when its process is, or by `Peripheral.drop_link`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bleak.backends.client import BaseBleakClient
from bleak.backends.scanner import BaseBleakScanner

from simulators.core.gatt import GattDevice
from simulators.links.air_client import AirClient
from simulators.links.air_hub import Hub
from simulators.links.air_peripheral import Peripheral
from simulators.links.air_scanner import AirScanner
from vitals.clock import Clock

__all__ = ["AirClient", "AirScanner", "Hub", "Peripheral", "air_backends", "on_air", "run_peripherals"]


def air_backends(socket_path: str | Path) -> tuple[type[BaseBleakClient], type[BaseBleakScanner]]:
    """bleak backends bound to the air at `socket_path`: (client class, scanner class)."""
    bound = {"socket_path": str(socket_path)}
    return type("AirClient", (AirClient,), dict(bound)), type("AirScanner", (AirScanner,), dict(bound))


@asynccontextmanager
async def on_air(socket_path: Path, devices: Mapping[str, GattDevice], clock: Clock) -> AsyncIterator[list[Peripheral]]:
    """The medium at `socket_path` with `devices` by Bluetooth address on it, while the block runs.

    Raises VitalsError when the socket cannot be made, ValueError when an address is malformed or an advertisement too
    long. A device that fails ends the block with an ExceptionGroup.
    """
    async with Hub(socket_path) as hub:
        peripherals = [Peripheral(device, address, clock, hub) for address, device in devices.items()]
        failed: Exception | None = None
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(peripheral.run()) for peripheral in peripherals]
            try:
                yield peripherals
            except Exception as error:  # noqa: BLE001  the block's own failure, kept out of the group's wrapping
                failed = error
            finally:
                for task in tasks:
                    task.cancel()
        if failed is not None:
            raise failed


async def run_peripherals(
    socket_path: Path, devices: Mapping[str, GattDevice], clock: Clock, stop: asyncio.Event
) -> None:
    """Host the medium and `devices` until `stop` is set."""
    async with on_air(socket_path, devices, clock):
        await stop.wait()
