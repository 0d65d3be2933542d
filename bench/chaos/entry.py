"""`python -m bench.chaos.entry OFFSET_FILE ...`: the `vitals` command with a clock that can be set wrong from outside.

The product takes its clock from one place, so nothing in it knows. The bench's counting device is added to the
drivers and simulators, as a plug-in would be.
"""

import sys
import time
from pathlib import Path
from typing import Final

from bench.chaos import fast
from drivers.core.registry import Registry, load_all
from simulators.core import registry as simulated
from vitals import cli
from vitals.cli import wiring
from vitals.clock import NS, Instant

LOOK_S: Final = 0.1
"""How often the file is read."""


class WrongClock:
    """The host's clock and the offset in a file: whole seconds, nothing for none."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        self._look_at = 0

    def now(self) -> Instant:
        if self.monotonic() >= self._look_at:
            self._look_at = self.monotonic() + round(LOOK_S * NS)
            self._look()
        return time.time_ns() + self._offset

    def monotonic(self) -> int:
        return time.monotonic_ns()

    def _look(self) -> None:
        """A change is confirmed in a file beside, so that the bench knows that this process has it."""
        before, self._offset = self._offset, self._read()
        if self._offset != before:
            self._file.with_suffix(".seen").write_text(str(self._offset // NS), encoding="ascii")

    def _read(self) -> int:
        try:
            return int(self._file.read_text(encoding="ascii") or 0) * NS
        except (OSError, ValueError):
            return 0


def _drivers() -> Registry:
    found = load_all([])
    found.add("bench", lambda: fast.DRIVER)
    return found


def main() -> None:
    offset = Path(sys.argv.pop(1))
    wiring.CLOCK = WrongClock(offset)  # type: ignore[assignment]
    wiring.load_drivers = _drivers
    simulated.load_all()[fast.NAME] = fast.SIMULATOR
    cli.main()


if __name__ == "__main__":
    main()
