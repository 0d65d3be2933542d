"""The instrument of `bench.latency` against the real board: it sees what the board was told, and not before."""

import time
from collections.abc import Callable

import numpy as np
from playwright.sync_api import BrowserContext

from bench.board_page import BoardPage
from tests.browser import clinic
from tests.browser.harness import Server
from vitals.clock import NS, NS_PER_MS

N = 25
"""Samples of one wave: 100 ms."""
NOTE = """() => {
  globalThis.written = [];
  const number = document.querySelector("room-tile[data-room='2'] [data-cell=spo2] .num");
  new MutationObserver(() => written.push(performance.now())).observe(number, { childList: true });
}"""


def told(server: Server, index: int, spo2: int, spike_uv: float) -> int:
    """One 100 ms wave with a spike of 20 ms in its middle, and a saturation; returns when they were said."""
    wave = np.zeros(N)
    wave[10:15] = spike_uv
    now = time.time_ns()
    server.send(
        clinic.strip("2", now - 100 * NS_PER_MS, index, wave),
        clinic.flagged("2", now, {"spo2": clinic.value("spo2", spo2)}),
    )
    return time.monotonic_ns()


def test_the_watch_sees_text_and_trace_where_they_come_and_are_painted(
    browser: BrowserContext, boards: Callable[..., Server]
) -> None:
    server = boards(4, "", "watched")
    watched = BoardPage(browser, server.url, ["2"])
    try:
        for second in range(2):
            for tenth in range(10):
                told(server, (10 * second + tenth) * N, 95, 0.0)
                time.sleep(0.1)
        watched.await_live(["2"])
        watched.look()
        watched.page.evaluate(NOTE)
        tie = watched.tie()
        said = told(server, 20 * N, 97, 400.0)
        for tenth in range(6):
            time.sleep(0.1)
            told(server, (21 + tenth) * N, 97, 0.0)
        found = watched.result()
        (written,) = watched.page.evaluate("written")
    finally:
        watched.page.close()
    # 0.4 mV in steps of 2.5 uV, and in pixels at the 20 mm/mV of a flat trace and the CSS millimetre of 3.78 px.
    assert [value for _, value, _ in found["spikes"]] == [160] * 5
    came = found["spikes"][0][2]
    ((_, painted, height),) = found["inks"]
    assert abs(height - 30) <= 2
    ((_, _, _, shown),) = [text for text in found["texts"] if text[1:3] == ["spo2", "97"]]
    said_page = next(at for _, key, value, at in found["readings"] if (key, value) == ("spo2", 97))
    assert said_page <= written, "the message is seen before the page's own code has it"
    assert shown - written > 4, "a text counts when the next frame (16.7 ms) begins, not when it was set"
    late = [(tie.ns(at) - said) / NS for at in (said_page, shown, came, painted)]
    assert all(-0.01 < seconds < 5 for seconds in late), late
    assert came < painted
