"""`python -m bench.chaos.mutants [NAME ...]`: the promise broken on purpose, in a copy of the tree, has to turn red.

A check that has never failed proves little. Each mutant is one change of one line that somebody might make in good
faith, with the shortest run that finds it. Ends with 1 when one of them stays green.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
LEFT_OUT: Final = shutil.ignore_patterns(".*", "var", "build", "dist", "*.egg-info", "__pycache__")
CHAOS: Final = ("-m", "bench.chaos", "--patience", "60")
RUN_S: Final = 900


class Mutant(NamedTuple):
    """`old` is in `file` once. `command`: of Python, in the copy; it has to fail and to say one of `says`."""

    name: str
    breaks: str
    file: str
    old: str
    new: str
    command: Sequence[str]
    says: Sequence[str]


MUTANTS: Final = (
    Mutant(
        "acknowledge-first",
        "Ingest acknowledges to the broker before the append.",
        "ingest/writer.py",
        "        began = self._clock.monotonic()\n        if behind and",
        "        began = self._clock.monotonic()\n        self._ack(messages)\n        if behind and",
        ("-m", "pytest", "-q", "tests/test_chaos.py", "-k", "killed_before"),
        ("the broker delivering again",),
    ),
    Mutant(
        "receipt-first",
        "Ingest gives its receipts before the append.",
        "ingest/writer.py",
        "        began = self._clock.monotonic()\n        if behind and",
        "        began = self._clock.monotonic()\n"
        "        self._settle(batch, [RowOutcome('stored')] * len(work.rows))\n        if behind and",
        ("-m", "pytest", "-q", "tests/test_chaos.py", "-k", "killed_before"),
        ("nothing is stored yet",),
    ),
    Mutant(
        "no-receipts",
        "Receipts are dropped, after the first ones.",
        "ingest/service.py",
        "        self._broker.publish(self._pipeline.topics.stored(gateway), encode(receipts), qos=1)",
        "        if self._tally.flagged < 50:\n"
        "            self._broker.publish(self._pipeline.topics.stored(gateway), encode(receipts), qos=1)",
        (*CHAOS[:2], "--patience", "15", "--faults", "none", "--minutes", "0.1"),
        ("empty outboxes",),
    ),
    Mutant(
        "one-epoch",
        "An outbox goes on with the epoch it had, so that a restored backup gives known numbers to new rows.",
        "vitals/outbox.py",
        "        self.epoch = secrets.token_hex(8)\n",
        '        self.epoch = "0123456789abcdef"\n',
        (*CHAOS, "--faults", "restore", "--seed", "3", "--minutes", "0.5", "--every", "4"),
        ("LOST", "CHANGED", "was given to two rows"),
    ),
    Mutant(
        "append-twice",
        "The store takes a reading again that it has.",
        "ingest/store/sqlite.py",
        "  id TEXT PRIMARY KEY, gateway",
        "  id TEXT, gateway",
        (*CHAOS, "--faults", "replay", "--seed", "3", "--minutes", "0.1", "--every", "2"),
        ("DOUBLED",),
    ),
    Mutant(
        "any-store",
        "A gateway believes the receipts of every store.",
        "drivers/core/forwarder.py",
        "        if receipts.store_id != self.store_id:\n            self.foreign_receipts",
        "        if not receipts.store_id:\n            self.foreign_receipts",
        ("-m", "pytest", "-q", "tests/test_forwarder.py", "-k", "foreign_store_cannot"),
        ("test_a_foreign_store_cannot_make_us_forget",),
    ),
)


def apply(mutant: Mutant, root: Path) -> None:
    """Raises ValueError where the line is not there, or not once: the table is out of date then."""
    file = root / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: expected these lines once in {mutant.file}: {mutant.old!r}")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def killed(mutant: Mutant) -> bool:
    """Whether its run turned red for the reason that it should."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=LEFT_OUT))
        apply(mutant, tree)
        run = subprocess.run(
            [sys.executable, *mutant.command], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
    said = next((line for line in run.stdout.splitlines() for word in mutant.says if word in line), "")
    found = bool(run.returncode and said)
    print(f"{mutant.name}: {'red' if found else 'NOT FOUND'}: {said or run.stdout[-2000:] + run.stderr[-2000:]}")
    return found


def main() -> None:
    names = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in sys.argv[1:] if name not in names]
    if unknown:
        sys.exit(f"no such mutant: {', '.join(unknown)}; there are {', '.join(names)}")
    results = [killed(names[name]) for name in sys.argv[1:] or names]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
