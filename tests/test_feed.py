"""The board's state and feed without broker or browser: messages in, numbered changes out."""

import asyncio
import json
import socket
import struct
import threading
from typing import Any

import msgspec
import numpy as np
import pytest
from starlette.requests import Request

from dashboards import app
from dashboards.app import Board, listen, serve, subscriptions
from dashboards.feed import MAX_EKG, MAX_JSON, Client, Feed
from dashboards.history import rows
from dashboards.visits import LEASE_S, RENEW_S
from ingest.store.contract import HistoryPoint
from tests.browser import clinic
from vitals.clock import NS, NS_PER_MS, ManualClock, SystemClock
from vitals.errors import PortTaken
from vitals.messages import AssociationMessage, FlaggedMessage, IngestStatus, encode
from vitals.model import Context, Validity


class Flag:
    """Stands in for asyncio.Event."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True


class Bench:
    """A board on a manual clock, and one page reading its queue."""

    def __init__(self, rooms: int = 4) -> None:
        self.clock = ManualClock()
        self.board = Board(clinic.settings(rooms), self.clock)
        self.feed: Feed = self.board.feed
        self.page = self.join()
        self.read()

    @property
    def now(self) -> int:
        return self.clock.now()

    def join(self) -> Client:
        return self.feed.join(self.now, Flag(), Flag())

    def put(self, *messages: tuple[str, bytes]) -> list[dict[str, Any]]:
        self.feed.receive(messages, self.now)
        return self.read()

    def read(self, page: Client | None = None) -> list[dict[str, Any]]:
        queue = (page or self.page).json
        found = [json.loads(text) for text in queue]
        queue.clear()
        return found

    def obs(self, room: str = "1") -> dict[str, Any]:
        snapshot = json.loads(json.dumps(self.feed.snapshot(self.now), default=_plain))
        found: dict[str, Any] = next(item for item in snapshot["rooms"] if item["id"] == room)["obs"]
        return found


def _plain(struct_: Any) -> Any:
    return msgspec.to_builtins(struct_)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def bp(sys: float | None, dia: float | None, f: str | None = "N", **more: Any) -> dict[str, Any]:
    return {"bp_sys": clinic.value("bp_sys", sys, f, **more), "bp_dia": clinic.value("bp_dia", dia, "N", **more)}


def temp(bench: Bench, at: int, value: float, site: str = "") -> None:
    context = Context(site=site)
    bench.put(
        clinic.flagged("1", at, {"temp": clinic.value("temp", value, "N")}, device=site or "board", context=context)
    )


def shown_temp(bench: Bench) -> float:
    return bench.board.rooms.rooms["1"].obs["temp"].v  # type: ignore[return-value]


def test_a_thermometer_is_not_hidden_by_a_probe_that_reports_each_second(bench: Bench) -> None:
    minute = 60 * NS
    bench.clock.advance(3600)
    temp(bench, bench.now, 36.0)
    temp(bench, bench.now - 5 * NS, 37.5, "oral")
    assert shown_temp(bench) == 99.5, "taken a little before, but taken properly"
    for _ in range(30):
        bench.clock.advance(60)
        temp(bench, bench.now, 36.1)
    assert shown_temp(bench) == 99.5
    temp(bench, bench.now, 38.0, "oral")
    assert shown_temp(bench) == 100.4
    bench.clock.advance(61 * 60)
    temp(bench, bench.now, 36.2)
    assert shown_temp(bench) == 97.2, "an old one stands against nothing"
    temp(bench, bench.now - 90 * minute, 39.0, "oral")
    assert shown_temp(bench) == 97.2


# -- readings ----------------------------------------------------------------------------------------------------


def test_blood_pressure_is_one_reading_with_the_worst_flag_of_its_parts(bench: Bench) -> None:
    (message,) = bench.put(clinic.flagged("1", bench.now, bp(164, 88, "H", limit="≥ 140/90")))
    reading = message["obs"]["bp"]
    assert (reading["v"], reading["u"], reading["f"], reading["lv"]) == ([164, 88], "mmHg", "H", "abnormal")
    assert reading["parts"]["sys"]["f"] == "H"
    assert reading["parts"]["dia"]["f"] == "N"
    assert reading["why"]["limit"] == "≥ 140/90"
    assert reading["why"]["rule"] == "bp_sys-h"


def test_blood_pressure_half_checked_is_not_normal(bench: Bench) -> None:
    values = {"bp_sys": clinic.value("bp_sys", 118, None, ne="age is not known"), "bp_dia": clinic.value("bp_dia", 70)}
    (message,) = bench.put(clinic.flagged("1", bench.now, values))
    assert "f" not in message["obs"]["bp"]
    assert message["obs"]["bp"]["ne"] == "age is not known"


@pytest.mark.parametrize(("celsius", "shown"), [(38.0, 100.4), (37.25, 99.1), (36.6, 97.9), (39.777, 103.6)])
def test_temperature_is_converted_for_display_and_rounded_half_up(bench: Bench, celsius: float, shown: float) -> None:
    (message,) = bench.put(clinic.flagged("1", bench.now, {"temp": clinic.value("temp", celsius)}))
    assert (message["obs"]["temp"]["v"], message["obs"]["temp"]["u"]) == (shown, "°F")


def test_no_value_has_a_reason_and_is_never_a_number(bench: Bench) -> None:
    nothing = clinic.value("spo2", None, None, ne="finger out", validity=Validity.NOT_A_NUMBER)
    (message,) = bench.put(clinic.flagged("1", bench.now, {"spo2": nothing}))
    reading = message["obs"]["spo2"]
    assert (reading["v"], reading["reason"], reading["ne"]) == (None, "no result", "finger out")


def test_beyond_the_meter_keeps_its_comparator(bench: Bench) -> None:
    high = clinic.value("glu", 600, "HH", comparator=">", validity=Validity.ABOVE_RANGE)
    (message,) = bench.put(clinic.flagged("1", bench.now, {"glu": high}))
    assert (message["obs"]["glu"]["v"], message["obs"]["glu"]["cmp"]) == (600, ">")
    assert "reason" not in message["obs"]["glu"]


def test_noise_greys_only_what_no_rule_judged(bench: Bench) -> None:
    judged, unjudged = clinic.value("spo2", 84, "LL"), clinic.value("pulse_oximeter", 90, None, ne="noisy")
    values = {"spo2": judged, "pulse_oximeter": unjudged}
    (message,) = bench.put(clinic.flagged("1", bench.now, values, quality=("motion",)))
    assert message["obs"]["pulse_oximeter"]["q"] == "artefact"
    assert "q" not in message["obs"]["spo2"]


@pytest.mark.parametrize(("key", "value"), [("hr_ekg", 1e30), ("temp", -1e15), ("glu", 1e300), ("spo2", 101.0)])
def test_a_value_nobody_can_have_is_refused_before_it_is_rounded(bench: Bench, key: str, value: float) -> None:
    values = {key: clinic.value(key, value), "weight": clinic.value("weight", 70)}
    bench.put(clinic.flagged("1", bench.now, values))
    assert bench.board.rooms.services.faults == {"value no living patient has": 1}
    assert (bench.obs()[key]["v"], bench.obs()[key]["reason"]) == (None, "invalid")
    assert bench.obs()["weight"]["v"] == 70


def test_a_cuff_pressure_nobody_can_have_is_refused_and_its_time_is_never_ahead(bench: Bench) -> None:
    bench.put(clinic.cuff("1", bench.now, 1e30))
    assert "cuff_pressure" not in bench.obs()
    bench.put(clinic.cuff("1", bench.now + 60 * NS, 120))
    assert bench.obs()["cuff_pressure"]["ts"] == bench.now // NS_PER_MS


def test_a_time_that_is_not_sure_says_so(bench: Bench) -> None:
    glucose = {"glu": clinic.value("glu", 100)}
    (sure,) = bench.put(clinic.flagged("1", bench.now, glucose, uncertainty_ms=120_000))
    assert "unsure" not in sure["obs"]["glu"]
    bench.clock.advance(1)
    (unsure,) = bench.put(clinic.flagged("1", bench.now, glucose, uncertainty_ms=120_001))
    assert unsure["obs"]["glu"]["unsure"] is True


def test_texts_are_cut_and_never_turn_the_writing_around(bench: Bench) -> None:
    (message,) = bench.put(clinic.alert("1", "a", bench.now, "low", "\u202eeno\u2066" + "x" * 500, metric=""))
    text = message["alarm"]["txt"]
    assert text.startswith("enox")
    assert len(text) <= 200
    (room,) = bench.put(clinic.birth("1", "cuff", "\u202b" + "B" * 900, ("bp_sys",)))
    assert len(room["room"]["dev"][0]["title"]) <= 200
    assert "\u202b" not in room["room"]["dev"][0]["title"]


def test_what_a_device_said_is_in_units_people_read(bench: Bench) -> None:
    values = {"temp": clinic.value("temp", 37.0, raw_unit="Cel")}
    (message,) = bench.put(clinic.flagged("1", bench.now, values))
    assert message["obs"]["temp"]["raw"] == "37.0 °C"


def test_older_and_historical_readings_never_move_the_tile(bench: Bench) -> None:
    bench.put(clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 100)}))
    assert bench.put(clinic.flagged("1", bench.now - 60 * NS, {"glu": clinic.value("glu", 90)})) == []
    bench.clock.advance(2)
    later = clinic.flagged("1", bench.now - NS, {"glu": clinic.value("glu", 80)}, historical=True)
    assert bench.put(later) == []
    assert bench.obs()["glu"]["v"] == 100
    assert [reading.v for reading in bench.board.rooms.history("1", 0)] == [90, 100, 80]


def test_the_same_reading_twice_is_ignored_and_a_new_judgement_is_not(bench: Bench) -> None:
    values = {"spo2": clinic.value("spo2", 92)}
    assert len(bench.put(clinic.flagged("1", bench.now, values, id="x"))) == 1
    assert bench.put(clinic.flagged("1", bench.now, values, id="x")) == []
    again = {"spo2": clinic.value("spo2", 92, "L")}
    (message,) = bench.put(clinic.flagged("1", bench.now, again, id="x", assoc_version=2))
    assert message["obs"]["spo2"]["f"] == "L"
    stale = {"spo2": clinic.value("spo2", 92, None)}
    assert bench.put(clinic.flagged("1", bench.now, stale, id="x", assoc_version=1)) == []


def test_a_reading_from_the_future_ages_from_its_arrival(bench: Bench) -> None:
    (message,) = bench.put(clinic.flagged("1", bench.now + 3600 * NS, {"spo2": clinic.value("spo2", 97)}))
    assert message["obs"]["spo2"]["ts"] == bench.now // NS_PER_MS


def test_a_late_reading_is_shown_and_says_so(bench: Bench) -> None:
    values = {"temp": clinic.value("temp", 37.0)}
    (message,) = bench.put(clinic.flagged("1", bench.now - 250 * NS, values, late_s=250))
    assert message["obs"]["temp"]["late"] == 250


def test_a_list_of_messages_is_one_payload(bench: Bench) -> None:
    pack = [
        FlaggedMessage(
            1, f"l{n}", "g", "d", "x", "spot", bench.now + n, 0, bench.now, {"glu": clinic.value("glu", 90 + n)}
        )
        for n in range(3)
    ]
    bench.put((clinic.TOPICS.flagged("2"), encode(pack)))
    assert bench.obs("2")["glu"]["v"] in (90, 91, 92)


def test_cuff_pressure_is_for_eyes_only(bench: Bench) -> None:
    (message,) = bench.put(clinic.cuff("1", bench.now, 143))
    assert message["obs"]["cuff_pressure"]["v"] == 143
    assert bench.board.rooms.history("1", 0) == []


# -- merging and counting ----------------------------------------------------------------------------------------


def test_a_continuous_value_that_comes_each_second_never_waits(bench: Bench) -> None:
    for number in (97, 98, 97):
        bench.clock.advance(1)
        bench.feed.flush()
        (message,) = bench.put(clinic.flagged("1", bench.now, {"spo2": clinic.value("spo2", number)}))
        assert message["obs"]["spo2"]["v"] == number


def test_one_value_that_was_told_keeps_no_other_waiting(bench: Bench) -> None:
    for key in ("spo2", "rr"):
        bench.put(clinic.flagged("1", bench.now, {key: clinic.value(key, 20)}))
    bench.clock.advance(1)
    bench.feed.flush()
    bench.put(clinic.flagged("1", bench.now, {"rr": clinic.value("rr", 21)}))
    (message,) = bench.put(clinic.flagged("1", bench.now, {"spo2": clinic.value("spo2", 21)}))
    assert list(message["obs"]) == ["spo2"]


def test_continuous_values_that_come_faster_are_merged_and_flag_changes_are_not(bench: Bench) -> None:
    bench.put(clinic.flagged("1", bench.now, {"spo2": clinic.value("spo2", 97)}))
    for _ in range(5):
        bench.clock.advance(0.05)
        assert bench.put(clinic.flagged("1", bench.now, {"spo2": clinic.value("spo2", 96)})) == []
    bench.feed.flush()
    assert len(bench.read()) == 1
    bench.clock.advance(0.05)
    (message,) = bench.put(clinic.flagged("1", bench.now, {"spo2": clinic.value("spo2", 84, "LL")}))
    assert message["obs"]["spo2"]["f"] == "LL"


def test_every_event_has_the_next_number_and_the_heartbeat_names_it(bench: Bench) -> None:
    start = bench.feed.feed_seq
    for glucose in (90, 91, 92):
        bench.clock.advance(1)
        bench.put(clinic.flagged("1", bench.now, {"glu": clinic.value("glu", glucose)}))
    page = bench.join()
    assert bench.read(page)[0]["seq"] == start + 3
    bench.clock.advance(1)
    bench.put(clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 93)}))
    (event,) = bench.read(page)
    bench.feed.beat(bench.now)
    beat = bench.read(page)[-1]
    assert (event["seq"], beat["t"], beat["seq"]) == (start + 4, "hb", bench.feed.feed_seq)


def test_resync_gives_a_snapshot_and_drops_what_waited(bench: Bench) -> None:
    bench.feed.receive([clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 90)})], bench.now)
    bench.feed.answer(bench.page, '{"t":"sub","resync":true}', bench.now)
    (snapshot,) = bench.read()
    assert (snapshot["t"], snapshot["v"], snapshot["seq"]) == ("snap", 1, bench.feed.feed_seq)
    assert snapshot["boot"] == bench.feed.boot
    assert snapshot["policy"]["spo2"] == {"stale": 15, "gone": 300}
    assert snapshot["policy"]["bp"] == {"stale": 3600, "gone": 0}
    assert snapshot["policy"]["pulse_cuff"] == {"stale": 300, "gone": 0}
    assert snapshot["policy"]["down"] == {"stale": 1, "gone": 0}
    assert snapshot["tz"] == "UTC"


def test_a_page_that_keeps_asking_gets_one_snapshot_a_second(bench: Bench) -> None:
    for _ in range(50):
        bench.feed.answer(bench.page, '{"t":"sub","resync":true}', bench.now)
    assert [message["t"] for message in bench.read()] == ["snap"]
    bench.feed.answer(bench.page, '{"t":"sub","resync":true}', bench.now)
    bench.feed.beat(bench.now)
    assert [message["t"] for message in bench.read()] == ["snap", "hb"]
    bench.clock.advance(1)
    bench.feed.beat(bench.now)
    assert [message["t"] for message in bench.read()] == ["hb"]
    bench.feed.answer(bench.page, '{"t":"sub","resync":true}', bench.now)
    assert [message["t"] for message in bench.read()] == ["snap"]


def test_a_hidden_page_gets_nothing_and_then_a_snapshot(bench: Bench) -> None:
    bench.feed.answer(bench.page, '{"t":"sub","hidden":true}', bench.now)
    assert bench.put(clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 90)})) == []
    bench.feed.receive([clinic.strip("1", bench.now, 0, np.zeros(25))], bench.now)
    bench.feed.send_frame(bench.now)
    assert not bench.page.ekg
    bench.feed.answer(bench.page, '{"t":"sub","hidden":false}', bench.now)
    assert [message["t"] for message in bench.read()] == ["snap"]


def test_ping_is_answered_and_rubbish_is_not(bench: Bench) -> None:
    for rubbish in ("", "[]", "{", '{"t":"drop table"}', '{"t":5}', "[" * 16_000, '{"t":' + "[" * 16_000):
        bench.feed.answer(bench.page, rubbish, bench.now)
    bench.feed.answer(bench.page, '{"t":"ping","id":7}', bench.now)
    assert bench.read() == [{"t": "pong", "id": 7, "now": bench.now / 1e6}]


def test_a_page_that_does_not_read_is_given_up_and_others_are_not(bench: Bench) -> None:
    slow = bench.join()
    for _ in range(MAX_JSON + 10):
        bench.clock.advance(1)
        bench.put(clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 90)}))
    assert slow.overloaded
    assert slow.give_up.is_set  # type: ignore[attr-defined]
    assert len(slow.json) == 0
    assert not bench.page.overloaded


def test_ekg_frames_past_ten_are_dropped_oldest_first(bench: Bench) -> None:
    for number in range(MAX_EKG + 5):
        bench.feed.receive([clinic.strip("1", bench.now, number * 25, np.zeros(25))], bench.now)
        bench.feed.send_frame(bench.now)
    assert len(bench.page.ekg) == MAX_EKG
    assert bench.page.ekg_dropped == 5
    assert struct.unpack_from("<I", bench.page.ekg[-1], 4)[0] == MAX_EKG + 5


# -- EKG ---------------------------------------------------------------------------------------------------------


def frame(bench: Bench) -> tuple[Any, ...]:
    """Block header and samples of the only block of the next frame."""
    bench.page.ekg.clear()
    bench.feed.send_frame(bench.now)
    data = bench.page.ekg[-1]
    kind, version, blocks, _number, server_ms = struct.unpack_from("<BBHId", data)
    assert (kind, version, blocks, server_ms) == (1, 1, 1, bench.now / NS_PER_MS)
    room, lead, flags, n, rate, index, offset = struct.unpack_from("<HBBHHIi", data, 16)
    samples = np.frombuffer(data, "<i2", n, 32)
    assert len(data) % 4 == 0
    return room, lead, flags, rate, index, offset, samples


def test_a_frame_carries_true_times_and_microvolts(bench: Bench) -> None:
    bench.put(clinic.strip("2", bench.now - 100 * NS_PER_MS, 500, np.full(25, 1000.0)))
    room, lead, flags, rate, index, offset, samples = frame(bench)
    assert (room, lead, flags, rate, index, offset) == (1, 2, 8, 250, 500, -100_000)
    assert (samples * 2.5 == 1000).all()


def test_a_gap_is_marked_and_a_sequel_is_not(bench: Bench) -> None:
    flags = []
    for index, lost in ((0, 0), (25, 0), (75, 0), (100, 12)):
        bench.put(clinic.strip("1", bench.now, index, np.zeros(25), lost_before=lost))
        flags.append(frame(bench)[2])
    assert flags == [8, 0, 8, 8]


def test_lead_off_and_uncalibrated_are_told(bench: Bench) -> None:
    bench.put(clinic.strip("1", bench.now, 0, np.zeros(25), lead_off=True))
    assert frame(bench)[2] & 1
    bench.clock.advance(5)
    (room,) = bench.put(clinic.strip("1", bench.now, 0, np.repeat([0.0, 700.0], [13, 12]), scale=None))
    assert room["room"]["ekg"]["cal"] is False
    assert (frame(bench)[6][13:] == 700).all()


def test_counts_too_large_for_sixteen_bit_are_divided_by_a_power_of_two(bench: Bench) -> None:
    big = np.full(25, 100_000.0)
    message = clinic.strip("1", bench.now, 0, np.zeros(25), scale=None)
    bench.put(message)
    pack = msgspec.msgpack.decode(message[1]) | {"dtype": "<i4", "block": big.astype("<i4").tobytes()}
    (room,) = bench.put((message[0], msgspec.msgpack.encode(pack)))
    assert room["room"]["ekg"]["div"] == 4
    data = bench.board.rooms.take_blocks()
    assert (data[-1].samples == 25_000).all()


def test_one_trace_a_room_lead_two_first(bench: Bench) -> None:
    bench.put(clinic.strip("1", bench.now, 0, np.zeros(25), lead="V1"))
    bench.put(clinic.strip("1", bench.now, 0, np.zeros(25), lead="II"))
    bench.put(clinic.strip("1", bench.now, 0, np.zeros(25), lead="V1"))
    assert bench.feed.snapshot(bench.now)["rooms"][0]["ekg"]["lead"] == "II"
    assert len(bench.board.rooms.take_blocks()) == 2


@pytest.mark.parametrize("seconds", [-90, -31, 1.1, 20, 29])
def test_samples_of_another_time_are_counted_not_drawn(bench: Bench, seconds: float) -> None:
    (message,) = bench.put(clinic.strip("1", bench.now + round(seconds * NS), 0, np.zeros(25)))
    assert message["sys"]["faults"] == {"EKG whose time is far from ours": 1}
    assert bench.board.rooms.take_blocks() == []


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0.4}, {"rate": float("nan")}, {"rate": 1e9}, {"scale": 0.0}, {"scale": -5.0}, {"scale": float("inf")}],
)
def test_a_pack_without_a_rate_or_scale_is_counted_not_drawn(bench: Bench, wrong: dict[str, float]) -> None:
    message = clinic.strip("1", bench.now, 0, np.zeros(25))
    pack = msgspec.msgpack.decode(message[1]) | wrong
    bench.put((message[0], msgspec.msgpack.encode(pack)))
    assert bench.board.rooms.take_blocks() == []
    assert bench.board.rooms.services.faults == {"message that cannot be read": 1}
    assert bench.board.rooms.rooms["1"].trace is None


# -- alarms, devices, services -----------------------------------------------------------------------------------


def test_an_alert_lives_from_its_message_to_the_empty_one(bench: Bench) -> None:
    (message,) = bench.put(clinic.alert("2", "spo2", bench.now, "high", "SpO₂ 84 %", "< 88"))
    assert (message["alarm"]["id"], message["alarm"]["pr"], message["alarm"]["lim"]) == ("2/spo2", "high", "< 88")
    assert bench.put(clinic.alert("2", "spo2", bench.now, "high", "SpO₂ 84 %", "< 88")) == []
    assert len(bench.feed.snapshot(bench.now)["alarms"]) == 1
    (ended,) = bench.put(clinic.alert_end("2", "spo2"))
    assert ended["alarm"]["ended"] is not None
    assert bench.feed.snapshot(bench.now)["alarms"] == []
    assert bench.put(clinic.alert_end("2", "spo2")) == []


@pytest.mark.parametrize(
    ("metric", "text", "shown"),
    [
        ("hr_device", "Heart rate (device): low", "Pulse low"),
        ("bp_sys", "Systolic: severe", "BP severe"),
        ("spo2", "SpO2: low", "SpO₂ low"),
        ("spo2", "SpO₂ 84 %", "SpO₂ 84 %"),
    ],
)
def test_an_alert_is_worded_as_the_tile_is(bench: Bench, metric: str, text: str, shown: str) -> None:
    (message,) = bench.put(clinic.alert("2", "a", bench.now, "high", text, metric=metric))
    assert message["alarm"]["txt"] == shown


def test_alerts_that_ended_while_the_broker_was_away_end_here_too(bench: Bench) -> None:
    bench.feed.link(True, "", bench.now)
    bench.put(clinic.alert("1", "a", bench.now, "high", "A"), clinic.alert("1", "b", bench.now, "high", "B"))
    bench.feed.link(False, "connection lost", bench.now)
    bench.feed.link(True, "", bench.now)
    bench.put(clinic.alert("1", "b", bench.now, "high", "B"))
    bench.clock.advance(6)
    bench.feed.beat(bench.now)
    ended = [message["alarm"]["id"] for message in bench.read() if message["t"] == "alarm"]
    assert ended == ["1/a"]


def test_a_device_of_an_offline_gateway_is_unreachable(bench: Bench) -> None:
    bench.put(clinic.gateway(bench.now), clinic.birth("1", "cuff", "BP cuff", ("bp_sys", "bp_dia"), 72))
    (room,) = bench.put(clinic.status("1", "cuff", "lost", bench.now, reason="no answer", faults={"bad_checksum": 2}))
    (device,) = room["room"]["dev"]
    assert (device["state"], device["reason"], device["battery"]) == ("lost", "no answer", 72)
    assert (device["faults"], device["metrics"]) == ({"bad_checksum": 2}, ["bp"])
    changed = bench.put(clinic.gateway(bench.now, online=False))
    assert {message["t"] for message in changed} == {"sys", "room"}
    assert changed[1]["room"]["dev"][0]["state"] == "unreachable"
    assert changed[0]["sys"]["notices"][0]["who"] == clinic.GATEWAY


def test_a_gateway_is_gone_since_we_saw_it_go(bench: Bench) -> None:
    """Its will carries the time its session began, which is hours ago."""
    begun = bench.now - 5 * 3600 * NS
    bench.put(clinic.gateway(begun), clinic.birth("1", "cuff", "BP cuff", ("bp_sys",), 72))
    bench.clock.advance(600)
    bench.put(clinic.gateway(begun, online=False))
    bench.clock.advance(60)
    services = bench.board.rooms.services
    gone = (bench.now - 60 * NS) // NS_PER_MS
    assert services.trouble(bench.now)["notices"][0]["since"] == gone
    assert services.shown(bench.now)["gateways"][0]["since"] == gone
    assert bench.board.rooms.room_shown("1")["dev"][0]["since"] == gone
    bench.put(clinic.gateway(begun))
    assert services.trouble(bench.now)["notices"] == []


def test_what_a_gateways_disk_cannot_take_is_said(bench: Bench) -> None:
    services = bench.board.rooms.services
    bench.put(clinic.gateway(bench.now))
    assert services.trouble(bench.now)["notices"] == []
    more = {
        "outbox_fault": "database or disk is full", "in_memory": 7, "set_aside": "a damaged outbox was set aside as x",
        "aged_out_strips": 12, "aged_out_s": {"m1/ekg": 4.0, "m1/resp_impedance": 4.0, "m2/ekg": 2.4},
        "aged_out_rows": 3, "foreign_receipts": 2,
    }  # fmt: skip
    changed = bench.put(clinic.gateway(bench.now, **more))
    expected = [
        "cannot write to its disk (database or disk is full): 7 messages wait in its memory, do not switch it off",
        "no room on its disk: 12 strips dropped, 6 s of EKG (m1, m2), and 3 other rows",
        "a damaged outbox was set aside as x",
        "2 receipts of a store that is not ours, ignored",
    ]
    assert [notice["txt"] for notice in changed[0]["sys"]["notices"]] == expected
    assert {notice["who"] for notice in changed[0]["sys"]["notices"]} == {clinic.GATEWAY}
    assert changed[0]["sys"]["gateways"][0]["outbox"] == expected
    bench.put(clinic.gateway(bench.now))
    assert services.trouble(bench.now)["notices"] == []


def test_a_gateway_that_was_gone_before_us_has_no_age(bench: Bench) -> None:
    bench.put(clinic.gateway(bench.now - 5 * 3600 * NS, online=False))
    notice = bench.board.rooms.services.trouble(bench.now)["notices"][0]
    assert (notice["who"], notice["txt"], notice["since"]) == (clinic.GATEWAY, "offline", 0)
    bench.put(clinic.ingest(bench.now - 5 * 3600 * NS, online=False))
    assert bench.board.rooms.services.shown(bench.now)["ingest"]["since"] == 0


def test_a_late_will_of_an_older_session_is_ignored(bench: Bench) -> None:
    bench.put(clinic.gateway(bench.now, session="old"), clinic.gateway(bench.now, session="new"))
    assert bench.put(clinic.gateway(bench.now, session="old", online=False)) == []
    bench.put(clinic.ingest(bench.now, session="new"))
    assert bench.put(clinic.ingest(bench.now, session="old", online=False)) == []


def band(bench: Bench) -> Any:
    return bench.board.rooms.services.trouble(bench.now)["band"]


def test_ingest_down_or_silent_is_a_band(bench: Bench) -> None:
    bench.feed.link(True, "", bench.now)
    bench.clock.advance(6)
    assert band(bench)["txt"] == "the checking service has not been heard of"
    topic, payload = clinic.ingest(bench.now)
    beat = msgspec.json.decode(payload, type=IngestStatus)
    for _ in range(5):
        bench.put((topic, encode(msgspec.structs.replace(beat, now=bench.now))))
        bench.clock.advance(10)
    assert band(bench) is None
    bench.clock.advance(25)
    assert band(bench)["txt"] == "the checking service does not answer"
    bench.put(clinic.ingest(bench.now, online=False))
    assert band(bench)["txt"] == "the checking service is down"


def test_broker_down_is_a_band_and_store_trouble_a_notice(bench: Bench) -> None:
    bench.feed.link(True, "", bench.now)
    message = bench.put(clinic.ingest(bench.now, store_fault="disk full"))[-1]
    assert message["sys"]["notices"][0]["txt"] == "Readings are shown but not stored: disk full"
    bench.feed.link(False, "connection lost: gone", bench.now)
    assert band(bench)["txt"] == "no connection to the message broker"


def test_what_cannot_be_read_is_counted_and_stops_nothing(bench: Bench) -> None:
    topics = clinic.TOPICS
    core = [topics.flagged("1"), topics.alert("1", "x"), topics.ingest_status, topics.gateway_status("g")]
    for topic in (*core, *(topics.up("g", "1", "d", leaf) for leaf in ("birth", "wave", "live"))):  # type: ignore[arg-type]
        bench.put((topic, b"\xff{nonsense"))
    faults = bench.board.rooms.services.faults
    assert faults["message that cannot be read"] == 7
    newer = json.dumps({"v": 9, "epoch": "e", "seq": 1}).encode()
    bench.put((topics.up("g", "1", "d", "live"), newer))
    assert faults["message of a newer version"] == 1
    unknown = {"spo3": clinic.value("spo2", 97)}
    bench.put(clinic.flagged("1", bench.now, unknown))
    assert faults["value of an unknown metric"] == 1


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"\x91"])
def test_deep_nesting_stops_nothing(bench: Bench, opening: bytes) -> None:
    topics = clinic.TOPICS
    deep = opening * (200_000 // len(opening))
    core = [topics.flagged("1"), topics.alert("1", "x"), topics.ingest_status, topics.gateway_status("g")]
    up = [topics.up("g", "1", "d", leaf) for leaf in ("birth", "wave", "live", "status")]  # type: ignore[arg-type]
    bench.put(
        *((topic, deep) for topic in (*core, *up)), clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 9)})
    )
    assert bench.board.rooms.services.faults == {"message that cannot be read": 8}
    assert bench.obs()["glu"]["v"] == 9


def test_a_fault_of_ours_costs_one_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench.board.rooms.apply

    def broken(topic: str, payload: bytes, now: int) -> Any:
        if topic.endswith("/bad"):
            raise AttributeError("a mistake of ours")
        return whole(topic, payload, now)

    monkeypatch.setattr(bench.board.rooms, "apply", broken)
    bench.put(("x/bad", b""), clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 90)}))
    assert bench.board.rooms.services.faults == {"message that broke the board's rules": 1}
    assert bench.obs()["glu"]["v"] == 90


def test_a_room_nobody_configured_gets_a_tile(bench: Bench) -> None:
    (message,) = bench.put(clinic.flagged("annex", bench.now, {"glu": clinic.value("glu", 90)}))
    assert (message["t"], message["room"]["id"], message["room"]["i"]) == ("room", "annex", 4)
    assert message["room"]["patient"] is None


# -- store and visits --------------------------------------------------------------------------------------------


class Store:
    """Three glucose readings and two pressures, minutes ago."""

    def __init__(self, now: int) -> None:
        self.now = now

    def latest(self, room: str) -> list[FlaggedMessage]:
        t = self.now - 7 * 60 * NS
        values = {"glu": clinic.value("glu", 92)}
        return [FlaggedMessage(1, "h2", "g", "d", "x", "spot", t, 0, t, values)] if room == "1" else []

    def history(self, room: str, metric: str, since: int) -> list[HistoryPoint]:
        table: dict[str, list[tuple[int, float, Any]]] = {
            "glu": [(9, 90, "N"), (8, 51, "LL"), (7, 92, "N")],
            "bp_sys": [(5, 164, "H"), (4, 120, "N"), (3, 118, "N")],
            "bp_dia": [(5, 88, "N"), (4, 80, "")],
        }
        points = [(self.now - minutes * 60 * NS, value, f) for minutes, value, f in table.get(metric, [])]
        return [HistoryPoint(t, value, Validity.VALID, f) for t, value, f in points if t >= since]


def test_the_store_fills_the_tiles_at_the_start() -> None:
    clock = ManualClock()
    board = Board(clinic.settings(2), clock, Store(clock.now()))
    board.fill()
    reading = board.rooms.rooms["1"].obs["glu"]
    assert (reading.v, reading.ts) == (92, (clock.now() - 7 * 60 * NS) // NS_PER_MS)


class Switched(Store):
    """A store that may be away."""

    down = True

    def latest(self, room: str) -> list[FlaggedMessage]:
        if self.down:
            raise RuntimeError("down")
        return super().latest(room)

    def history(self, room: str, metric: str, since: int) -> list[HistoryPoint]:
        if self.down:
            raise RuntimeError("down")
        return super().history(room, metric, since)


async def past(board: Board, room: str) -> dict[str, Any]:
    """The board's answer to a page that asks for the past of a room."""
    scope = {"type": "http", "path_params": {"id": room}, "query_string": b"m=30", "headers": []}
    return msgspec.json.decode((await board._trend(Request(scope))).body)


def test_a_board_that_began_without_its_store_says_so_until_it_has_read_it() -> None:
    """Nothing known is not the same as nothing there."""
    clock = ManualClock()
    store = Switched(clock.now())
    board = Board(clinic.settings(2), clock, store)

    async def day() -> None:
        board.fill()
        assert board.rooms.services.faults == {"history that could not be read": 1}
        for room in ("1", "2"):
            assert "could not be read" in (await past(board, room))["fault"]
        store.down = False
        answer = await past(board, "1")
        assert answer["fault"] == "" and [r["v"] for r in answer["readings"] if r["k"] == "glu"] == [90, 51, 92]
        assert (await past(board, "2"))["fault"] == ""

    asyncio.run(day())
    assert board.rooms.rooms["1"].obs["glu"].v == 92


def test_the_tiles_fill_when_the_store_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "FILL_S", 0.01)
    clock = ManualClock()
    store = Switched(clock.now())
    board = Board(clinic.settings(2), clock, store)
    board.fill()
    page = board.feed.join(clock.now(), Flag(), Flag())
    page.json.clear()

    async def day() -> None:
        filling = asyncio.create_task(board.keep_filling())
        await asyncio.sleep(0.05)
        assert not page.json
        store.down = False
        async with asyncio.timeout(5):
            while not page.json:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        filling.cancel()

    asyncio.run(day())
    (told,) = [msgspec.json.decode(text) for text in page.json]
    assert (told["t"], told["room"], told["obs"]["glu"]["v"]) == ("obs", "1", 92)


def test_history_joins_the_store_and_what_came_since() -> None:
    clock = ManualClock()
    store = Store(clock.now())
    board = Board(clinic.settings(2), clock, store)
    board.fill()
    stored = {key: store.history("1", key, 0) for key in ("glu", "bp_sys", "bp_dia")}
    found = board.rooms.merge_history("1", stored, 0)  # type: ignore[arg-type]
    assert [(item.k, item.v, item.f) for item in found] == [
        ("glu", 90, "N"),
        ("glu", 51, "LL"),
        ("glu", 92, "N"),
        ("bp", [164, 88], "H"),
        ("bp", [120, 80], None),
    ]
    assert found[2].id == "h2"


def test_the_history_of_a_continuous_value_is_thinned_but_keeps_changes() -> None:
    bench = Bench()
    for second in range(20):
        bench.clock.advance(1)
        bench.put(clinic.flagged("1", bench.now, {"spo2": clinic.value("spo2", 97, "LL" if second == 3 else "N")}))
    levels = [reading.lv for reading in bench.board.rooms.history("1", 0)]
    assert levels[:3] == ["normal", "critical", "normal"]
    assert len(levels) < 8


def test_a_stream_of_temperatures_is_a_row_a_minute_and_hides_no_pressure() -> None:
    bench = Bench()
    bench.put(clinic.flagged("1", bench.now, bp(118, 72)))
    for _ in range(1700):
        bench.clock.advance(1)
        bench.put(clinic.flagged("1", bench.now, {"temp": clinic.value("temp", 37.0)}))
    found = bench.board.rooms.merge_history("1", {}, 0)
    listed, of = rows(found)
    assert listed[-1].k == "bp"
    assert listed[0].ts > (bench.now - 60 * NS) // NS_PER_MS
    assert 28 <= len(listed) == of <= 30


def test_a_table_has_the_newest_forty_and_says_of_how_many() -> None:
    bench = Bench()
    for _ in range(50):
        bench.clock.advance(60)
        bench.put(clinic.flagged("1", bench.now, {"glu": clinic.value("glu", 100)}))
    listed, of = rows(bench.board.rooms.merge_history("1", {}, 0))
    assert (len(listed), of) == (40, 50)
    assert listed[0].ts == bench.now // NS_PER_MS


def test_a_stored_reading_that_cannot_be_shown_costs_itself() -> None:
    clock = ManualClock()
    store = Store(clock.now())
    t = clock.now() - 60 * NS
    wrong = {"glu": clinic.value("glu", 1e30)}
    bad = FlaggedMessage(1, "b", "g", "d", "x", "spot", -5, 0, t, {"weight": clinic.value("weight", 70)})
    worse = FlaggedMessage(1, "w", "g", "d", "x", "spot", t - NS, 0, t, wrong)
    good = FlaggedMessage(1, "g", "g", "d", "x", "spot", t, 0, t, {"glu": clinic.value("glu", 92)})
    board = Board(clinic.settings(2), clock, store)
    board.rooms.fill("1", [bad, worse, good], clock.now())
    assert board.rooms.rooms["1"].obs["glu"].v == 92
    assert board.rooms.services.faults == {"stored reading that cannot be read": 1, "value no living patient has": 1}


def test_history_of_a_simulated_room_says_so() -> None:
    clock = ManualClock()
    store = Store(clock.now())
    board = Board(clinic.settings(2), clock, store)
    found = board.rooms.merge_history("1", {"glu": store.history("1", "glu", 0)}, 0)
    assert all(reading.sim for reading in found)


def test_the_lease_of_a_visit_is_renewed_and_names_nobody() -> None:
    clock = ManualClock()
    board = Board(clinic.settings(4), clock)
    first = board.visits.due(clock.now())
    assert [topic for topic, _ in first] == [clinic.TOPICS.assoc(room) for room in ("1", "2", "3", "4")]
    lease = msgspec.json.decode(first[0][1], type=AssociationMessage)
    assert (lease.age_years, lease.sex, lease.expires) == (34, "female", clock.now() + LEASE_S * NS)
    assert b"Nguyen" not in first[0][1]
    assert board.visits.due(clock.now() + NS) == []
    clock.advance(RENEW_S)
    renewed = msgspec.json.decode(board.visits.due(clock.now())[0][1], type=AssociationMessage)
    assert (renewed.version, renewed.visit) == (lease.version, lease.visit)
    assert len(board.visits.due(clock.now(), force=True)) == 4


# -- the server --------------------------------------------------------------------------------------------------


class Wire:
    """A broker that has nothing to say and keeps what it is given."""

    connected = True
    fault = ""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, bool]] = []

    def take(self, limit: int, timeout_s: float) -> list[Any]:
        threading.Event().wait(min(timeout_s, 0.01))
        return []

    def ack(self, messages: Any) -> None:
        pass

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        self.published.append((topic, payload, retain))
        return True


def test_serve_publishes_its_leases_and_stops_when_told() -> None:
    wire = Wire()

    async def run() -> bytes:
        stop = asyncio.Event()
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        serving = asyncio.create_task(serve(clinic.settings(2), wire, None, SystemClock(), stop, listener=listener))
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        stop.set()
        await asyncio.wait_for(serving, 5)
        return answer

    answer = asyncio.run(run())
    assert b"200 OK" in answer
    assert b'"rooms":2' in answer
    assert [(topic, retain) for topic, _, retain in wire.published[:2]] == [
        (clinic.TOPICS.assoc("1"), True),
        (clinic.TOPICS.assoc("2"), True),
    ]


def test_a_taken_port_says_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTaken) as taken:
            listen("127.0.0.1", other.getsockname()[1])
    assert "another program listens there" in str(taken.value)
    assert "board.port" in taken.value.do


def test_the_board_listens_to_what_it_shows() -> None:
    filters = dict(subscriptions("clinic"))
    assert filters[clinic.TOPICS.flagged("+")] == 1
    assert filters[clinic.TOPICS.up_all("wave")] == 0
    assert len(filters) == 8
