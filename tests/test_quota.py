"""Limits of ingest by gateway: one that sends too much is slowed down or shut out, and nobody else notices."""

import tracemalloc
from collections import Counter
from functools import partial

import msgspec
import pytest

from ingest import judge
from ingest.ekg.streams import Streams
from ingest.pipeline import Pipeline
from ingest.quota import MAX_DEVICES, MAX_GATEWAYS, MAX_ROOMS, Quota
from ingest.rules import load_rules
from ingest.seen import Seen
from ingest.store.contract import Address
from ingest.work import Work
from tests.ingest_making import T0, adult, observation, strip
from vitals.clock import NS
from vitals.messages import GatewayStatus, encode
from vitals.settings import Quota as Limits
from vitals.topics import Topics

TOPICS = Topics("clinic")
LIMITS = Limits(gateway_rows_per_s=100, device_rows_per_s=60, burst_s=2)


class In(msgspec.Struct):
    topic: str
    payload: bytes
    retain: bool = False


def pipeline(limits: Limits | None = LIMITS) -> Pipeline:
    return Pipeline(TOPICS, load_rules("data-only", None), session="s", limits=limits)


def reading(number: int, gateway: str = "g1", room: str = "1", device: str = "cuff", epoch: str = "e1") -> In:
    message = observation(f"{number:032x}", seq=number, epoch=epoch)
    return In(TOPICS.up(gateway, room, device, "obs"), encode(message))


def told(work: Work) -> Counter[str]:
    return Counter(claim.outcome for claim in work.claims if claim.row is None)


def test_the_default_limits_are_above_the_design_load_and_any_backlog() -> None:
    """For a minute, 32 EKG streams drain their backlog as fast as a gateway ever sends: its window of 1,000 rows of
    2 kB, in packs of 50, each quarter of a second; and 32 fresh rows a second beside it."""
    quota = Quota(Limits())
    refused = Counter[str]()
    for quarter in range(4 * 60):
        now = T0 + quarter * NS // 4
        sizes = [(50, 50 * 2000)] * 20 + [(1, 2000)] * 8
        for number, (rows, size) in enumerate(sizes):
            address = ("g1", "1", f"ekg{(quarter * len(sizes) + number) % 32}")
            refused[quota.admit(*address, size, now)] += 1
            quota.charge_rows(*address, rows, size)
    assert set(refused) == {""}


def test_too_frequent_is_not_answered_and_comes_in_later() -> None:
    asked = pipeline()
    work = asked.process([reading(number) for number in range(500)], T0)
    taken = {claim.seq for claim in work.claims}
    assert len(taken) == 120, "two seconds' worth of one device"
    assert told(work) == {}, "neither refused, nor held: its outbox sends it again"
    assert asked.refused == {"too frequent": 380}
    rest = [reading(number) for number in range(500) if number not in taken]
    later = asked.process(rest, T0 + NS)
    assert len(later.claims) == 60, "a second more"


def test_one_device_leaves_room_for_the_others_of_its_gateway() -> None:
    asked = pipeline()
    asked.process([reading(number) for number in range(500)], T0)
    work = asked.process([reading(900, device="thermometer")], T0)
    assert [claim.seq for claim in work.claims] == [900]


def test_one_gateway_leaves_the_others_alone() -> None:
    asked = pipeline()
    flood = [reading(n, room=f"r{n % 9}", device=f"d{n % 9}") for n in range(2000)]
    work = asked.process([*flood, reading(1, gateway="g2", epoch="honest")], T0)
    assert [claim.seq for claim in work.claims if claim.gateway == "g2"] == [1]
    assert sum(claim.gateway == "g1" for claim in work.claims) == 200


def test_many_small_rows_in_one_message_are_paid_for() -> None:
    asked = pipeline()
    pack = In(TOPICS.up("g1", "1", "cuff", "obs"), b"[" + b",".join([b'{"v":9,"epoch":"e","seq":1}'] * 3000) + b"]")
    assert told(asked.process([pack], T0)) == {"hold": 3000}, "one message may overdraw"
    assert asked.process([reading(1)], T0 + 20 * NS).claims == []
    assert asked.process([reading(1)], T0 + 60 * NS).claims != []


def test_large_rubbish_is_paid_for_by_its_size() -> None:
    asked = pipeline()
    rubbish = In(TOPICS.up("g1", "1", "cuff", "obs"), b"x" * 250_000)
    asked.process([rubbish] * 5, T0)
    assert asked.refused == {"malformed": 1, "too frequent": 4}


def test_a_will_is_heard_whatever_came_before_it() -> None:
    asked = pipeline()
    status = GatewayStatus(1, "s1", True, T0)
    asked.process([In(TOPICS.gateway_status("g1"), encode(status), True)], T0)
    device = In(TOPICS.up("g1", "1", "cuff", "status"), b'{"v":1,"session":"s1","state":"online","since":1}', True)
    asked.process([device, *(reading(number) for number in range(500))], T0)
    will = msgspec.structs.replace(status, online=False)
    work = asked.process([In(TOPICS.gateway_status("g1"), encode(will), True)], T0)
    assert [p.topic for p in work.publish] == [TOPICS.alert("1", "device-cuff")]


def test_a_clock_that_is_set_back_gives_nothing_away_and_takes_nothing() -> None:
    quota = Quota(LIMITS)
    for _ in range(120):
        assert quota.admit("g1", "1", "cuff", 1, T0) == ""
    assert quota.admit("g1", "1", "cuff", 1, T0 - 3600 * NS) == "too frequent"
    assert quota.admit("g1", "1", "cuff", 1, T0 - 3599 * NS) == ""


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ([("g1", f"r{n}", "d") for n in range(5000)], MAX_ROOMS),
        ([("g1", "r", f"d{n}") for n in range(5000)], MAX_DEVICES),
        ([(f"g{n}", "r", "d") for n in range(5000)], MAX_GATEWAYS),
    ],
    ids=["rooms", "devices", "gateways"],
)
def test_thousands_of_names_are_refused_and_counted(names: list[tuple[str, str, str]], allowed: int) -> None:
    asked = pipeline(Limits())
    work = asked.process([reading(n, *name) for n, name in enumerate(names)], T0)
    assert len({claim.seq for claim in work.claims}) == allowed
    assert sum(asked.refused.values()) == 5000 - allowed
    assert told(work) == {}, "not final: a new device is taken after a restart of ingest"


def shown(work: Work) -> list[str]:
    return [key for p in work.publish if p.topic.endswith("/flagged") for key in ids_of(p.payload)]


def ids_of(payload: bytes) -> list[str]:
    found = msgspec.json.decode(payload)
    return [one["id"] for one in (found if isinstance(found, list) else [found])]


def test_made_up_ids_do_not_let_another_gateways_reading_alarm_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """More invented readings than are remembered, within the quota, between a reading and its being sent again."""
    monkeypatch.setattr(judge, "Seen", partial(Seen, limit=1000))
    asked = pipeline(Limits(gateway_rows_per_s=1e9, device_rows_per_s=1e9))
    once = In(TOPICS.up("g2", "2", "cuff", "obs"), encode(observation("f" * 32, epoch="honest")))
    assert shown(asked.process([once], T0)) == ["f" * 32]
    for first in range(0, 2000, 500):
        pack = [observation(f"{number:032x}", epoch="made up", seq=number) for number in range(first, first + 500)]
        asked.process([In(TOPICS.up("g1", "1", "cuff", "obs"), encode(pack))], T0)
    assert asked.refused == {}, "all were taken"
    assert shown(asked.process([once], T0)) == []


def test_who_sends_the_most_forgets_first_and_in_order() -> None:
    seen = Seen(["old1", "old2"], limit=5)
    assert [seen.add(key, "g1") for key in ("a", "b", "c", "d", "e")] == [True] * 5, "d and e push out a and b"
    assert [seen.add(key, "g2") for key in ("old1", "old2", "c", "d", "e")] == [False] * 5
    assert seen.add("a", "g1")
    assert seen.add("c", "g1"), "pushed out by a"


def test_the_state_of_ingest_does_not_grow_with_what_a_hostile_gateway_makes_up() -> None:
    """Every kind of message, under ever new names. Twenty times as many leave no more behind."""
    asked = pipeline(Limits(gateway_rows_per_s=1e9, device_rows_per_s=1e9))

    def attack(first: int, count: int) -> None:
        for n in range(first, first + count):
            up = lambda leaf, n=n: TOPICS.up("g1", f"r{n}", f"d{n}", leaf)  # noqa: E731
            batch = [
                In(up("status"), b'{"v":1,"session":"s","state":"lost","since":1,"reason":"x"}'),
                In(
                    up("birth"),
                    b'{"v":1,"session":"s","driver":"d","title":"","transport":"ble","metrics":[],"info":{}}',
                ),
                In(up("strip"), encode(strip(seq=n, stream=f"s{n}"))),
                In(up("event"), b'{"v":1,"epoch":"e","seq":1,"code":"c","detail":"","at":1764000000000000000}'),
                In(f"vitals/v1/clinic/up/g1/{n}", b"x"),
                In(TOPICS.up("g1", "1", "cuff", "obs")[:-3] + f"x{n}", b"x"),
                In(TOPICS.assoc(f"r{n}"), encode(adult(visit=f"v{n}"))),
                In(TOPICS.alert(f"r{n}", f"a{n}"), b"{}", True),
            ]
            asked.process(batch, T0 + n * NS // 100)

    attack(0, 2000)
    tracemalloc.start()
    try:
        attack(2000, 500)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 200_000
    assert asked.refused["too many rooms"] > 1000
    assert asked.refused["too many names"] > 1000
    assert set(asked.refused) <= {"too many rooms", "too many names", "unknown topic", "malformed"}


def test_the_signals_of_one_gateway_push_out_only_its_own() -> None:
    streams = Streams()
    honest = Address("g2", "1", "ekg")
    streams.take(honest, strip(0), T0 + NS)
    for n in range(3000):
        streams.take(Address("g1", "1", f"d{n}"), strip(0, stream=f"s{n}"), T0 + NS)
    _, lost = streams.take(honest, strip(500), T0 + 3 * NS)
    assert lost == []
    assert streams.missing() == {"g2/ekg/ekg": 1.0}, "it is remembered where the honest one was"


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 200_000,
        b'{"v":1,"x":' + b"[" * 200_000,
        b'{"a":' * 40_000,
        b'{"v":' + b"9" * 250_000 + b"}",
        b'{"v":1,"uncertainty_ms":1e999}',
        b'{"v":1,"id":"\xff\xfe"}',
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 200_000,
        b"\x81\xa5block\xc6\xff\xff\xff\xff",
        b"\xdd\x0f\xff\xff\xff" * 50_000,
    ],
    ids=["deep list", "deep value", "deep object", "huge int", "infinite", "not utf-8", "4 G list", "4 G map",
         "deep pack", "4 GB block", "nested lengths"],
)  # fmt: skip
@pytest.mark.parametrize("leaf", ["obs", "strip", "event", "status", "birth"])
def test_bytes_made_to_hurt_are_refused_and_counted_without_harm(payload: bytes, leaf: str) -> None:
    asked = pipeline(None)
    tracemalloc.start()
    try:
        work = asked.process([In(TOPICS.up("g1", "1", "cuff", leaf), payload), reading(1, "g2")], T0)  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(asked.refused.values()) == 1
    assert [claim.gateway for claim in work.claims] == ["g2"]
    assert peak < 20 * len(payload) + 2_000_000
