"""The board in a real Chromium with `page_watch.js` in it, its clock tied to ours."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from playwright.sync_api import BrowserContext, Page

WATCH: Final = (Path(__file__).parent / "page_watch.js").read_text(encoding="utf-8")
ROUND_TRIPS: Final = 60


class Tie(NamedTuple):
    """monotonic ns = `offset` + the page's performance.now() in ns, give or take `error`."""

    offset: int
    error: int

    def ns(self, page_ms: float) -> int:
        return self.offset + round(page_ms * 1e6)


class BoardPage:
    """One open board; `rooms` are those being watched."""

    def __init__(self, context: BrowserContext, url: str, rooms: Sequence[str]) -> None:
        self.page: Page = context.new_page()
        self.page.set_viewport_size({"width": 1280, "height": 800})
        self.page.add_init_script(f"globalThis.__rooms = {json.dumps(list(rooms))};\n{WATCH}")
        self.page.goto(url)

    def await_live(self, rooms: Sequence[str]) -> None:
        """Until every watched room shows a saturation or a respiratory rate, and its EKG."""
        for room in rooms:
            tile = self.page.locator(f"room-tile[data-room='{room}']")
            tile.locator("[data-cell=spo2].has, [data-cell=rr].has").first.wait_for(timeout=60_000)
            tile.locator(".veil").wait_for(state="hidden", timeout=60_000)

    def scales(self, rooms: Sequence[str]) -> list[str]:
        """Millimetre a millivolt and a second, as each trace says it is drawn."""
        return [
            self.page.locator(f"room-tile[data-room='{room}'] canvas").get_attribute("aria-label") or ""
            for room in rooms
        ]

    def look(self) -> None:
        """Find the resting line of each trace; from now on spikes on it are noted."""
        self.page.evaluate("latency.look()")

    def tie(self) -> Tie:
        """The best of many round trips: what the page's clock said lies between our two looks at ours."""
        best = Tie(0, 10**18)
        for _ in range(ROUND_TRIPS):
            asked = time.monotonic_ns()
            page_ms = self.page.evaluate("performance.now()")
            answered = time.monotonic_ns()
            error = (answered - asked) // 2
            if error < best.error:
                best = Tie(asked + error - round(page_ms * 1e6), error)
        return best

    def resolution_ms(self) -> float:
        """The smallest step of the page's clock."""
        step: float = self.page.evaluate(
            "() => { let least = 1e9; for (let i = 0, a = performance.now(); i < 2e5; i += 1) {"
            " const b = performance.now(); if (b > a) least = Math.min(least, b - a); a = b; } return least; }"
        )
        return step

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate("latency.result()")
        return found
