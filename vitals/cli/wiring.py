"""The composition root: which driver, broker, backend and store the settings mean."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from drivers.core import registry
from drivers.core.gateway import Gateway, check_device
from drivers.transports.ble import Backend
from vitals import settings as conf
from vitals.broker import Broker, Will
from vitals.clock import SystemClock
from vitals.driver import Driver
from vitals.errors import SettingsError, VitalsError

CLOCK = SystemClock()


def make_broker(
    settings: conf.Settings,
    client: str,
    *,
    subscriptions: Sequence[tuple[str, int]] = (),
    will: Will | None = None,
    persistent: bool = False,
    on_connect: Callable[[], None] | None = None,
) -> Broker:
    """A connection to the broker of the settings; the password comes from its file or VITALS_BROKER_PASSWORD."""
    return Broker(
        settings.broker,
        f"{settings.site.id}-{client}",
        subscriptions=subscriptions,
        will=will,
        persistent=persistent,
        receive_maximum=settings.broker.window,
        password=conf.secret(settings.broker.password_file, "VITALS_BROKER_PASSWORD"),
        on_connect=on_connect,
    )


def load_drivers() -> dict[str, Driver]:
    """Every driver that loads; a plug-in that does not is an error here, where a person sees it."""
    return registry.load_all()


def make_backend(ble: conf.Ble) -> Backend:
    """The operating system's Bluetooth, or the simulated air."""
    if ble.backend == "system":
        return Backend()
    try:
        from simulators.links.air import air_backends
    except ImportError as error:
        raise VitalsError(
            "The simulated air needs the optional part `sim`.", expected="the package bumble", found=str(error),
            do="pip install 'exam-room-vitals[sim]', or set gateway.ble.backend = \"system\".",
        ) from None  # fmt: skip
    client, scanner = air_backends(ble.air_socket)
    return Backend(client, scanner, simulated=True)


def make_gateway(settings: conf.Settings) -> Gateway:
    return Gateway(
        settings,
        load_drivers(),
        CLOCK,
        partial(make_broker, settings, f"gateway-{settings.gateway.id}"),
        make_backend(settings.gateway.ble),
    )


def check(settings: conf.Settings) -> list[str]:
    """Everything that can be checked without starting: one line for each thing that was found in order.

    Raises SettingsError for the first that is not.
    """
    drivers = load_drivers()
    for device in settings.gateway.devices:
        check_device(device, drivers)
    rooms = {room.id for room in settings.board.rooms}
    strangers = sorted({d.room for d in settings.gateway.devices} - rooms) if rooms else []
    if strangers:
        raise SettingsError(
            "A device stands in a room the board does not show.", expected="one of: " + ", ".join(sorted(rooms)),
            found=", ".join(strangers), do="Add the room to [[board.rooms]], or correct the device.",
        )  # fmt: skip
    if settings.gateway.ble.backend == "air" and not settings.gateway.ble.air_socket:
        raise SettingsError(
            "gateway.ble.backend is `air` without a socket.", expected="gateway.ble.air_socket", found="nothing",
            do="Name the socket that `vitals simulate` opens.",
        )  # fmt: skip
    return [
        f"site {settings.site.id}, broker {settings.broker.host}:{settings.broker.port}",
        f"{len(settings.gateway.devices)} devices, drivers {', '.join(sorted(drivers))}",
        f"{len(rooms)} rooms on the board, store {settings.ingest.store.kind} at {settings.ingest.store.path}",
    ]


async def until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work(stop)`; SIGTERM and SIGINT set `stop`, so that everything in hand is finished first."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await work(stop)


def settings_at(path: Path) -> conf.Settings:
    return conf.load(path)
