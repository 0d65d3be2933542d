"""Processes and disks that can be hurt: killed, stopped, frozen, filled; each by its own id or folder."""

import errno
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

STOP_S: Final = 60
"""A part that takes longer to end after SIGTERM is killed, and that is counted."""
LOG_BYTES: Final = 2_000_000


class Part:
    """One process of the clinic, started again by whoever keeps watch when it ends by itself."""

    def __init__(self, name: str, command: Sequence[str], log: Path, cwd: Path) -> None:
        self.name = name
        self.peak_mb = 0.0
        self.ended_by_itself: list[int] = []
        """Exit codes of the times nobody asked for."""
        self.slow_stops = 0
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

    def kill(self) -> None:
        """kill -9: no farewell, nothing finished."""
        with self.guard:
            self.weigh()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None

    def stop(self) -> int | None:
        """SIGTERM and its exit code; None when it did not run or had to be killed."""
        with self.guard:
            self.weigh()
            process = self._process
            if process is None:
                return None
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                code: int | None = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.slow_stops += 1
                process.kill()
                process.wait()
                code = None
            self._process = None
            return code

    def signal(self, number: signal.Signals) -> None:
        with self.guard:
            if self.alive and self._process is not None:
                self._process.send_signal(number)

    def revive(self) -> None:
        """As systemd would: what ended by itself is noted and started again."""
        with self.guard:
            if self._process is not None and self._process.poll() is not None:
                self.ended_by_itself.append(self._process.returncode)
                self._process = None
                self.start()

    def weigh(self) -> None:
        """Note its greatest resident size so far."""
        process = self._process
        if process is None:
            return
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return
        for line in lines:
            if line.startswith("VmHWM"):
                self.peak_mb = max(self.peak_mb, int(line.split()[1]) / 1024)

    def log_tail(self, lines: int = 5) -> str:
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class Disk:
    """A small file system in memory that can be filled to the last byte. Where mounting is not allowed it is an
    ordinary folder, and `small` says that it cannot be filled."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._filler = folder / "filler"
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
