"""The clinic under test: two gateways with their own outboxes, one ingest, one store, one board, one broker, and a
road with faults between each of them and the broker."""

import sys
from pathlib import Path
from typing import Final

from bench.chaos.ledger import Ledger
from bench.chaos.parts import Disk, Part
from bench.chaos.plan import GATEWAYS, LINKS
from bench.chaos.proxy import Proxy
from bench.chaos.stores import STORES, StoreSide
from tests.parts import Mosquitto, free_port, program
from vitals.outbox import Outbox

ROOT: Final = Path(__file__).parents[2]
SITE: Final = "chaos"
DISK_MB: Final = 48
ROOMS: Final = {"gateway-1": ("1", "2", "3", "4"), "gateway-2": ("5", "6", "7", "8")}

_BASE: Final = """
[site]
id = "{site}"
[broker]
port = {port}
[ingest]
profile = "demo"
simulated_alarms = true
{store}
[board]
port = {board}
[health]
gateway_port = 0
ingest_port = 0
board_port = 0
[simulate]
seed = {seed}
air_socket = "air.sock"
"""
_GATEWAY: Final = """
[gateway]
id = "{gateway}"
outbox = "{outbox}"
ble = {{ backend = "air", air_socket = "air.sock" }}
"""
_ROOM: Final = """
[[board.rooms]]
id = "{room}"
demo_patient = "Patient {room}"
demo_age_years = 50
demo_sex = "female"
"""
_SERIAL: Final = """
[[{table}]]
{name}
room = "{room}"
{place} = "tty/{kind}-{room}"
{options}
"""
_BLE: Final = """
[[{table}]]
{name}
room = "{room}"
address = "{address}"
{options}
"""
_PROFILES: Final = ("healthy", "tachycardia", "fever", "hypertensive")


_SPOTS: Final = ("fast_spot", "bp_gatt", "thermometer_gatt", "thermometer_gatt")


def spot_device(room: str) -> str:
    """Name of the room's device that is no monitor."""
    return _named(_SPOTS[int(room) % 4], room)


def monitor(room: str) -> str:
    """Name of the room's EKG board, which has a temperature too."""
    return _named("ekg_openview", room)


def _named(kind: str, room: str) -> str:
    return f"{kind.replace('_', '-')}-{room}"


def _device(gateway: bool, kind: str, room: str, place: str, options: str) -> str:
    """One entry of [[gateway.devices]] or of [[simulate.devices]], which mirror each other."""
    table = "gateway.devices" if gateway else "simulate.devices"
    name = f'name = "{_named(kind, room)}"\ndriver = "{kind}"' if gateway else f'kind = "{kind}"'
    if ":" in place:
        return _BLE.format(table=table, name=name, room=room, address=place, options=options)
    key = "port" if gateway else "link"
    return _SERIAL.format(table=table, name=name, room=room, place=key, kind=kind, options=options)


def _room_devices(room: str, *, gateway: bool) -> str:
    """An EKG in each room; besides a cuff, a thermometer with a clock, one without, or the counting device."""
    number = int(room)
    spot = _SPOTS[number % 4]
    extra = {
        1: "interval_s = 4.0, inflate_s = 1.0",
        2: "interval_s = 2.0, measure_s = 0.5",
        3: "interval_s = 2.0, measure_s = 0.5, stamp = false",
        0: "per_s = 10.0",
    }[number % 4]
    profile = f'profile = "{_PROFILES[number % 4]}"'
    ekg = _device(gateway, "ekg_openview", room, "", "" if gateway else f"options = {{ {profile} }}")
    place = "" if spot == "fast_spot" else f"F0:00:00:00:00:{number:02X}"
    options = "" if gateway else f"options = {{ {extra}{'' if spot == 'fast_spot' else ', ' + profile} }}"
    return ekg + _device(gateway, spot, room, place, options)


class Clinic:
    """Everything that runs, by name. `close` ends all of it."""

    def __init__(self, folder: Path, *, seed: int, store: str = "sqlite", disk_mb: int = DISK_MB) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.disks = {name: Disk(folder / "disk" / name, disk_mb) for name in (*GATEWAYS, "store")}
        self.store: StoreSide = STORES[store](self.disks["store"].folder, folder)
        self.broker_port = Mosquitto(folder / "mosquitto").port
        self.links = {name: Proxy(self.broker_port) for name in LINKS} | dict(self.store.links)
        self.board_port = free_port()
        self.ledgers = {name: self._ledger(name) for name in GATEWAYS}
        self.parts = self._parts(seed)

    def _ledger(self, gateway: str) -> Ledger:
        outbox = self.outbox(gateway)
        Outbox(outbox).close()
        backups = self.folder / "backups" / gateway
        backups.mkdir(parents=True, exist_ok=True)
        return Ledger(outbox, backups)

    def outbox(self, gateway: str) -> Path:
        return self.disks[gateway].folder / "outbox.db"

    def _parts(self, seed: int) -> dict[str, Part]:
        rooms = [room for gateway in GATEWAYS for room in ROOMS[gateway]]
        shown = "".join(_ROOM.format(room=room) for room in rooms)
        simulated = "".join(_room_devices(room, gateway=False) for room in rooms)
        store, other = self.store.settings(), self.store.other_settings()
        parts = {}
        for gateway in GATEWAYS:
            head = _GATEWAY.format(gateway=gateway, outbox=self.outbox(gateway))
            devices = "".join(_room_devices(room, gateway=True) for room in ROOMS[gateway])
            parts[gateway] = self._vitals(gateway, "gateway", seed, store, head + devices + shown)
        parts["ingest"] = self._vitals("ingest", "ingest", seed, store, shown)
        parts["board"] = self._vitals("board", "board", seed, store, shown)
        parts["simulate"] = self._vitals("simulate", "simulate", seed, store, simulated)
        parts["foreign"] = self._vitals("foreign", "ingest", seed, other, shown)
        parts["second"] = self._vitals("second", "ingest", seed, store, shown)
        config = str(self.folder / "mosquitto" / "mosquitto.conf")
        binary = program("mosquitto")
        assert binary is not None  # noqa: S101  the callers have asked before
        parts["broker"] = Part("broker", [binary, "-c", config], self.folder / "broker.log", ROOT)
        return parts | dict(self.store.parts)

    def _vitals(self, name: str, command: str, seed: int, store: str, rest: str) -> Part:
        port = self.links[name].port if name in self.links else self.broker_port
        head = _BASE.format(site=SITE, port=port, store=store, board=self.board_port, seed=seed)
        config = self.folder / f"{name}.toml"
        config.write_text(head + rest, encoding="utf-8")
        entry = [sys.executable, "-m", "bench.chaos.entry", str(self.offset_file(name))]
        options = ["--config", str(config), "--log-level", "warning"]
        return Part(name, [*entry, command, *options], self.folder / f"{name}.log", ROOT)

    def offset_file(self, name: str) -> Path:
        """Seconds by which the clock of a part is wrong."""
        return self.folder / f"{name}.offset"

    def lasting(self) -> list[Part]:
        """The parts that should always run."""
        return [part for name, part in self.parts.items() if name not in ("foreign", "second")]

    def start(self) -> None:
        for name in ("broker", "simulate", "ingest", *GATEWAYS, "board"):
            self.parts[name].start()

    def close(self) -> None:
        for part in self.parts.values():
            part.kill()
        for link in self.links.values():
            link.close()
        self.store.close()
        for disk in self.disks.values():
            disk.close()
