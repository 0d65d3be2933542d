"""One board process and one Chromium for all browser tests; each test uses rooms of its own."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.browser import clinic
from tests.browser.harness import CHROMIUM, Server, chromium

WATCH = """
globalThis.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""
HOSTILE = "<img src=x onerror=alert(1)> O'Brien"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if not Path(CHROMIUM).exists():
                item.add_marker(pytest.mark.skip(reason=f"{CHROMIUM} is not installed"))


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Ended with this folder: while playwright runs, its loop owns the thread and asyncio.run() is refused."""
    with sync_playwright() as playwright, chromium(playwright, tmp_path_factory.mktemp("profile")) as context:
        context.add_init_script(WATCH)
        yield context


@pytest.fixture(scope="package")
def boards() -> Iterator[Callable[..., Server]]:
    """Starts boards, each kind once, and ends them all."""
    started: dict[tuple[Any, ...], Server] = {}

    def board(rooms: int = 16, name: str = HOSTILE, kind: str = "quiet") -> Server:
        key = (rooms, name, kind)
        if key not in started:
            server = started[key] = Server(rooms, name)
            now = time.time_ns()
            server.send(clinic.ingest(now), clinic.gateway(now))
        return started[key]

    yield board
    for server in started.values():
        server.kill()


@pytest.fixture
def server(boards: Callable[..., Server]) -> Server:
    """The board of most tests: 16 rooms, silent until a test speaks."""
    return boards()


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A page whose console must stay clean."""
    found = browser.new_page()
    complaints: list[str] = []
    found.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    found.on("pageerror", lambda error: complaints.append(str(error)))
    yield found
    violations = found.evaluate("globalThis.violations ?? []")
    found.close()
    assert violations == []
    # A browser logs each refused connection as an error by itself; tests that stop the server expect those.
    assert [text for text in complaints if "WebSocket" not in text and "ERR_CONNECTION" not in text] == []
