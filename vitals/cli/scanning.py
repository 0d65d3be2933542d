"""`vitals scan`: what could be read from here, by which driver, and the settings to paste for it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from drivers.core.link import LinkLost
from drivers.transports.ble import Backend
from drivers.transports.nearby import Advertiser, SerialLine, advertisers, serial_lines
from vitals.cli.plain import plain, toml_text
from vitals.driver import BleSpec, Driver
from vitals.errors import DeviceError
from vitals.settings import Settings

_PTS: Final = "/dev/pts/"


async def scan(settings: Settings, drivers: Mapping[str, Driver], backend: Backend, seconds: float) -> dict[str, Any]:
    """What `--json` prints. No working Bluetooth is told in `bluetooth.problem`; the serial lines are there anyway.

    Names and descriptions are `plain`; a port is as the system calls it, since a program may open it.
    """
    problem, heard = "", []
    try:
        heard = await advertisers(backend, seconds)
    except LinkLost as loss:
        problem = plain(loss.detail)
    return {
        "serial": [_serial(line, settings, drivers) for line in _lines(settings)],
        "bluetooth": {"problem": problem, "devices": [_bluetooth(found, settings, drivers) for found in heard]},
    }


def require_radio(found: Mapping[str, Any], settings: Settings) -> None:
    """Raises DeviceError when the settings count on a radio that does not work."""
    problem = found["bluetooth"]["problem"]
    if problem and (settings.gateway.ble.backend == "air" or any(d.address for d in settings.gateway.devices)):
        raise DeviceError(
            "The settings name Bluetooth devices, and there is no working Bluetooth.",
            expected="an adapter that is switched on, or the simulated air of `vitals simulate`", found=problem,
            do="Plug an adapter in or switch it on; on the simulated air start `vitals simulate` first.",
        )  # fmt: skip


def _lines(settings: Settings) -> list[SerialLine]:
    """The system's lines, and those of the settings that it does not list: pseudo terminals above all."""
    listed = serial_lines()
    known = {str(Path(line.port).resolve()) for line in listed}
    named = [d.port for d in settings.gateway.devices] + [d.link for d in settings.simulate.devices]
    for port in dict.fromkeys(named):
        target = str(Path(port).resolve())
        if port and Path(port).exists() and target not in known:
            known.add(target)
            listed.append(SerialLine(port, "pseudo terminal" if target.startswith(_PTS) else "named in the settings"))
    return listed


def _serial(line: SerialLine, settings: Settings, drivers: Mapping[str, Driver]) -> dict[str, Any]:
    target = Path(line.port).resolve()
    kinds = [d.kind for d in settings.simulate.devices if d.link and Path(d.link).resolve() == target]
    takers = kinds or sorted(name for name, driver in drivers.items() if driver.transport == "serial")
    owner = [d.name for d in settings.gateway.devices if d.port and Path(d.port).resolve() == target]
    return {**line._asdict(), "description": plain(line.description), "drivers": takers, "device": "".join(owner[:1])}


def _bluetooth(found: Advertiser, settings: Settings, drivers: Mapping[str, Driver]) -> dict[str, Any]:
    takers = sorted(
        name for name, d in drivers.items() if isinstance(d.spec, BleSpec) and d.spec.service in found.services
    )
    owner = [d.name for d in settings.gateway.devices if d.address.upper() == found.address.upper()]
    return {**found._asdict(), "name": plain(found.name), "drivers": takers, "device": "".join(owner[:1])}


def text(found: Mapping[str, Any], settings: Settings) -> str:
    """The same for people: a list, then the blocks to paste for what is not in the settings yet."""
    lines = ["Serial lines:"]
    lines += [f"  {_row(row, 'port', row['description'], row['usb'])}" for row in found["serial"]] or ["  none"]
    bluetooth = found["bluetooth"]
    heard = [f"  {_row(row, 'address', row['name'], str(row['rssi']) + ' dBm')}" for row in bluetooth["devices"]]
    if bluetooth["problem"]:
        heard = [f"  not available: {bluetooth['problem']}"]
    lines += ["Bluetooth:", *(heard or ["  nobody advertises"])]
    room = settings.board.rooms[0].id if settings.board.rooms else "1"
    blocks = list(_blocks(found, room, {device.name for device in settings.gateway.devices}))
    if blocks:
        lines += ["", "For the settings file (set the room):", "", "\n\n".join(blocks)]
    return "\n".join(lines)


def _row(row: Mapping[str, Any], place: str, *facts: str) -> str:
    owner = f"in the settings as {row['device']!r}" if row["device"] else ""
    takers = ", ".join(row["drivers"]) or "no driver takes it"
    return ", ".join(fact for fact in (plain(row[place]), *facts, owner or takers) if fact)


def _blocks(found: Mapping[str, Any], room: str, taken: set[str]) -> Iterable[str]:
    rows = [("port", row) for row in found["serial"]] + [("address", row) for row in found["bluetooth"]["devices"]]
    for place, row in rows:
        if row["device"] or not row["drivers"]:
            continue
        driver, *others = row["drivers"]
        choice = f"  # or, as the line does not say what hangs on it: {', '.join(others)}" if others else ""
        name = _free_name(driver, taken)
        yield (
            f"[[gateway.devices]]\nname = {toml_text(name)}\ndriver = {toml_text(driver)}{choice}\n"
            f"room = {toml_text(room)}\n{place} = {toml_text(row[place])}"
        )


def _free_name(driver: str, taken: set[str]) -> str:
    """`bp-1`: a device name nobody has yet."""
    stem, number = driver.partition("_")[0].lower()[:20], 1
    while f"{stem}-{number}" in taken:
        number += 1
    taken.add(f"{stem}-{number}")
    return f"{stem}-{number}"
