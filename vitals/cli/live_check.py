"""`vitals check-config --live`: tries what the settings name, as a person would before opening the clinic's doors.

The services themselves do not end when a line or the broker is away: a gateway goes on reading into its outbox, a
board goes on saying what is wrong. This is the command that ends with an exit code.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ingest.store.contract import StoreDown
from ingest.store.opening import open_reader, whereabouts
from vitals import settings as conf
from vitals.cli import wiring
from vitals.cli.demo import require_free
from vitals.errors import DeviceError, StoreError

BROKER_S: Final = 5.0


def run(settings: conf.Settings) -> Iterator[str]:
    """One line for each thing that works. Raises the VitalsError of the first that does not."""
    for device in settings.gateway.devices:
        if device.port:
            yield line(device)
    broker = wiring.make_broker(settings, "check")
    broker.start()
    try:
        broker.require(BROKER_S)
    finally:
        broker.stop()
    yield f"broker {settings.broker.host}:{settings.broker.port} accepts us"
    yield store(settings)
    require_free(settings.board.port, "board.port")
    yield f"board port {settings.board.port} is free"


def store(settings: conf.Settings) -> str:
    """That it can be read, in words. Raises StoreError."""
    where = whereabouts(settings)
    if settings.ingest.store.kind == "sqlite" and not Path(settings.ingest.store.path).exists():
        return f"store {where} will be made"
    reader = open_reader(settings)
    try:
        name = reader.store_id
    except StoreDown as down:
        raise StoreError(
            f"The store ({where}) cannot be read.", expected="an answer to a query", found=down.reason,
            do="Start InfluxDB, or correct [ingest.store] or its token.",
        ) from None  # fmt: skip
    finally:
        reader.close()
    return f"store {where} is in order: {name}" if name else f"store {where} answers; ingest will begin it"


def line(device: conf.Device) -> str:
    """That its serial line can be opened, in words. Raises DeviceError."""
    can = f"serial line {device.port} ({device.name}) can be opened"
    if "://" in device.port:
        return can
    path = Path(device.port)
    if not path.exists():
        raise DeviceError(
            f"The serial line of {device.name!r} is not there.", expected=f"the path {path}", found="no such path",
            do="Plug the adapter in, or correct `port`; `ls /dev/serial/by-id` shows what there is.",
        )  # fmt: skip
    if not os.access(path, os.R_OK | os.W_OK):
        raise DeviceError(
            f"The serial line of {device.name!r} may not be used.", expected=f"permission to read and write {path}",
            found="permission denied", do="Add the user to the group that owns it (Debian: dialout).",
        )  # fmt: skip
    return can
