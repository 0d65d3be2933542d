"""`python -m bench.latency [--seconds 51] [--only NAME]`: from the byte on the serial line to the pixel on the board.

Four simulated rooms as in `make demo` are the load. Beside them the bench is the EKG board of four more: it writes
their bytes to pseudo terminals itself, so it knows when each changed number and each spike of the trace was written.
A Chromium with the board's page shows when the message came and when text and trace were painted (page_watch.js).
What never appears is counted as lost, and as later than any percentile.
"""

import argparse
import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

from bench.board_line import LEVELS, Change, Kind, Mark
from bench.board_page import BoardPage, Tie
from bench.figures import Row, Seen, level, match, table
from bench.latency_clinic import CONFIGURATIONS, PER_COUNT, ROOMS, Configuration, lines, running_broker, settings
from bench.machine import Busy, machine
from bench.tap import Tap
from tests.browser.harness import chromium
from tests.clinic import Clinic
from tests.parts import free_port, program

PARTS: Final = ("simulate", "gateway", "ingest", "board")
SETTLE_S: Final = 12
"""The EKG's time line is fitted to ten seconds of arrivals before it counts as settled."""
SCALED_S: Final = 6
"""The page chooses the scale of a trace by its last four seconds, once a second."""
DRAIN_S: Final = 4


def run(folder: Path, configuration: Configuration, playwright: Any, seconds: float) -> list[Row]:
    """One clinic from start to end."""
    port = free_port()
    clinic = Clinic(folder, "", broker_port=port)
    marks: list[Mark] = []
    with contextlib.ExitStack() as stack:
        window = stack.enter_context(running_broker(folder, port, configuration.broker))
        store = stack.enter_context(configuration.store(folder))
        clinic.config.write_text(settings(store, broker=port, window=window, board=clinic.board_port), encoding="utf-8")
        tap = Tap(port, "bench")
        stack.callback(clinic.stop_all)
        clinic.start("ingest", "board", "simulate")
        clinic.await_board()
        stack.enter_context(lines(folder, marks))
        clinic.start("gateway")
        context = stack.enter_context(chromium(playwright, folder / "profile"))
        page = BoardPage(context, f"http://127.0.0.1:{clinic.board_port}/", ROOMS)
        begun = time.monotonic()
        page.await_live(ROOMS)
        tap.start()
        time.sleep(max(SCALED_S, begun + SETTLE_S - time.monotonic()))
        page.look()
        return measure(clinic, page, tap, marks, seconds)


def measure(clinic: Clinic, page: BoardPage, tap: Tap, marks: list[Mark], seconds: float) -> list[Row]:
    tie, scales = page.tie(), page.scales(ROOMS)
    busy = Busy({part: clinic.pid(part) for part in PARTS})
    begun = time.monotonic_ns()
    time.sleep(seconds)
    ended = time.monotonic_ns()
    print(busy.said())
    time.sleep(DRAIN_S)
    again = page.tie()
    found = page.result()
    print(f"  rows without a receipt: {len(clinic.outbox_rows())}")
    tap.stop()
    apart = (again.offset - tie.offset) / 1e6
    print(
        f"  page clock: step {page.resolution_ms():.2f} ms, tied to ours within {tie.error / 1e6:.1f} ms,"
        f" {apart:+.1f} ms after {(ended - begun) / 1e9:.0f} s; {found['frames']} animation frames"
    )
    if page.scales(ROOMS) != scales:
        print("  NOT VALID: a trace changed its scale, and spikes are told apart by their height")
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
    """The lines of the table. The bars are for the p99."""

    def row(label: str, kind: Kind, stage: str, keys: Sequence[str] = ("spo2", "rr", "ekg")) -> Row:
        chosen = [mark for mark in marks if mark.change.kind == kind and mark.change.key in keys]
        sent = [Seen((mark.room, mark.change.key, _shown(mark.change, stage)), mark.written) for mark in chosen]
        return match(label, sent, seen[stage])

    return [
        row("reading: read by the gateway", "reading", "read"),
        row("reading: in the outbox, through the broker", "reading", "sent"),
        row("reading: flagged, through the broker", "reading", "flagged"),
        row("reading: at the page", "reading", "come"),
        row("**reading: painted** (bar 150)", "reading", "painted"),
        row("- of a HealthyPi (SpO₂)", "reading", "painted", ["spo2"]),
        row("- of an ADS1292R (respiratory rate)", "reading", "painted", ["rr"]),
        row("change at any moment: painted", "any moment", "painted"),
        row("EKG: through the broker", "ekg", "sent"),
        row("**EKG: at the page** (bar 300)", "ekg", "come"),
        row("**EKG: painted** (bar 600)", "ekg", "inked"),
    ]


def _shown(change: Change, stage: str) -> int:
    return level(change.value, LEVELS[-1], LEVELS) if stage == "inked" else change.value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=51, help="of measuring, for each configuration")
    parser.add_argument("--only", choices=CONFIGURATIONS, help="one configuration")
    arguments = parser.parse_args()
    logging.disable()  # of the tap; the parts have their own files
    print(machine())
    with sync_playwright() as playwright:
        for name, configuration in CONFIGURATIONS.items():
            if arguments.only not in (None, name):
                continue
            if missing := [one for one in configuration.programs if program(one) is None]:
                print(f"\nNOT RUN: {name}: not installed: {', '.join(missing)}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                print(f"\n{name}, ms", flush=True)
                measured = run(Path(folder), configuration, playwright, arguments.seconds)
            print("\n".join(["", *table(measured)]), flush=True)


if __name__ == "__main__":
    main()
