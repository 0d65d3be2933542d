"""Starts the board's process and Chromium, for the browser tests and the screenshots."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """The board in a child process."""

    def __init__(self, rooms: int = 16, name: str = "", port: int = 0) -> None:
        self.port, self.rooms, self.name = port or free_port(), rooms, name
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.browser.source", str(self.port), str(self.rooms), self.name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        until(lambda: bool(self.health()), 15)

    def health(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}/api/health", timeout=2) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {}

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def send(self, *messages: tuple[str, bytes]) -> None:
        self.tell(messages=[[topic, base64.b64encode(body).decode()] for topic, body in messages])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def freeze(self, frozen: bool = True) -> None:
        os.kill(self.process.pid, signal.SIGSTOP if frozen else signal.SIGCONT)


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition; the seconds it took. Fails when it does not come true in time."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - begun


@contextlib.contextmanager
def chromium(playwright: Playwright, profile: Path, **options: Any) -> Iterator[BrowserContext]:
    """Chromium with an empty profile."""
    context = playwright.chromium.launch_persistent_context(
        str(profile), executable_path=CHROMIUM, args=FLAGS, headless=True, **options
    )
    try:
        yield context
    finally:
        context.close()
