"""The settings of the demo clinic, as a plain TOML file a person can read and change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from simulators.core.scenario import Room, Scenario
from vitals.cli.plain import toml_table, toml_text
from vitals.driver import OptionValue
from vitals.errors import SettingsError


class Fitting(NamedTuple):
    """A device every room has: the same stem reads it and simulates it. `place`: its Bluetooth address or its line."""

    name: str
    kind: str
    place: str
    options: Mapping[str, OptionValue] = {}
    """Of the driver and of the simulated device alike."""
    simulated: Mapping[str, OptionValue] = {}
    every_s: int = 0
    """How often the first room's measures; later rooms' are slower, so that they do not all call at once."""


UV_PER_COUNT: Final = 5.0
"""What one count of the simulated board is worth; a real one needs its own measured factor."""
FITTINGS: Final = (
    Fitting("cuff", "bp_gatt", 'address = "F0:00:00:00:00:{n:02X}"', every_s=25),
    Fitting("thermometer", "thermometer_gatt", 'address = "F1:00:00:00:00:{n:02X}"', {}, {"site": "mouth"}, 45),
    Fitting("monitor", "ekg_openview", '{line} = "tty/monitor-{n}"', {"uv_per_count": UV_PER_COUNT}),
    Fitting("meter", "glucometer_ultramini", '{line} = "tty/meter-{n}"', {}, {"records": 3}, 120),
)
SLOWER_S: Final = 5
STORE: Final = '{ kind = "sqlite", path = "store.db" }'


def write(
    folder: Path, scenario: Scenario, *, rooms: int | None = None, board_port: int, broker_port: int, window: int,
    seed: int, store: str = STORE,
) -> Path:  # fmt: skip
    """Write `folder`/vitals.toml and return its path. `rooms`: so many, beginning anew with the scenario's first.

    Raises SettingsError for a scenario with a kind of device that these rooms do not have.
    """
    require_fittings(scenario)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vitals.toml"
    step = 1 if board_port < 65_000 else -1
    health = [board_port + step * n for n in (1, 2, 3)]
    parts = [_HEAD.format(board=board_port, broker=broker_port, window=window, seed=seed, health=health, store=store)]
    for n in range(1, (rooms or len(scenario.rooms)) + 1):
        room = scenario.rooms[(n - 1) % len(scenario.rooms)]
        parts.append(_ROOM.format(n=n, name=toml_text(room.name), age=room.age, sex=room.sex))
        parts += [_device(n, room, fitting) for fitting in FITTINGS]
    path.write_text("".join(parts), encoding="utf-8")
    return path


def require_fittings(scenario: Scenario) -> None:
    """Raises SettingsError for a kind of device the demo's rooms do not have."""
    known = [fitting.kind for fitting in FITTINGS]
    for room in scenario.rooms:
        for kind in (*room.mischief, *room.options):
            if kind not in known:
                raise SettingsError(
                    f"The demo's rooms have no {kind}.", expected=f"one of: {', '.join(known)}", found=repr(kind),
                    do="Correct mischief or options of the scenario.",
                )  # fmt: skip


def _device(n: int, room: Room, fitting: Fitting) -> str:
    options = {**fitting.options, **fitting.simulated}
    if fitting.every_s:
        options["interval_s"] = float(fitting.every_s + (n - 1) * SLOWER_S)
    if fitting is FITTINGS[0]:
        # The patient's options may stand on one device of the room only.
        options |= room.patient()
    if fitting.kind in room.mischief:
        options["mischief"] = room.mischief[fitting.kind]
    options |= room.options.get(fitting.kind, {})
    return _DEVICE.format(
        n=n, name=fitting.name, kind=fitting.kind, place=fitting.place.format(n=n, line="port"),
        simulated_place=fitting.place.format(n=n, line="link"), options=toml_table(fitting.options),
        simulated=toml_table(options),
    )  # fmt: skip


_HEAD: Final = """\
# Written anew by `vitals demo` at each start. Every part is the production code with these settings.
[site]
id = "demo"
name = "Lakeside Family Medicine (simulated)"
timezone = "UTC"

[broker]
port = {broker}
window = {window}

[gateway]
id = "gateway-1"
outbox = "outbox.db"
ble = {{ backend = "air", air_socket = "air.sock" }}

[ingest]
profile = "demo"
simulated_alarms = true
store = {store}

[board]
port = {board}

[health]
gateway_port = {health[0]}
ingest_port = {health[1]}
board_port = {health[2]}

[simulate]
seed = {seed}
air_socket = "air.sock"
"""
_ROOM: Final = """
# ---- room {n}
[[board.rooms]]
id = "{n}"
demo_patient = {name}
demo_age_years = {age}
demo_sex = "{sex}"
"""
_DEVICE: Final = """
[[gateway.devices]]
name = "{name}-{n}"
driver = "{kind}"
room = "{n}"
{place}
options = {options}

[[simulate.devices]]
kind = "{kind}"
room = "{n}"
{simulated_place}
options = {simulated}
"""
