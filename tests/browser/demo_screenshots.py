"""`python -m tests.browser.demo_screenshots DIR`: the pictures of docs/, from the running demo in a real Chromium."""

import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.parts import free_port

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SETTLE_S = 75
"""Long enough for each cuff to have measured and each tile to be full."""


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [
            sys.executable, "-m", "vitals.cli", "demo", "--port", str(port), "--broker-port", str(free_port()),
            "--folder", folder, "--rooms", "8",
        ]  # fmt: skip
        demo = subprocess.Popen(command)
        try:
            _await(f"http://127.0.0.1:{port}/api/health")
            time.sleep(SETTLE_S)
            _shoot(out, f"http://127.0.0.1:{port}/")
        finally:
            demo.terminate()
            demo.wait()


def _await(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"no answer at {url}")


def _shoot(out: Path, url: str) -> None:
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        for name, width, height, scheme in (
            ("board-wall", 1920, 1080, "dark"),
            ("board-tablet", 820, 1180, "light"),
            ("board-detail", 1280, 800, "light"),
        ):
            context = playwright.chromium.launch_persistent_context(
                f"{profile}/{name}", executable_path="/usr/bin/chromium", args=FLAGS,
                viewport={"width": width, "height": height}, color_scheme=scheme,
            )  # fmt: skip
            page: Page = context.new_page()
            page.goto(url)
            page.wait_for_timeout(9000)
            if name == "board-detail":
                page.get_by_text(re.compile("Brandt")).first.click()
                page.wait_for_timeout(3000)
            page.screenshot(path=out / f"{name}.png")
            context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
