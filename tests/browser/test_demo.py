"""`vitals demo` as a newcomer meets it: no mosquitto on PATH, one command, a browser."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.demo import Demo, is_full, missing, tiles
from tests.parts import needs, program, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.air, needs("chromium")]
ROOMS = 6


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    # /usr/bin of a fresh machine has no mosquitto; Debian installs it where only root's PATH looks.
    demo = Demo(tmp_path_factory.mktemp("demo"), path="/usr/bin:/bin")
    try:
        yield demo
    finally:
        assert demo.end() == 0


def all_full(page: Page) -> bool:
    return sum(is_full(tile) for tile in tiles(page)) == ROOMS


def test_every_room_is_live_within_a_minute(demo: Demo, page: Page) -> None:
    """All six values: pressure, pulse from the EKG, saturation, temperature, breath, glucose."""
    said = demo.until_url()
    assert demo.url in said
    assert "embedded (iotcore)" in said
    page.goto(demo.url)
    try:
        wait_until(lambda: all_full(page), 60, "six rooms with six values each")
    except AssertionError:
        pytest.fail(f"without a number after a minute: {missing(page)}")
    assert time.monotonic() - demo.started < 60
    before = [tile["ink"] for tile in tiles(page)]
    page.wait_for_timeout(1500)
    after = [tile["ink"] for tile in tiles(page)]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == ROOMS, "the EKG moves"


@pytest.mark.parametrize(
    ("part", "says"), [("ingest", "checking service"), ("broker", "message broker"), ("gateway", "offline")]
)
def test_a_killed_part_is_named_on_the_board_and_comes_back(demo: Demo, page: Page, part: str, says: str) -> None:
    demo.await_board()
    page.goto(demo.url)
    wait_until(lambda: all_full(page), 60, "a live board")
    demo.kill(part)
    wait_until(lambda: says in page.inner_text("body"), 30, f"the board saying {says!r}")
    wait_until(lambda: says not in page.inner_text("body"), 60, f"{part} being back")
    wait_until(lambda: all_full(page), 60, "a live board again")


@needs("mosquitto")
def test_an_outage_of_a_scenario_is_real(tmp_path: Path, page: Page) -> None:
    """The broker of `broker-outage`, with times to fit a test: the process dies, the board says so, another comes."""
    file = tmp_path / "outage.toml"
    file.write_text(
        'title = "t"\nsee = "s"\n[[rooms]]\nname = "A"\nage = 40\nsex = "male"\n'
        '[[outages]]\npart = "broker"\nat_s = 8.0\nfor_s = 7.0\n'
    )
    folder = Path(program("mosquitto") or "").parent
    demo = Demo(tmp_path / "demo", "--scenario", str(file), path=f"{folder}:{os.environ['PATH']}")
    try:
        demo.until_url()
        before = demo.pid("broker")
        page.goto(demo.url)
        wait_until(lambda: tiles(page) and "\u2013" not in tiles(page)[0]["text"]["spo2"], 30, "a live board")
        wait_until(lambda: "message broker" in page.inner_text("body"), 20, "the board missing its broker")
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)
        wait_until(lambda: "message broker" not in page.inner_text("body"), 40, "the broker being back")
        assert demo.pid("broker") != before
        os.kill(demo.pid("broker"), 0)
    finally:
        assert demo.end() == 0
