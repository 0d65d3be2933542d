"""The `vitals` command: the only place where the parts are wired together."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import typer

from vitals import log
from vitals.cli.provision import commands as provision
from vitals.errors import VitalsError

app = typer.Typer(
    name="vitals",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # square brackets in help texts are sections of the settings file
    pretty_exceptions_enable=False,
    help="Exam-room device readings, from the device's bytes to a live board. Not a medical device; no diagnosis.",
)
app.add_typer(provision.app, name="provision")
Config = Annotated[
    Path, typer.Option("--config", "-c", envvar="VITALS_CONFIG", help="The settings file (docs/settings.md).")
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="Least severe log line to print.")
]
DEFAULT = Path("vitals.toml")


@app.command()
def gateway(
    config: Config = DEFAULT,
    capture: Annotated[
        Path | None, typer.Option(help="Folder for captures of everything the devices send. Patient data.")
    ] = None,
    log_level: LogLevel = "info",
) -> None:
    """Read the devices; keep each reading in the outbox until the store has it."""
    from vitals.cli import wiring

    log.set_up(log_level)
    settings = wiring.settings_at(config)
    wiring.check(settings)
    if capture is not None:
        changed = msgspec.structs.replace(settings.gateway, capture_dir=str(capture.absolute()))
        settings = msgspec.structs.replace(settings, gateway=changed)
    asyncio.run(wiring.until_signal(wiring.make_gateway(settings).run))


@app.command()
def ingest(config: Config = DEFAULT, log_level: LogLevel = "info") -> None:
    """Flag readings, publish them to the board, store them, and send receipts."""
    from vitals.cli import wiring

    log.set_up(log_level)
    wiring.run_ingest(wiring.settings_at(config))


@app.command()
def board(config: Config = DEFAULT, log_level: LogLevel = "info") -> None:
    """Serve the live board (loopback by default)."""
    from vitals.cli import wiring

    log.set_up(log_level)
    settings = wiring.settings_at(config)
    asyncio.run(wiring.until_signal(lambda stop: wiring.run_board(settings, stop)))


@app.command()
def simulate(config: Config = DEFAULT, log_level: LogLevel = "info") -> None:
    """Run the simulated devices of [simulate]: real bytes on pseudo terminals and simulated Bluetooth air."""
    from vitals.cli import wiring

    log.set_up(log_level)
    settings = wiring.settings_at(config)
    asyncio.run(wiring.until_signal(lambda stop: wiring.run_simulators(settings, stop)))


@app.command()
def replay(
    record: Annotated[Path, typer.Argument(help="A WFDB record, such as mitdb/101 (without an ending).")],
    link: Annotated[Path, typer.Option(help="Where the pseudo terminal appears.")] = Path("var/replay-tty"),
    lead: Annotated[int, typer.Option(help="Which signal of the record, counted from 0.")] = 0,
    speed: Annotated[
        float, typer.Option(help="1 is real time, 10 ten times faster, 0 as fast as the gateway reads.")
    ] = 1.0,
    log_level: LogLevel = "info",
) -> None:
    """Play a recorded EKG through the bytes of a ProtoCentral OpenView board, for a gateway to read."""
    from vitals.cli import wiring

    log.set_up(log_level)
    asyncio.run(wiring.until_signal(lambda stop: wiring.run_replay(record, link.absolute(), lead, speed, stop)))


@app.command()
def demo(
    rooms: Annotated[int, typer.Option(min=1, max=16, help="How many rooms.")] = 6,
    port: Annotated[int, typer.Option(help="Port of the board.")] = 8090,
    broker_port: Annotated[int, typer.Option(help="Port of the MQTT broker.")] = 18830,
    seed: Annotated[int, typer.Option(help="Seed of everything simulated.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where it keeps its files.")] = Path("var/demo"),
    restart: Annotated[bool, typer.Option(help="Start a part again 5 s after it ended.")] = True,
) -> None:
    """A whole simulated clinic on this machine: broker, devices, gateway, ingest and board."""
    from vitals.cli.demo import Demo
    from vitals.cli.wiring import CLOCK

    Demo(folder.absolute(), CLOCK, restart=restart).run(rooms=rooms, port=port, broker_port=broker_port, seed=seed)


@app.command("check-config")
def check_config(
    config: Config = DEFAULT,
    live: Annotated[
        bool, typer.Option("--live", help="Also try it: the serial paths, the broker, the store, the board's port.")
    ] = False,
) -> None:
    """Check the settings whole, without starting anything."""
    from vitals.cli import live_check, wiring

    settings = wiring.settings_at(config)
    for line in wiring.check(settings):
        print(line)
    if live:
        for line in live_check.run(settings):
            print(line)
    print(f"{config}: in order")


def main() -> NoReturn:
    """Run the command line. A VitalsError is printed as what was expected, found and to do, without a traceback."""
    try:
        app(standalone_mode=True)
    except VitalsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)
