"""Alert conditions: when they begin, when they end, and who may not raise one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.alerts import Alerts, Change
from ingest.presence import GATEWAY_OFFLINE, Presence
from tests.ingest_making import T0, flagged
from vitals.clock import NS
from vitals.messages import AlertMessage, AssociationMessage, DeviceStatus, Flag, GatewayStatus
from vitals.metrics import METRICS

SPO2 = METRICS["spo2"].title


class Room:
    """Room 4, driven by hand: seconds, metric, level; answers in short words."""

    def __init__(self, *, simulated: bool = False) -> None:
        self.alerts = Alerts(simulated=simulated)

    def see(self, second: float, metric: str, level: str, *, current: int = 1, **more: object) -> list[str]:
        now = T0 + round(second * NS)
        reading = flagged(values={metric: (1.0, level)}, t=more.pop("t", now), **more)
        return words(self.alerts.flagged("4", reading, now, current))

    def wait(self, second: float) -> list[str]:
        return words(self.alerts.tick(T0 + round(second * NS)))


def words(changes: list[Change]) -> list[str]:
    return [f"{c.id} {c.alert.priority if c.alert else 'over'}" for c in changes]


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.mark.parametrize(
    ("level", "expected"), [("normal", []), ("notice", []), ("abnormal", ["spo2 med"]), ("critical", ["spo2 high"])]
)
def test_levels(room: Room, level: str, expected: list[str]) -> None:
    assert room.see(0, "spo2", level) == expected


def test_the_three_pressures_are_one_alert(room: Room) -> None:
    reading = flagged(values={"bp_sys": (150.0, "abnormal"), "bp_dia": (125.0, "critical"), "bp_map": (70.0, "normal")})
    (change,) = room.alerts.flagged("4", reading, T0, 1)
    assert change.alert is not None
    assert (change.id, change.alert.priority, change.alert.metric) == ("bp", "high", "bp_dia")


def test_an_alert_says_what_which_limit_and_which_device(room: Room) -> None:
    (change,) = room.alerts.flagged("4", flagged(values={"spo2": (84.0, "critical")}, device="oxi-1"), T0, 1)
    assert change.alert == AlertMessage(
        1, "spo2", "high", False, "spo2", f"{SPO2}: text", T0, limit="limit", device="oxi-1", assoc_version=1
    )


def test_the_same_alert_is_raised_once(room: Room) -> None:
    assert room.see(0, "spo2", "critical") == ["spo2 high"]
    assert room.see(1, "spo2", "critical") == []


def test_worse_is_told_at_once(room: Room) -> None:
    assert room.see(0, "spo2", "abnormal") == ["spo2 med"]
    assert room.see(1, "spo2", "critical") == ["spo2 high"]


def test_a_continuous_value_ends_it_after_fifteen_seconds_inside(room: Room) -> None:
    room.see(0, "spo2", "critical")
    assert [room.see(s, "spo2", "normal") for s in (1, 2, 10, 15.9)] == [[], [], [], []]
    assert room.wait(15.9) == []
    assert room.see(16, "spo2", "normal") == ["spo2 over"]
    assert room.alerts.active() == []


def test_chatter_starts_the_fifteen_seconds_anew(room: Room) -> None:
    room.see(0, "spo2", "critical")
    room.see(1, "spo2", "normal")
    room.see(14, "spo2", "critical")
    assert room.see(17, "spo2", "normal") == []
    assert room.see(31, "spo2", "normal") == []
    assert room.see(32, "spo2", "normal") == ["spo2 over"]


def test_silence_ends_no_continuous_alert(room: Room) -> None:
    room.see(0, "spo2", "critical")
    room.see(1, "spo2", "normal")
    assert room.wait(1000) == []


def test_a_spot_reading_ends_it_by_the_second_one_or_after_fifteen_seconds(room: Room) -> None:
    room.see(0, "bp_sys", "critical")
    assert room.see(5, "bp_sys", "normal") == []
    assert room.see(10, "bp_sys", "normal") == ["bp over"]
    room.see(20, "bp_sys", "critical")
    room.see(30, "bp_sys", "normal")
    assert room.wait(44.9) == []
    assert room.wait(45) == ["bp over"]


def test_milder_lowers_it_to_the_worst_of_the_milder(room: Room) -> None:
    room.see(0, "spo2", "critical")
    room.see(1, "spo2", "normal")
    room.see(2, "spo2", "abnormal")
    assert room.see(17, "spo2", "normal") == ["spo2 med"]
    assert room.see(18, "spo2", "normal") == []
    assert room.see(33, "spo2", "normal") == ["spo2 over"]


def test_what_was_not_evaluated_neither_raises_nor_ends(room: Room) -> None:
    assert room.see(0, "spo2", "") == []
    room.see(1, "spo2", "critical")
    assert [room.see(s, "spo2", "") for s in (2, 20, 40)] == [[], [], []]
    assert len(room.alerts.active()) == 1


def test_simulated_readings_alarm_only_where_it_is_said() -> None:
    assert Room().see(0, "spo2", "critical", simulated=True) == []
    demo = Room(simulated=True)
    assert demo.see(0, "spo2", "critical", simulated=True) == ["spo2 high"]
    assert demo.alerts.active()[0][1].simulated


def test_historical_never_late_does_and_says_so(room: Room) -> None:
    assert room.see(0, "bp_sys", "critical", historical=True) == []
    (change,) = room.alerts.flagged("4", flagged(values={"bp_sys": (200.0, "critical")}, late_s=245), T0, 1)
    assert change.alert is not None and change.alert.text.endswith("late 4 min")


def test_without_a_patient_only_critical_alarms(room: Room) -> None:
    assert room.see(0, "temp", "abnormal", version=0) == []
    assert room.see(1, "temp", "critical", version=0) == ["temp high"]


def test_a_late_continuous_value_says_nothing_of_now(room: Room) -> None:
    room.see(100, "spo2", "normal")
    assert room.see(101, "spo2", "critical", t=T0 + 50 * NS) == []
    room.see(102, "spo2", "critical")
    assert room.see(120, "spo2", "normal", t=T0 + 60 * NS) == []
    assert len(room.alerts.active()) == 1


def test_a_late_spot_reading_raises_and_never_lowers(room: Room) -> None:
    room.see(100, "bp_sys", "normal")
    assert room.see(101, "bp_sys", "critical", t=T0) == ["bp high"]
    assert [room.see(102 + s, "bp_sys", "normal", t=T0 + s) for s in range(3)] == [[], [], []]


def test_an_overtaken_spot_reading_ends_as_if_the_two_had_come_in_order(room: Room) -> None:
    """A meter sends newest first: 110 mg/dL of a minute ago, then 45 of 50 minutes ago."""
    room.see(0, "glu", "normal", t=T0 - 60 * NS)
    assert room.see(1, "glu", "critical", t=T0 - 3000 * NS, late_s=3000) == ["glu high"], "told all the same"
    assert room.wait(15.9) == []
    assert room.wait(16) == ["glu over"]


def test_an_overtaken_spot_reading_falls_to_what_stood_before_it(room: Room) -> None:
    """Also where that was said long ago: a spot reading stands until the next."""
    room.see(0, "glu", "abnormal")
    assert room.see(1000, "glu", "critical", t=T0 - 10 * NS) == ["glu high"]
    assert room.wait(1015) == ["glu med"]
    assert room.wait(2000) == []


def test_what_it_falls_to_belongs_to_the_corrected_visit(room: Room) -> None:
    """Under the old version the next renewal would end it."""
    room.see(0, "glu", "abnormal")
    renewed = AssociationMessage(1, 2, "v1", T0 - 3600 * NS, T0 + 3600 * NS)
    room.alerts.bound("4", renewed, before=1)
    room.see(10, "glu", "critical", t=T0 - 10 * NS, version=2, current=2)
    assert room.wait(25) == ["glu med"]
    assert room.alerts.bound("4", renewed, before=0) == []


def test_the_worst_of_the_milder_falls_on_when_the_newest_is_milder_still(room: Room) -> None:
    room.see(0, "glu", "critical")
    room.see(1, "glu", "abnormal")
    assert room.see(2, "glu", "normal") == ["glu med"]
    assert room.wait(16.9) == []
    assert room.wait(17) == ["glu over"]


SPOT_LEVELS = st.lists(st.sampled_from(["normal", "notice", "abnormal", "critical"]), min_size=1, max_size=6)
RAISED = {"normal": [], "notice": [], "abnormal": ["med"], "critical": ["high"]}


@given(SPOT_LEVELS, st.lists(st.sampled_from([0, 1, 7, 15, 20, 400]), min_size=6, max_size=6), st.data())
def test_whatever_the_order_of_arrival_the_newest_reading_decides_what_stands(
    levels: list[str], pauses: list[int], data: st.DataObject
) -> None:
    """One device's spot readings, a minute apart each; the last in `levels` is the newest."""
    arrivals = data.draw(st.permutations(range(len(levels))))
    room, second = Room(), 0
    for number, pause in zip(arrivals, pauses, strict=False):
        for one in range(pause):
            room.wait(second + one)
        second += pause
        room.see(second, "glu", levels[number], t=T0 - (len(levels) - number) * 60 * NS)
    for one in range(60):
        room.wait(second + one)
    assert [alert.priority for _, alert in room.alerts.active()] == RAISED[levels[-1]]


def test_another_visit_ends_what_the_last_ones_readings_raised(room: Room) -> None:
    room.see(0, "spo2", "critical")
    room.alerts.technical("4", "oxi-1", "unplugged", T0, simulated=False)
    room.alerts.flagged("5", flagged(values={"spo2": (80.0, "critical")}), T0, 1)
    assert words(room.alerts.visit_over("4")) == ["spo2 over"]
    assert {(r, a.id) for r, a in room.alerts.active()} == {("4", "device-oxi-1"), ("5", "spo2")}


def test_an_alert_of_an_earlier_session_is_taken_over(room: Room) -> None:
    left = AlertMessage(1, "spo2", "high", False, "spo2", "SpO2: low", T0 - NS)
    assert room.alerts.adopt("4", left, None) == []
    assert room.alerts.active() == [("4", left)]
    room.see(0, "spo2", "normal")
    assert room.see(15, "spo2", "normal") == ["spo2 over"]


# ---- devices ---------------------------------------------------------------------------------------------------


def status(state: str, reason: str = "") -> DeviceStatus:
    return DeviceStatus(1, "s1", state, T0, reason)  # type: ignore[arg-type]


def gateway(online: bool, session: str = "s1") -> GatewayStatus:
    return GatewayStatus(1, session, online, T0)


def test_a_lost_device_is_a_low_technical_alert() -> None:
    alerts = Alerts(simulated=False)
    (change,) = alerts.technical("4", "cuff-1", "unplugged", T0, simulated=True)
    assert change.alert is not None
    assert (change.id, change.alert.priority, change.alert.technical) == ("device-cuff-1", "low", True)
    assert change.alert.text == "cuff-1: unplugged" and change.alert.simulated
    assert alerts.technical("4", "cuff-1", "unplugged", T0, simulated=True) == []
    assert words(alerts.technical("4", "cuff-1", "", T0, simulated=True)) == ["device-cuff-1 over"]
    assert alerts.technical("4", "cuff-1", "", T0, simulated=True) == []


@pytest.mark.parametrize(
    ("state", "reason", "heard"),
    [("online", "", ""), ("idle", "", ""), ("off", "", ""), ("lost", "", "lost"), ("lost", "unplugged", "unplugged"),
     ("connecting", "", None)],
)  # fmt: skip
def test_what_a_device_says_of_itself(state: str, reason: str, heard: str | None) -> None:
    assert Presence().device("g", "4", "cuff-1", status(state, reason)).reason == heard


def test_a_gateways_will_speaks_for_its_devices_only() -> None:
    presence = Presence()
    presence.gateway("g", gateway(True))
    for name, where in (("cuff-1", "g"), ("oxi-1", "g"), ("scale-1", "other")):
        presence.device(where, "4", name, status("online"))
    heard = presence.gateway("g", gateway(False))
    assert [(h.device, h.reason) for h in heard] == [("cuff-1", GATEWAY_OFFLINE), ("oxi-1", GATEWAY_OFFLINE)]
    assert not presence.fine("4", "cuff-1") and presence.fine("4", "scale-1")
    # A device's old retained status cannot revive it; its gateway can.
    assert presence.device("g", "4", "cuff-1", status("online")).reason == GATEWAY_OFFLINE
    assert [h.reason for h in presence.gateway("g", gateway(True, "s2"))] == ["", ""]


def test_a_late_will_of_an_earlier_session_is_ignored() -> None:
    presence = Presence()
    presence.device("g", "4", "cuff-1", status("online"))
    presence.gateway("g", gateway(True, "s2"))
    assert presence.gateway("g", gateway(False, "s1")) == []
    assert presence.fine("4", "cuff-1")


def test_a_device_that_was_removed_is_not_missed() -> None:
    presence = Presence()
    presence.birth("g", "4", "cuff-1", simulated=True)
    presence.device("g", "4", "cuff-1", status("lost"))
    gone = presence.device("g", "4", "cuff-1", None)
    assert (gone.reason, gone.simulated) == ("", True)
    assert presence.gateway("g", gateway(False)) == []


def test_two_ways_of_counting_one_fast_heart_are_one_alert(room: Room) -> None:
    room.see(0, "hr_ekg", "critical")
    room.see(1, "hr_device", "critical")
    assert [alert.id for _, alert in room.alerts.active()] == ["pulse"]


def test_a_rate_that_is_always_older_is_not_overtaken_by_another_metric(room: Room) -> None:
    """The rate from strips is a second behind the device's own: 29 s of 180/min beside a device that says 80."""
    told = []
    for second in range(29):
        told += room.see(second, "hr_device", "normal")
        told += room.see(second + 0.1, "hr_ekg", "critical", t=T0 + (second - 1) * NS)
    assert told == ["pulse high"]
    assert room.alerts.active()[0][1].metric == "hr_ekg"


def test_a_milder_source_does_not_ease_what_another_still_says(room: Room) -> None:
    room.see(0, "pulse_oximeter", "critical", device="oxi-1")
    assert [room.see(s, "hr_ekg", "normal", device="ekg-1") for s in range(1, 60)] == [[]] * 59
    room.see(60, "pulse_oximeter", "normal", device="oxi-1")
    assert room.see(74, "hr_ekg", "normal", device="ekg-1") == []
    assert room.see(75, "hr_ekg", "normal", device="ekg-1") == ["pulse over"]


def test_a_source_that_was_put_away_does_not_hold_it_for_ever(room: Room) -> None:
    room.see(0, "pulse_oximeter", "critical", device="oxi-1")
    assert room.see(300, "hr_ekg", "normal", device="ekg-1") == []
    room.see(301, "hr_ekg", "normal", device="ekg-1")
    assert room.see(316, "hr_ekg", "normal", device="ekg-1") == ["pulse over"]


def test_one_reading_from_the_future_silences_nothing(room: Room) -> None:
    room.see(0, "spo2", "normal", t=T0 + 3 * 3600 * NS, version=0)
    assert room.see(1, "spo2", "critical") == ["spo2 high"]


def test_only_readings_of_the_visit_of_now_count(room: Room) -> None:
    assert room.see(0, "spo2", "critical", version=1, current=2) == []
    assert room.see(1, "spo2", "critical", version=2, current=2) == ["spo2 high"]
    assert [room.see(s, "spo2", "normal", version=1, current=2) for s in (2, 20, 40)] == [[], [], []]


def test_a_wrong_clock_does_not_silence_what_is_critical_nor_ends_what_is_known(room: Room) -> None:
    assert room.see(0, "spo2", "abnormal", version=0) == []
    assert room.see(1, "spo2", "critical", version=0) == ["spo2 high"]
    assert room.alerts.active()[0][1].assoc_version == 0
    room.see(2, "spo2", "normal", version=0)
    assert room.see(17, "spo2", "normal", version=0) == ["spo2 over"]
    room.see(20, "spo2", "critical", version=1)
    assert [room.see(s, "spo2", "normal", version=0) for s in (21, 40, 60)] == [[], [], []]
    assert room.see(70, "temp", "critical", version=0, late_s=130) == []


def test_another_patient_is_not_held_by_what_was_said_of_the_last(room: Room) -> None:
    room.see(0, "pulse_oximeter", "critical", device="oxi-1")
    room.alerts.visit_over("4")
    assert room.see(1, "hr_ekg", "normal", device="ekg-1", version=2, current=2) == []


def cause(rule: str, metric: str, op: str, threshold: float) -> Flag:
    return Flag("HH", "critical", rule, f"{rule} rate", f"{metric} {op} {threshold}", metric, op, threshold)


def test_another_cause_of_equal_priority_is_told(room: Room) -> None:
    """150/min, then 35: the words must not go on saying fast."""
    fast, slow = cause("fast", "hr_device", ">=", 131.0), cause("slow", "hr_device", "<=", 40.0)
    told = []
    for second, flag in enumerate((fast, fast, slow, slow)):
        reading = flagged(values={"hr_device": (1.0, "critical")}, t=T0 + second * NS)
        value = msgspec.structs.replace(reading.values["hr_device"], flag=flag)
        now = T0 + second * NS
        changes = room.alerts.flagged("4", msgspec.structs.replace(reading, values={"hr_device": value}), now, 1)
        told += [(c.alert.text, c.alert.limit, (c.alert.since - T0) // NS) for c in changes if c.alert]
    assert told == [
        ("Heart rate: fast rate", "hr_device >= 131.0", 0), ("Heart rate: slow rate", "hr_device <= 40.0", 2)
    ]  # fmt: skip


def test_the_title_is_of_the_pressure_whose_limit_is_passed(room: Room) -> None:
    """150/125: the systolic carries the diastolic's flag."""
    reading = flagged(values={"bp_sys": (150.0, "critical")})
    flag = cause("severe", "bp_dia", ">", 120.0)
    values = {key: msgspec.structs.replace(value, flag=flag) for key, value in reading.values.items()}
    (change,) = room.alerts.flagged("4", msgspec.structs.replace(reading, values=values), T0, 1)
    assert change.alert is not None and change.alert.text == "Diastolic: severe rate"
