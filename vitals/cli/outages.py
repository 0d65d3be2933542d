"""When which part of the demo is away, as its scenario says."""

from collections.abc import Sequence

import numpy as np

from simulators.core.scenario import Outage
from vitals.clock import NS


class Outages:
    """`start` and the times asked for are monotonic nanoseconds."""

    def __init__(self, outages: Sequence[Outage], start: int) -> None:
        self._outages = outages
        self._start = start

    def due(self, now: int) -> set[str]:
        """The parts that are away at `now`."""
        seconds = np.asarray((now - self._start) / NS)
        return {outage.part for outage in self._outages if outage.when.holds(seconds)}
