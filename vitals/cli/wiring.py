"""The composition root: which driver, broker, backend and store the settings mean."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from rich.progress import MofNCompleteColumn, Progress

from dashboards import app
from drivers.core import registry
from drivers.core.gateway import Gateway, check_device
from drivers.transports.ble import Backend
from ingest import service
from ingest.store.opening import LazyReader, whereabouts
from vitals import settings as conf
from vitals.broker import Broker, Will
from vitals.clock import SystemClock
from vitals.driver import Driver
from vitals.errors import SettingsError, VitalsError
from vitals.log import Log
from vitals.telemetry.server import HealthServer
from vitals.telemetry.watch import Watch

CLOCK = SystemClock()
_log = Log("wiring")


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
    """Every driver that loads. A plug-in that does not is reported, and costs only its own devices."""
    found = registry.load_all()
    for failure in found.failures:
        _log.error("plug-in not loaded", reason=failure, do="mend or remove that package; its devices are not read")
    return found


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


PARTS: Final = ("gateway", "ingest", "board")


def health_port(settings: conf.Settings, part: str) -> int:
    """0: none."""
    return int(getattr(settings.health, f"{part}_port"))


@contextmanager
def watched(settings: conf.Settings, part: str) -> Iterator[Watch]:
    """The watch over a part, with its health page for as long as the part runs."""
    name = settings.gateway.id if part == "gateway" else part
    watch, port = Watch(part, name, CLOCK), health_port(settings, part)
    server = HealthServer(watch, settings.health.host, port, f"health.{part}_port") if port else None
    if server is not None:
        server.start()
    try:
        yield watch
    finally:
        if server is not None:
            server.stop()


def make_gateway(settings: conf.Settings, watch: Watch | None = None) -> Gateway:
    return Gateway(
        settings,
        load_drivers(),
        CLOCK,
        partial(make_broker, settings, f"gateway-{settings.gateway.id}"),
        make_backend(settings.gateway.ble),
        watch,
    )


async def run_gateway(settings: conf.Settings, stop: asyncio.Event) -> None:
    """Read the devices until `stop`."""
    with watched(settings, "gateway") as watch:
        await make_gateway(settings, watch).run(stop)


async def run_board(settings: conf.Settings, stop: asyncio.Event) -> None:
    """Serve the board until `stop`."""
    listener = app.listen(settings.board.host, settings.board.port)
    broker = make_broker(settings, "board", subscriptions=app.subscriptions(settings.site.id))
    broker.start()
    try:
        with watched(settings, "board") as watch:
            await app.serve(settings, broker, LazyReader(settings), CLOCK, stop, listener=listener, watch=watch)
    finally:
        await asyncio.to_thread(broker.stop)


def run_ingest(settings: conf.Settings) -> None:
    """Flag, store and answer until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    factory = partial(make_broker, settings, "ingest", persistent=True)
    # Flushing at half of the broker's window: a batch larger than the window would wait for messages that cannot come.
    limit = min(service.BATCH, settings.broker.window // 2)
    with watched(settings, "ingest") as watch:
        service.run(settings, factory, CLOCK, stop, batch_limit=limit, watch=watch)


async def run_simulators(settings: conf.Settings, stop: asyncio.Event) -> None:
    """The devices of [simulate], in real time."""
    from simulators.core import run as simulators

    await simulators.run(settings.simulate, CLOCK, stop, zone=ZoneInfo(settings.site.timezone))


async def run_replay(record: Path, link: Path, lead: int, speed: float, stop: asyncio.Event) -> None:
    """Play a record on a pseudo terminal, with a progress bar; says first what a gateway needs to read it."""
    from simulators.core.record import open_record
    from simulators.core.replay import replay

    source = open_record(record, lead)
    timebase = "arrival" if speed == 1 else "samples"
    print(
        _REPLAY_DEVICE.format(
            link=link, timebase=timebase, rate=source.rate_hz, uv=source.uv_per_count, lead=source.lead
        ),
        flush=True,
    )
    link.parent.mkdir(parents=True, exist_ok=True)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), transient=True) as bar:
        task = bar.add_task(f"{record.name}, lead {source.lead}", total=len(source.counts))
        counts = await replay(
            source, link, speed=speed, stop=stop, progress=lambda sent: bar.update(task, completed=sent)
        )
    print(f"{counts.samples} samples in {counts.frames} frames, {counts.bytes} bytes sent")
    if not counts.complete:
        raise VitalsError(
            "The replay was stopped before its end.", expected=f"{len(source.counts)} samples",
            found=f"{counts.samples} sent",
            do="Start it again to play the record from its beginning.",
        )  # fmt: skip


_REPLAY_DEVICE: Final = """\
Waiting for a gateway to open {link}. Its settings for this line:

[[gateway.devices]]
name = "replay"
driver = "ekg_openview"
room = "1"
port = "{link}"
simulated = true
timebase = "{timebase}"
options = {{ rate_hz = {rate}, uv_per_count = {uv}, lead = "{lead}" }}
"""


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
        f"{len(rooms)} rooms on the board, store {whereabouts(settings)}",
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


def settings_or_defaults(path: Path | None) -> conf.Settings:
    """Those at `path`; without one, those of vitals.toml in this folder if it is there, else the defaults."""
    here = Path("vitals.toml")
    return conf.load(path or here) if path or here.exists() else conf.Settings()
