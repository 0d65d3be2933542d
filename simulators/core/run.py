"""Runs simulated devices in real time: the air with its Bluetooth devices and the serial lines, in one process."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, tzinfo
from pathlib import Path
from typing import cast

from simulators.core.contract import Simulator
from simulators.core.gatt import GattDevice
from simulators.core.mischief import Mischief, applied, parse
from simulators.core.patient import NAMES, patients
from simulators.core.physiology import Physiology
from simulators.core.registry import Setup, SimulatedKind, complete, derive_seed, find
from simulators.core.replay import ReplayCounts, replay
from simulators.links.pty import PtyLine, serve
from vitals.clock import Clock, Instant
from vitals.driver import Option
from vitals.errors import SettingsError, VitalsError
from vitals.log import Log
from vitals.settings import Simulate, SimulatedDevice

__all__ = ["COMMON", "ReplayCounts", "make_all", "replay", "run"]

COMMON = (
    Option(
        "mischief",
        str,
        "What goes wrong: `drop=0.01, wrong_clock, lead_off@90+20` (docs/scenarios.md has them all).",
        "",
    ),
)
"""Options of every simulated device, beside its own and those of the room's patient."""
_log = Log("simulators")


async def run(settings: Simulate, clock: Clock, stop: asyncio.Event, *, zone: tzinfo = UTC) -> None:
    """Run all devices of `settings` until `stop` is set. `zone` is what the devices' own wall clocks show.

    Raises SettingsError before anything appears when a device is misconfigured, VitalsError when a socket or link
    cannot be made. A device that fails ends the run with an ExceptionGroup: a simulator's bug is never silent.
    """
    made = make_all(settings, clock.now(), zone)
    async with AsyncExitStack() as stack:
        if settings.air_socket:
            await _go_on_air(stack, settings.air_socket, made, clock)
        lines = [(await stack.enter_async_context(PtyLine(Path(d.link))), s) for d, s in made if d.link]
        for device, _ in made:
            _log.info("simulated device", kind=device.kind, room=device.room, at=device.link or device.address)
        await serve(lines, clock, stop)


async def _go_on_air(
    stack: AsyncExitStack, socket: str, made: list[tuple[SimulatedDevice, Simulator]], clock: Clock
) -> None:
    try:
        from simulators.links.air import on_air
    except ImportError as error:
        raise VitalsError(
            "Simulated Bluetooth devices need the package bumble.", expected="bumble installed", found=str(error),
            do="pip install 'exam-room-vitals[sim]'",
        ) from None  # fmt: skip
    devices = {d.address.upper(): cast(GattDevice, s) for d, s in made if d.address}
    await stack.enter_async_context(on_air(Path(socket), devices, clock))


def make_all(settings: Simulate, start: Instant, zone: tzinfo) -> list[tuple[SimulatedDevice, Simulator]]:
    """Every device of the settings, made but not connected to anything. Raises SettingsError."""
    by_room = patients(settings.seed, settings.devices)
    for what, values in (
        ("link", [d.link for d in settings.devices if d.link]),
        ("address", [d.address.upper() for d in settings.devices if d.address]),
    ):
        _unique(what, values)
    seeds = _seeds(settings)
    return [
        (device, _make(settings, device, seed, by_room[device.room], start, zone))
        for device, seed in zip(settings.devices, seeds, strict=True)
    ]


def _seeds(settings: Simulate) -> list[int]:
    """One for each device, from its room, kind, and address, or its place among those of its kind in the room.

    A line's path has no part in it: it differs from folder to folder, and equal seeds are equal clinics.
    """
    before: Counter[tuple[str, str]] = Counter()
    seeds = []
    for device in settings.devices:
        before[device.room, device.kind] += 1
        which = device.address or str(before[device.room, device.kind])
        seeds.append(derive_seed(settings.seed, device.room, device.kind, which))
    return seeds


def _make(
    settings: Simulate, device: SimulatedDevice, seed: int, patient: Physiology, start: Instant, zone: tzinfo
) -> Simulator:
    kind = find(device.kind)
    _check_place(settings, device, kind)
    own = {name: value for name, value in device.options.items() if name not in NAMES}
    options = complete(f"The simulated {kind.name}", (*kind.options, *COMMON), own)
    tricks = parse(str(options["mischief"]))
    setup = applied(kind, Setup(seed, patient, start, options, zone), tricks)
    try:
        simulator = kind.factory(setup)
    except ValueError as error:
        raise SettingsError(
            f"The simulated {kind.name} in room {device.room!r} cannot be made.", expected="options it understands",
            found=str(error), do="Correct simulate.devices options.",
        ) from None  # fmt: skip
    return Mischief(simulator, seed, tricks, start) if tricks else simulator


def _check_place(settings: Simulate, device: SimulatedDevice, kind: SimulatedKind) -> None:
    where = "link" if kind.transport == "serial" else "address"
    other = "address" if where == "link" else "link"
    problem = ""
    if not getattr(device, where) or getattr(device, other):
        problem = f"it needs {where!r} and nothing else"
    elif kind.transport == "ble" and not settings.air_socket:
        problem = "it needs simulate.air_socket"
    if problem:
        raise SettingsError(
            f"The simulated {kind.name} in room {device.room!r} has no place to appear.", expected=problem,
            found=f"link={device.link!r} address={device.address!r} air_socket={settings.air_socket!r}",
            do="Correct simulate.devices.",
        )  # fmt: skip


def _unique(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise SettingsError(
                f"Two simulated devices have the same {what}.", expected="each once", found=value, do="Change one."
            )
        seen.add(value)
