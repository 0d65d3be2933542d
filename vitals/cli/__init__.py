"""The `vitals` command: the only place where the parts are wired together."""

import asyncio
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import typer

from vitals import log
from vitals.cli.provision import commands as provision
from vitals.cli.store import commands as store
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
app.add_typer(store.app, name="store")
Config = Annotated[
    Path, typer.Option("--config", "-c", envvar="VITALS_CONFIG", help="The settings file (docs/settings.md).")
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="Least severe log line to print.")
]
DEFAULT = Path("vitals.toml")


class Part(StrEnum):
    """The services, as an option that may be repeated names them."""

    GATEWAY = "gateway"
    INGEST = "ingest"
    BOARD = "board"


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
    asyncio.run(wiring.until_signal(lambda stop: wiring.run_gateway(settings, stop)))


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
    path: Annotated[
        Path, typer.Argument(help="A capture (.jsonl), or a WFDB record such as mitdb/101 (without an ending).")
    ],
    link: Annotated[Path, typer.Option(help="Where the pseudo terminal appears.")] = Path("var/replay-tty"),
    air: Annotated[
        Path, typer.Option(help="Where the simulated air listens, for a capture of a Bluetooth device.")
    ] = Path("var/replay-air"),
    lead: Annotated[int, typer.Option(help="Which signal of the record, counted from 0.")] = 0,
    speed: Annotated[
        float, typer.Option(min=0, help="1 is real time, 10 ten times faster, 0 as fast as the gateway reads.")
    ] = 1.0,
    log_level: LogLevel = "info",
) -> None:
    """Play a capture, or a recorded EKG through the bytes of an OpenView board, for a gateway to read."""
    from vitals.cli import replay_capture, wiring

    log.set_up(log_level)
    if not replay_capture.is_capture(path):
        asyncio.run(wiring.until_signal(lambda stop: wiring.run_replay(path, link.absolute(), lead, speed, stop)))
        return
    drivers = wiring.load_drivers()
    asyncio.run(
        wiring.until_signal(
            lambda stop: replay_capture.run(path, drivers, link.absolute(), air.absolute(), speed, wiring.CLOCK, stop)
        )
    )


@app.command()
def decode(
    driver: Annotated[str, typer.Argument(help="The driver's name, such as bp_gatt.")],
    hex_: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HEX]...", help="One chunk each: hex, CHANNEL:hex, +MS for time that passes, - for standard input."
        ),
    ] = None,
    channel: Annotated[str, typer.Option(help="The characteristic the chunks come from: 2a35, or 128 bits.")] = "",
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the driver, NAME=VALUE. May be repeated.")
    ] = None,
    at: Annotated[str, typer.Option(help="When the chunks arrived. Left out: always the same moment.")] = "",
    capture: Annotated[Path | None, typer.Option(help="Decode this capture instead of HEX.")] = None,
) -> None:
    """Print what a driver makes of bytes: one JSON event a line, always the same for the same bytes."""
    from vitals.cli import decoding, wiring

    found = decoding.find_driver(driver, wiring.load_drivers())
    options = decoding.parse_options(found, option or ())
    when = decoding.parse_moment(at) if at else None
    for line in decoding.run(found, options, hex_ or (), channel, when, capture, sys.stdin):
        print(line, flush=True)


@app.command()
def devices(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """List the drivers, and the plug-ins that did not load."""
    from drivers.core.registry import load_all
    from vitals.cli import device_list

    found = device_list.describe(load_all())
    print(msgspec.json.encode(found).decode() if as_json else device_list.text(found))


@app.command()
def scan(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="VITALS_CONFIG",
            help="Settings, to know what is there already. vitals.toml if it is here.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long to listen for Bluetooth devices.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """List serial lines and Bluetooth devices in reach, with the settings to paste for each."""
    from vitals.cli import scanning, wiring

    settings = wiring.settings_or_defaults(config)
    backend = wiring.make_backend(settings.gateway.ble)
    found = asyncio.run(scanning.scan(settings, wiring.load_drivers(), backend, seconds))
    print(msgspec.json.encode(found).decode() if as_json else scanning.text(found, settings))
    scanning.require_radio(found, settings)


def _list_scenarios(wanted: bool) -> None:
    if not wanted:
        return
    from simulators.core.scenario import load, names

    for name in names():
        print(f"{name:<22}{load(name).title}")
    raise typer.Exit


@app.command()
def demo(
    scenario: Annotated[
        str, typer.Option(help="What happens: a name of --list-scenarios, or the path of your own .toml file.")
    ] = "busy-morning",
    list_scenarios: Annotated[
        bool,
        typer.Option("--list-scenarios", callback=_list_scenarios, is_eager=True, help="Name the scenarios and end."),
    ] = False,
    rooms: Annotated[
        int | None, typer.Option(min=1, max=16, help="How many rooms; left out: as many as the scenario has.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the board.")] = 8090,
    broker_port: Annotated[int, typer.Option(help="Port of the MQTT broker.")] = 18830,
    seed: Annotated[int, typer.Option(help="Seed of everything simulated.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where it keeps its files.")] = Path("var/demo"),
    restart: Annotated[bool, typer.Option(help="Start a part again 5 s after it ended.")] = True,
) -> None:
    """A whole simulated clinic on this machine: broker, devices, gateway, ingest and board."""
    from simulators.core.scenario import load
    from vitals.cli.demo import Demo
    from vitals.cli.wiring import CLOCK

    Demo(folder.absolute(), CLOCK, restart=restart).run(
        load(scenario), rooms=rooms, port=port, broker_port=broker_port, seed=seed
    )


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


@app.command()
def doctor(
    config: Config = DEFAULT,
    part: Annotated[
        list[Part] | None,
        typer.Option(help="A part that should run on this machine; may be repeated. Left out: those of the settings."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of text.")] = False,
) -> None:
    """Look at this machine's part of the clinic: what is wrong, and what mends it."""
    from vitals.cli.doctor import examination, finding

    log.set_up("error", quiet=("broker", "settings"))
    found = []
    for one in examination.examine(config, tuple(part or ())):
        found.append(one)
        if not as_json:
            print(finding.line(one), flush=True)
    if as_json:
        print(msgspec.json.encode(found).decode())
    if any(one.verdict == "fault" for one in found):
        raise typer.Exit(1)


def main() -> NoReturn:
    """Run the command line. A VitalsError is printed as what was expected, found and to do, without a traceback.

    Whatever the services write (outbox, store, ledger, captures, logs) is patient data, so no file that a command or
    a child of it makes is for anybody but its owner.
    """
    os.umask(0o077)
    try:
        app(standalone_mode=True)
    except VitalsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)
