"""`vitals decode`: bytes in, events out, without a device, a clock or a settings file.

The same input gives the same output, so a golden file can be kept beside a driver.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from drivers.core.capture import Step, Tick, read_capture, take
from drivers.transports.ble import short_uuid
from vitals.cli.event_json import event_line
from vitals.clock import NS, NS_PER_MS, Instant, from_datetime
from vitals.driver import BleSpec, Driver, Option, OptionValue, Session, complete_options
from vitals.errors import SettingsError
from vitals.model import Chunk

RECEIVED_AT: Final[Instant] = 1_764_000_000 * NS
"""2025-11-24T16:00:00Z. Which moment does not matter, that it is always the same does."""
_UUID: Final = r"[0-9a-fA-F]{4}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_ADDRESSED: Final = re.compile(rf"({_UUID}):(.*)", re.DOTALL)
_CHUNK: Final = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2})+)")
_COLONS: Final = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2})+")
_WAIT: Final = re.compile(r"\+([0-9]{1,9})")
_SWITCH: Final = {"true": True, "false": False}


class Input(NamedTuple):
    """One step and how it is named in the output."""

    name: str
    step: Step


def find_driver(name: str, drivers: Mapping[str, Driver]) -> Driver:
    """Raises SettingsError listing the drivers there are."""
    if name not in drivers:
        raise SettingsError(
            "There is no such driver.", expected=f"one of: {', '.join(sorted(drivers))}", found=repr(name),
            do="Correct the name; `vitals devices` says what each one reads.",
        )  # fmt: skip
    return drivers[name]


def new_session(driver: Driver, given: Mapping[str, OptionValue]) -> Session:
    """Raises SettingsError when the driver does not take these options."""
    try:
        return driver.new_session(complete_options(driver, given))
    except ValueError as error:
        raise SettingsError(
            f"{driver.name} cannot be made with these options.", expected=_choices(driver), found=str(error),
            do="Correct or remove the option.",
        ) from None  # fmt: skip


def parse_options(driver: Driver, pairs: Iterable[str]) -> dict[str, OptionValue]:
    """`["rate_hz=250", "lead=II"]`, typed as the driver declares them. Raises SettingsError."""
    known = {option.name: option for option in driver.options}
    found: dict[str, OptionValue] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        option = known.get(name)
        value = _typed(option, text) if option and equals else None
        if value is None:
            raise SettingsError(
                f"{driver.name} does not take the option {pair!r}.", expected=_choices(driver), found=repr(pair),
                do="Give --option NAME=VALUE.",
            )  # fmt: skip
        found[name] = value
    return found


def _choices(driver: Driver) -> str:
    return ", ".join(f"{o.name}={o.type.__name__}" for o in driver.options) or "no options"


def _typed(option: Option, text: str) -> OptionValue | None:
    if option.type is bool:
        return _SWITCH.get(text)
    try:
        value = option.type(text)
    except ValueError:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_moment(text: str) -> Instant:
    """`2026-11-24T08:58:01Z`. Raises SettingsError for a time without a zone, which is no moment."""
    try:
        return from_datetime(datetime.fromisoformat(text))
    except ValueError as error:
        raise SettingsError(
            "That is no moment in time.", expected="--at 2026-11-24T08:58:01Z", found=str(error),
            do="Write date, time and zone.",
        ) from None  # fmt: skip


class Reader:
    """Reads the arguments of one driver: hex, `CHANNEL:hex`, or `+MS` for time that passes."""

    def __init__(self, driver: Driver, channel: str, at: Instant) -> None:
        self._driver = driver
        self._ble = driver.spec if isinstance(driver.spec, BleSpec) else None
        self._channel = self._default(channel)
        self._now = at

    def _default(self, given: str) -> str:
        if given and self._ble is None:
            raise self._no_channels(given)
        if given and not re.fullmatch(_UUID, given):
            raise SettingsError(
                "That is no characteristic.", expected="a UUID of 16 bits (2a35) or 128 bits", found=repr(given),
                do=f"{self._driver.name} reads {self._characteristics()}.",
            )  # fmt: skip
        if not given and self._ble is not None and len(self._ble.subscribe) == 1:
            return self._ble.subscribe[0]
        return short_uuid(given)

    def _no_channels(self, given: str) -> SettingsError:
        return SettingsError(
            f"{self._driver.name} reads a serial line, which has no channels.", expected="no --channel, and bytes only",
            found=given, do="Leave the channel out.",
        )  # fmt: skip

    def _characteristics(self) -> str:
        return ", ".join((*self._ble.subscribe, *self._ble.read)) if self._ble else "none"

    def read(self, text: str) -> Step:
        """Raises SettingsError for what is no hex, and where the characteristic is missing."""
        if wait := _WAIT.fullmatch(text.strip()):
            self._now += int(wait[1]) * NS_PER_MS
            return Tick(self._now)
        addressed = _ADDRESSED.match(text.strip())
        if addressed and self._ble is None:
            raise self._no_channels(addressed[1])
        channel = short_uuid(addressed[1]) if addressed else self._channel
        data = parse_hex(addressed[2] if addressed else text, may_be_empty=addressed is not None)
        if self._ble is not None and not channel:
            raise SettingsError(
                f"{self._driver.name} reads several characteristics; which one is {text!r} from?",
                expected=f"one of: {self._characteristics()}", found="no channel",
                do=f"Give --channel, or write {self._ble.subscribe[0]}:{text}.",
            )  # fmt: skip
        return Chunk(data, self._now, channel)


def parse_hex(text: str, *, may_be_empty: bool = False) -> bytes:
    """Whole bytes between white space; a colon may stand between single bytes, 0x before. Raises SettingsError."""
    parts = text.split()
    wrong = next((f"{part[:40]!r}" for part in parts if _digits(part) is None), None)
    if wrong is None and not parts and not may_be_empty:
        wrong = "no digits"
    if wrong is not None:
        raise SettingsError(
            "The bytes cannot be read.", expected='pairs of hex digits, such as "16 04 78" or 160478',
            found=f"{wrong} in {text[:60]!r}", do="Correct them; every argument is one chunk.",
        )  # fmt: skip
    return bytes.fromhex("".join(_digits(part) or "" for part in parts))


def _digits(part: str) -> str | None:
    """Half a byte is an error, never joined to its neighbour."""
    if _COLONS.fullmatch(part):
        return part.replace(":", "")
    whole = _CHUNK.fullmatch(part)
    return whole[1] if whole else None


def inputs(reader: Reader, arguments: Iterable[str], lines: Iterable[str]) -> Iterator[Input]:
    """The arguments in order, numbered from 1; `-` stands for `lines` (of standard input), numbered along."""
    number = 0
    for argument in arguments:
        for text in _texts(lines) if argument == "-" else (argument,):
            number += 1
            yield Input(str(number), reader.read(text))


def _texts(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def run(
    driver: Driver,
    options: Mapping[str, OptionValue],
    arguments: Sequence[str],
    channel: str,
    at: Instant | None,
    capture: Path | None,
    lines: Iterable[str],
) -> Iterator[str]:
    """The output of the command. Raises VitalsError, for what is wrong with a chunk when its turn comes."""
    if bool(arguments) is (capture is not None):
        raise SettingsError(
            "There is nothing to decode." if capture is None else "There are two things to decode.",
            expected="HEX, - for standard input, or --capture FILE", found="both" if arguments else "nothing",
            do="Give one of them.",
        )  # fmt: skip
    if capture is not None:
        if channel or at is not None:
            raise SettingsError(
                "A capture has its own characteristics and times.", expected="--capture without --channel and --at",
                found=f"--channel {channel}" if channel else "--at", do="Leave it out.",
            )  # fmt: skip
        return _captured(driver, options, capture)
    reader = Reader(driver, channel, RECEIVED_AT if at is None else at)
    return decode(new_session(driver, options), inputs(reader, arguments, lines))


def _captured(driver: Driver, options: Mapping[str, OptionValue], path: Path) -> Iterator[str]:
    """The capture's own options, overlaid with those given."""
    recording = read_capture(path)
    if recording.head.driver != driver.name:
        raise SettingsError(
            f"{path} was captured with another driver.", expected=driver.name, found=repr(recording.head.driver),
            do="Name the driver of the capture.",
        )  # fmt: skip
    session = new_session(driver, {**recording.head.options, **options})
    return decode(session, (Input(str(number), step) for number, step in recording.numbered()))


def decode(session: Session, given: Iterable[Input]) -> Iterator[str]:
    """The lines: what `start` gives, what each step gives, what `close` gives."""
    for event in session.start():
        yield event_line(event, "start")
    for name, step in given:
        for event in take(session, step):
            yield event_line(event, name)
    for event in session.close():
        yield event_line(event, "close")
