"""`python -m bench.chaos --seed N --minutes M`: the whole road under faults. Ends with 1 when anything went wrong.

The plan of faults follows from the seed and is printed with what came of it; with a seed that found something, run it
again. `--seed 1-6 --store sqlite influx` is twelve runs one after the other, and one table of them all.
"""

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Final

from bench.chaos.clinic import DISK_MB
from bench.chaos.footprint import JUDGED_MIN
from bench.chaos.plan import KINDS
from bench.chaos.report import kinds, never_took_effect, report, runs, taken
from bench.chaos.run import PATIENCE_S, Result, clean, run
from bench.chaos.stores import STORES
from bench.machine import machine
from bench.report import replaced
from tests.parts import program

MB_A_MINUTE: Final = 2
"""By which the store of the bench grows."""
NONE: Final = "none"
NEEDS: Final = {"sqlite": ("mosquitto",), "influx": ("mosquitto", "influxd", "nginx")}


def _seeds(text: str) -> range:
    """`3`, or `1-6` for all of them."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--seed", type=_seeds, default=range(1, 2), help="one, or several as 1-6")
    parser.add_argument("--minutes", type=float, default=5, help="of each run, without its start and its end")
    parser.add_argument("--store", nargs="+", choices=sorted(STORES), default=["sqlite"])
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one fault to the next, on average")
    parser.add_argument(
        "--faults", nargs="+", choices=[NONE, *sorted(KINDS)], default=list(KINDS), help="these kinds alone, or `none`"
    )
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds for the parts to get well again")
    parser.add_argument("--folder", type=Path, help="where to keep everything; a folder that is not there yet")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, between its markers")
    return parser.parse_args()


def main() -> None:
    chosen = _chosen()
    missing = sorted({name for store in chosen.store for name in NEEDS[store] if program(name) is None})
    if missing:
        sys.exit(f"not installed (make test installs it): {', '.join(missing)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that all parts are ended too
    told = f"`python -m bench.chaos {shlex.join(sys.argv[1:])}` on {date.today()}. {machine()}."  # noqa: DTZ011
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    results = [_run(chosen, folder / f"{store}-{seed}", store, seed) for store in chosen.store for seed in chosen.seed]
    idle = never_took_effect(results)
    if len(results) > 1:
        print("\n" + "\n".join([*kinds(results), "", *runs(results)]))
    if idle:
        print("WRONG: these kinds of faults never took effect: " + ", ".join(idle))
    if chosen.write:
        _write(chosen.write, told, results)
    good = not idle and all(result.good for result in results)
    if good and not chosen.folder:
        clean(folder)
    else:
        print(f"what is kept is in {folder}")
    sys.exit(not good)


def _run(chosen: argparse.Namespace, folder: Path, store: str, seed: int) -> Result:
    print(f"\nseed {seed}, {chosen.minutes:g} minutes, store {store}\n", flush=True)
    result = run(
        folder,
        seed=seed,
        seconds=60 * chosen.minutes,
        store=store,
        every_s=chosen.every,
        kinds=[kind for kind in chosen.faults if kind != NONE],
        disk_mb=DISK_MB + round(MB_A_MINUTE * chosen.minutes),
        patience_s=chosen.patience,
        say=lambda text: print(text, flush=True),
    )
    print("\n" + report(result), flush=True)
    if result.good and not chosen.folder:
        clean(folder)
    return result


def _write(page: Path, told: str, results: Sequence[Result]) -> None:
    """Into the place of its kind: a soak is a run long enough to judge what it takes."""
    soak = all(result.minutes >= JUDGED_MIN for result in results)
    faults = any(result.faults for result in results)
    place = ("soak under faults" if faults else "soak") if soak else "faults"
    lines = [told, "", *kinds(results), "", *runs(results)]
    for result in results if soak else ():
        lines += ["", f"**{result.store}, seed {result.seed}**", "", *taken(result.footprint)]
    begin, end = f"<!-- bench.chaos, {place}: written by the command -->", f"<!-- end of {place} -->"
    page.write_text(replaced(page.read_text(encoding="utf-8"), lines, begin, end), encoding="utf-8")


if __name__ == "__main__":
    main()
