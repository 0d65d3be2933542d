"""Faults, coalesced by code and second so that a babbling device cannot flood the outbox, and none is uncounted."""

from typing import Final, NamedTuple

from vitals.clock import NS, Instant

FIRST_BYTES: Final = 32
"""Bytes of the first fault kept for a person to look at."""
MAX_CODES: Final = 64
"""Distinct codes open at once; driver codes are a closed list, so this is only a bound against our own bugs."""

OF_ANY_DEVICE: Final = frozenset({"samples_lost", "clock_stepped"})
"""Codes the gateway itself gives; `link_*`, one for each `LossReason`, come besides."""


class FaultCount(NamedTuple):
    """`times` faults of one code within the second that began at the first of them."""

    code: str
    detail: str
    at: Instant
    times: int
    raw: bytes


class FaultLog:
    """`totals` counts by code since the start and is what the status shows."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self._open: dict[str, FaultCount] = {}

    def add(self, code: str, detail: str, raw: bytes, at: Instant) -> None:
        self.totals[code] = self.totals.get(code, 0) + 1
        seen = self._open.get(code)
        if seen is None and len(self._open) < MAX_CODES:
            self._open[code] = FaultCount(code, detail, at, 1, raw[:FIRST_BYTES])
        elif seen is not None:
            self._open[code] = seen._replace(times=seen.times + 1)

    def due(self, now: Instant) -> list[FaultCount]:
        """Those whose second is over."""
        done = [fault for fault in self._open.values() if now - fault.at >= NS]
        for fault in done:
            del self._open[fault.code]
        return done

    def flush(self) -> list[FaultCount]:
        """All, at link-down and at the end."""
        done = list(self._open.values())
        self._open.clear()
        return done
