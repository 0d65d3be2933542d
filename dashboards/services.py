"""What stands behind the rooms: broker link, ingest, gateways, and counted faults, with words for each trouble.

A trouble is a band (nothing on the page can be trusted to be current) or a notice (part of the picture is missing).
"""

from typing import Any, Final

import msgspec

from dashboards.readings import ms
from dashboards.words import clean
from vitals.clock import NS, Instant
from vitals.messages import GatewayStatus, IngestStatus

GRACE_S: Final = 5
"""After the start, or after a new broker connection, retained states need a moment to arrive."""
BEATS_KNOWN: Final = 3
"""An ingest that repeated its status this often has a heartbeat, and its silence means something."""
SILENT_S: Final = 30
"""Nothing from a beating ingest this long: it hangs. A dead one is announced by its will at once."""
CLOCK_OFF_MS: Final = 2000
"""Past this, a gateway's readings bind to no visit."""
MAX_GATEWAYS: Final = 64
QUOTA_S: Final = 60
"""So long after ingest last turned something away its gateway is in the alarm strip; the count stays in the list."""

_INGEST: Final = msgspec.json.Decoder(IngestStatus)
_GATEWAY: Final = msgspec.json.Decoder(GatewayStatus)


def outbox_troubles(status: GatewayStatus) -> list[tuple[str, str]]:
    """(what, in words), for the notices and the list of services."""
    found = []
    if status.outbox_fault and status.online:
        found.append(("disk", f"cannot write to its disk ({status.outbox_fault}): {status.in_memory} messages wait in"
                      " its memory, do not switch it off"))  # fmt: skip
    if status.aged_out_strips or status.aged_out_rows:
        ekg = sum(seconds for key, seconds in status.aged_out_s.items() if key.endswith("/ekg"))
        devices = ", ".join(sorted({key.partition("/")[0] for key in status.aged_out_s}))
        other = f", and {status.aged_out_rows} other rows" if status.aged_out_rows else ""
        found.append(("room", f"no room on its disk: {status.aged_out_strips} strips dropped, {ekg:.0f} s of EKG"
                      f" ({devices or 'no device'}){other}"))  # fmt: skip
    if status.set_aside:
        found.append(("damage", status.set_aside))
    if status.foreign_receipts:
        found.append(("foreign", f"{status.foreign_receipts} receipts of a store that is not ours, ignored"))
    if status.denied:
        found.append(("denied", "the broker's access rules refuse its messages: see its log"))
    return [(what, clean(txt)) for what, txt in found]


class Services:
    """State of the parts behind the board. Methods return whether something visible changed."""

    def __init__(self, now: Instant) -> None:
        self._started = now
        self.broker_up = False
        self.broker_why = "not connected yet"
        self.broker_since = now
        self.ingest: IngestStatus | None = None
        self._beats = 0
        self._heard = now
        self.gateways: dict[str, GatewayStatus] = {}
        self._gone: dict[str, Instant] = {}
        """When each offline gateway went, by our clock: its will carries the time its session began."""
        self._ingest_gone: Instant = 0
        self._over_quota: dict[str, Instant] = {}
        """When we last heard that ingest turned something of this gateway away."""
        self.faults: dict[str, int] = {}
        self._told: dict[str, Any] = {}

    def fault(self, code: str, times: int = 1) -> None:
        self.faults[code] = self.faults.get(code, 0) + times

    def _went(self, before: GatewayStatus | IngestStatus | None, now: Instant) -> Instant:
        """When it went offline; 0 where the message may be a retained one, which is older than our connection."""
        seen = before is not None and before.online and now - self.broker_since > GRACE_S * NS
        return now if seen else 0

    def heard(self, now: Instant) -> None:
        """A sign of life from ingest."""
        self._heard = now

    def link(self, up: bool, why: str, now: Instant) -> bool:
        if up == self.broker_up and why == self.broker_why:
            return False
        if up != self.broker_up:
            self.broker_since = now
            self._heard = now
        self.broker_up, self.broker_why = up, why
        return True

    def ingest_status(self, payload: bytes, now: Instant) -> bool:
        status = msgspec.structs.replace(_INGEST.decode(payload), now=0)  # its clock is for the gateways
        old = self.ingest
        if not status.online and old is not None and old.online and old.session != status.session:
            return False  # the late will of an ingest that was replaced
        if old is None or old.session != status.session:
            self._beats = 0
        self._beats += status == old  # counts that move in between take nothing back: a busy one may hang too
        if not status.online and (old is None or old.online):
            self._ingest_gone = self._went(old, now)
        if old is not None:
            before = old.over_quota if old.session == status.session else {}
            grew = {name for name, count in status.over_quota.items() if count > before.get(name, 0)}
            self._over_quota |= dict.fromkeys(grew, now)
        self.ingest = status
        self.heard(now)
        return status != old

    def gateway_status(self, name: str, payload: bytes, now: Instant) -> bool:
        if not payload:
            self._gone.pop(name, None)
            return self.gateways.pop(name, None) is not None
        status = _GATEWAY.decode(payload)
        old = self.gateways.get(name)
        if old is None and len(self.gateways) >= MAX_GATEWAYS:
            self.fault("gateway beyond the board's limit")
            return True
        if not status.online and old is not None and old.online and old.session != status.session:
            return False  # the late will of a session that was replaced
        if status.online:
            self._gone.pop(name, None)
        elif name not in self._gone:
            self._gone[name] = self._went(old, now)
        self.gateways[name] = status
        return old is None or msgspec.structs.replace(old, now=0) != msgspec.structs.replace(status, now=0)

    def lost(self, gateway: str) -> Instant | None:
        """When this gateway went offline (0: not known), None while it is there. One never heard of is not gone."""
        return self._gone.get(gateway)

    def tick(self, now: Instant) -> bool:
        """Whether time alone changed what the page must say."""
        shown = self.trouble(now)
        changed = shown != self._told
        self._told = shown
        return changed

    def _ingest_trouble(self, now: Instant) -> tuple[str, int]:
        status = self.ingest
        if status is None:
            waited = now - max(self._started, self.broker_since) > GRACE_S * NS
            return ("the checking service has not been heard of", ms(self.broker_since)) if waited else ("", 0)
        if not status.online:
            return "the checking service is down", ms(self._ingest_gone)
        if self._beats >= BEATS_KNOWN and now - self._heard > SILENT_S * NS:
            return "the checking service does not answer", ms(self._heard)
        return "", 0

    def trouble(self, now: Instant) -> dict[str, Any]:
        """`band` in place of the top bar, and `notices` in the alarm strip."""
        band: dict[str, Any] | None = None
        waited = now - self._started > GRACE_S * NS
        if not self.broker_up and (waited or self.ingest is not None):
            band = {"txt": "no connection to the message broker", "since": ms(self.broker_since)}
        elif self.broker_up:
            txt, since = self._ingest_trouble(now)
            band = {"txt": txt, "since": since} if txt else None
        return {"band": band, "notices": [*self._ingest_notices(now), *self._gateway_notices(), *self._fault_notice()]}

    def _ingest_notices(self, now: Instant) -> list[dict[str, Any]]:
        """Those of its own, and the gateways that it turns away: they learn nothing of it themselves."""
        if self.ingest is None or not self.ingest.online:
            return []
        found = []
        if self.ingest.store_fault:
            found.append(("store", "Store", f"Readings are shown but not stored: {self.ingest.store_fault}"))
        if self.ingest.denied:
            found.append(("denied", "Checking", "the broker's access rules refuse its messages: see its log"))
        for name, at in sorted(self._over_quota.items()):
            if now - at <= QUOTA_S * NS:
                found.append((f"quota/{name}", name, "sends more than it may: some of it is not taken"))
        return [{"id": id_, "who": clean(who), "txt": clean(txt), "since": 0} for id_, who, txt in found]

    def _gateway_notices(self) -> list[dict[str, Any]]:
        notices = []
        for name, status in sorted(self.gateways.items()):
            if not status.online:
                since = ms(self._gone.get(name, 0))
                notices.append({"id": f"gateway/{name}", "who": name, "txt": "offline", "since": since, "gw": name})
            elif status.clock_off_ms is not None and abs(status.clock_off_ms) > CLOCK_OFF_MS:
                txt = f"clock off by {abs(status.clock_off_ms) / 1000:.0f} s, its readings belong to no visit"
                notices.append({"id": f"clock/{name}", "who": name, "txt": txt, "since": 0})
            notices += [
                {"id": f"{what}/{name}", "who": name, "txt": txt, "since": 0} for what, txt in outbox_troubles(status)
            ]
        return notices

    def _fault_notice(self) -> list[dict[str, Any]]:
        total = sum(self.faults.values())
        if not total:
            return []
        what = max(self.faults, key=lambda code: self.faults[code])
        return [{"id": "faults", "who": "Board", "txt": f"{total} not shown: {what}", "since": 0}]

    def shown(self, now: Instant) -> dict[str, Any]:
        """`sys` as the page gets it."""
        status = self.ingest
        return self.trouble(now) | {
            "broker": {"up": self.broker_up, "why": self.broker_why, "since": ms(self.broker_since)},
            "ingest": None if status is None else {
                "online": status.online, "since": ms(status.since if status.online else self._ingest_gone),
                "store_fault": clean(status.store_fault), "profile": clean(status.profile),
                "rules": clean(status.rules_hash),
                "refused": {clean(why): n for why, n in status.refused.items()},
                "over_quota": {clean(name): n for name, n in status.over_quota.items()},
                "denied": status.denied, "missing": status.missing_s,
            },
            "gateways": [
                {
                    "id": name, "online": gateway.online, "backlog": gateway.backlog,
                    "since": ms(gateway.since if gateway.online else self._gone.get(name, 0)),
                    "refused": gateway.refused, "denied": gateway.denied, "clock_off": gateway.clock_off_ms,
                    "outbox": [txt for _, txt in outbox_troubles(gateway)],
                }
                for name, gateway in sorted(self.gateways.items())
            ],
            "faults": self.faults,
        }  # fmt: skip
