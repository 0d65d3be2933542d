"""What happens in a simulated clinic, as a TOML file: its patients, what goes wrong with their devices, what fails.

    title = "..."                     one line
    see = "..."                       what whoever opens the board will see

    [[rooms]]                         in order: room 1, 2, ...
    name = "Nguyen, Linh"             made up
    age = 34
    sex = "female"
    profile = "healthy"               what holds all the time (physiology.py, EFFECTS)
    episodes = "fever@60+300/600"     what comes and goes (patient.py)
    mischief = { bp_gatt = "..." }    by kind of device (mischief.py)
    options = { bp_gatt = { interval_s = 20.0 } }

    [[outages]]                       a part of the system that is killed and stays away
    part = "broker"
    at_s = 20
    for_s = 15
    every_s = 60                      left out: once

Shipped ones are in `simulators/scenarios/`. Seconds count from the start of the clinic.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

import simulators
from simulators.core.mischief import parse, require_possible
from simulators.core.patient import profile_of
from simulators.core.physiology import Episode
from simulators.core.registry import find
from vitals.driver import OptionValue
from vitals.errors import SettingsError

SHIPPED: Final = Path(simulators.__path__[0]) / "scenarios"
MAX_ROOMS: Final = 16
"""As many as the demo shows."""
Line: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]*$")]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file: a misspelt key is an error."""


class Room(_Table, frozen=True, kw_only=True):
    """A made-up patient and the devices of the room. `mischief` and `options` are by kind of device."""

    name: Line
    age: Annotated[int, msgspec.Meta(ge=0, le=120)]
    sex: Literal["female", "male"]
    profile: str = "healthy"
    episodes: str = ""
    mischief: dict[str, str] = {}
    options: dict[str, dict[str, str | int | float | bool]] = {}

    def patient(self) -> dict[str, OptionValue]:
        """The options of simulators.core.patient."""
        return {"profile": self.profile, "age": float(self.age), "sex": self.sex, "episodes": self.episodes}


class Outage(_Table, frozen=True, kw_only=True):
    """`part` is killed at `at_s` and away for `for_s` seconds; again each `every_s`, if that is not 0."""

    part: Literal["broker", "simulate", "gateway", "ingest", "board"]
    at_s: Seconds
    for_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)]
    every_s: Seconds = 0.0

    @property
    def when(self) -> Episode:
        return Episode(self.part, self.at_s, self.for_s, self.every_s)


class Scenario(_Table, frozen=True, kw_only=True):
    """The whole file."""

    title: Line
    see: str
    rooms: Annotated[list[Room], msgspec.Meta(min_length=1, max_length=MAX_ROOMS)]
    outages: list[Outage] = []


def names() -> list[str]:
    """The shipped scenarios."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name: str) -> Scenario:
    """A shipped scenario by its name, or anybody's by its path (with `.toml`). Raises SettingsError."""
    own = name.endswith(".toml")
    if not own and name not in names():
        raise SettingsError(
            f"There is no scenario {name!r}.", expected=f"one of: {', '.join(names())}; or the path of a .toml file",
            found=repr(name), do="Correct --scenario.",
        )  # fmt: skip
    path = Path(name) if own else SHIPPED / f"{name}.toml"
    try:
        scenario = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Scenario, strict=True)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(
            f"The scenario {path} cannot be read.", expected="a file as docs/scenarios.md describes it",
            found=str(error), do="Mend what it names.",
        ) from None  # fmt: skip
    _check(scenario, path)
    return scenario


def _check(scenario: Scenario, path: Path) -> None:
    """What types alone cannot say. Raises SettingsError."""
    for room in scenario.rooms:
        profile_of(room.patient())
        for kind in room.options:
            find(kind)
        for kind, text in room.mischief.items():
            require_possible(find(kind), parse(text))
    for outage in scenario.outages:
        if outage.every_s and outage.every_s <= outage.for_s:
            raise SettingsError(
                f"{path}: the outage of {outage.part} never ends.", expected="every_s above for_s",
                found=f"for_s {outage.for_s:g}, every_s {outage.every_s:g}", do="Correct the two.",
            )  # fmt: skip
