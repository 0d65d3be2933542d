"""Each shipped scenario shows what it promises: its devices, drivers, gateway's feeds and ingest, in virtual time."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from drivers.core.feed import DeviceFeed, Output
from drivers.core.registry import load_all as load_drivers
from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from simulators.core import scenario
from simulators.core.patient import profile_of
from simulators.core.physiology import Physiology
from simulators.core.run import make_all
from simulators.core.scenario import Scenario
from tests.talking import host_of
from vitals.cli import demo_settings
from vitals.cli.demo import PARTS
from vitals.cli.outages import Outages
from vitals.clock import NS, to_datetime
from vitals.errors import SettingsError
from vitals.messages import AlertMessage, AssociationMessage, EventMessage, FlaggedMessage, encode
from vitals.model import SampleArray
from vitals.settings import Settings, load
from vitals.topics import Topics

START = 1_764_000_000 * NS
STEP_NS = NS // 20
TOPICS = Topics("demo")
DRIVERS = load_drivers(plugins=())


class In(NamedTuple):
    """A message as ingest gets it."""

    topic: str
    payload: bytes
    retain: bool = False


class Clinic:
    """Some rooms of a scenario's demo, with ingest, for the first `seconds`."""

    def __init__(self, settings: Settings, rooms: set[str], seconds: int) -> None:
        self.flagged: list[tuple[float, str, FlaggedMessage]] = []
        """(second, room, message)."""
        self.alerts: list[tuple[float, str, AlertMessage]] = []
        self.events: list[tuple[str, EventMessage]] = []
        self.ekg: defaultdict[str, list[Any]] = defaultdict(list)
        """The counts of each room's trace, in arrays one after the other."""
        self._pipeline = Pipeline(
            TOPICS, load_rules("demo"), session="i", simulated_alarms=settings.ingest.simulated_alarms
        )
        self._seq = 0
        for room in settings.board.rooms:
            lease = AssociationMessage(
                1,
                1,
                f"visit-{room.id}",
                START - NS,
                START + 3600 * NS,
                age_years=room.demo_age_years,
                sex=room.demo_sex,
            )
            self._process(START, [In(f"vitals/v1/demo/core/{room.id}/assoc", encode(lease), True)])
        simulated = {(d.link or d.address): s for d, s in make_all(settings.simulate, START, UTC)}
        self._lines = []
        for device in settings.gateway.devices:
            if device.room in rooms:
                driver, place = DRIVERS[device.driver], device.port or device.address
                feed = DeviceFeed(device, driver, gateway="g", topics=TOPICS, session="s", zone=UTC)
                feed.link_up(place, simulated=True, at=START)
                self._lines.append((host_of(driver, simulated[place], START, device.options), feed))
        self.feeds = {feed.device.name: feed for _, feed in self._lines}
        for step in range(1, seconds * NS // STEP_NS + 1):
            self._turn(START + step * STEP_NS)

    def _turn(self, now: int) -> None:
        messages = []
        for host, feed in self._lines:
            host.turn(now)
            arrived, host.arrived = host.arrived, []
            outputs = [feed.take(events) for _, events in arrived if events]
            traces = [e for _, events in arrived for e in events if isinstance(e, SampleArray) and e.metric == "ekg"]
            self.ekg[feed.device.room] += [trace.samples for trace in traces]
            for output in (*outputs, feed.tick(now)):
                messages += self._rows(output, now)
        if messages:
            self._process(now, messages)

    def _rows(self, output: Output, now: int) -> list[In]:
        rows = []
        for draft in output.drafts:
            self._seq += 1
            row = draft.finish("e1", self._seq, now)
            rows.append(In(row.topic, row.payload))
            if isinstance(draft.message, EventMessage):
                self.events.append((row.topic.split("/")[5], draft.message))
        return rows

    def _process(self, now: int, messages: list[In]) -> None:
        for publication in self._pipeline.process(messages, now).publish:
            where = publication.topic.split("/")
            second = (now - START) / NS
            if where[-1] == "flagged":
                pack = msgspec.json.decode(publication.payload, type=list[FlaggedMessage] | FlaggedMessage)
                self.flagged += [(second, where[4], m) for m in (pack if isinstance(pack, list) else [pack])]
            elif "alert" in where and publication.payload:
                alert = msgspec.json.decode(publication.payload, type=AlertMessage)
                self.alerts.append((second, where[4], alert))

    def values(self, room: str, metric: str) -> list[tuple[float, Any]]:
        """(second, flagged value) of one metric, without what meters remember of other days."""
        return [
            (at, m.values[metric]) for at, r, m in self.flagged if r == room and metric in m.values and not m.historical
        ]

    def levels(self, room: str, metric: str) -> list[str]:
        return [value.flag.level if value.flag else "" for _, value in self.values(room, metric)]

    def quality(self, room: str) -> set[str]:
        return {bit for _, r, m in self.flagged if r == room for bit in m.quality}

    def unrest(self, room: str, begin_s: int, end_s: int) -> float:
        """How far one sample of the trace is from the next in these seconds, in counts: half of them are further."""
        trace = np.concatenate(self.ekg[room])[begin_s * 125 : end_s * 125].astype(float)
        return float(np.median(np.abs(np.diff(trace))))

    def first_alert(self, room: str, priority: str) -> float:
        """The second of the first one; 999: there was none."""
        return min((at for at, r, alert in self.alerts if r == room and alert.priority == priority), default=999.0)


def play(name: str, folder: Path, seconds: int, *rooms: str) -> Clinic:
    written = demo_settings.write(folder, scenario.load(name), board_port=1, broker_port=2, window=10, seed=1)
    return Clinic(load(written), set(rooms), seconds)


def test_hypertensive_crisis(tmp_path: Path) -> None:
    clinic = play("hypertensive-crisis", tmp_path, 75, "1", "3", "5")
    assert clinic.first_alert("3", "high") < 30
    assert clinic.levels("3", "bp_sys").count("critical") >= 3, "again and again"
    assert set(clinic.levels("1", "bp_sys")) == {"abnormal"}
    assert clinic.first_alert("1", "med") < 45
    assert "body_movement" in clinic.quality("5")
    assert any("repeat" in value.flag.text for _, value in clinic.values("5", "bp_sys") if value.flag)


def test_fever(tmp_path: Path) -> None:
    clinic = play("fever", tmp_path, 90, "2", "4", "5")
    assert clinic.first_alert("2", "med") < 30
    sited = [m for _, r, m in clinic.flagged if r == "2" and m.context.site]
    assert all(m.values["temp"].flag and m.values["temp"].flag.level == "abnormal" for m in sited)
    assert 30 < clinic.first_alert("5", "med") < 80, "it begins after half a minute"
    (first, *_) = [m.values["temp"] for _, r, m in clinic.flagged if r == "4" and m.context.site]
    assert first.raw_unit == "[degF]"
    assert 36 < first.value < 37.5
    assert first.flag is not None
    assert first.flag.level == "normal"


def test_hypoglycaemia(tmp_path: Path) -> None:
    clinic = play("hypoglycaemia", tmp_path, 60, "2", "3", "5")
    assert clinic.first_alert("3", "high") < 60
    assert clinic.levels("3", "glu")[0] == "critical"
    assert all(value.value < 70 for _, value in clinic.values("3", "glu")[:1])
    assert clinic.levels("5", "glu")[0] == "notice"
    (_, shown), *_ = clinic.values("2", "glu")
    assert shown.raw_unit == "mg/dL"
    assert 70 < shown.value < 140, "the number of the wire, whatever the display shows"


def test_lead_off(tmp_path: Path) -> None:
    clinic = play("lead-off", tmp_path, 75, "2", "4", "5")
    rates = clinic.values("2", "hr_ekg")
    off = [at for at, value in rates if value.not_evaluated == "lead off"]
    assert len([at for at in off if 15 < at < 60]) >= 35
    assert all(value.value is None for at, value in rates if 20 < at < 54)
    assert [value.value for at, value in rates if 5 < at < 14 and value.value], "a rate before"
    assert "lead_off" in clinic.quality("2")
    assert not any(alert.metric in ("hr_ekg", "hr_device") for _, r, alert in clinic.alerts if r == "2"), "no asystole"
    assert clinic.unrest("4", 12, 52) > 5 * clinic.unrest("4", 2, 9), "a trace of noise while he moves"
    assert clinic.unrest("4", 57, 68) < 2 * clinic.unrest("4", 2, 9), "and a calm one after"
    faults = {event.code for room, event in clinic.events if room == "5"}
    assert faults >= {"not_a_frame", "samples_lost"}
    feed = clinic.feeds["monitor-5"]
    assert feed.lost_samples > 4 * 2 * 110, "four signals lose a second twice"
    assert feed.faults.totals["samples_lost"] == 4 * 2
    assert not [event for room, event in clinic.events if room in ("2", "4")]


def test_busy_morning(tmp_path: Path) -> None:
    rooms = [str(n + 1) for n in range(len(scenario.load("busy-morning").rooms))]
    clinic = play("busy-morning", tmp_path, 60, *rooms)
    for room in rooms:
        for metric in ("bp_sys", "spo2", "temp", "glu", "hr_ekg", "rr"):
            assert clinic.values(room, metric), f"{metric} of room {room} within a minute"
    for at, ours in [(m.t, m.t_device) for _, room, m in clinic.flagged if room == "1" and m.kind == "bp"]:
        ahead = datetime.fromisoformat(ours).replace(tzinfo=UTC) - to_datetime(at)
        assert abs(ahead - timedelta(days=3)) < timedelta(seconds=5), "its clock is days off, and its reading is not"
        assert START < at < START + 60 * NS
    assert {value.raw_unit for _, value in clinic.values("2", "bp_sys")} == {"kPa"}
    assert [clinic.feeds[f"thermometer-{room}"].info.battery for room in "45"] == [87, 7]
    alarming = {room for _, room, alert in clinic.alerts if alert.priority in ("high", "med")}
    assert 2 <= len(alarming) <= len(rooms) / 2, "neither asleep nor everything red"
    assert {"high", "med"} <= {alert.priority for _, _, alert in clinic.alerts}


def test_broker_outage_comes_again_each_minute() -> None:
    outages = Outages(scenario.load("broker-outage").outages, 7 * NS)
    away = [second for second in range(600) if outages.due((7 + second) * NS)]
    assert away == [minute * 60 + second for minute in range(10) for second in range(25, 45)]


# --- what a scenario may say -----------------------------------------------------------------------------------------

ROOM = '[[rooms]]\nname = "A"\nage = 3\nsex = "male"\n'
HEAD = 'title = "t"\nsee = "s"\n'


@pytest.mark.parametrize("name", scenario.names())
def test_a_shipped_scenario_is_whole(name: str) -> None:
    found: Scenario = scenario.load(name)
    demo_settings.require_fittings(found)
    assert found.see.strip().endswith(".")
    assert 4 <= len(found.rooms) <= 8
    for room in found.rooms:
        Physiology(1, profile_of(room.patient()))


def test_the_shipped_scenarios() -> None:
    assert set(scenario.names()) == {
        "busy-morning", "hypertensive-crisis", "fever", "hypoglycaemia", "lead-off", "broker-outage",
    }  # fmt: skip


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(SettingsError, match="no scenario 'plague'") as refused:
        scenario.load("plague")
    assert all(name in refused.value.expected for name in scenario.names())


def test_a_scenario_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(HEAD + ROOM.replace('"A"', '"O\'Hara \\"Al\\""') + "options = { bp_gatt = { interval_s = 9.5 } }\n")
    settings = load(
        demo_settings.write(tmp_path / "demo", scenario.load(str(file)), board_port=1, broker_port=2, window=9, seed=1)
    )
    assert settings.board.rooms[0].demo_patient == 'O\'Hara "Al"'
    assert settings.simulate.devices[0].options["interval_s"] == 9.5
    assert len(make_all(settings.simulate, START, UTC)) == len(demo_settings.FITTINGS)


WRONG: list[tuple[str, str]] = [
    (HEAD, "rooms"),
    ("see = 's'\n" + ROOM, "title"),
    (HEAD + ROOM + "shoe = 1\n", "shoe"),
    (HEAD + ROOM.replace("3", "300"), "120"),
    (HEAD + ROOM.replace("male", "mail"), "mail"),
    (HEAD + ROOM + 'profile = "plague"\n', "profile"),
    (HEAD + ROOM + 'episodes = "fever@"\n', "episode"),
    (HEAD + ROOM + 'mischief = { toaster = "drop=0.1" }\n', "toaster"),
    (HEAD + ROOM + 'mischief = { bp_gatt = "lead_off" }\n', "cannot have the mischief 'lead_off'"),
    (HEAD + ROOM + 'mischief = { bp_gatt = "explode" }\n', "mischief"),
    (HEAD + ROOM + "options = { toaster = { heat = 3 } }\n", "toaster"),
    (HEAD + ROOM + '[[outages]]\npart = "roof"\nat_s = 1.0\nfor_s = 1.0\n', "roof"),
    (HEAD + ROOM + '[[outages]]\npart = "broker"\nat_s = 1.0\nfor_s = 0.0\n', "for_s"),
    (HEAD + ROOM + '[[outages]]\npart = "broker"\nat_s = 1.0\nfor_s = 9.0\nevery_s = 9.0\n', "never ends"),
    ("title = ", "TOML|Invalid|value"),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=lambda value: value[-24:])
def test_a_scenario_that_is_wrong_is_explained(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        scenario.load(str(file))
    said = f"{refused.value} {refused.value.found}"
    assert any(word in said for word in words.split("|")), said
    assert refused.value.do


def test_outages_name_parts_of_the_demo() -> None:
    parts = msgspec.inspect.type_info(scenario.Outage).fields[0].type  # type: ignore[attr-defined]
    assert set(parts.values) == {"broker", *PARTS}  # type: ignore[attr-defined]
