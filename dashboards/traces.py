"""The EKG of all rooms: which signal a tile draws, and the packs that wait to be sent."""

from typing import Final

from dashboards.centre import Centre
from dashboards.frames import Block, block, check, divisor, placeable
from dashboards.room import Change, Room, Trace
from dashboards.services import Services
from vitals.clock import NS, Instant
from vitals.messages import StripMessage
from vitals.topics import Up

SOURCE_SILENT_S: Final = 3
"""A trace source silent this long gives way to another device or lead of the room."""


class Traces:
    """One trace a room, lead II first."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._blocks: list[Block] = []

    def take(self, room: Room, up: Up, strip: StripMessage, now: Instant) -> list[Change]:
        if strip.metric != "ekg":
            return []
        check(strip)
        source = (up.gateway, up.device, strip.lead)
        if not placeable(strip, now):
            self._services.fault("EKG whose time is far from ours")
            return [Change("sys")]
        trace = room.trace
        if trace is not None and trace.source != source and now - trace.last < SOURCE_SILENT_S * NS:
            if strip.lead.upper() != "II" or trace.source[2].upper() == "II":
                return []
            trace = None
        fresh = trace is None or trace.source != source or now - trace.last >= SOURCE_SILENT_S * NS
        if trace is None or trace.source != source:
            trace = Trace(source)
        before = (trace.rate, trace.div, trace.calibrated, trace.simulated)
        div = divisor(strip, trace.div)
        gap = strip.stream != trace.stream or strip.first_index != trace.next_index or strip.lost_before > 0
        if strip.stream != trace.stream:
            trace.centre = Centre(strip.scale)
        self._blocks.append(block(room.index, strip, trace.centre, div=div, gap=gap, noisy=room.noisy(now)))
        trace.stream, trace.next_index, trace.last = strip.stream, strip.first_index + strip.count, now
        trace.rate, trace.div = round(strip.rate), div
        trace.calibrated, trace.simulated = strip.scale is not None, strip.simulated
        room.trace = trace
        after = (trace.rate, trace.div, trace.calibrated, trace.simulated)
        return [Change("room", room.id)] if fresh or before != after else []

    def drain(self) -> list[Block]:
        """The packs that came since the last call."""
        drained, self._blocks = self._blocks, []
        return drained
