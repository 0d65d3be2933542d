"""Packs of EKG: cut at whole seconds of the sample index (`strip`), and small ones for eyes (`wave`).

A strip begins at a multiple of the rate, so the same stream gives the same packs however its bytes were sliced, and
a resent pack is the same row. Nothing is joined over a gap.
"""

from typing import Final, NamedTuple

import msgspec
import numpy as np

from vitals.clock import Instant
from vitals.model import SampleArray

WAVE_S: Final = 0.08
"""Target length of a wave pack; the contract allows 100 ms."""


class Pack(NamedTuple):
    """`lost_before`: samples missing between the pack before and this one."""

    array: SampleArray
    lost_before: int


class Packer:
    """Joins arrays of one metric into packs that end at multiples of `every` samples, at gaps, and at lead changes."""

    def __init__(self, every: int) -> None:
        self._every = max(1, every)
        self._parts: list[SampleArray] = []
        self._next: int | None = None
        self._lost = 0

    @property
    def pending(self) -> int:
        """Samples waiting for their pack to fill."""
        return sum(len(part.samples) for part in self._parts)

    @property
    def pending_since(self) -> Instant:
        """Arrival of the oldest waiting sample; 0 when none waits."""
        return self._parts[0].received_at if self._parts else 0

    def push(self, array: SampleArray) -> list[Pack]:
        """The packs that this array completes."""
        packs: list[Pack] = []
        if self._next is not None and array.first_index != self._next:
            packs += self.flush()
            self._lost += max(0, array.first_index - self._next)
        elif self._parts and self._unlike(array):
            packs += self.flush()
        start = 0
        while start < len(array.samples):
            index = array.first_index + start
            room = self._every - index % self._every
            piece = array.samples[start : start + room]
            self._parts.append(msgspec.structs.replace(array, first_index=index, samples=piece))
            start += len(piece)
            if len(piece) == room:
                packs += self.flush()
        self._next = array.first_index + len(array.samples)
        return packs

    def flush(self) -> list[Pack]:
        """What is waiting, as a short pack: at a gap, at link-down, or when the stream has paused."""
        if not self._parts:
            return []
        first = self._parts[0]
        samples = np.concatenate([part.samples for part in self._parts])
        pack = Pack(msgspec.structs.replace(first, samples=samples), self._lost)
        self._parts = []
        self._lost = 0
        return [pack]

    def _unlike(self, array: SampleArray) -> bool:
        last = self._parts[-1]
        return (
            array.lead_off != last.lead_off
            or array.scale != last.scale
            or array.lead != last.lead
            or array.samples.dtype != last.samples.dtype
        )
