"""Whose reading it is, or why that cannot be known: a wrong clock binds to nobody rather than to the wrong patient."""

from typing import Final

import msgspec

from ingest.associations import Associations
from vitals.clock import NS, Instant
from vitals.messages import AssociationMessage

CLOCK_OFF_MS: Final = 2000
"""Beyond it a gateway's clock is wrong (design, section 8): its readings belong to no visit."""
MAX_UNCERTAINTY_MS: Final = 120_000
"""Beyond it a device's clock differs and was never read: when the reading was taken is not known."""
TIME_NOT_KNOWN: Final = "time not known: the device's clock differs"


class Binding(msgspec.Struct, frozen=True):
    """`why`: the reason there is no association, where it is a clock; empty when nobody was bound.
    `ahead`: measured later than now, so that it must not pass for the newest."""

    association: AssociationMessage | None
    why: str = ""
    ahead: bool = False

    @property
    def version(self) -> int:
        return self.association.version if self.association is not None else 0


def bind(
    associations: Associations, room: str, t: Instant, now: Instant, *, uncertainty_ms: int, clock_off_ms: int | None,
    historical: bool,
) -> Binding:  # fmt: skip
    """`clock_off_ms` is what the gateway says of its own clock; None when it does not know yet."""
    if t > now + CLOCK_OFF_MS * NS // 1000:
        return Binding(None, f"the clock is not set: measured {(t - now) // NS} s after it arrived", ahead=True)
    if clock_off_ms is not None and abs(clock_off_ms) > CLOCK_OFF_MS:
        return Binding(None, f"the gateway's clock is off by {abs(clock_off_ms) / 1000:.0f} s")
    if uncertainty_ms > MAX_UNCERTAINTY_MS:
        return Binding(None, TIME_NOT_KNOWN)
    return Binding(associations.at(room, t, historical=historical))
