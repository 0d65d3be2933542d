"""EKG boards on pseudo terminals that change a number or draw a spike at moments the bench knows.

Two boards of the OpenView protocol: a HealthyPi v4 (EKG, temperature, SpO2, rates) and an ADS1292R (EKG and rates only,
so its readings have nothing episodic among them, which takes another lane of the board). Each sends one frame a sample
by a write of its own, as the boards do. Their crystal is a little fast, as real ones are off: so their seconds drift
past every timer of the product instead of meeting it in one phase.
"""

import asyncio
import random
import struct
import time
from itertools import count
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from simulators.links.pty import PtyLine

RATE: Final = 125
FAST: Final = 1.004
"""How much faster than `RATE` the samples come: 4 ms a second, through 250 ms (a merge of the board) in a minute."""
HEALTHYPI: Final = struct.Struct("<2sHBhhiiHBBBBBB2s")
"""Start, length, type; EKG, respiration, IR, red, temperature, rr, SpO2, heart rate, 80, 120, status; tail."""
ADS1292R: Final = struct.Struct("<2sHBhhhhs")
"""Start, length, type; EKG, respiration, heart rate, respiration rate; tail."""
SPO2: Final = (96, 97, 98, 99)
RR: Final = (14, 15, 16, 17)
"""All normal: a change of flag takes a faster lane than a change within the normal, and the slower one is measured."""
LEVELS: Final = (160, 240, 320, 400)
FINE: Final = 8
"""A spike is `LEVELS[n % 4] + n // 4 % FINE` counts high: 32 heights in a row, and 4 that can be told by pixels."""


Kind: TypeAlias = Literal["reading", "any moment", "ekg"]
"""`reading`: in the frame that begins a second of samples, the one the driver takes its reading from. `any moment`: in
some frame, not looked at until the next second begins. `ekg`: a spike."""


class Change(NamedTuple):
    """What is new in a frame. `key`: metric; `value`: as the board shows it, a spike's in counts."""

    kind: Kind
    key: str
    value: int


class Mark(NamedTuple):
    """A change, and when it was written: monotonic ns, read just before the write."""

    room: str
    change: Change
    written: int


class Script:
    """The frames of one room's board. A frame is a function of its index and the room's name."""

    def __init__(self, room: str, *, oximeter: bool) -> None:
        """`oximeter`: a HealthyPi, else an ADS1292R."""
        self.room = room
        self._oximeter = oximeter
        self._random = random.Random(room)
        self._second = -1
        self._some_at = self._spike_at = 0

    def frame(self, index: int) -> tuple[bytes, list[Change]]:
        """The bytes of sample `index` and what is new in them. To be called in order."""
        second, at = divmod(index, RATE)
        if second != self._second:
            self._second = second
            self._some_at = self._random.randrange(1, RATE) if self._oximeter else 0
            self._spike_at = self._random.randrange(RATE // 5, RATE * 4 // 5)
        spo2 = SPO2[second % 4]
        rr = RR[(second if at >= self._some_at else second - 1) % 4]
        ekg = LEVELS[second % 4] + second // 4 % FINE if at == self._spike_at else 0
        new: list[Change] = []
        if at == 0:
            new.append(Change("reading", "spo2", spo2) if self._oximeter else Change("reading", "rr", rr))
        elif at == self._some_at:
            new.append(Change("any moment", "rr", rr))
        if ekg:
            new.append(Change("ekg", "ekg", ekg))
        return self._packed(ekg, rr, spo2), new

    def _packed(self, ekg: int, rr: int, spo2: int) -> bytes:
        if not self._oximeter:
            return ADS1292R.pack(b"\x0a\xfa", 8, 2, ekg, 0, 60, rr, b"\x0b")
        return HEALTHYPI.pack(b"\x0a\xfa", 20, 2, ekg, 0, 0, 0, 3660, rr, spo2, 60, 80, 120, 0xC0, b"\x00\x0b")


async def play(link: Path, script: Script, phase_s: float, marks: list[Mark], notes: list[str]) -> None:
    """Be the board at `link` until cancelled; the first frame goes out once a reader has set up the line."""
    async with PtyLine(link) as line:
        await line.reader()
        try:
            await _stream(line, script, phase_s, marks)
        finally:
            if line.dropped:
                notes.append(f"NOT VALID: the gateway did not read the line of room {script.room} for a second")


async def _stream(line: PtyLine, script: Script, phase_s: float, marks: list[Mark]) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time() + phase_s
    for index in count():
        await asyncio.sleep(max(0.0, begun + index / (RATE * FAST) - loop.time()))
        frame, new = script.frame(index)
        written = time.monotonic_ns()
        line.write(frame)
        marks += [Mark(script.room, change, written) for change in new]
