"""A clinic of real processes for end-to-end tests: every part is the `vitals` command with a settings file."""

import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.parts import free_port, wait_until


class Clinic:
    """Parts are started, killed and started again by name; their logs stay in the folder."""

    def __init__(self, folder: Path, settings: str, *, broker_port: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.board_port = free_port()
        self.config = folder / "vitals.toml"
        self.config.write_text(settings.format(broker=broker_port, board=self.board_port), encoding="utf-8")
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            self.run(name, name, "--config", str(self.config))

    def run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "vitals.cli", *arguments], stdout=log, stderr=log
            )
        return self._running[name]

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """kill -9: no farewell, nothing finished."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> int:
        """SIGTERM; returns the exit code."""
        process = self._running.pop(name)
        process.terminate()
        return process.wait(20)

    def stop_all(self) -> None:
        for name in list(self._running):
            process = self._running.pop(name)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait(self, name: str) -> int:
        """Until the part ends by itself; its exit code."""
        return self._running.pop(name).wait(600)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def await_board(self) -> None:
        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.board_port}/api/health", timeout=1):
                    return True
            except OSError:
                return False

        wait_until(answers, 30, "the board answering")

    def outbox_rows(self) -> list[tuple[str, int]]:
        """(epoch, seq) of every row that still waits for its receipt."""
        return self.query("outbox.db", "SELECT epoch, seq FROM row")

    def query(self, file: str, statement: str) -> list:  # type: ignore[type-arg]
        path = self.folder / file
        if not path.exists():
            return []
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            return db.execute(statement).fetchall()
        except sqlite3.OperationalError:  # the part is just making its tables
            return []
        finally:
            db.close()
