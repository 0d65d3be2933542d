"""Captures: one conversation with a device, from link-up to link-down, in a file. One JSON object a line.

    {"capture":2,"driver":"bp_gatt","address":"C0:..","simulated":false,"options":{},"t":ns}
    {"t":ns,"hex":"16..","ch":"2a35"}    the device sent this; `ch` is the characteristic, absent on serial
    {"t":ns,"sent":"0101","ch":"2a52"}   we wrote this
    {"t":ns,"tick":true}                 time passed for the session

A session is a function of what it is told, and all of that is here, the ticks too: run again, it gives the same events.
Version 1 had neither what we wrote nor ticks nor options; it is still read. A capture holds readings: treat it as
patient data.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeAlias

import msgspec

from vitals.clock import Instant, iso
from vitals.driver import OptionValue, Session
from vitals.errors import VitalsError
from vitals.model import Chunk, Event, Send

VERSION: Final = 2
LATEST: Final[Instant] = 2**63 - 1
"""A time of the file beyond 64 bits is damage."""
_CHANNEL: Final = re.compile(r"[0-9a-f]{4}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Sent(NamedTuple):
    """What we wrote to the device, once the transport had taken it."""

    at: Instant
    send: Send


class Tick(NamedTuple):
    """The session's `tick` was called."""

    at: Instant


Step: TypeAlias = Chunk | Sent | Tick


class Head(msgspec.Struct, frozen=True):
    """The first line. `options` are those of the settings, without the driver's defaults."""

    capture: int
    driver: str
    address: str = ""
    simulated: bool = False
    options: dict[str, str | int | float | bool] = {}
    started: Instant = msgspec.field(name="t", default=0)


class Capture:
    """Appends what happens on one link to a file of its own, named after device and start, for its owner only."""

    def __init__(
        self,
        folder: Path,
        device: str,
        driver: str,
        address: str,
        now: Instant,
        *,
        simulated: bool,
        options: Mapping[str, OptionValue] | None = None,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamp = iso(now).replace(":", "").replace(".", "")
        self.path, self._file = _new_file(folder, f"{device}-{stamp}")
        head = Head(VERSION, driver, address, simulated, dict(options or {}), now)
        self._write(msgspec.to_builtins(head))

    def add(self, step: Step) -> None:
        if isinstance(step, Tick):
            self._write({"t": step.at, "tick": True})
        elif isinstance(step, Sent):
            self._bytes(step.at, "sent", step.send.data, step.send.channel)
        else:
            self._bytes(step.received_at, "hex", step.data, step.channel)

    def close(self) -> None:
        self._file.close()

    def _bytes(self, at: Instant, key: str, data: bytes, channel: str) -> None:
        self._write({"t": at, key: data.hex(), **({"ch": channel} if channel else {})})

    def _write(self, entry: dict[str, object]) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        self._file.flush()


def _new_file(folder: Path, stem: str) -> tuple[Path, IO[str]]:
    """Never one that is there: `iso` tells milliseconds, and a second head in a file makes it unreadable."""
    path, number = folder / f"{stem}.jsonl", 1
    while True:
        try:
            return path, os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")
        except FileExistsError:
            number += 1
            path = folder / f"{stem}-{number}.jsonl"


class Recording:
    """A capture on the disk. Read line by line, so that a day of EKG needs no memory."""

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self.head = head

    def steps(self) -> Iterator[Step]:
        """What happened, in order. Raises VitalsError naming the line that is wrong."""
        return (step for _, step in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Step]]:
        """The same with the number of the line."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number > 1:
                    yield number, _step(self.path, number, line)


def read_capture(path: Path) -> Recording:
    """Raises VitalsError when the file is not there or no capture."""
    try:
        with path.open("rb") as file:
            head = msgspec.json.decode(file.readline(), type=Head)
        if not 1 <= head.capture <= VERSION:
            raise ValueError(f"version {head.capture}; this program reads 1 to {VERSION}")
    except (OSError, ValueError) as error:
        empty = path.is_file() and path.stat().st_size == 0
        raise VitalsError(
            f"{path} is no capture.", expected="a file written by `vitals gateway --capture`",
            found="an empty file" if empty else str(error),
            do="Give the path of a .jsonl file from the capture folder.",
        ) from None  # fmt: skip
    return Recording(path, head)


def rerun(session: Session, steps: Iterable[Step]) -> Iterator[Event]:
    """The events of a fresh session that is told what the captured one was told."""
    yield from session.start()
    for step in steps:
        yield from take(session, step)
    yield from session.close()


def take(session: Session, step: Step) -> list[Event]:
    """The events of one step. What we wrote is the session's own doing and tells it nothing."""
    if isinstance(step, Chunk):
        return session.receive(step)
    return session.tick(step.at) if isinstance(step, Tick) else []


def _step(path: Path, number: int, line: bytes) -> Step:
    try:
        entry: dict[str, Any] = json.loads(line)
        at, channel = _instant(entry["t"]), str(entry.get("ch", ""))
        if channel and not _CHANNEL.fullmatch(channel):
            raise ValueError(f"no characteristic {channel!r}")
        if "tick" in entry:
            return Tick(at)
        if "sent" in entry:
            return Sent(at, Send(bytes.fromhex(entry["sent"]), channel))
        return Chunk(bytes.fromhex(entry["hex"]), at, channel)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise VitalsError(
            f"{path}, line {number}, cannot be read.", expected='{"t": ns, "hex": "..."}', found=found,
            do="Cut the file before this line: a gateway that was killed leaves half a line.",
        ) from None  # fmt: skip


def _instant(found: object) -> Instant:
    if type(found) is not int or not 0 <= found <= LATEST:
        raise ValueError(f"{str(found)[:40]} is no time in ns")
    return found
