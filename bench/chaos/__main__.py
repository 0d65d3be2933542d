"""`python -m bench.chaos --seed N --minutes M`: the whole road under faults. Ends with 1 when anything was lost.

The plan of faults follows from the seed and is printed; with a seed that found something, run it again.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from bench.chaos.clinic import DISK_MB
from bench.chaos.plan import KINDS
from bench.chaos.report import report
from bench.chaos.run import clean, run
from bench.chaos.stores import STORES
from tests.parts import program

MB_A_MINUTE = 2
"""By which an outbox of the bench grows: its ledger keeps every row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--store", choices=sorted(STORES), default="sqlite")
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one fault to the next, on average")
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), default=[], help="these kinds of faults alone")
    parser.add_argument("--folder", type=Path, help="where to keep everything; a folder that is not there yet")
    chosen = parser.parse_args()
    if program("mosquitto") is None:
        sys.exit("mosquitto is not installed (make test installs it)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that all parts are ended too
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    result = run(
        folder,
        seed=chosen.seed,
        seconds=60 * chosen.minutes,
        store=chosen.store,
        every_s=chosen.every,
        kinds=chosen.only,
        disk_mb=DISK_MB + round(MB_A_MINUTE * chosen.minutes),
        say=lambda text: print(text, flush=True),
    )
    print(f"\nseed {chosen.seed}, {chosen.minutes:g} minutes, store {chosen.store}\n")
    print(report(result))
    if result.good and not chosen.folder:
        clean(folder)
    else:
        print(f"everything is kept in {folder}")
    sys.exit(not result.good)


if __name__ == "__main__":
    main()
