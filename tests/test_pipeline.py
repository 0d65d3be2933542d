"""The pure core: what a batch of messages comes to."""

from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.admission import OBSERVATIONS, STRIPS
from ingest.evaluate import Evaluator, Reading
from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from ingest.store.contract import EvaluationRow, EventRow, ObservationRow, StripRow
from ingest.work import Work
from tests.ingest_making import T0, adult, bp, event, observation, q, strip
from tests.test_ekg_simple import beating
from vitals.clock import NS
from vitals.messages import (
    MAX_PAYLOAD,
    AlertMessage,
    DeviceBirth,
    DeviceStatus,
    FlaggedMessage,
    GatewayStatus,
    encode,
)
from vitals.model import DeviceInfo
from vitals.topics import Topics, Up

TOPICS = Topics("clinic")
OBS = "vitals/v1/clinic/up/gateway-1/4/cuff-1/obs"
STRIP = "vitals/v1/clinic/up/gateway-1/4/ekg-1/strip"
EVENT = "vitals/v1/clinic/up/gateway-1/4/cuff-1/event"
STATUS = "vitals/v1/clinic/up/gateway-1/4/cuff-1/status"
BIRTH = "vitals/v1/clinic/up/gateway-1/4/cuff-1/birth"
GATEWAY = "vitals/v1/clinic/up/gateway-1/status"
ASSOC = "vitals/v1/clinic/core/4/assoc"
FLAGGED = "vitals/v1/clinic/core/4/flagged"


class In(NamedTuple):
    topic: str
    payload: bytes
    retain: bool = False


class Bench:
    """A pipeline with a clock in the hand."""

    def __init__(self, profile: str = "demo", *, simulated_alarms: bool = False) -> None:
        self.now = T0 + NS
        rules = load_rules(profile)  # type: ignore[arg-type]
        self.pipeline = Pipeline(TOPICS, rules, session="i1", simulated_alarms=simulated_alarms)

    def give(self, *messages: In) -> Work:
        return self.pipeline.process(messages, self.now)

    def bind(self, **more: object) -> Work:
        return self.give(In(ASSOC, encode(adult(**more)), True))

    def obs(self, *args: object, **more: object) -> Work:
        return self.give(In(OBS, encode(observation(*args, **more))))


def shown(work: Work, topic: str = FLAGGED) -> list[FlaggedMessage]:
    """Flagged messages, one by one, whether sent alone or in a pack."""
    decode = msgspec.json.Decoder(list[FlaggedMessage] | FlaggedMessage).decode
    packs = [decode(p.payload) for p in work.publish if p.topic == topic]
    return [m for pack in packs for m in (pack if isinstance(pack, list) else [pack])]


def alerts(work: Work) -> list[str]:
    return [
        f"{p.topic.rpartition('alert/')[2]} {msgspec.json.decode(p.payload)['priority'] if p.payload else 'over'}"
        for p in work.publish
        if "/alert/" in p.topic
    ]


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.bind()
    return made


# ---- readings --------------------------------------------------------------------------------------------------


def test_a_reading_is_shown_flagged_stored_and_claimed(bench: Bench) -> None:
    sent = observation(quantities=bp(150, 76), seq=7)
    work = bench.give(In(OBS, encode(sent)))
    raw, evaluation = work.rows
    assert isinstance(raw, ObservationRow) and raw.message == sent and raw.address == ("gateway-1", "4", "cuff-1")
    (message,) = shown(work)
    assert isinstance(evaluation, EvaluationRow) and evaluation.message == message and evaluation.room == "4"
    assert (message.id, message.gateway, message.device, message.assoc_version) == (sent.id, "gateway-1", "cuff-1", 1)
    assert message.rules_hash == bench.pipeline.rules.hash
    flag = message.values["bp_sys"].flag
    assert flag is not None and flag.rule == "bp.sbp.stage2"
    assert alerts(work) == ["bp med"]
    (claim,) = work.claims
    assert (claim.gateway, claim.epoch, claim.seq, claim.row) == ("gateway-1", "e1", 7, 0)
    assert work.loose == set()


def test_flagged_messages_expire_and_are_not_retained(bench: Bench) -> None:
    (publication,) = bench.obs().publish
    assert (publication.retain, publication.expiry_s) == (False, 3600)


def test_a_pack_is_judged_as_one_and_shown_as_one(bench: Bench) -> None:
    pack = [observation(f"{n:032x}", seq=n) for n in range(5)]
    work = bench.give(In(OBS, encode(pack)))
    assert [m.id for m in shown(work)] == [m.id for m in pack]
    assert len(work.publish) == 1
    assert [c.seq for c in work.claims] == [0, 1, 2, 3, 4]
    assert [work.rows[c.row].message.seq for c in work.claims if c.row is not None] == [0, 1, 2, 3, 4]


def test_a_resent_reading_is_stored_and_answered_and_not_shown_again(bench: Bench) -> None:
    bench.obs(quantities=bp(190, 90))
    again = bench.obs(quantities=bp(190, 90))
    assert again.publish == []
    assert [type(row) for row in again.rows] == [ObservationRow, EvaluationRow]
    assert len(again.claims) == 1


def test_what_the_store_had_before_the_start_is_not_shown_again() -> None:
    bench = Bench()
    bench.pipeline.resume(["a" * 32], [])
    assert bench.obs().publish == []


def test_an_unknown_metric_is_refused_with_its_name(bench: Bench) -> None:
    work = bench.give(In(OBS, encode([observation(quantities={"aura": q(1)}, seq=3), observation("b" * 32, seq=4)])))
    assert {(c.seq, c.outcome if c.row is None else "row", c.reason) for c in work.claims} == {
        (3, "refused", "unknown metric: aura"),
        (4, "row", ""),
    }
    assert bench.pipeline.refused == {"unknown metric": 1}


def test_a_newer_version_is_held_and_its_neighbours_are_taken(bench: Bench) -> None:
    future = msgspec.structs.replace(observation(seq=3), v=2)
    work = bench.give(In(OBS, encode([future, observation("b" * 32, seq=4)])))
    held = [(c.seq, c.outcome) for c in work.claims if c.row is None]
    assert held == [(3, "hold")]
    assert len(shown(work)) == 1


def test_a_newer_version_of_another_shape_is_held() -> None:
    work = Bench().give(In(OBS, b'{"v":3,"epoch":"e9","seq":12,"everything":"new"}'))
    assert [(c.epoch, c.seq, c.outcome) for c in work.claims] == [("e9", 12, "hold")]


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"\xff\xfe\x00", "malformed"),
        (b"[" * 5000, "malformed"),
        (b'{"v":1,"epoch":"e1","seq":5}', "malformed"),
        (b'{"v":0,"epoch":"e1","seq":5}', "unknown version"),
        (b" " * (MAX_PAYLOAD + 1), "oversize"),
        (b"[" + b"1," * 9000 + b"1]", "malformed"),
        (encode(observation("")), "bad value"),
        (encode(observation(quantities={})), "bad value"),
        (encode(observation(t=1)), "bad time"),
        (encode(observation(t=2**63 - 1)), "bad time"),
        (encode(observation(kind="k" * 300)), "bad value"),
        (encode(observation(quantities={"spo2": q(97, validity="nan")})), "bad value"),
        (encode(msgspec.structs.replace(observation(), uncertainty_ms=-1)), "bad value"),
    ],
)
def test_bad_payloads_are_counted_by_kind(bench: Bench, payload: bytes, kind: str) -> None:
    work = bench.give(In(OBS, payload), In(OBS, encode(observation("c" * 32))))
    assert set(bench.pipeline.refused) == {kind}
    assert [m.id for m in shown(work)] == ["c" * 32]


@pytest.mark.parametrize(
    "wrong",
    [
        strip(rate=float("nan"), t0=T0),
        strip(rate=0.0, t0=T0),
        strip(-1, t0=T0),
        strip(samples=np.zeros(0)),
        msgspec.structs.replace(strip(), count=99),
        msgspec.structs.replace(strip(), block=b"xyz"),
        strip(metric="aura"),
        strip(scale=float("inf")),
        strip(samples=np.zeros(20_000)),
        strip(lost_before=-1),
    ],
)
def test_strips_that_cannot_be_kept(bench: Bench, wrong: object) -> None:
    work = bench.give(In(STRIP, encode(wrong)))
    assert work.rows == []
    assert [c.outcome for c in work.claims] == ["refused"]


@pytest.mark.parametrize(
    "topic",
    ["vitals/v1/clinic/up/gateway-1/4/cuff-1/aura", "vitals/v1/clinic/up/GATEWAY/4/cuff-1/obs", "elsewhere", ""],
)
def test_topics_that_are_none_of_ours(bench: Bench, topic: str) -> None:
    assert bench.give(In(topic, encode(observation()))).rows == []
    assert sum(bench.pipeline.refused.values()) == 1


def test_without_an_outbox_there_is_no_receipt_and_the_message_is_loose(bench: Bench) -> None:
    work = bench.give(In(OBS, encode(observation("b" * 32))), In(OBS, encode(observation(epoch=""))))
    assert [c.seq for c in work.claims] == [1]
    assert work.loose == {1}


def test_events_are_stored(bench: Bench) -> None:
    work = bench.give(In(EVENT, encode([event(1), event(2)])))
    assert [type(row) for row in work.rows] == [EventRow, EventRow]
    assert work.publish == []


# ---- whose reading it is -----------------------------------------------------------------------------------------


def reason(work: Work, metric: str = "bp_sys") -> str:
    (message,) = shown(work)
    value = message.values[metric]
    return value.not_evaluated or (value.flag.interpretation if value.flag else "?")


def test_nobody_bound() -> None:
    assert reason(Bench().obs()) == "no patient bound"


def test_the_lease_runs_out_by_the_readings_own_time(bench: Bench) -> None:
    bench.now = T0 + 5000 * NS
    assert reason(bench.obs("1" * 32, t=T0 + 3599 * NS)) == "N"
    assert reason(bench.obs("2" * 32, t=T0 + 3600 * NS)) == "no patient bound"


def test_a_visit_that_ended_gets_no_more_readings(bench: Bench) -> None:
    bench.now = T0 + 100 * NS
    bench.give(In(ASSOC, b""))
    assert reason(bench.obs("1" * 32, t=T0 + 101 * NS)) == "no patient bound"
    assert reason(bench.obs("2" * 32, t=T0 + 99 * NS)) == "N"


def test_a_late_reading_belongs_to_the_visit_of_its_moment(bench: Bench) -> None:
    """118/79 is normal for the adult who had the room; for the pregnant one bound since, it would be another row."""
    bench.now = T0 + 600 * NS
    bench.bind(age=8, visit="visit-2", version=2, since=T0 + 600 * NS)
    (late,) = shown(bench.obs("1" * 32, t=T0 + 300 * NS))
    assert (late.assoc_version, late.late_s) == (1, 300)
    (fresh,) = shown(bench.obs("2" * 32, t=T0 + 601 * NS))
    assert fresh.assoc_version == 2


def test_old_records_are_nobodys_though_somebody_is_bound(bench: Bench) -> None:
    work = bench.obs(quantities=bp(190, 90), t=T0 - 90 * 86_400 * NS, historical=True)
    assert reason(work) == "no patient bound"
    assert shown(work)[0].late_s == 0
    assert alerts(work) == []


def test_a_correction_of_the_visit_holds_for_its_earlier_readings(bench: Bench) -> None:
    bench.now = T0 + 50 * NS
    bench.bind(age=8, version=2)
    assert reason(bench.obs(t=T0 + 10 * NS)) == "no rule for this patient"


def test_a_visit_found_at_the_start_does_not_claim_what_is_older_than_itself() -> None:
    bench = Bench()
    bench.bind(since=T0)
    assert reason(bench.obs("1" * 32, t=T0 - 121 * NS)) == "no patient bound"
    assert reason(bench.obs("2" * 32, t=T0 - 119 * NS)) == "N"
    assert reason(bench.obs("3" * 32, t=T0 - NS, historical=True)) == "no patient bound"


def test_a_reading_from_the_future_is_nobodys_and_never_the_newest(bench: Bench) -> None:
    work = bench.obs(t=bench.now + 2 * NS + 1, quantities=bp(190, 90))
    assert reason(work) == "the clock is not set: measured 2 s after it arrived"
    assert alerts(work) == []
    assert [row.ahead for row in work.rows if isinstance(row, EvaluationRow)] == [True]
    assert reason(bench.obs("b" * 32, t=bench.now + 2 * NS)) == "N"


@pytest.mark.parametrize(("off", "expected"), [(None, "N"), (2000, "N"), (-2001, "the gateway's clock is off by 2 s")])
def test_a_gateway_whose_clock_is_wrong_binds_to_nobody(bench: Bench, off: int | None, expected: str) -> None:
    bench.give(In(GATEWAY, encode(GatewayStatus(1, "s1", True, T0, clock_off_ms=off)), True))
    assert reason(bench.obs()) == expected
    # Its will does not know its clock, and what it sent before was timed by it.
    bench.give(In(GATEWAY, encode(GatewayStatus(1, "s1", False, T0))))
    assert reason(bench.obs("b" * 32)) == expected


def test_heart_rates_of_a_wrong_clock_bind_to_nobody_too(bench: Bench) -> None:
    bench.give(In(GATEWAY, encode(GatewayStatus(1, "s1", True, T0, clock_off_ms=9000)), True))
    last = shown(ekg(bench, beating(75, 12)))[-1].values["hr_ekg"]
    assert (last.value, last.flag, last.not_evaluated) == (75, None, "the gateway's clock is off by 9 s")


@pytest.mark.parametrize(
    ("uncertainty_ms", "expected"), [(120_000, "N"), (120_001, "time not known: the device's clock differs")]
)
def test_a_reading_of_an_unknown_time_is_nobodys(bench: Bench, uncertainty_ms: int, expected: str) -> None:
    sent = msgspec.structs.replace(observation(), uncertainty_ms=uncertainty_ms)
    assert reason(bench.give(In(OBS, encode(sent)))) == expected


def test_a_reading_of_an_unknown_time_never_alarms_for_the_patient_of_now(bench: Bench) -> None:
    hot = {"temp": q(42.0, "Cel")}
    sent = observation("1" * 32, hot, kind="temp", site="oral")
    assert alerts(bench.give(In(OBS, encode(msgspec.structs.replace(sent, uncertainty_ms=999_000))))) == []
    assert alerts(bench.give(In(OBS, encode(msgspec.structs.replace(sent, id="2" * 32))))) == ["temp high"]


@pytest.mark.parametrize(
    "wrong", [{"age": 10**400}, {"age": -1}, {"age_days": 10**400}, {"version": 2**60}, {"expires": 2**80}]
)
def test_an_association_no_board_sends_is_refused_and_the_one_before_stands(
    bench: Bench, wrong: dict[str, int]
) -> None:
    bench.bind(visit="visit-2", **{"version": 2, **wrong})
    assert sum(bench.pipeline.refused.values()) == 1
    assert shown(bench.obs())[0].assoc_version == 1


def test_the_alarms_of_an_earlier_visit_are_not_raised_by_its_late_readings(bench: Bench) -> None:
    bench.now = T0 + 600 * NS
    bench.bind(visit="visit-2", version=2, since=bench.now)
    late = bench.obs("1" * 32, bp(190, 90), t=T0 + 300 * NS)
    assert shown(late)[0].assoc_version == 1
    assert alerts(late) == []
    assert alerts(bench.obs("2" * 32, bp(190, 90), t=bench.now)) == ["bp high"]
    assert bench.pipeline.alerts.active()[0][1].assoc_version == 2


def test_a_corrected_visit_keeps_its_alarms_by_their_new_version(bench: Bench) -> None:
    bench.obs("1" * 32, bp(190, 90))
    assert alerts(bench.bind(version=2)) == ["bp high"]
    assert bench.pipeline.alerts.active()[0][1].assoc_version == 2
    assert alerts(bench.bind(version=2)) == []


@pytest.mark.parametrize("first", ["alert", "association"])
def test_an_alarm_left_by_another_visit_ends_whichever_is_heard_first(first: str) -> None:
    bench = Bench()
    associated = In(ASSOC, encode(adult(visit="visit-2", version=2)), True)
    retained = [left(assoc_version=1), associated] if first == "alert" else [associated, left(assoc_version=1)]
    assert [word for message in retained for word in alerts(bench.give(message))] == ["spo2 over"]
    assert alerts(bench.give(left("temp", assoc_version=2))) == []
    assert [a.id for _, a in bench.pipeline.alerts.active()] == ["temp"]


def test_one_mild_reading_before_the_retained_alarm_does_not_end_it(bench: Bench) -> None:
    retained = left("bp", metric="bp_sys", assoc_version=1)
    bench.obs("1" * 32, bp(118, 76))
    assert alerts(bench.give(retained)) == []
    assert [a.priority for _, a in bench.pipeline.alerts.active()] == ["high"]
    assert alerts(bench.obs("2" * 32, bp(118, 76))) == ["bp over"]
    assert alerts(bench.give(retained)) == ["bp over"], "this session ended it: what comes back is old"


def test_a_retained_alarm_is_put_back_when_a_milder_one_overwrote_it(bench: Bench) -> None:
    assert alerts(bench.obs("1" * 32, bp(150, 76))) == ["bp med"]
    assert alerts(bench.give(left("bp", assoc_version=1))) == ["bp high"]
    assert alerts(bench.obs("2" * 32, bp(150, 76))) == ["bp med"]
    assert alerts(bench.give(left("bp", assoc_version=1))) == []


def test_evaluations_name_the_reading_they_are_of(bench: Bench) -> None:
    raw, evaluation = bench.obs().rows
    assert isinstance(raw, ObservationRow) and isinstance(evaluation, EvaluationRow)
    assert evaluation.reading == raw.message


@pytest.mark.parametrize(("seconds", "late"), [(0, 0), (60, 0), (61, 61), (245, 245)])
def test_late(bench: Bench, seconds: int, late: int) -> None:
    bench.now = T0 + seconds * NS
    assert shown(bench.obs())[0].late_s == late


def test_a_late_reading_of_the_visit_that_goes_on_alarms_and_says_that_it_is_late(bench: Bench) -> None:
    bench.now = T0 + 245 * NS
    work = bench.obs(quantities=bp(190, 90))
    assert (shown(work)[0].late_s, shown(work)[0].historical) == (245, False)
    assert alerts(work) == ["bp high"]


def test_the_next_visit_ends_the_alerts_of_the_last(bench: Bench) -> None:
    """In one batch as well: the reading before the change belongs to the visit before."""
    work = bench.give(
        In(OBS, encode(observation(quantities=bp(190, 90)))), In(ASSOC, encode(adult(visit="visit-2", version=2)))
    )
    assert alerts(work) == ["bp high", "bp over"]


# ---- EKG -----------------------------------------------------------------------------------------------------------


def ekg(bench: Bench, strips: list) -> Work:
    bench.now = strips[-1].t0 + NS
    return bench.give(In(STRIP, encode(strips)))


def test_strips_give_a_heart_rate_once_a_second(bench: Bench) -> None:
    strips = beating(135, 20)
    work = ekg(bench, strips)
    messages = shown(work)
    assert len(messages) == 20
    last = messages[-1]
    assert last.derived and last.kind == "ekg" and last.device == "ekg-1"
    assert last.values["hr_ekg"].value == 135
    assert last.values["hr_ekg"].flag is not None and last.values["hr_ekg"].flag.level == "critical"
    assert last.t == strips[-1].t0 + NS
    assert alerts(work) == ["pulse high"]
    assert sum(isinstance(row, StripRow) for row in work.rows) == 20
    assert sum(isinstance(row, EvaluationRow) for row in work.rows) == 20
    assert messages[0].values["hr_ekg"].not_evaluated == "waiting for beats"


def test_resent_strips_are_stored_and_nothing_else(bench: Bench) -> None:
    strips = beating(75, 5)
    ekg(bench, strips)
    again = ekg(bench, strips)
    assert again.publish == []
    assert {type(row) for row in again.rows} == {StripRow}
    assert len(again.claims) == 5


def test_lead_off_is_said(bench: Bench) -> None:
    work = ekg(bench, [strip(0, lead_off=True)])
    value = shown(work)[0].values["hr_ekg"]
    assert (value.value, value.not_evaluated) == (None, "lead off")


def test_missing_ekg_is_an_event_with_its_size(bench: Bench) -> None:
    """12.3 s between the last strip of one link-up and the first of the next."""
    ekg(bench, [strip(0), strip(11, stream="s2", t0=T0 + round(13.3 * NS))])
    assert bench.pipeline.streams.missing() == {"gateway-1/ekg-1/ekg": pytest.approx(12.3)}
    (row,) = bench.pipeline.tick(bench.now + 21 * NS).rows
    assert isinstance(row, EventRow)
    assert (row.message.code, row.message.detail) == ("ekg_gap", "12.3 s of ekg not received")
    assert row.address == ("gateway-1", "4", "ekg-1")
    assert bench.pipeline.tick(bench.now + 90 * NS).rows == []


def test_missing_simulated_ekg_is_simulated(bench: Bench) -> None:
    ekg(bench, [msgspec.structs.replace(s, simulated=True) for s in (strip(0), strip(1000))])
    (row,) = bench.pipeline.tick(bench.now + 21 * NS).rows
    assert isinstance(row, EventRow) and row.message.simulated


def test_a_recording_from_a_devices_memory_is_never_live_and_never_alarms(bench: Bench) -> None:
    work = ekg(bench, [msgspec.structs.replace(s, historical=True) for s in beating(180, 20)])
    assert work.publish == []
    rows = [row.message for row in work.rows if isinstance(row, EvaluationRow)]
    assert len(rows) == 20 and all(message.historical for message in rows)
    assert rows[-1].values["hr_ekg"].value == 180


def test_a_backlog_behind_a_fresh_strip_is_evaluated_and_not_shown(bench: Bench) -> None:
    strips = beating(75, 30)
    ekg(bench, [strips[0], strips[29]])
    work = ekg(bench, strips[1:29])
    assert work.publish == []
    rows = [row.message.values["hr_ekg"] for row in work.rows if isinstance(row, EvaluationRow)]
    assert len(rows) == 28
    assert rows[-1].value == 75


# ---- our own faults ----------------------------------------------------------------------------------------------


def test_a_reading_that_cannot_be_evaluated_takes_no_other_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Evaluator.evaluate

    def buggy(self: Evaluator, readings: list[Reading]) -> object:
        if any("spo2" in reading.quantities for reading in readings):
            raise OverflowError("our bug")
        return whole(self, readings)

    monkeypatch.setattr(Evaluator, "evaluate", buggy)
    work = bench.give(
        In(OBS, encode(observation("1" * 32, {"spo2": q(80, "%")}))),
        In(OBS, encode(observation("2" * 32, bp(190, 90)))),
    )
    bad, good = shown(work)
    assert (bad.values["spo2"].value, bad.values["spo2"].not_evaluated) == (80, "internal error")
    assert good.values["bp_sys"].flag is not None and alerts(work) == ["bp high"]
    assert bench.pipeline.refused == {"not evaluated: internal error": 1}


def test_what_a_failed_batch_had_gathered_is_shown_and_alarmed_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch fails at its fifth message; given again one by one, nothing of the others is missing or twice."""
    strips = beating(135, 20)
    messages = [
        In(OBS, encode(observation("1" * 32, bp(190, 90)))),
        In(ASSOC, encode(adult(version=2)), True),
        In(STRIP, encode(strips)),
        In(OBS, encode(observation("3" * 32))),
        In(EVENT, encode(event())),
        In(OBS, encode(observation("2" * 32, bp(190, 90)))),
    ]
    whole = Pipeline._from_device

    def buggy(self: Pipeline, number: int, up: Up, *more: object) -> None:
        if up.leaf == "event":
            raise KeyError("our bug")
        whole(self, number, up, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "_from_device", buggy)
    bench.now = strips[-1].t0 + NS
    with pytest.raises(KeyError):
        bench.give(*messages)
    works = [bench.give(message) for message in messages if message.topic != EVENT]
    told = [m for work in works for m in shown(work)]
    assert [m.id for m in told if not m.derived] == ["1" * 32, "3" * 32, "2" * 32]
    rows = [row.message for work in works for row in work.rows if isinstance(row, EvaluationRow)]
    assert sorted(m.id for m in rows if not m.derived) == ["1" * 32, "2" * 32, "3" * 32]
    assert sum(m.derived for m in told) == 20
    assert [word for work in works for word in alerts(work)] == ["bp high", "bp high", "pulse high"]


# ---- devices and retained states ---------------------------------------------------------------------------------


def status(state: str, reason: str = "") -> In:
    return In(STATUS, encode(DeviceStatus(1, "s1", state, T0, reason)), True)  # type: ignore[arg-type]


def test_a_lost_device_and_an_offline_gateway(bench: Bench) -> None:
    birth = DeviceBirth(1, "s1", "bp_gatt", "Cuff", "ble", ("bp_sys",), DeviceInfo(), True)
    bench.give(In(BIRTH, encode(birth), True))
    assert alerts(bench.give(status("lost", "unplugged"))) == ["device-cuff-1 low"]
    assert bench.pipeline.alerts.active()[0][1].simulated
    assert alerts(bench.give(status("online"))) == ["device-cuff-1 over"]
    assert alerts(bench.give(In(GATEWAY, encode(GatewayStatus(1, "s1", False, T0)), True))) == ["device-cuff-1 low"]
    assert alerts(bench.give(In(GATEWAY, encode(GatewayStatus(1, "s2", True, T0))))) == ["device-cuff-1 over"]
    assert alerts(bench.give(status("lost"), In(STATUS, b""))) == ["device-cuff-1 low", "device-cuff-1 over"]


def left(key: str = "spo2", **more: object) -> In:
    alert = msgspec.structs.replace(AlertMessage(1, key, "high", False, "spo2", "SpO2: low", T0), **more)
    return In(TOPICS.alert("4", key), encode(alert), True)


def test_alerts_of_an_earlier_session_live_on(bench: Bench) -> None:
    assert alerts(bench.give(left())) == []
    assert [p.topic for p in bench.pipeline.retained()] == [TOPICS.alert("4", "spo2")]


def test_a_retained_alert_that_is_over_meanwhile_is_ended_again(bench: Bench) -> None:
    bench.obs("1" * 32, bp(190, 90))
    bench.give(In(ASSOC, b""))
    assert alerts(bench.give(left("bp"))) == ["bp over"]
    bench.give(status("online"))
    assert alerts(bench.give(left("device-cuff-1", technical=True, device="cuff-1"))) == ["device-cuff-1 over"]
    assert alerts(bench.give(left("hr_ekg", simulated=True))) == ["hr_ekg over"]
    # Our own alerts, coming back as we publish them, say nothing.
    assert bench.give(left("temp")._replace(retain=False)).publish == []


def test_data_only_shows_everything_and_flags_nothing() -> None:
    bench = Bench("data-only")
    bench.bind()
    work = bench.obs(quantities=bp(190, 90))
    assert reason(work) == "flagging is off (data-only profile)"
    assert alerts(work) == []


def test_simulated_readings_alarm_only_where_it_is_said() -> None:
    for said, expected in ((False, []), (True, ["bp high"])):
        bench = Bench(simulated_alarms=said)
        bench.bind()
        assert alerts(bench.obs(quantities=bp(190, 90), simulated=True)) == expected


# ---- properties ----------------------------------------------------------------------------------------------------

topics = st.one_of(
    st.sampled_from([OBS, STRIP, EVENT, STATUS, BIRTH, GATEWAY, ASSOC, TOPICS.alert("4", "spo2")]), st.text()
)
valid = [
    encode(observation()), encode([observation(), observation("b" * 32)]), encode(strip()), encode(event()),
    encode(adult()), status("lost").payload, encode(GatewayStatus(1, "s", True, T0)), left().payload,
]  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A valid payload with some bytes changed, cut, or doubled; or any bytes."""
    payload = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.integers(0, len(payload)))]) if draw(st.booleans()) else bytes(payload)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batch=st.lists(st.tuples(topics, st.one_of(spoiled(), st.binary(max_size=60)), st.booleans()), max_size=6))
def test_no_bytes_on_any_topic_raise(batch: list[tuple[str, bytes, bool]]) -> None:
    bench = Bench()
    work = bench.give(*[In(*message) for message in batch])
    for claim in work.claims:
        assert claim.row is None or 0 <= claim.row < len(work.rows)
    for publication in work.publish:
        publication.topic.encode()
    bench.pipeline.tick(bench.now + 100 * NS)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_the_door_accounts_for_every_payload(payload: bytes) -> None:
    for kind in (OBSERVATIONS, STRIPS):
        good, refusals = kind.admit(payload)
        assert good or refusals or payload in (b"[]", b"\x90")
