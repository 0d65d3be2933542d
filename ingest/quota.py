"""How much a gateway may ask of ingest, so that one that went mad, or was taken over, cannot stop the others.

A token bucket a gateway and one a device. What is beyond them is not decoded, not answered, and counted: an outbox
sends its reading again later, so a backlog that drains too fast is slowed down and nothing of it is lost. Only a
publisher without an outbox loses what is too much. One row costs one; a payload costs at least one for every 2 KiB.

A gateway drains its backlog at no more than 4,000 rows a second (its window four times a second), so one that behaves
meets no limit. 32 EKG streams are 32 rows a second.
"""

from collections import Counter
from typing import Final

from vitals.clock import NS, Instant
from vitals.log import Log
from vitals.settings import Quota as Limits

BYTES_A_ROW: Final = 2048
"""A second of EKG at 500 Hz in 32 bits is about this long: real rows cost one."""
STATUS_A_S: Final = 50.0
"""Of a gateway's own status, which has a bucket of its own: its last will must be heard whatever it sent before."""
MAX_GATEWAYS: Final = 256
MAX_ROOMS: Final = 64
"""Rooms of one gateway. Names are not forgotten until ingest is started again."""
MAX_DEVICES: Final = 256
"""Devices of one gateway, one in two rooms counted twice: eight times the design load."""
TELL_S: Final = 10
_log = Log("ingest.quota")


class _Bucket:
    """Full at first. One message may overdraw it; the next waits until that is paid."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst_s: float, now: Instant) -> None:
        self._rate = rate
        self._burst = self._left = rate * burst_s
        self._at = now

    def open(self, now: Instant) -> bool:
        if now != self._at:
            # The wall clock may be set back: then no time has passed.
            self._left = min(self._burst, self._left + max(0, now - self._at) / NS * self._rate)
            self._at = now
        return self._left > 0

    def charge(self, cost: float) -> None:
        self._left -= cost


class _Gateway:
    def __init__(self, limits: Limits, now: Instant) -> None:
        self.rows = _Bucket(limits.gateway_rows_per_s, limits.burst_s, now)
        self.status = _Bucket(STATUS_A_S, limits.burst_s, now)
        self.rooms: set[str] = set()
        self.devices: dict[tuple[str, str], _Bucket] = {}
        self.tell_at: Instant = 0


class Quota:
    """Asked for each message before it is decoded. Answers the reason of the refusal, empty when there is none."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._gateways: dict[str, _Gateway] = {}
        self.refused: Counter[str] = Counter()
        """By gateway, at most `MAX_GATEWAYS` of them."""

    def admit(self, gateway: str, room: str, device: str, size: int, now: Instant) -> str:
        """A message of a device, `size` bytes long."""
        known = self._known(gateway, now)
        if known is None:
            return "too many gateways"
        bucket = self._device(known, room, device, now)
        if bucket is None:
            return self._refuse("too many names", known, gateway, device, now)
        if not (known.rows.open(now) and bucket.open(now)):
            return self._refuse("too frequent", known, gateway, device, now)
        self._charge(known, bucket, max(1.0, size / BYTES_A_ROW))
        return ""

    def charge_rows(self, gateway: str, room: str, device: str, rows: int, size: int) -> None:
        """What decoding found: many small rows cost more than their bytes did."""
        more = rows - max(1.0, size / BYTES_A_ROW)
        if more > 0:
            known = self._gateways[gateway]
            self._charge(known, known.devices[room, device], more)

    def admit_status(self, gateway: str, now: Instant) -> str:
        """A gateway's own status."""
        known = self._known(gateway, now)
        if known is None:
            return "too many gateways"
        if not known.status.open(now):
            return self._refuse("too frequent", known, gateway, "", now)
        known.status.charge(1)
        return ""

    def _charge(self, known: _Gateway, device: _Bucket, cost: float) -> None:
        known.rows.charge(cost)
        device.charge(cost)

    def _known(self, gateway: str, now: Instant) -> _Gateway | None:
        known = self._gateways.get(gateway)
        if known is None and len(self._gateways) < MAX_GATEWAYS:
            known = self._gateways[gateway] = _Gateway(self._limits, now)
        return known

    def _device(self, known: _Gateway, room: str, device: str, now: Instant) -> _Bucket | None:
        bucket = known.devices.get((room, device))
        if bucket is not None:
            return bucket
        if len(known.devices) >= MAX_DEVICES or (room not in known.rooms and len(known.rooms) >= MAX_ROOMS):
            return None
        known.rooms.add(room)
        bucket = known.devices[room, device] = _Bucket(self._limits.device_rows_per_s, self._limits.burst_s, now)
        return bucket

    def _refuse(self, reason: str, known: _Gateway, gateway: str, device: str, now: Instant) -> str:
        """Told now and then: a log line for each would be what the limit is there against."""
        self.refused[gateway] += 1
        if now >= known.tell_at or known.tell_at - now > TELL_S * NS:
            known.tell_at = now + TELL_S * NS
            _log.warning(
                f"gateway's messages not taken: {reason}", gateway=gateway, device=device,
                refused=self.refused[gateway], do="look at that gateway; `vitals provision revoke` shuts it out",
            )  # fmt: skip
        return reason
