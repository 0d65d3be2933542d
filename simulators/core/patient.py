"""The patient of a room as settings: the options that any device of the room may carry, once for all of them."""

import math
from collections.abc import Iterable
from typing import Final, Literal

from simulators.core.physiology import EFFECTS, Episode, Physiology, Profile
from simulators.core.registry import complete, derive_seed
from vitals.driver import Option, OptionValue
from vitals.errors import SettingsError
from vitals.settings import SimulatedDevice

OPTIONS: Final = (
    Option("profile", str, f"Condition that holds all the time: {', '.join(EFFECTS)}.", "healthy"),
    Option("age", float, "Age in years.", 40.0),
    Option("sex", str, "female or male.", "female"),
    Option(
        "episodes",
        str,
        "kind@start+length in seconds, /every to repeat, comma-separated: `fever@60+300, lead_off@90+20/120`.",
        "",
    ),
)
NAMES: Final = frozenset(option.name for option in OPTIONS)


def parse_when(kind: str, when: str) -> Episode:
    """`90+20` (from 90 s on, for 20 s) or `90+20/60` (again each 60 s) as an episode. Raises ValueError."""
    span, repeats, every = when.partition("/")
    start, _, length = span.partition("+")
    episode = Episode(kind, float(start), float(length), float(every) if repeats else 0.0)
    if not (0 <= episode.start_s < math.inf and 0 < episode.length_s < math.inf):
        raise ValueError("expected a start of 0 or more and a length above 0")
    if repeats and not episode.length_s <= episode.every_s < math.inf:
        raise ValueError("expected it to be over before it comes again")
    return episode


def parse_episodes(text: str) -> tuple[Episode, ...]:
    """`fever@60+300, lead_off@90+20/120` as episodes. Raises SettingsError."""
    episodes = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        kind, _, when = item.partition("@")
        try:
            if kind.strip() not in EFFECTS:
                raise ValueError("unknown kind")
            episodes.append(parse_when(kind.strip(), when))
        except ValueError:
            raise SettingsError(
                "An episode of a simulated patient cannot be read.",
                expected=f"kind@start+length or kind@start+length/every, kind one of: {', '.join(EFFECTS)}",
                found=repr(item),
                do="Write it like fever@60+300: from 60 s on, for 300 s; lead_off@90+20/120: again each 120 s.",
            ) from None
    return tuple(episodes)


def profile_of(options: dict[str, OptionValue]) -> Profile:
    """A profile from OPTIONS as given. Raises SettingsError."""
    chosen = complete("The simulated patient", OPTIONS, options)
    age, sex, condition = float(chosen["age"]), str(chosen["sex"]), str(chosen["profile"])
    sexes: dict[str, Literal["female", "male"]] = {"female": "female", "male": "male"}
    for name, value, good, expected in (
        ("sex", sex, sex in sexes, "female or male"),
        ("profile", condition, condition in EFFECTS, f"one of: {', '.join(EFFECTS)}"),
        ("age", age, 0 <= age <= 120, "years, 0 to 120"),
    ):
        if not good:
            raise SettingsError(
                f"The simulated patient's {name} is wrong.", expected=expected, found=repr(value), do=f"Correct {name}."
            )
    return Profile(age, sexes[sex], condition, parse_episodes(str(chosen["episodes"])))


def patients(seed: int, devices: Iterable[SimulatedDevice]) -> dict[str, Physiology]:
    """One patient for each room. Raises SettingsError when two devices of a room disagree about him."""
    by_room: dict[str, dict[str, OptionValue]] = {}
    for device in devices:
        options = by_room.setdefault(device.room, {})
        for name, value in device.options.items():
            if name in NAMES and options.setdefault(name, value) != value:
                raise SettingsError(
                    f"The devices of room {device.room!r} disagree about its patient.",
                    expected=f"one value of {name!r}", found=f"{options[name]!r} and {value!r}",
                    do="Give the patient's options on one device of the room only.",
                )  # fmt: skip
    return {room: Physiology(derive_seed(seed, room), profile_of(options)) for room, options in by_room.items()}
