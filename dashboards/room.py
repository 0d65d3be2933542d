"""One room: its devices, its newest readings, its trace, and the history of the last while."""

from collections import OrderedDict, deque
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from dashboards.centre import Centre
from dashboards.history import MAX_POINTS, Thinner, continuous
from dashboards.readings import Reading, ms
from dashboards.visits import Visit
from dashboards.words import clean
from vitals.clock import Instant
from vitals.messages import DeviceBirth, DeviceStatus, FlaggedMessage
from vitals.metrics import METRICS
from vitals.topics import Up

MAX_SEEN: Final = 4096
"""Reading ids remembered per room: at 4 values a second, 17 minutes of repeats are recognised."""

MAX_LISTED: Final = 32
"""Metrics and kinds of faults listed of one device."""

What: TypeAlias = Literal["obs", "alarm", "room", "sys"]


class Change(NamedTuple):
    """Something the page must hear. `urgent` changes do not wait to be merged with the next."""

    what: What
    room: str = ""
    key: str = ""
    urgent: bool = True


class Device:
    """One device as its gateway reports it."""

    def __init__(self, up: Up) -> None:
        self.gateway, self.name = up.gateway, up.device
        self.birth: DeviceBirth | None = None
        self.status: DeviceStatus | None = None

    def shown(self, *, lost_gateway: Instant | None) -> dict[str, Any]:
        """`lost_gateway`: when its gateway went offline by our clock (0: before we looked); None while it is there."""
        birth, status = self.birth, self.status
        since = lost_gateway if lost_gateway is not None else status.since if status else 0
        state = status.state if status else "connecting"
        return {
            "id": f"{self.gateway}/{self.name}",
            "name": self.name,
            "gw": self.gateway,
            "title": clean(birth.title) if birth else self.name,
            "driver": clean(birth.driver) if birth else "",
            "transport": clean(birth.transport) if birth else "",
            "metrics": sorted({"bp" if key.startswith("bp_") else clean(key) for key in birth.metrics[:MAX_LISTED]})
            if birth
            else [],
            "state": state if lost_gateway is None else "unreachable",
            "since": ms(since),
            "reason": clean(status.reason) if status else "",
            "faults": {clean(code): n for code, n in list(status.faults.items())[:MAX_LISTED]} if status else {},
            "lost": status.lost_samples if status else 0,
            "battery": birth.info.battery if birth else None,
            "model": clean(" ".join(filter(None, (birth.info.manufacturer, birth.info.model)))) if birth else "",
            "sim": bool(birth and birth.simulated),
        }


class Trace:
    """The one EKG signal a tile draws: a device, its lead, and where its samples stand."""

    def __init__(self, source: tuple[str, str, str]) -> None:
        self.source = source
        self.stream = ""
        self.next_index = 0
        self.rate = 0
        self.div = 1
        self.calibrated = True
        self.simulated = False
        self.last: Instant = 0
        self.centre = Centre(None)

    def shown(self) -> dict[str, Any]:
        gateway, device, lead = self.source
        return {
            "dev": f"{gateway}/{device}", "lead": clean(lead), "rate": self.rate,
            "cal": self.calibrated, "div": self.div, "sim": self.simulated, "last": ms(self.last),
        }  # fmt: skip


class Room:
    """Everything known of one room."""

    def __init__(self, id_: str, index: int, title: str, visit: Visit | None) -> None:
        self.id, self.index, self.title, self.visit = id_, index, title, visit
        self.obs: dict[str, Reading] = {}
        self.devices: dict[tuple[str, str], Device] = {}
        self.alerts: dict[str, dict[str, Any]] = {}
        self.unconfirmed: set[str] = set()
        self.trace: Trace | None = None
        self.history: dict[str, deque[Reading]] = {}
        self._thinner = Thinner()
        self._seen: OrderedDict[tuple[str, str, int], None] = OrderedDict()

    def first_time(self, message: FlaggedMessage) -> bool:
        """Whether this evaluation of this reading is new; the same one again changes nothing."""
        identity = (message.id, message.rules_hash, message.assoc_version)
        if identity in self._seen:
            return False
        self._seen[identity] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return True

    def show(self, reading: Reading) -> Change | None:
        """Put a reading on the tile if it is the newest of its key, or judges the shown one anew."""
        self._remember(reading)
        before = self.obs.get(reading.k)
        if reading.hist or (before is not None and reading.id != before.id and not self._takes_over(reading, before)):
            return None
        if before is not None and reading.id == before.id and reading.av < before.av:
            return None
        self.obs[reading.k] = reading
        calm = before is not None and continuous(reading.k)
        same = before is not None and (before.f, before.q, before.reason) == (reading.f, reading.q, reading.reason)
        return Change("obs", self.id, reading.k, urgent=not (calm and same))

    def _takes_over(self, reading: Reading, shown: Reading) -> bool:
        """The newer one; but a temperature of a known site stands against one of none for as long as it is live.

        A thermometer in the mouth is the patient's temperature; the probe of an EKG board, once a second, would hide
        it. What was taken before this visit stands against nothing.
        """
        if bool(reading.site) == bool(shown.site) or reading.k not in METRICS:
            return reading.ts > shown.ts
        sited, other = (reading, shown) if reading.site else (shown, reading)
        live = other.ts - sited.ts < METRICS[reading.k].live_s * 1000
        live = live and (self.visit is None or sited.ts >= ms(self.visit.since))
        return live if sited is reading else not live and reading.ts > shown.ts

    def _remember(self, reading: Reading) -> None:
        past = self.history.setdefault(reading.k, deque(maxlen=MAX_POINTS))
        word = self._thinner.judge(reading)
        if word == "skip":
            return
        if past and (word == "replace" or past[-1].id == reading.id):
            past.pop()
        past.append(reading)

    def noisy(self, now: Instant) -> bool:
        """Whether the rate computed from the trace was called unreliable just now: then the trace is grey too."""
        rate = self.obs.get("hr_ekg")
        return rate is not None and rate.q == "artefact" and ms(now) - rate.ts < METRICS["hr_ekg"].live_s * 1000

    @property
    def simulated(self) -> bool:
        """Whether anything shown in this room is simulated."""
        return (
            any(reading.sim for reading in self.obs.values())
            or any(device.birth is not None and device.birth.simulated for device in self.devices.values())
            or bool(self.trace and self.trace.simulated)
            or bool(self.visit and self.visit.simulated)
        )
