"""EKG for the page: binary frames, one for all rooms each 100 ms.

Header (16 B, little endian): u8 kind=1, u8 version=1, u16 blocks, u32 frame, f64 server_ms. Block (16 B): u16 room,
u8 lead, u8 flags, u16 n, u16 rate_hz, u32 sample_index, i32 t0_offset_us from server_ms; then n x i16, padded to 4 B.
Calibrated samples are UV_PER_COUNT microvolt each; of an uncalibrated source they are its counts, divided by `div`.
"""

import math
import struct
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from dashboards.centre import Centre
from vitals.clock import NS, NS_PER_MS, Instant
from vitals.messages import StripMessage

UV_PER_COUNT: Final = 2.5
"""Fine enough to be invisible (0.1 px at 10 mm/mV), wide enough for +-82 mV of electrode offset in 16 bit."""
LEAD_OFF: Final = 1
ARTEFACT: Final = 2
GAP_BEFORE: Final = 8
MAX_BLOCK: Final = 4096
"""Samples of one block; a pack is at most 100 ms, so this is 40 kHz: beyond it somebody is lying."""
BEHIND_MAX_S: Final = 30
AHEAD_MAX_S: Final = 1
"""A pack whose time is farther from ours cannot be placed on a sweep of a few seconds, and is counted. Ahead of us it
would also hold up every true sample until its time has come."""

_LEADS: Final = {"I": 1, "II": 2, "III": 3, "AVR": 4, "AVL": 5, "AVF": 6} | {f"V{n}": 6 + n for n in range(1, 7)}
_HEADER: Final = struct.Struct("<BBHId")
_BLOCK: Final = struct.Struct("<HBBHHIi")


class Block(msgspec.Struct, frozen=True, eq=False):
    """Samples of one room, ready to be put in a frame."""

    room: int
    lead: int
    flags: int
    rate: int
    index: int
    t0: Instant
    samples: npt.NDArray[np.int16]


def block(
    room: int, strip: StripMessage, centre: Centre, *, div: int, gap: bool, noisy: bool = False
) -> Block:  # fmt: skip
    """One pack in display counts, about the zero that `centre` keeps. Raises ValueError where it cannot be shown."""
    check(strip)
    counts = strip.samples().astype(np.float64)
    if not strip.lead_off:  # a lead that is off has no zero to learn from
        counts, moved = centre.place(counts, strip.rate)
        gap = gap or moved
    scaled = counts / div if strip.scale is None else counts * (strip.scale / UV_PER_COUNT)
    shown = np.clip(np.rint(scaled), -32_768, 32_767).astype("<i2")
    flags = (LEAD_OFF if strip.lead_off else 0) | (GAP_BEFORE if gap else 0) | (ARTEFACT if noisy else 0)
    return Block(room, _LEADS.get(strip.lead.upper(), 0), flags, round(strip.rate), strip.first_index, strip.t0, shown)


def check(strip: StripMessage) -> None:
    """Raise ValueError where a pack has no rate, size or scale that can be drawn."""
    if not 0.5 <= strip.rate <= 65_535 or round(strip.rate) < 1 or strip.count > MAX_BLOCK:
        raise ValueError(f"expected a rate of 1 to 65535 and {MAX_BLOCK} samples, found {strip.rate}, {strip.count}")
    if strip.scale is not None and not (math.isfinite(strip.scale) and strip.scale > 0):
        raise ValueError(f"expected a finite scale above 0, found {strip.scale}")


def divisor(strip: StripMessage, current: int) -> int:
    """The power of two by which an uncalibrated source's counts must be divided to fit 16 bit; it only grows."""
    if strip.scale is not None or strip.count == 0:
        return current
    peak = int(np.abs(strip.samples().astype(np.int64)).max())
    while peak // current > 32_767:
        current *= 2
    return current


def frame(blocks: Sequence[Block], number: int, now: Instant) -> bytes:
    """One binary message."""
    parts = [_HEADER.pack(1, 1, len(blocks), number & 0xFFFFFFFF, now / NS_PER_MS)]
    for item in blocks:
        offset_us = (item.t0 - now) // 1000
        parts.append(
            _BLOCK.pack(
                item.room, item.lead, item.flags, len(item.samples), item.rate, item.index & 0xFFFFFFFF, offset_us
            )
        )
        body = item.samples.tobytes()
        parts.append(body + b"\0" * (-len(body) % 4))
    return b"".join(parts)


def placeable(strip: StripMessage, now: Instant) -> bool:
    """Whether the pack's time is near enough to ours to be drawn at its true place."""
    return -BEHIND_MAX_S * NS <= strip.t0 - now <= AHEAD_MAX_S * NS
