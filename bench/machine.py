"""Facts of the machine a figure was made on, and how much of it others used meanwhile."""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Final


class Busy:
    """What the machine did meanwhile, and how much of it was none of ours: on a busy machine the table is no good."""

    TICKS: Final = os.sysconf("SC_CLK_TCK")

    def __init__(self, pids: dict[str, int]) -> None:
        self._parts = {pid: part for part, pid in pids.items()}
        self._begun = time.monotonic()
        self._before = self._family()
        self._idle = self._idle_s()

    def said(self) -> str:
        took = time.monotonic() - self._begun
        cores = os.cpu_count() or 1
        busy = cores - (self._idle_s() - self._idle) / took
        shares = {"bench and Chromium": 0.0, **dict.fromkeys(self._parts.values(), 0.0)}
        for pid, spent in self._family().items():
            part = self._parts.get(pid, "bench and Chromium")
            shares[part] += (spent - self._before.get(pid, 0.0)) / took
        said = ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares.items())
        other = max(0.0, busy - sum(shares.values()))
        load = Path("/proc/loadavg").read_text(encoding="ascii").split()[0]
        return f"of a core: {said}, others {100 * other:.0f} %; load average {load}"

    def _family(self) -> dict[int, float]:
        """CPU seconds of this process and all below it, by process id."""
        stats = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
                stats[int(path.parent.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / self.TICKS)
        ours = {os.getpid()}
        while more := {pid for pid, (parent, _) in stats.items() if parent in ours} - ours:
            ours |= more
        return {pid: stats[pid][1] for pid in ours}

    def _idle_s(self) -> float:
        """Waiting for the disk is idle too."""
        fields = Path("/proc/stat").read_text(encoding="ascii").split()
        return (int(fields[4]) + int(fields[5])) / self.TICKS


def machine() -> str:
    facts = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if ":" in line
    )
    model = {key.strip(): value.strip() for key, value in facts.items()}.get("model name", "?")
    load = Path("/proc/loadavg").read_text(encoding="ascii").split()[:3]
    return f"{os.cpu_count()} cores, {model}; Python {sys.version.split()[0]}; load average before {' '.join(load)}"
