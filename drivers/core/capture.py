"""Captures: what came over a link, in a file that can be replayed. One JSON object a line.

The first line describes the link (`driver`, `address`, `simulated`), each further one a chunk: `t` (UTC, ns), `ch` (the
characteristic, absent on serial) and `hex`; `up` and `down` mark link changes. A capture holds readings: treat it as
patient data.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vitals.clock import Instant, iso
from vitals.errors import VitalsError
from vitals.model import Chunk


class Capture:
    """Appends one device's chunks to a file of its own, named after device and start."""

    def __init__(self, folder: Path, device: str, driver: str, address: str, now: Instant, *, simulated: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stamp = iso(now).replace(":", "").replace(".", "")
        self.path = folder / f"{device}-{stamp}.jsonl"
        self._file: IO[str] = self.path.open("a", encoding="utf-8")
        self._write({"capture": 1, "driver": driver, "address": address, "simulated": simulated, "t": now})

    def chunk(self, chunk: Chunk) -> None:
        entry: dict[str, object] = {"t": chunk.received_at, "hex": chunk.data.hex()}
        if chunk.channel:
            entry["ch"] = chunk.channel
        self._write(entry)

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: dict[str, object]) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        self._file.flush()


def read_capture(path: Path) -> tuple[dict[str, object], Iterator[Chunk]]:
    """(the first line, the chunks). Raises VitalsError naming the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        head = json.loads(lines[0])
        if head.get("capture") != 1:
            raise ValueError("the first line is no capture header")
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise VitalsError(
            f"{path} is no capture.", expected="a file written by `vitals gateway --capture`", found=str(error),
            do="Give the path of a .jsonl file from the capture folder.",
        ) from None  # fmt: skip
    return head, (_chunk(path, number, line) for number, line in enumerate(lines[1:], 2))


def _chunk(path: Path, number: int, line: str) -> Chunk:
    try:
        entry = json.loads(line)
        return Chunk(bytes.fromhex(entry["hex"]), int(entry["t"]), entry.get("ch", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise VitalsError(
            f"{path}, line {number}, cannot be read.", expected='{"t": ns, "hex": "..."}', found=str(error),
            do="Cut the file before this line.",
        ) from None  # fmt: skip
