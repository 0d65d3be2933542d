"""The real programs tests talk to: each on loopback, its own port, its own empty folder, ended by its process id."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(name: str) -> str | None:
    """Where it is, also where PATH of an ordinary user does not look."""
    return shutil.which(name) or shutil.which(name, path=PLACES)


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(program(name) is None, reason=f"NOT RUN: {name} is not installed (make test installs it)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition, timeout_s: float = 15.0, what: str = "") -> None:  # type: ignore[no-untyped-def]
    """Poll until the condition holds; the failure says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(0.02)


class Mosquitto:
    """A real broker that can be killed and started again on the same port."""

    def __init__(self, folder: Path, *, persistence: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\n"
            f"max_queued_messages 0\npersistence {str(persistence).lower()}\n"
            + (f"persistence_location {folder}/\nautosave_interval 1\n" if persistence else ""),
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def provisioned(cls, folder: Path, files: Path, port: int) -> "Mosquitto":
        """With the files that `vitals provision` made for the broker, as they are at each start."""
        broker = cls.__new__(cls)
        folder.mkdir(parents=True, exist_ok=True)
        broker.port, broker._process = port, None
        broker._config = folder / "mosquitto.conf"
        # Started as root, mosquitto would become a user who may not read our files.
        root = "user root\n" if os.getuid() == 0 else ""
        broker._config.write_text((files / "mosquitto.conf").read_text(encoding="utf-8") + root, encoding="utf-8")
        return broker

    def reload(self) -> None:
        """SIGHUP: passwords, access rules, certificates and the list of revoked ones are read again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        time.sleep(0.3)  # mosquitto says nothing when it is done; its loop turns every 100 ms

    def start(self) -> None:
        binary = program("mosquitto")
        assert binary is not None
        self._process = subprocess.Popen(
            [binary, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, 10, "mosquitto listening")

    def kill(self) -> None:
        """As kill -9: no farewell, nothing saved."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
