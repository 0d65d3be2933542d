"""Text of a device or a stranger, made safe to print: for a terminal, and as a string of the settings file.

A Bluetooth name is whatever somebody in the street sends: escape sequences and new lines among it could rewrite the
screen or add lines to a block that a person pastes.
"""

import re
from collections.abc import Mapping
from typing import Final

from vitals.driver import OptionValue

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def plain(text: str) -> str:
    """The text with a question mark for each character that does not print, or that turns the writing direction."""
    return "".join(character if character.isprintable() else "?" for character in text)


def toml_text(text: str) -> str:
    """A basic string of TOML on one line, quotes included, that reads back as `text`."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def toml_table(values: Mapping[str, OptionValue]) -> str:
    """An inline table."""
    if not values:
        return "{}"
    return "{ " + ", ".join(f"{_key(name)} = {_value(value)}" for name, value in values.items()) + " }"


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml_text(name)


def _value(value: OptionValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return toml_text(value) if isinstance(value, str) else repr(value)
