"""What a simulated device is: the device's side of the wire, seeded and free of clocks and sockets."""

from typing import Protocol

from vitals.clock import Instant
from vitals.model import Chunk, Send


class Simulator(Protocol):
    """Written from the protocol sheet, never from the driver; both share only `vitals.wire`."""

    def respond(self, chunk: Chunk) -> list[Send]:
        """The host wrote `chunk` (`channel`: the characteristic): what the device sends back."""
        ...

    def advance(self, until: Instant) -> list[Send]:
        """Time passes up to `until`: what the device sends of its own accord, in order."""
        ...
