"""Packs: the same stream gives the same packs however it was sliced, gaps stay gaps, nothing is lost in between."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drivers.core.strips import Pack, Packer
from vitals.model import SampleArray


def array(first: int, count: int, *, lead_off: bool = False) -> SampleArray:
    return SampleArray("ekg", first, 125.0, np.arange(first, first + count, dtype=np.int16), 0, lead_off=lead_off)


def spans(packs: list[Pack]) -> list[tuple[int, int, int]]:
    return [(p.array.first_index, len(p.array.samples), p.lost_before) for p in packs]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_packs_end_at_multiples_whatever_the_slicing(sizes: list[int]) -> None:
    packer, packs, at = Packer(125), [], 0
    for size in sizes:
        packs += packer.push(array(at, size))
        at += size
    packs += packer.flush()
    assert all(p.array.first_index % 125 == 0 and len(p.array.samples) <= 125 for p in packs)
    assert np.array_equal(np.concatenate([p.array.samples for p in packs]), np.arange(at, dtype=np.int16))


def test_a_gap_cuts_the_pack_and_is_counted() -> None:
    packer = Packer(125)
    packs = packer.push(array(0, 50)) + packer.push(array(80, 100)) + packer.flush()
    assert spans(packs) == [(0, 50, 0), (80, 45, 30), (125, 55, 0)]


def test_lead_off_is_never_mixed_with_lead_on() -> None:
    packer = Packer(125)
    packs = packer.push(array(0, 60)) + packer.push(array(60, 40, lead_off=True)) + packer.flush()
    assert [(p.array.first_index, len(p.array.samples), p.array.lead_off) for p in packs] == [
        (0, 60, False),
        (60, 40, True),
    ]


def test_flushing_nothing_gives_nothing() -> None:
    assert Packer(125).flush() == []
