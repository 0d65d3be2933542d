"""`python -m tests.browser.demo_screenshots DIR [SCENARIO...]`: the pictures of docs/, from the running demo.

Each waits for what its scenario is about, so that no picture shows a moment before or after it.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Page, sync_playwright

from simulators.core import scenario
from tests.browser.demo import Demo, is_full, tiles
from tests.parts import wait_until

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SWEEP_MS = 7000
"""One sweep of the EKG, so that no trace is half drawn."""
HOLD_MS = 4000
"""It lasts: not the first moment of it."""
PATIENCE_S = 150


class Shot(NamedTuple):
    """`room`: its panel is open, at the section with the heading `at`."""

    name: str
    width: int
    height: int
    theme: str
    room: str = ""
    at: str = ""


Tiles = dict[str, dict[str, Any]]
SHOWS: dict[str, Callable[[Tiles, str], bool]] = {
    "busy-morning": lambda t, body: all(map(is_full, t.values())) and "LL" in t["4"]["whole"]["spo2"],
    "hypertensive-crisis": lambda t, body: all(map(is_full, t.values())) and "HH" in t["3"]["whole"]["bp"],
    "fever": lambda t, body: all(map(is_full, t.values())) and "H" in t["5"]["whole"]["temp"].split(),
    "hypoglycaemia": lambda t, body: all(map(is_full, t.values())) and "LL" in t["3"]["whole"]["glu"],
    "lead-off": lambda t, body: (
        "Lead off" in t["2"]["all"]
        and not any(map(str.isdigit, t["2"]["text"]["pulse"]))
        and all(is_full(t[room]) for room in "136")
    ),
    "broker-outage": lambda t, body: "message broker" in body and all("/" in x["text"]["bp"] for x in t.values()),
}
SHOTS: dict[str, list[Shot]] = {
    name: [Shot(f"scenario-{name}", 1920, 1080, "dark")] for name in SHOWS
}  # fmt: skip
SHOTS["busy-morning"] += [
    Shot("board-tablet", 820, 1180, "light"),
    Shot("board-detail", 1280, 800, "light", "3"),
]
SHOTS["hypertensive-crisis"].append(Shot("scenario-hypertensive-crisis-room", 1280, 800, "light", "3"))
SHOTS["lead-off"].append(Shot("scenario-lead-off-room", 1280, 800, "light", "5", "Devices"))


def main(out: Path, *wanted: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in wanted or scenario.names():
        with tempfile.TemporaryDirectory() as folder:
            demo = Demo(Path(folder), "--scenario", name)
            try:
                demo.await_board()
                for shot in SHOTS[name]:
                    _shoot(out, demo.url, name, shot)
            finally:
                demo.end()


def _shoot(out: Path, url: str, name: str, shot: Shot) -> None:
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path="/usr/bin/chromium", args=FLAGS,
            viewport={"width": shot.width, "height": shot.height},
        )  # fmt: skip
        page = context.new_page()
        page.add_init_script(f"localStorage.setItem('theme', '{shot.theme}')")
        page.goto(url)
        page.wait_for_timeout(SWEEP_MS)
        wait_until(lambda: _shows(page, name), PATIENCE_S, f"{name} showing")
        page.wait_for_timeout(HOLD_MS)
        wait_until(lambda: _shows(page, name), PATIENCE_S, f"{name} showing")
        if shot.room:
            page.click(f"room-tile[data-room='{shot.room}'] .open")
            page.wait_for_timeout(SWEEP_MS)
            if shot.at:
                page.get_by_text(shot.at, exact=True).last.evaluate("heading => heading.scrollIntoView()")
                page.locator("#panel").evaluate("panel => panel.scrollBy(0, -90)")  # below the band that stays
            page.wait_for_timeout(500)
        page.screenshot(path=out / f"{shot.name}.png")
        print(f"{shot.name}.png", flush=True)
        context.close()


def _shows(page: Page, name: str) -> bool:
    found = {tile["room"]: tile for tile in tiles(page)}
    return bool(found) and SHOWS[name](found, page.inner_text("body"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"), *sys.argv[2:])
