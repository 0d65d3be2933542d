"""What a device driver is. A plug-in imports this module, `vitals.model` and `vitals.wire`, and nothing else of ours.

A driver is a function of bytes: no socket, clock, sleep, log or thread. Time arrives with each `Chunk` and each
`tick`. A malformed frame is a `Fault` event; an exception is a bug.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias

import msgspec

from vitals.clock import Instant
from vitals.model import Chunk, Event

OptionValue: TypeAlias = str | int | float | bool
Options: TypeAlias = Mapping[str, OptionValue]


class Session(Protocol):
    """One conversation with one device, from link-up to link-down. Pure: equal bytes give equal events."""

    def start(self) -> list[Event]:
        """Events due at link-up (requests to send)."""
        ...

    def receive(self, chunk: Chunk) -> list[Event]:
        """Decode what this chunk completes. Never raises on any bytes; buffers stay under a stated cap."""
        ...

    def tick(self, now: Instant) -> list[Event]:
        """Let time pass: timeouts, requests to repeat."""
        ...

    def close(self) -> list[Event]:
        """The link is gone: what is left of a frame is a fault."""
        ...


class SerialSpec(msgspec.Struct, frozen=True):
    """How to open the line."""

    baudrate: int = 9600
    bytesize: Literal[7, 8] = 8
    parity: Literal["N", "E", "O"] = "N"
    stopbits: Literal[1, 2] = 1


class BleSpec(msgspec.Struct, frozen=True):
    """What to look for and what to do after link-up. UUIDs are the 16-bit short form in lower case (`1810`) or 128-bit.

    `read` values arrive as chunks before `subscribe` starts; a characteristic that is absent is skipped.
    """

    service: str
    subscribe: tuple[str, ...]
    read: tuple[str, ...] = ()
    stays: bool = False
    """The device is meant to stay linked up. False: it hangs up when it has handed over its readings."""


class Option(msgspec.Struct, frozen=True):
    """A setting of one driver, checked by `vitals check-config`. `default` None: may be left out."""

    name: str
    type: type[str] | type[int] | type[float] | type[bool]
    doc: str
    default: OptionValue | None = None


class Driver(msgspec.Struct, frozen=True):
    """One device family. Each device module ends with `DRIVER: Final = Driver(...)`.

    `metrics` lists every metric key it may emit, `faults` every fault code; the contract suite covers them all.
    `evidence` says how the facts are known (strong, good, medium, thin; see the protocol sheet's sources).
    """

    name: str
    title: str
    transport: Literal["serial", "ble"]
    spec: SerialSpec | BleSpec
    metrics: tuple[str, ...]
    faults: Mapping[str, str]
    new_session: Callable[[Options], Session]
    options: tuple[Option, ...] = ()
    evidence: str = ""


def complete_options(driver: Driver, given: Options) -> dict[str, OptionValue]:
    """The driver's defaults overlaid with `given`.

    Raises ValueError naming the option when one is unknown or of the wrong type.
    """
    known = {option.name: option for option in driver.options}
    complete = {o.name: o.default for o in driver.options if o.default is not None}
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            raise ValueError(f"unknown option {name!r}; {driver.name} takes: {', '.join(sorted(known)) or 'none'}")
        number_for_float = option.type is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not option.type and not number_for_float:
            raise ValueError(f"option {name!r}: expected {option.type.__name__}, got {value!r}")
        complete[name] = float(value) if number_for_float else value
    return complete
