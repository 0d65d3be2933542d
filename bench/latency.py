"""`python -m bench.latency [--seconds 51] [--only NAME] [--write PAGE]`: from the byte on the line to the pixel.

Four rooms of `make demo` are the load. Beside them the bench is the EKG board of four more: it writes
their bytes to pseudo terminals itself, so it knows when each changed number and each spike of the trace was written.
A Chromium with the board's page shows when the message came and when text and trace were painted (page_watch.js).
What never appears is counted as lost, and as later than any percentile. What is printed is Markdown, and is the whole
place for it in docs/bench.md, which `--write` fills.
"""

import argparse
import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

from bench.board_line import LEVELS, Change, Kind, Mark
from bench.board_page import BoardPage, Tie
from bench.figures import Row, Seen, level, match
from bench.latency_clinic import (
    CONFIGURATIONS,
    LOAD,
    PER_COUNT,
    ROOMS,
    SITE,
    Configuration,
    lines,
    running_broker,
    write_settings,
)
from bench.machine import Busy, machine
from bench.report import Measured, part, replaced
from bench.tap import Tap
from tests.browser.harness import chromium
from tests.clinic import Clinic
from tests.parts import free_port, program

PARTS: Final = ("simulate", "gateway", "ingest", "board")
SETTLE_S: Final = 12
"""The EKG's time line is fitted to ten seconds of arrivals before it counts as settled. Nothing is measured before."""
SCALED_S: Final = 6
"""The page chooses the scale of a trace by its last four seconds, once a second."""
DRAIN_S: Final = 4
READING_MS: Final = 150
EKG_AT_PAGE_MS: Final = 300
EKG_PAINTED_MS: Final = 600


def run(folder: Path, configuration: Configuration, playwright: Any, seconds: float, notes: list[str]) -> list[Row]:
    """One clinic from start to end; facts of the run are added to `notes`."""
    port = free_port()
    clinic = Clinic(folder, "", broker_port=port)
    marks: list[Mark] = []
    with contextlib.ExitStack() as stack:
        window = stack.enter_context(running_broker(folder, port, configuration.broker))
        store = stack.enter_context(configuration.store(folder))
        clinic.config = write_settings(folder, store, broker=port, window=window, board=clinic.board_port)
        tap = Tap(port, SITE)
        stack.callback(clinic.stop_all)
        clinic.start("ingest", "board", "simulate")
        clinic.await_board()
        stack.enter_context(lines(folder, marks, notes))
        clinic.start("gateway")
        context = stack.enter_context(chromium(playwright, folder / "profile"))
        page = BoardPage(context, f"http://127.0.0.1:{clinic.board_port}/", ROOMS)
        begun = time.monotonic()
        page.await_live(ROOMS)
        tap.start()
        time.sleep(max(SCALED_S, begun + SETTLE_S - time.monotonic()))
        page.look()
        return measure(clinic, page, tap, marks, seconds, notes)


def measure(
    clinic: Clinic, page: BoardPage, tap: Tap, marks: list[Mark], seconds: float, notes: list[str]
) -> list[Row]:
    tie, scales = page.tie(), page.scales(ROOMS)
    busy = Busy({part: clinic.pid(part) for part in PARTS})
    begun = time.monotonic_ns()
    time.sleep(seconds)
    ended = time.monotonic_ns()
    notes.append(busy.said())
    time.sleep(DRAIN_S)
    again = page.tie()
    found = page.result()
    notes.append(f"rows without a receipt: {len(clinic.outbox_rows())}")
    tap.stop()
    apart = (again.offset - tie.offset) / 1e6
    notes.append(
        f"page clock: step {page.resolution_ms():.2f} ms, tied to ours within {tie.error / 1e6:.1f} ms,"
        f" {apart:+.1f} ms after {(ended - begun) / 1e9:.0f} s; {found['frames']} animation frames"
    )
    if page.scales(ROOMS) != scales:
        notes.append("NOT VALID: a trace changed its scale, and spikes are told apart by their height")
    sent = [mark for mark in marks if begun <= mark.written <= ended]
    return rows(sent, {**tap.seen(time.time_ns() - time.monotonic_ns()), **at_page(found, tie)})


def at_page(found: dict[str, Any], tie: Tie) -> dict[str, list[Seen]]:
    """(room, metric, value) by stage, as page_watch.js saw them; of a painted spike the level of its height."""
    come = [Seen((room, key, round(value)), tie.ns(at)) for room, key, value, at in found["readings"]]
    come += [Seen((room, "ekg", value // PER_COUNT), tie.ns(at)) for room, value, at in found["spikes"]]
    painted = [Seen((room, cell, int(text)), tie.ns(at)) for room, cell, text, at in found["texts"] if text.isdigit()]
    tallest = {room: max(height for r, _, height in found["inks"] if r == room) for room, _, _ in found["inks"]}
    inked = [
        Seen((room, "ekg", level(height, tallest[room], LEVELS)), tie.ns(at)) for room, at, height in found["inks"]
    ]
    return {"come": come, "painted": painted, "inked": inked}


def rows(marks: Sequence[Mark], seen: dict[str, list[Seen]]) -> list[Row]:
    """The lines of the table."""

    def row(
        label: str, kind: Kind, stage: str, bar_ms: int | None = None, keys: Sequence[str] = ("spo2", "rr", "ekg")
    ) -> Row:
        chosen = [mark for mark in marks if mark.change.kind == kind and mark.change.key in keys]
        sent = [Seen((mark.room, mark.change.key, _shown(mark.change, stage)), mark.written) for mark in chosen]
        return match(label, sent, seen[stage], bar_ms)

    return [
        row("reading: read by the gateway", "reading", "read"),
        row("reading: in the outbox, through the broker", "reading", "sent"),
        row("reading: flagged, through the broker", "reading", "flagged"),
        row("reading: at the page", "reading", "come"),
        row("**reading: painted**", "reading", "painted", READING_MS),
        row("- of a HealthyPi (SpO₂)", "reading", "painted", READING_MS, ["spo2"]),
        row("- of an ADS1292R (respiratory rate)", "reading", "painted", READING_MS, ["rr"]),
        row("change at any moment: painted", "any moment", "painted"),
        row("EKG: through the broker", "ekg", "sent"),
        row("**EKG: at the page**", "ekg", "come", EKG_AT_PAGE_MS),
        row("**EKG: painted**", "ekg", "inked", EKG_PAINTED_MS),
    ]


def _shown(change: Change, stage: str) -> int:
    return level(change.value, LEVELS[-1], LEVELS) if stage == "inked" else change.value


def head(seconds: float) -> list[str]:
    """What all configurations of a run share."""
    day = datetime.fromtimestamp(time.time(), UTC).date()
    return [
        f"`python -m bench.latency --seconds {seconds:g}` on {day}, {LOAD} rooms of the demo and {len(ROOMS)} measured."
        f" {machine()}. Measured for {seconds:g} s after {SETTLE_S} s of settling; a bar is for the p99."
    ]


def measured(name: str, playwright: Any, seconds: float) -> Measured:
    """One configuration, or why it was not run."""
    configuration = CONFIGURATIONS[name]
    if missing := [one for one in configuration.programs if program(one) is None]:
        return Measured(name, (), [f"NOT RUN: not installed: {', '.join(missing)}"])
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), configuration, playwright, seconds, notes)
    return Measured(name, found, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=51, help="of measuring, for each configuration")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--only", choices=CONFIGURATIONS, help="one configuration")
    what.add_argument("--write", type=Path, metavar="PAGE", help="also put everything in its place on this page")
    arguments = parser.parse_args()
    page = arguments.write.read_text(encoding="utf-8") if arguments.write else ""
    if page:
        replaced(page, [])  # a page without the place is told before minutes of measuring
    logging.disable()  # of the tap; the parts have their own files
    told = head(arguments.seconds)
    print("\n".join(told), flush=True)
    with sync_playwright() as playwright:
        for name in CONFIGURATIONS:
            if arguments.only in (None, name):
                said = part(measured(name, playwright, arguments.seconds))
                print("\n".join(said), flush=True)
                told += said
    if page:
        arguments.write.write_text(replaced(page, told), encoding="utf-8")


if __name__ == "__main__":
    main()
