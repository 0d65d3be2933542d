"""Finds the device drivers: every module directly in `drivers/` that has DRIVER, and plug-ins by entry point.

There is no list to edit. A third party adds a device without a fork by an entry point of group `vitals.drivers` that
names a `Driver` (or a module that has `DRIVER`). What is broken is reported and costs nobody else anything.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NamedTuple, TypeAlias

import drivers
from vitals.driver import Driver

GROUP: Final = "vitals.drivers"


class Failure(NamedTuple):
    """A driver that cannot be used: where it was found, and why, for a person."""

    source: str
    reason: str


class Registry(dict[str, Driver]):
    """Drivers by name. `failures` are those left out; show them, a device may be waiting for one."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Failure] = []
        self._sources: dict[str, str] = {}

    def add(self, source: str, load: Callable[[], object]) -> None:
        """Loads one driver; whatever is wrong with it becomes a failure. The first owner of a name keeps it."""
        try:
            found = load()
        except Exception as error:  # noqa: BLE001 - foreign code at import: anything may come, and nobody else may suffer
            self.failures.append(Failure(source, f"cannot be imported: {type(error).__name__}: {error}"))
            return
        driver = getattr(found, "DRIVER", found)
        if not isinstance(driver, Driver):
            self.failures.append(Failure(source, f"expected a vitals.driver.Driver, found {type(driver).__name__}"))
        elif driver.name in self:
            owner = self._sources[driver.name]
            self.failures.append(Failure(source, f"the driver name {driver.name!r} is taken by {owner}"))
        else:
            self[driver.name] = driver
            self._sources[driver.name] = source


_Source: TypeAlias = tuple[str, Callable[[], object]]


def load_all(plugins: Iterable[EntryPoint] | None = None) -> Registry:
    """Our own drivers first, then plug-ins (`plugins`: those to try instead of the installed ones)."""
    registry = Registry()
    for source, load in (*_own(), *_foreign(entry_points(group=GROUP) if plugins is None else plugins)):
        registry.add(source, load)
    return registry


def _own() -> Iterator[_Source]:
    for module in sorted(pkgutil.iter_modules(drivers.__path__), key=lambda found: found.name):
        if not module.ispkg and not module.name.startswith("_"):
            yield f"drivers/{module.name}.py", partial(_module_driver, module.name)


def _module_driver(name: str) -> object:
    driver: object = getattr(importlib.import_module(f"drivers.{name}"), "DRIVER", None)
    if driver is None:
        raise ValueError("it has no DRIVER; a file directly in drivers/ is one device, machinery belongs in core/")
    if isinstance(driver, Driver) and driver.name != name:
        raise ValueError(f"its DRIVER is named {driver.name!r}; the name must be the file's")
    return driver


def _foreign(plugins: Iterable[EntryPoint]) -> Iterator[_Source]:
    for plugin in plugins:
        yield f"plug-in {plugin.name} = {plugin.value}", plugin.load
