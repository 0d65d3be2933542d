"""Finds every simulated device: each module directly in `simulators/` that ends with `SIMULATOR: Final`."""

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from datetime import UTC, tzinfo
from functools import cache
from typing import Literal

import msgspec

import simulators
from simulators.core.contract import Simulator
from simulators.core.physiology import Physiology
from vitals.clock import NS, Instant
from vitals.driver import Option, Options, OptionValue
from vitals.errors import SettingsError


class Setup(msgspec.Struct, frozen=True):
    """What a simulated device is made from. `options` are complete (defaults filled in)."""

    seed: int
    patient: Physiology
    start: Instant
    """The moment at which the patient's time is 0."""
    options: Mapping[str, OptionValue]
    zone: tzinfo = UTC
    """What the device's wall clock shows."""

    def patient_s(self, at: Instant) -> float:
        """Seconds of the patient's time."""
        return (at - self.start) / NS


class SimulatedKind(msgspec.Struct, frozen=True):
    """One kind of simulated device; parallel to `Driver`. A `ble` factory gives a `GattDevice`."""

    name: str
    title: str
    transport: Literal["serial", "ble"]
    factory: Callable[[Setup], Simulator]
    options: tuple[Option, ...] = ()
    tricks: Mapping[str, Options] = {}
    """Mischief of the device itself (mischief.py) that it can have, and the options it then gets; none where the trick
    is the patient's (`lead_off`, `motion`) and the device shows it by itself."""


@cache
def load_all() -> dict[str, SimulatedKind]:
    """Every kind by name. Raises ImportError when a module is broken: it is ours."""
    found = {}
    for module in pkgutil.iter_modules(simulators.__path__):
        if not module.ispkg and not module.name.startswith("_"):
            kind = getattr(importlib.import_module(f"simulators.{module.name}"), "SIMULATOR", None)
            if isinstance(kind, SimulatedKind):
                found[kind.name] = kind
    return found


def find(name: str) -> SimulatedKind:
    """The kind of that name. Raises SettingsError listing what there is."""
    kind = load_all().get(name)
    if kind is None:
        raise SettingsError(
            f"There is no simulated device {name!r}.", expected=f"one of: {', '.join(sorted(load_all()))}",
            found=repr(name), do="Correct simulate.devices kind.",
        )  # fmt: skip
    return kind


def complete(what: str, options: tuple[Option, ...], given: Options) -> dict[str, OptionValue]:
    """Defaults overlaid with `given`. Raises SettingsError naming an option that is unknown or of the wrong type."""
    known = {option.name: option for option in options}
    chosen = {o.name: o.default for o in options if o.default is not None}
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            raise SettingsError(
                f"{what} has no option {name!r}.", expected=f"one of: {', '.join(sorted(known))}", found=repr(name),
                do="Correct or remove it.",
            )  # fmt: skip
        widened = option.type is float and type(value) is int
        if type(value) is not option.type and not widened:
            raise SettingsError(
                f"{what}: option {name!r} has the wrong type.", expected=option.type.__name__, found=repr(value),
                do=option.doc,
            )  # fmt: skip
        chosen[name] = float(value) if widened else value
    return chosen


def derive_seed(seed: int, *parts: str) -> int:
    """A seed of its own for each room and device, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join((str(seed), *parts)).encode()).digest()[:8], "big")
