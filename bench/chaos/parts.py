"""Processes and disks that can be hurt: killed, stopped, frozen, filled; each by its own id or folder."""

import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

STOP_S: Final = 20
"""A part that takes longer to end after SIGTERM is killed, and the run is red: so long docker-compose.yml waits."""
LOG_BYTES: Final = 2_000_000
UNCAUGHT: Final = 1
"""Exit code of Python after an exception that nobody took; a VitalsError has others."""


class Part:
    """One process of the clinic, started again by whoever keeps watch when it ends by itself."""

    def __init__(self, name: str, command: Sequence[str], log: Path, cwd: Path) -> None:
        self.name = name
        self.ended_by_itself: list[int] = []
        """Exit codes of the times nobody asked for."""
        self.slow_stops = 0
        self.slowest_stop_s = 0.0
        self.crashes: list[str] = []
        """What it said when it ended by a bug: of an exception, of a signal, or with an error on SIGTERM."""
        self._command = list(command)
        self._log = log
        self._cwd = cwd
        self.guard = threading.RLock()
        """Held by whoever needs it to stay as it is."""
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Nothing, when it runs."""
        with self.guard:
            if self._process is None:
                self.starts += 1
                mode = "ab" if self._log.exists() and self._log.stat().st_size < LOG_BYTES else "wb"
                with self._log.open(mode) as log:
                    self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._cwd)

    def kill(self) -> bool:
        """kill -9: no farewell, nothing finished. False: it did not run."""
        with self.guard:
            process = self._running()
            self._process = None
            if process is None:
                return False
            process.kill()
            return process.wait() == -signal.SIGKILL

    def stop(self) -> int | None:
        """SIGTERM and its exit code; None when it did not run or had to be killed."""
        with self.guard:
            process = self._running()
            self._process = None
            if process is None:
                return None
            began = time.monotonic()
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.slow_stops += 1
                process.kill()
                process.wait()
                return None
            self.slowest_stop_s = max(self.slowest_stop_s, time.monotonic() - began)
            if code not in (0, -signal.SIGTERM):  # the latter: it was just starting, and had nothing in hand
                self.crashes.append(f"exit code {code}: {self.log_tail()}")
            return code

    def freeze(self) -> bool:
        """Whether it stands still now, as the kernel says."""
        with self.guard:
            process = self._running()
            if process is None:
                return False
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            return _stat(process.pid)[:1] == ["T"]

    def thaw(self) -> None:
        with self.guard:
            if self.alive and self._process is not None:
                self._process.send_signal(signal.SIGCONT)

    def revive(self) -> None:
        """As systemd would: what ended by itself is noted and started again."""
        with self.guard:
            if self._process is not None and self._running() is None:
                self._process = None
                self.start()

    def _running(self) -> subprocess.Popen[bytes] | None:
        """Its process; what had ended by itself is noted once, by whoever clears it away."""
        process = self._process
        if process is None or process.poll() is None:
            return process
        self.ended_by_itself.append(process.returncode)
        if process.returncode in (UNCAUGHT, *range(-64, 0)):
            self.crashes.append(f"exit code {process.returncode} by itself: {self.log_tail()}")
        return None

    @property
    def memory_mb(self) -> float | None:
        """Its resident size; None while it does not run."""
        process = self._process
        fields = _stat(process.pid) if process is not None else []
        return int(fields[21]) * PAGE / 1e6 if fields and fields[0] != "Z" else None

    @property
    def log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def log_since(self, size: int) -> str:
        """What it wrote since its log had that size; all of it, where the log was begun anew."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(size if size <= self.log_size else 0)
            return log.read().decode(errors="replace")

    def log_tail(self, lines: int = 5) -> str:
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def with_log(database: Path) -> list[Path]:
    """A file of SQLite and its write-ahead log."""
    return [database, Path(f"{database}-wal")]


def cut_log(database: Path) -> None:
    """Write its log into the file and cut it to nothing, if nobody uses it at the moment."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database, timeout=1)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on, which is the state; nothing when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


FILLER: Final = "filler"


class Disk:
    """A small file system in memory that can be filled to the last byte. Where mounting is not allowed it is an
    ordinary folder, and `small` says that it cannot be filled."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._filler = folder / FILLER
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
        try:
            self.small = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except OSError:
            self.small = False

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as filler:
            for piece in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        filler.write(b"\0" * piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    @property
    def takes_nothing(self) -> bool:
        """As whoever writes there finds it."""
        try:
            with (self.folder / "probe").open("wb", buffering=0) as probe:
                probe.write(b"\0" * PAGE)
        except OSError as error:
            return error.errno == errno.ENOSPC
        finally:
            (self.folder / "probe").unlink(missing_ok=True)
        return False

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """What is on it stays, in the folder itself."""
        self.free()
        if self.small:
            kept = shutil.copytree(self.folder, self.folder.with_name(f"{self.folder.name}.kept"))
            subprocess.run(["umount", "-l", str(self.folder)], check=False)
            self.folder.rmdir()
            Path(kept).rename(self.folder)
