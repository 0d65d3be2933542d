"""A synthetic clinic as MQTT messages, made by the message contract alone: no broker, driver or simulator.

`Clinic` makes the rooms of the reference picture, one for each state of a tile. The small builders below it are
what single tests use.
"""

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from vitals.clock import NS, NS_PER_MS, Instant
from vitals.messages import (
    VERSION,
    AlertMessage,
    DeviceBirth,
    DeviceStatus,
    Flag,
    FlaggedMessage,
    FlaggedValue,
    GatewayStatus,
    IngestStatus,
    ObservationMessage,
    StripMessage,
    encode,
)
from vitals.metrics import METRICS
from vitals.model import DeviceInfo, Observation, Quantity
from vitals.settings import Board, Room, Settings, Site
from vitals.topics import Topics, UpLeaf

TOPICS: Final = Topics("clinic")
GATEWAY: Final = "gateway-1"
RATE: Final = 250
UV: Final = 5.0

Out = tuple[str, bytes]

LIMITS: Final = {
    "HH": ("critical", "≥ critical limit"), "LL": ("critical", "≤ critical limit"), "H": ("abnormal", "≥ limit"),
    "L": ("abnormal", "≤ limit"), "A": ("notice", ""), "N": ("normal", ""),
}  # fmt: skip


def value(key: str, number: float | None, f: str | None = "N", *, limit: str = "", ne: str = "", **more: Any) -> Any:
    """A flagged value of one metric."""
    flag = None
    if f is not None and number is not None:
        level, words = LIMITS[f]
        flag = Flag(f, level, f"{key}-{f.lower()}", f"{METRICS[key].title} {words}".strip(), limit, "test source", "S")  # type: ignore[arg-type]
    if flag is None and not ne:
        ne = "age is not known" if number is not None else "no value"
    return FlaggedValue(METRICS[key].unit, number, flag=flag, not_evaluated=ne, raw=str(number), **more)


_ids = iter(range(10**9))


def flagged(room: str, t: Instant, values: dict[str, Any], *, device: str = "monitor", **more: Any) -> Out:
    """One flagged message."""
    fields: dict[str, Any] = {
        "id": f"r{next(_ids)}", "gateway": GATEWAY, "device": device, "driver": "test", "kind": "spot",
        "uncertainty_ms": 50, "t_received": t, "simulated": True, "rules_hash": "f00d",
    }  # fmt: skip
    fields |= more
    return TOPICS.flagged(room), encode(FlaggedMessage(v=VERSION, t=t, values=values, **fields))


def alert(room: str, id_: str, since: Instant, priority: Any, text: str, limit: str = "", **more: Any) -> Out:
    fields: dict[str, Any] = {"technical": priority == "low", "metric": "spo2", "simulated": True} | more
    message = AlertMessage(VERSION, id_, priority, text=text, since=since, limit=limit, **fields)
    return TOPICS.alert(room, id_), encode(message)


def alert_end(room: str, id_: str) -> Out:
    return TOPICS.alert(room, id_), b""


def ingest(now: Instant, *, online: bool = True, store_fault: str = "", session: str = "s1", **more: Any) -> Out:
    return TOPICS.ingest_status, encode(
        IngestStatus(VERSION, session, online, now, "store-1", store_fault, "f00d" * 8, "demo", **more)
    )


def gateway(now: Instant, *, online: bool = True, name: str = GATEWAY, session: str = "g1", **more: Any) -> Out:
    return TOPICS.gateway_status(name), encode(GatewayStatus(VERSION, session, online, now, now, **more))


def device(room: str, name: str, leaf: UpLeaf, message: Any) -> Out:
    return TOPICS.up(GATEWAY, room, name, leaf), encode(message)


def status(room: str, name: str, state: Any, since: Instant, **more: Any) -> Out:
    return device(room, name, "status", DeviceStatus(VERSION, "g1", state, since, **more))


def birth(room: str, name: str, title: str, metrics: tuple[str, ...], battery: int | None = None) -> Out:
    info = DeviceInfo(manufacturer="Example", model=title, battery=battery)
    return device(room, name, "birth", DeviceBirth(VERSION, "g1", "test", title, "serial", metrics, info, True))


def cuff(room: str, t: Instant, pressure: float) -> Out:
    """A cuff inflating: for eyes only."""
    quantity = Quantity(pressure, str(pressure), "mm[Hg]")
    observation = Observation("cuff_pressure", {"cuff_pressure": quantity}, t, transient=True)
    message = ObservationMessage(VERSION, f"c{next(_ids)}", "", 0, "test", observation, t, 50, True)
    return TOPICS.up(GATEWAY, room, "cuff", "live"), encode(message)


def strip(room: str, t0: Instant, index: int, microvolts: np.ndarray, **more: Any) -> Out:
    """One wave pack; `microvolts` are rounded to the device's counts."""
    fields: dict[str, Any] = {"scale": UV, "lead": "II", "rate": float(RATE), "stream": "st1", "name": "monitor"} | more
    name = fields.pop("name")
    counts = np.rint(microvolts / (fields["scale"] or 1.0)).astype("<i2")
    message = StripMessage(
        v=VERSION, epoch="", seq=0, driver="test", metric="ekg", first_index=index, count=len(counts), dtype="<i2",
        block=counts.tobytes(), t0=t0, t_received=t0, simulated=True, **fields,
    )  # fmt: skip
    return TOPICS.up(GATEWAY, room, name, "wave"), encode(message)


def beat(phase: np.ndarray) -> np.ndarray:
    """Microvolt of one heart beat by phase 0..1: P, Q, R, S and T as bells."""
    bells = ((0.16, 0.022, 120), (0.265, 0.008, -90), (0.29, 0.010, 1050), (0.318, 0.009, -190), (0.52, 0.045, 260))
    return sum(height * np.exp(-((phase - centre) ** 2) / (2 * width**2)) for centre, width, height in bells)  # type: ignore[return-value]


class Spec(NamedTuple):
    """One room of the picture. `bp`, `temp`... are (value, flag); `age` seconds of the episodic ones."""

    name: str
    sex: str
    age: int
    bp: tuple[int, int, str | None] | None = (118, 72, "N")
    temp_f: float | None = 97.8
    temp_flag: str | None = "N"
    glu: int | None = 104
    glu_flag: str | None = "N"
    hr: int = 68
    hr_flag: str | None = "N"
    spo2: int = 97
    spo2_flag: str | None = "N"
    rr: int = 14
    rr_flag: str | None = "N"
    state: str = "ok"


ROOMS: Final = (
    Spec("Nguyen, Linh", "female", 34, glu=92, hr=63),
    Spec("Okafor, Daniel", "male", 61, bp=(121, 77, "N"), glu=103, hr=69),
    Spec("Brandt, Ute", "female", 58, bp=(164, 98, "H"), temp_f=98.0, glu=114, hr=77, spo2=99, rr=16),
    Spec("Rivera, Marisol", "female", 72, bp=(127, 75, "N"), temp_f=98.2, glu=125, hr=103, spo2=83, spo2_flag="LL",
         rr=23, rr_flag="H"),
    Spec("", "", 0, state="vacant"),
    Spec("Patel, Arjun", "male", 45, bp=(119, 73, "N"), temp_f=98.6, glu=97, state="off"),
    Spec("Cohen, Ruth", "female", 80, bp=(122, 78, "N"), temp_f=98.8, glu=108, hr=76, spo2=98, rr=13, state="lost"),
    Spec("Silva, Tomas", "male", 29, bp=(125, 83, "N"), glu=119, hr=82, spo2=98, rr=13, state="noisy"),
    Spec("Jensen, Karl", "male", 66, bp=(128, 76, "N"), glu=130, hr=127, hr_flag="H", spo2=95),
    Spec("Abebe, Sara", "female", 41, bp=(131, 81, "A"), temp_f=98.0, glu=141, rr=15, state="late"),
    Spec("Murphy, Sean", "male", 53, bp=(120, 74, "N"), temp_f=98.2, glu=102, hr=76, spo2=98, rr=17, state="leadoff"),
    Spec("", "", 0, state="vacant"),
    Spec("Ivanova, Olga", "female", 63, bp=(126, 72, "N"), temp_f=98.6, glu=51, glu_flag="LL", hr=95, spo2=95, rr=12),
    Spec("Haddad, Omar", "male", 37, bp=(129, 77, None), temp_f=98.8, glu=135, rr=13, spo2=96, state="unchecked"),
    Spec("Kim, Ji-woo", "female", 9, bp=(118, 82, None), temp_f=102.3, temp_flag="H", glu=96, hr=108, rr=15, spo2=98,
         state="inflating"),
    Spec("", "", 0, bp=(126, 80, "N"), temp_f=98.4, glu=None, state="unbound"),
)  # fmt: skip


def settings(rooms: int = 16, port: int = 8090, name: str = "") -> Settings:
    """Rooms 1..n; `name` replaces the first patient's name."""
    board = []
    for number in range(rooms):
        spec = ROOMS[number % len(ROOMS)]
        patient = name if name and number == 0 else spec.name
        sex: Any = spec.sex or None
        board.append(Room(id=str(number + 1), demo_patient=patient, demo_age_years=spec.age or None, demo_sex=sex))
    return Settings(site=Site(name="Lakeside Family Medicine"), board=Board(port=port, rooms=board))


class Clinic:
    """All rooms at once. `start` gives what is retained and already measured, `step` what the next 100 ms bring."""

    def __init__(self, rooms: int, *, plain: bool = False, widest: bool = False) -> None:
        self.rooms = rooms
        self.plain = plain
        self.widest = widest
        self._index = [0] * rooms
        self._noise = np.random.default_rng(7)
        self._steps = 0

    def spec(self, number: int) -> Spec:
        spec = ROOMS[number % len(ROOMS)]
        if self.widest:
            numbers: Any = ((188, 112, "HH"), 103.6, "HH", 600, "HH", 188, "HH", 100, "N", 38, "HH")
            return Spec("Featherstonehaugh-Montgomery, Alexandrina", "female", 102, *numbers)
        return ROOMS[0]._replace(name=spec.name) if self.plain else spec

    def start(self, now: Instant) -> Iterator[Out]:
        yield ingest(now)
        yield gateway(now)
        for number in range(self.rooms):
            yield from self._devices(number, now)
            yield from self._episodic(number, now)
        if not self.plain and not self.widest:
            yield from self._alerts(now)
            yield from self._cold(now)

    def _devices(self, number: int, now: Instant) -> Iterator[Out]:
        room, spec = str(number + 1), self.spec(number)
        monitor = {"off": "off", "lost": "lost"}.get(spec.state, "online")
        since = now - {"off": 545, "lost": 75}.get(spec.state, 1260) * NS
        faults = {"bad_checksum": 3, "resync": 1} if spec.state == "lost" else {}
        lost = 412 if spec.state == "lost" else 0
        table = (
            ("monitor", "EKG monitor", ("ekg", "hr_ekg", "rr"), monitor, 81),
            ("oximeter", "Pulse oximeter", ("spo2", "pulse_oximeter"), monitor, 64),
            ("cuff", "BP cuff", ("bp_sys", "bp_dia", "bp_map", "pulse_cuff"), "idle", 72),
            ("thermometer", "Thermometer", ("temp",), "idle", None),
            ("glucometer", "Glucometer", ("glu",), "idle", 90),
        )
        for name, title, metrics, state, battery in table:
            if spec.state == "unbound" and name in ("monitor", "oximeter"):
                continue
            yield birth(room, name, title, metrics, battery)
            down = state in ("off", "lost")
            reason = {"off": "switched off", "lost": "no answer on the line"}.get(state, "")
            yield status(
                room, name, state, since, reason=reason, faults=faults if down else {}, lost_samples=lost if down else 0
            )

    def _episodic(self, number: int, now: Instant) -> Iterator[Out]:
        room, spec = str(number + 1), self.spec(number)
        if spec.state == "vacant":
            return
        minutes = (3 + number * 5 % 9, 2 + number * 7 % 10, 5 + number * 11 % 19)
        late = {"late_s": 250} if spec.state == "late" else {}
        if spec.bp:
            sys, dia, f = spec.bp
            ne = "no adult limits for this age" if f is None else ""
            limit = "≥ 140/90" if f == "H" else ""
            values = {
                "bp_sys": value("bp_sys", sys, f, limit=limit, ne=ne),
                "bp_dia": value("bp_dia", dia, f, limit=limit, ne=ne),
                "bp_map": value("bp_map", round((sys + 2 * dia) / 3), "N"),
                "pulse_cuff": value("pulse_cuff", spec.hr + 2),
            }
            yield flagged(room, now - (minutes[0] * 60 if f != "H" else 70) * NS, values, device="cuff", **late)
        if spec.temp_f:
            celsius = round((spec.temp_f - 32) * 5 / 9, 3)
            temp = {"temp": value("temp", celsius, spec.temp_flag, limit="≥ 100.4 °F" if spec.temp_flag != "N" else "")}
            yield flagged(room, now - minutes[1] * 60 * NS, temp, device="thermometer")
        if spec.glu:
            beyond: dict[str, Any] = {"comparator": ">"} if self.widest else {}
            limit = "< 54 mg/dL" if spec.glu_flag == "LL" else ""
            glu = {"glu": value("glu", spec.glu, spec.glu_flag, limit=limit, **beyond)}
            yield flagged(room, now - minutes[2] * 60 * NS, glu, device="glucometer")

    def past(self, now: Instant) -> Iterator[Out]:
        """Half an hour of continuous values of room 3, with a pause, for the trends."""
        for seconds in range(1795, 5, -6):
            if 700 < seconds < 900:
                continue
            wave = round(4 * math.sin(seconds / 150) + 1.5 * math.sin(seconds / 23))
            values = {"hr_ekg": value("hr_ekg", 77 + wave), "rr": value("rr", 16 + round(wave / 4))}
            yield flagged("3", now - seconds * NS, values, derived=True)
            flag = "L" if 1200 < seconds < 1300 else "N"
            spo2 = {"spo2": value("spo2", 91 if flag == "L" else 98 + round(wave / 5), flag)}
            yield flagged("3", now - seconds * NS, spo2, device="oximeter")

    def _alerts(self, now: Instant) -> Iterator[Out]:
        if self.rooms < 16:
            return
        yield alert("4", "spo2", now - 50 * NS, "high", "SpO₂ 83 %", "< 88")
        yield alert("13", "glu", now - 130 * NS, "high", "Glucose 51", "< 54", metric="glu")
        yield alert("3", "bp", now - 70 * NS, "med", "BP 164/98", "≥ 140/90", metric="bp")
        yield alert("9", "hr", now - 150 * NS, "med", "Pulse 127", "> 120", metric="hr_ekg")
        yield alert("15", "temp", now - 65 * NS, "med", "Temp 102.3 °F", "≥ 100.4", metric="temp")
        yield alert("6", "ekg", now - 540 * NS, "low", "EKG monitor off")
        yield alert("7", "link", now - 70 * NS, "low", "Monitor link lost")
        yield alert("11", "lead", now - 30 * NS, "low", "EKG lead off")

    def _cold(self, now: Instant) -> Iterator[Out]:
        """The last values of monitors that are gone."""
        for number in range(self.rooms):
            spec = self.spec(number)
            if spec.state in ("off", "lost"):
                yield from self._continuous(number, now - (545 if spec.state == "off" else 75) * NS)

    def _continuous(self, number: int, now: Instant) -> Iterator[Out]:
        room, spec = str(number + 1), self.spec(number)
        drift = 0 if self.widest or spec.hr_flag != "N" else round(1.2 * math.sin(now / NS / 5 + number))
        noisy = spec.state == "noisy"
        hr = {
            "hr_ekg": value(
                "hr_ekg", spec.hr + drift, None if noisy else spec.hr_flag, ne="signal quality" if noisy else ""
            ),
            "rr": value("rr", spec.rr, spec.rr_flag, limit="> 20" if spec.rr_flag == "H" else ""),
        }
        if spec.state != "leadoff":
            yield flagged(room, now, hr, derived=True, quality=("noisy_signal",) if noisy else ())
        else:
            yield flagged(room, now, {"rr": hr["rr"]})
        spo2 = {
            "spo2": value("spo2", spec.spo2, spec.spo2_flag, limit="< 88 %" if spec.spo2_flag == "LL" else ""),
            "pulse_oximeter": value("pulse_oximeter", spec.hr + drift),
        }
        yield flagged(room, now, spo2, device="oximeter")

    def step(self, now: Instant) -> Iterator[Out]:
        """100 ms of EKG for all rooms, and once a second the numbers."""
        self._steps += 1
        for number in range(self.rooms):
            spec = self.spec(number)
            if spec.state in ("vacant", "off", "lost", "unbound"):
                continue
            yield self._wave(number, spec, now)
            if self._steps % 10 == number % 10:
                yield from self._continuous(number, now)
            if spec.state == "inflating" and self._steps % 4 == 0:
                yield cuff(str(number + 1), now, 60 + self._steps * 2 % 120)

    def _wave(self, number: int, spec: Spec, now: Instant) -> Out:
        n = RATE // 10
        start = self._index[number]
        self._index[number] += n
        seconds = (start + np.arange(n)) / RATE
        phase = (seconds * spec.hr / 60 + number * 0.37) % 1
        uv = beat(phase) + self._noise.normal(0, 8, n) + 25 * np.sin(seconds * 1.4)
        if spec.state == "noisy" and int(seconds[0]) % 6 < 2:
            uv = uv + self._noise.normal(0, 160, n)
        if spec.state == "leadoff":
            uv = np.zeros(n)
        return strip(str(number + 1), now - 100 * NS_PER_MS, start, uv, lead_off=spec.state == "leadoff")
