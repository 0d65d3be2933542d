"""`vitals demo` as a newcomer meets it: no mosquitto on PATH, one command, a browser."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.parts import free_port, needs, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.air, needs("chromium")]

TILES = """() => [...document.querySelectorAll("room-tile")].map((tile) => {
  const cells = [...tile.querySelectorAll(".cell")];
  return {
    text: Object.fromEntries(cells.map((cell) => [cell.dataset.cell, cell.querySelector(".num").textContent])),
    ink: tile.querySelector("canvas")?.toDataURL() ?? "",
    sim: tile.textContent.includes("SIM"),
  };
})"""


class Demo:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{(port := free_port())}/"
        command = ["-m", "vitals.cli", "demo", "--folder", str(folder), "--port", str(port)]
        # /usr/bin of a fresh machine has no mosquitto; Debian installs it where only root's PATH looks.
        environment = {**os.environ, "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *command, "--broker-port", str(free_port())],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def until_url(self) -> str:
        assert self.process.stdout is not None
        text = ""
        while "Config" not in text:
            line = self.process.stdout.readline()
            assert line, f"the demo ended: {text}"
            text += line
        return text

    def kill(self, part: str) -> None:
        os.kill(int((self.folder / f"{part}.pid").read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        yield demo
    finally:
        demo.process.terminate()
        assert demo.process.wait(30) == 0
        assert demo.process.stdout is not None
        demo.process.stdout.close()


def full(tiles: list[dict]) -> int:  # type: ignore[type-arg]
    """Tiles that show all four values as numbers, and say that they are simulated."""
    return sum(
        bool(re.fullmatch(r"\d+/\d+", tile["text"]["bp"]))
        and all(re.fullmatch(r"[\d.]+", tile["text"][cell]) for cell in ("pulse", "spo2", "temp"))
        and tile["sim"]
        for tile in tiles
    )


def test_four_rooms_are_live_within_a_minute(demo: Demo, page: Page) -> None:
    said = demo.until_url()
    assert demo.url in said
    assert "embedded (iotcore)" in said
    page.goto(demo.url)
    wait_until(lambda: full(page.evaluate(TILES)) >= 4, 60, "four rooms with BP, pulse, SpO2 and temperature")
    assert time.monotonic() - demo.started < 60
    before = [tile["ink"] for tile in page.evaluate(TILES)]
    page.wait_for_timeout(1500)
    after = [tile["ink"] for tile in page.evaluate(TILES)]
    assert sum(a != b for a, b in zip(before, after, strict=True)) >= 4, "the EKG moves"


@pytest.mark.parametrize(
    ("part", "says"), [("ingest", "checking service"), ("broker", "message broker"), ("gateway", "offline")]
)
def test_a_killed_part_is_named_on_the_board_and_comes_back(demo: Demo, page: Page, part: str, says: str) -> None:
    page.goto(demo.url)
    wait_until(lambda: full(page.evaluate(TILES)) >= 4, 60, "a live board")
    demo.kill(part)
    wait_until(lambda: says in page.inner_text("body"), 30, f"the board saying {says!r}")
    wait_until(lambda: says not in page.inner_text("body"), 60, f"{part} being back")
    wait_until(lambda: full(page.evaluate(TILES)) >= 4, 60, "a live board again")
