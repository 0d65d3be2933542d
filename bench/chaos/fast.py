"""A made-up device that counts: a spot reading many times a second, each with a record number.

No real device is that quick; it is here so that a fault finds a reading under way whenever it comes. A line is
`record number,tenths of a degree`, 13 and 3 digits.
"""

import re
from typing import Final

from simulators.core.registry import Setup, SimulatedKind
from vitals.clock import NS, Instant
from vitals.driver import Driver, Option, Options, SerialSpec
from vitals.model import Chunk, Event, Fault, Observation, Quantity, Send

NAME: Final = "fast_spot"
_LINE: Final = re.compile(rb"(\d{13}),(\d{3})")
"""Of fixed length, so that a line that lost its beginning is no line."""
_CAP: Final = 64
"""Bytes of a line; a longer one is rubbish."""


class Counting:
    """The driver's side."""

    def __init__(self) -> None:
        self._buffer = b""

    def start(self) -> list[Event]:
        return []

    def receive(self, chunk: Chunk) -> list[Event]:
        *lines, self._buffer = (self._buffer + chunk.data).split(b"\n")
        self._buffer = self._buffer[-_CAP:]
        return [_read(line, chunk.received_at) for line in lines]

    def tick(self, now: Instant) -> list[Event]:
        return []

    def close(self) -> list[Event]:
        return []


def _read(line: bytes, at: Instant) -> Event:
    match = _LINE.fullmatch(line)
    if match is None:  # the first line after a link-up may lack its beginning
        return Fault("malformed", "expected `number,tenths`", line[:_CAP], at)
    number, tenths = int(match[1]), int(match[2])
    # Every other reading has no number, and so no identity but its place in the outbox.
    record = number if number % 2 else None
    quantity = Quantity(tenths / 10, f"{tenths // 10}.{tenths % 10}", "Cel")
    return Observation("temp", {"temp": quantity}, at, record_no=record)


class Counter:
    """The device's side. Its numbers go on growing over restarts, since they begin with the time of the start."""

    def __init__(self, setup: Setup) -> None:
        self._step = round(NS / float(setup.options["per_s"]))
        self._due = setup.start
        self._number = setup.start // (NS // 1000)

    def respond(self, chunk: Chunk) -> list[Send]:
        return []

    def advance(self, until: Instant) -> list[Send]:
        lines = b""
        while self._due <= until:
            self._due += self._step
            self._number += 1
            lines += b"%d,%d\n" % (self._number, 365 + self._number % 7)
        return [Send(lines)] if lines else []


def _session(_options: Options) -> Counting:
    return Counting()


DRIVER: Final = Driver(
    NAME, "Counting device of the bench", "serial", SerialSpec(), ("temp",), {"malformed": "No such line."}, _session
)
SIMULATOR: Final = SimulatedKind(
    NAME, DRIVER.title, "serial", Counter, (Option("per_s", float, "Readings a second.", 10.0),)
)
