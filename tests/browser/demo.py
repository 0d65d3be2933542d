"""`vitals demo` as a child process, and what its board shows, for tests and pictures."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.parts import free_port, wait_until

TILES = """() => [...document.querySelectorAll("room-tile")].map((tile) => {
  const cells = [...tile.querySelectorAll(".cell")];
  return {
    room: tile.dataset.room,
    text: Object.fromEntries(cells.map((cell) => [cell.dataset.cell, cell.querySelector(".num").textContent])),
    whole: Object.fromEntries(cells.map((cell) => [cell.dataset.cell, cell.innerText])),
    all: tile.innerText,
    ink: tile.querySelector("canvas")?.toDataURL() ?? "",
    sim: tile.textContent.includes("SIM"),
  };
})"""
CELLS = ("bp", "pulse", "spo2", "temp", "rr", "glu")
"""In the order of the tile; the pulse is the EKG's."""


class Demo:
    """The command, its folder and its address. `path` is its PATH."""

    def __init__(self, folder: Path, *arguments: str, path: str = os.environ["PATH"]) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{(port := free_port())}/"
        command = ["-m", "vitals.cli", "demo", "--folder", str(folder), "--port", str(port), *arguments]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *command, "--broker-port", str(free_port())],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        )

    def until_url(self) -> str:
        """What it printed up to its welcome's end."""
        assert self.process.stdout is not None
        text = ""
        while "Config" not in text:
            line = self.process.stdout.readline()
            assert line, f"the demo ended: {text}"
            text += line
        return text

    def pid(self, part: str) -> int:
        return int((self.folder / f"{part}.pid").read_text())

    def kill(self, part: str) -> None:
        os.kill(self.pid(part), signal.SIGKILL)

    def await_board(self) -> None:
        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{self.url}api/health", timeout=1):
                    return True
            except OSError:
                return False

        wait_until(answers, 90, "the board answering")

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def tiles(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(TILES)
    return found


def is_full(tile: dict[str, Any]) -> bool:
    """Whether the tile shows all six values as numbers, and says that they are simulated."""
    numbers = all(re.fullmatch(r"[<>]?[\d.]+", tile["text"][cell]) for cell in CELLS[1:])
    return bool(re.fullmatch(r"\d+/\d+", tile["text"]["bp"])) and numbers and tile["sim"]


def missing(page: Page) -> dict[str, list[str]]:
    """By room, the cells without a number."""
    return {
        tile["room"]: [cell for cell in CELLS if not re.search(r"\d", tile["text"][cell])]
        for tile in tiles(page)
        if not is_full(tile)
    }
