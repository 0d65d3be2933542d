"""Cuts a serial stream into whole frames and the rubbish between them. Sans-IO, for every serial driver.

A driver says what a frame looks like with a start pattern and one function, `measure(data, at)`:

    answer          meaning
    n > 0           a whole frame of n bytes begins at `at`
    WAIT            what is there can be the beginning of a frame; more bytes decide
    a fault code    no frame begins here: `not_a_frame`, or what a check found (`bad_checksum`)

After a refusal the search goes on one byte further, never behind the refused frame: its length may be what was
damaged. So a good frame inside or right behind damage is found, and `0A 0A FA` still syncs on the second 0A.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from vitals.clock import NS, NS_PER_MS, Instant

WAIT: Final = 0
NOT_A_FRAME: Final = "not_a_frame"
TRUNCATED: Final = "truncated"

Measure: TypeAlias = Callable[[bytes, int], int | str]

HEAD: Final = 64
"""Bytes of a run of rubbish that are kept: enough for a person to see boot text or a wrong baud rate."""
RUN_NS: Final = 2 * NS
"""A run of rubbish is reported when it ends, or after this time: boards send up to 2 s of boot text first."""
RUN_BYTES: Final = 4096
"""... or at this size, so that a stream that never holds a frame is told without the help of a clock."""
BYTE_TIMEOUT_NS: Final = 500 * NS_PER_MS
"""A frame that pauses this long in its middle will not be finished (the maker's app of OpenView uses the same)."""


class Rubbish(NamedTuple):
    """A run of bytes that belong to no frame. `head` is how it began; `code` is what is wrong with it."""

    code: str
    size: int
    head: bytes


Piece: TypeAlias = bytes | Rubbish
"""A whole frame, or what lay between two."""


class Framer:
    """Holds at most `cap` bytes of an unfinished frame, and of rubbish only its head and its size."""

    def __init__(
        self, start: re.Pattern[bytes], measure: Measure, *, cap: int, byte_timeout: int = BYTE_TIMEOUT_NS
    ) -> None:
        """`start` finds where a frame may begin; make it match a start cut off by the end of the data (`\\n\\Z`).

        `cap` is the longest frame there is: a beginning that still waits with so many bytes there is refused.
        """
        self._start = start
        self._measure = measure
        self._cap = cap
        self._byte_timeout = byte_timeout
        self._partial = b""
        self._last_byte: Instant = 0
        self._run_code = NOT_A_FRAME
        self._run_size = 0
        self._run_head = b""
        self._run_began: Instant = 0

    @property
    def buffered(self) -> int:
        """Bytes held between calls, never more than the cap plus the head of one run of rubbish."""
        return len(self._partial) + len(self._run_head)

    @property
    def last_byte_at(self) -> Instant:
        """When bytes came last."""
        return self._last_byte

    def feed(self, data: bytes, at: Instant) -> list[Piece]:
        """What `data` completes, in the order of the stream."""
        if not data:
            return []
        self._last_byte = at
        pieces = self._scan(self._partial + data)
        if self._run_size >= RUN_BYTES:
            self._end_run(pieces)
        return pieces

    def tick(self, now: Instant) -> list[Piece]:
        """Give up on a frame that stopped in its middle, and report a run of rubbish that goes on and on."""
        pieces: list[Piece] = []
        if self._partial and now - self._last_byte >= self._byte_timeout:
            pieces = self._give_up()
        if self._run_code == TRUNCATED or (self._run_size and now - self._run_began >= RUN_NS):
            self._end_run(pieces)
        return pieces

    def close(self) -> list[Piece]:
        """Nothing more will come: what is left, as rubbish (and frames that hid behind a false start)."""
        pieces = self._give_up()
        self._end_run(pieces)
        return pieces

    def _scan(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        begin = 0  # where the run of rubbish began that reaches up to `at`
        at = 0
        find, measure, cap = self._start.search, self._measure, self._cap  # looked up once: this is the hot loop
        while found := find(data, at):
            at = found.start()
            size = measure(data, at)
            if isinstance(size, str) or (size == WAIT and len(data) - at >= cap):
                self._refuse(size)
                at += 1
                continue
            if at > begin:
                self._rubbish(data[begin:at])
            if size == WAIT:
                self._partial = data[at:]
                return pieces
            self._end_run(pieces)
            pieces.append(data[at : at + size])
            begin = at = at + size
        self._rubbish(data[begin:])
        self._partial = b""
        return pieces

    def _give_up(self) -> list[Piece]:
        """The partial frame is none. One more whole frame may hide behind its start."""
        pieces: list[Piece] = []
        while data := self._partial:
            if len(data) > 1:  # a single byte is no beginning worth the name: boot text ends in 0A too
                self._refuse(TRUNCATED)
            self._rubbish(data[:1])
            pieces += self._scan(data[1:])
        return pieces

    def _refuse(self, reason: int | str) -> None:
        # What a check found says more than the bytes around it that merely look like nothing.
        if isinstance(reason, str) and self._run_code == NOT_A_FRAME:
            self._run_code = reason

    def _rubbish(self, data: bytes) -> None:
        if not data:
            return
        if not self._run_size:
            self._run_began = self._last_byte
        self._run_size += len(data)
        self._run_head = (self._run_head + data)[:HEAD]

    def _end_run(self, pieces: list[Piece]) -> None:
        if self._run_size:
            pieces.append(Rubbish(self._run_code, self._run_size, self._run_head))
        self._run_code, self._run_size, self._run_head = NOT_A_FRAME, 0, b""
