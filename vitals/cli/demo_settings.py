"""The settings of the demo clinic, as a plain TOML file a person can read and change."""

from pathlib import Path
from typing import Final, NamedTuple


class Patient(NamedTuple):
    """A made-up person in a room, and what the scenario does to them."""

    name: str
    age: int
    sex: str
    profile: str


# Names as on the design's reference pictures; no real person is meant.
PATIENTS: Final = (
    Patient("Nguyen, Linh", 34, "female", "healthy"),
    Patient("Okafor, Daniel", 61, "male", "healthy"),
    Patient("Brandt, Ute", 58, "female", "hypertensive"),
    Patient("Rivera, Marisol", 72, "female", "hypoxia"),
    Patient("Jensen, Karl", 66, "male", "tachycardia"),
    Patient("Haddad, Omar", 37, "male", "fever"),
    Patient("Cohen, Ruth", 80, "female", "healthy"),
    Patient("Silva, Tomas", 29, "male", "healthy"),
)
UV_PER_COUNT: Final = 5.0
"""What one count of the simulated board is worth; a real one needs its own measured factor."""
TEMPERATURE_S: Final = 45
"""How often the first room's thermometer measures, later ones slower, so that they do not all call at once."""


def write(
    folder: Path, *, rooms: int, board_port: int, broker_port: int, window: int, seed: int, interval_s: int = 25
) -> Path:
    """Write `folder`/vitals.toml and return its path. The first cuff measures each `interval_s`, later ones slower."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vitals.toml"
    parts = [_HEAD.format(board=board_port, broker=broker_port, window=window, seed=seed)]
    for number in range(1, rooms + 1):
        patient = PATIENTS[(number - 1) % len(PATIENTS)]
        parts.append(
            _ROOM.format(
                n=number, address=f"F0:00:00:00:00:{number:02X}", thermometer=f"F1:00:00:00:00:{number:02X}",
                uv=UV_PER_COUNT, interval=interval_s + (number - 1) * 5, temperature_s=TEMPERATURE_S + (number - 1) * 5,
                **patient._asdict(),
            )
        )  # fmt: skip
    path.write_text("".join(parts), encoding="utf-8")
    return path


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
store = {{ kind = "sqlite", path = "store.db" }}

[board]
port = {board}

[simulate]
seed = {seed}
air_socket = "air.sock"
"""
_ROOM: Final = """
# ---- room {n}
[[board.rooms]]
id = "{n}"
demo_patient = "{name}"
demo_age_years = {age}
demo_sex = "{sex}"

[[gateway.devices]]
name = "cuff-{n}"
driver = "bp_gatt"
room = "{n}"
address = "{address}"

[[gateway.devices]]
name = "thermometer-{n}"
driver = "thermometer_gatt"
room = "{n}"
address = "{thermometer}"

[[gateway.devices]]
name = "monitor-{n}"
driver = "ekg_openview"
room = "{n}"
port = "tty/monitor-{n}"
options = {{ uv_per_count = {uv} }}

[[simulate.devices]]
kind = "bp_gatt"
room = "{n}"
address = "{address}"
options = {{ interval_s = {interval}, profile = "{profile}", age = {age}.0, sex = "{sex}" }}

[[simulate.devices]]
kind = "thermometer_gatt"
room = "{n}"
address = "{thermometer}"
options = {{ interval_s = {temperature_s}, site = "mouth" }}

[[simulate.devices]]
kind = "ekg_openview"
room = "{n}"
link = "tty/monitor-{n}"
options = {{ uv_per_count = {uv} }}
"""
