"""Screenshots of the board for the documentation: `python -m tests.browser.screenshots OUT_DIR`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.browser.harness import Server, chromium

SETTLE_MS = 6500
"""One window of EKG, so that no trace is half drawn."""


def show(page: Page, server: Server, theme: str, width: int, height: int) -> None:
    page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    page.set_viewport_size({"width": width, "height": height})
    page.goto(server.url)
    page.wait_for_selector("room-tile")


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    server = Server(16)
    server.tell(clinic={"rooms": 16})
    try:
        with (
            tempfile.TemporaryDirectory() as profile,
            sync_playwright() as playwright,
            chromium(playwright, Path(profile)) as context,
        ):
            wall = context.new_page()
            show(wall, server, "dark", 1920, 1080)
            wall.wait_for_timeout(SETTLE_MS)
            wall.screenshot(path=out / "board-wall-dark.png")
            wall.close()
            tablet = context.new_page()
            show(tablet, server, "light", 820, 1180)
            tablet.wait_for_timeout(SETTLE_MS)
            tablet.screenshot(path=out / "board-tablet-light.png")
            tablet.close()
            desk = context.new_page()
            show(desk, server, "light", 1280, 800)
            desk.click("room-tile[data-room='3'] .open")
            desk.wait_for_timeout(SETTLE_MS)
            desk.screenshot(path=out / "board-detail-light.png")
            desk.locator("#panel").evaluate("panel => panel.scrollTo(0, 420)")
            desk.wait_for_timeout(300)
            desk.screenshot(path=out / "board-detail-devices-light.png")
            desk.locator("#panel").evaluate("panel => panel.scrollTo(0, 99999)")
            desk.wait_for_timeout(300)
            desk.screenshot(path=out / "board-detail-history-light.png")
            desk.close()
            link = context.new_page()
            show(link, server, "dark", 1280, 800)
            server.freeze()
            link.wait_for_timeout(SETTLE_MS)
            link.screenshot(path=out / "board-not-live-dark.png")
            server.freeze(False)
            link.close()
    finally:
        server.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
