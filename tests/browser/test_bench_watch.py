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


FRAMES = """() => {
  globalThis.frames = [];  // when each frame's callbacks ran; ours comes after the watch's, which asked first
  const note = () => { frames.push(performance.now()); requestAnimationFrame(note); };
  requestAnimationFrame(note);
}"""
WRITE = """(between) => new Promise((done) => {
  const number = document.querySelector("room-tile[data-room='2'] [data-cell=spo2] .num");
  const write = () => { number.textContent = between ? "41" : "42"; done(performance.now()); };
  const after = new MessageChannel();
  after.port1.onmessage = write;  // after the frame's callbacks and the watch's own note that they are over
  requestAnimationFrame(() => between ? after.port2.postMessage(0) : write());
})"""


STEP_MS = 1.0
"""More than a step of the page's clock (0.1 ms), less than any frame."""


def begun(frames: list[float], at: float) -> int:
    """Frames whose callbacks had run by `at` (page ms), a moment that is after the note of its own frame."""
    return sum(frame <= at for frame in frames)


def begun_before(frames: list[float], shown: float) -> int:
    """The same of a frame's first moment, whose note may still bear the very same time."""
    return begun(frames, shown - STEP_MS)


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
        watched.page.evaluate(FRAMES)
        watched.page.evaluate(NOTE)
        tie = watched.tie()
        said = told(server, 20 * N, 97, 400.0)
        for tenth in range(6):
            time.sleep(0.1)
            told(server, (21 + tenth) * N, 97, 0.0)
        found = watched.result()
        (written,) = watched.page.evaluate("written")
        frames = watched.page.evaluate("frames")
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
    # The board writes numbers in a frame: that one draws it, and it is painted when the next begins. The watch is first
    # in that one, so that our note of it is still to come.
    assert begun_before(frames, shown) - begun(frames, written) == 0
    assert shown - written > 4, "a frame is 16.7 ms"
    late = [(tie.ns(at) - said) / NS for at in (said_page, shown, came, painted)]
    assert all(-0.01 < seconds < 5 for seconds in late), late
    assert came < painted


def test_a_text_is_painted_one_frame_after_the_one_that_draws_it(
    browser: BrowserContext, boards: Callable[..., Server]
) -> None:
    server = boards(4, "", "watched")
    watched = BoardPage(browser, server.url, ["2"])
    try:
        told(server, 0, 95, 0.0)
        watched.page.locator("room-tile[data-room='2'] [data-cell=spo2].has").wait_for()
        watched.page.evaluate(FRAMES)
        in_frame = watched.page.evaluate(WRITE, False)
        watched.page.wait_for_timeout(200)
        between = watched.page.evaluate(WRITE, True)
        watched.page.wait_for_timeout(200)
        shown = {text: at for _, cell, text, at in watched.result()["texts"] if cell == "spo2"}
        frames = watched.page.evaluate("frames")
    finally:
        watched.page.close()
    # What is written by a frame's callback is drawn by that frame; what is written between two, by the next one.
    assert begun_before(frames, shown["42"]) - begun(frames, in_frame) == 0
    assert begun_before(frames, shown["41"]) - begun(frames, between) == 1
