"""Who waits for which commit, and what waits in memory while the disk takes nothing."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from drivers.core import intake as module
from drivers.core.draft import Draft
from drivers.core.intake import Intake
from drivers.core.losses import Losses, aged_out_events
from tests.ingest_making import event, observation, strip
from vitals.clock import ManualClock
from vitals.messages import EventMessage, encode
from vitals.outbox import AgedOut, Row

READING = Draft("v/up/g/1/cuff/obs", observation(), urgent=True)
EVENT = Draft("v/up/g/1/cuff/event", event(), urgent=False)


def pack(first: int, device: str = "m1", metric: str = "ekg") -> Draft:
    return Draft(f"v/up/g/1/{device}/strip", strip(first, metric=metric), urgent=False)


class Disk:
    def __init__(self) -> None:
        self.full = False
        self.commits: list[list[Draft]] = []

    async def store(self, drafts: Sequence[Draft]) -> None:
        await asyncio.sleep(0)
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        if drafts:
            self.commits.append(list(drafts))

    @property
    def kept(self) -> list[Draft]:
        return [draft for commit in self.commits for draft in commit]


class Bench:
    def __init__(self) -> None:
        self.disk = Disk()
        self.clock = ManualClock()
        self.losses = Losses()
        self.intake = Intake(self.disk.store, self.clock, self.losses)


def drive(work: Callable[[Bench], Awaitable[None]], *, running: bool = True) -> Bench:
    async def run() -> Bench:
        bench = Bench()
        task = asyncio.create_task(bench.intake.run()) if running else None
        await work(bench)
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return bench

    return asyncio.run(asyncio.wait_for(run(), 10))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_COMMIT_S", 0.1)
    monkeypatch.setattr(module, "GATHER_S", 0.02)
    monkeypatch.setattr(module, "DISK_RETRY_S", 0.01)


def test_thirty_two_streams_are_one_commit() -> None:
    async def work(bench: Bench) -> None:
        for n in range(32):
            await bench.intake.take([pack(0, f"m{n}"), pack(0, f"m{n}", "resp_impedance")], hold=False)
        assert bench.disk.commits == []
        while not bench.disk.commits:
            await asyncio.sleep(0.01)

    assert [len(commit) for commit in drive(work).disk.commits] == [64]


def test_a_reading_is_committed_at_once_and_takes_along_what_waits() -> None:
    async def work(bench: Bench) -> None:
        await bench.intake.take([EVENT], hold=True)
        before = asyncio.get_running_loop().time()
        await bench.intake.take([READING], hold=True)
        assert asyncio.get_running_loop().time() - before < 0.09
        assert bench.disk.kept == [READING, EVENT]

    drive(work)


def test_many_readings_share_commits() -> None:
    async def work(bench: Bench) -> None:
        async def monitor(n: int) -> None:
            await asyncio.sleep(0.003 * n)
            await bench.intake.take([READING], hold=True)

        await asyncio.gather(*(monitor(n) for n in range(60)))

    commits = drive(work).disk.commits
    assert sum(map(len, commits)) == 60
    assert len(commits) <= 15


def test_a_slow_disk_holds_up_no_line() -> None:
    """A serial line holds 4 kB, an EKG board fills that in a second; a card may take longer for one write."""

    async def work(bench: Bench) -> None:
        slow, store = asyncio.Event(), bench.disk.store

        async def stalled(drafts: Sequence[Draft]) -> None:
            await slow.wait()
            await store(drafts)

        bench.intake._store = stalled
        for _ in range(3):
            await asyncio.wait_for(bench.intake.take([READING], hold=False), 0.05)
            await asyncio.sleep(0.03)
        cuff = asyncio.create_task(bench.intake.take([READING], hold=True))
        await asyncio.sleep(0.05)
        assert not cuff.done()
        assert bench.intake.in_memory == 4, "also what is being written"
        slow.set()
        await cuff
        assert bench.intake.in_memory == 0

    assert len(drive(work).disk.kept) == 4


def test_while_the_disk_is_full_a_radio_waits_and_a_line_is_read_on() -> None:
    async def work(bench: Bench) -> None:
        bench.disk.full = True
        cuff = asyncio.create_task(bench.intake.take([READING], hold=True))
        monitor = asyncio.create_task(bench.intake.take([READING._replace(topic="line/obs")], hold=False))
        while bench.intake.faults < 2:
            await asyncio.sleep(0.01)
        assert (cuff.done(), monitor.done()) == (False, True)
        await asyncio.wait_for(bench.intake.take([READING._replace(topic="line/2/obs")], hold=False), 0.005)
        assert bench.intake.fault == "database or disk is full"
        assert bench.intake.in_memory == 3
        bench.disk.full = False
        await cuff
        assert (bench.intake.fault, bench.intake.in_memory) == ("", 0)

    assert [d.topic for d in drive(work).disk.kept] == [READING.topic, "line/obs", "line/2/obs"]


def test_after_the_disk_was_full_all_that_fitted_is_committed_in_order_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 10)

    async def work(bench: Bench) -> None:
        bench.disk.full = True
        reading = asyncio.create_task(bench.intake.take([READING], hold=True))
        await bench.intake.take([EVENT], hold=False)
        for second in range(14):
            await bench.intake.take([pack(250 * second)], hold=False)
            await asyncio.sleep(0.012)
        await bench.intake.take([pack(0, "m2", "resp_impedance")], hold=False)
        assert bench.intake.in_memory <= 11
        bench.disk.full = False
        await reading

    bench = drive(work)
    *kept, said = bench.disk.kept
    strips = [(d.topic, d.message.first_index) for d in kept if d.topic.endswith("strip")]  # type: ignore[union-attr]
    assert strips == [*(("v/up/g/1/m1/strip", 250 * n) for n in range(5, 14)), ("v/up/g/1/m2/strip", 0)]
    assert kept[0] is READING
    assert said.topic == "v/up/g/1/m1/event"
    assert isinstance(said.message, EventMessage)
    assert (said.message.code, said.message.count) == ("strips_aged_out", 5)
    assert said.message.detail == "5 strips dropped, the disk took nothing: 5.0 s of ekg"
    assert (bench.losses.strips, bench.losses.seconds, bench.losses.rows) == (5, {"m1/ekg": 5.0}, 1)


def test_a_loss_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 1)

    async def work(bench: Bench) -> None:
        for device in ("m1", "m2", "m1"):
            await bench.intake.take([pack(0, device)], hold=False)
        await bench.intake.commit()
        await bench.intake.commit()

    said = [d for d in drive(work, running=False).disk.kept if d.topic.endswith("event")]
    assert [(d.topic, msgspec.to_builtins(d.message)["detail"]) for d in said] == [
        ("v/up/g/1/m1/event", "1 strips dropped, the disk took nothing: 1.0 s of ekg"),
        ("v/up/g/1/m2/event", "1 strips dropped, the disk took nothing: 1.0 s of ekg"),
    ]


def test_too_many_readings_in_memory_hold_up_the_line_and_none_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_READINGS", 3)

    async def work(bench: Bench) -> None:
        bench.disk.full = True
        lines = [asyncio.create_task(bench.intake.take([READING], hold=False)) for _ in range(6)]
        await asyncio.sleep(0.05)
        assert [line.done() for line in lines] == [True] * 3 + [False] * 3
        bench.disk.full = False
        await asyncio.gather(*lines)

    assert len(drive(work).disk.kept) == 6


def test_a_stop_gives_a_full_disk_its_time_and_then_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def work(bench: Bench) -> None:
        bench.disk.full = True
        reading = asyncio.create_task(bench.intake.take([READING], hold=True))
        bench.intake.give_up_at(bench.clock.monotonic() + 1)
        await asyncio.sleep(0.05)
        assert not reading.done()
        bench.clock.advance(2)
        with pytest.raises(sqlite3.OperationalError):
            await reading
        await bench.intake.finish()

    drive(work)
    assert "stopped with readings that no disk took" in caplog.text


def test_the_end_of_whoever_waits_is_not_the_end_of_the_commit() -> None:
    async def work(bench: Bench) -> None:
        for _ in range(2):
            waiting = asyncio.create_task(bench.intake.take([READING], hold=True))
            committing = asyncio.create_task(bench.intake.commit())
            await asyncio.sleep(0)
            waiting.cancel()
            committing.cancel()
        await bench.intake.finish()

    assert drive(work, running=False).disk.kept == [READING, READING]


def test_numbers_of_a_monitor_that_aged_out_are_said_by_device() -> None:
    def row(device: str, simulated: bool) -> Row:
        topic = f"v/up/g/1/{device}/obs"
        return Row("e", 1, topic, encode(observation(kind="monitor", simulated=simulated)), 0)

    aged = AgedOut.nothing()._replace(numbers=[row("m1", False), row("m2", True), row("m1", False)])
    said = [(d.topic, d.message.code, d.message.count, d.message.simulated) for d in aged_out_events(aged, 7)]  # type: ignore[union-attr]
    assert said == [
        ("v/up/g/1/m1/event", "numbers_aged_out", 2, False),
        ("v/up/g/1/m2/event", "numbers_aged_out", 1, True),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b"\x90",
        b"",
        bytes(300),
        encode(strip(0)).replace(b"ekg", b"\xff\xfe\xfd"),
        encode(msgspec.structs.replace(strip(0), rate=0.0)),
    ],
)
def test_a_strip_that_a_bad_card_made_unreadable_is_counted_all_the_same(payload: bytes) -> None:
    row = Row("e", 1, "v/up/g/1/m1/strip", payload, 0)
    aged = AgedOut.nothing()._replace(strips=[row, row._replace(payload=encode(strip(0)))])
    losses = Losses()
    losses.aged_out(aged)
    assert (losses.strips, losses.seconds) == (2, {"m1/ekg": 1.0})
    (said,) = aged_out_events(aged, 7)
    assert isinstance(said.message, EventMessage)
    assert said.message.count == 2


def test_a_stop_commits_what_waits() -> None:
    async def work(bench: Bench) -> None:
        bench.disk.full = True
        await bench.intake.take([EVENT], hold=False)
        bench.intake.give_up_at(bench.clock.monotonic() + 1)
        finish = asyncio.create_task(bench.intake.finish())
        await asyncio.sleep(0.03)
        bench.disk.full = False
        await finish

    assert drive(work, running=False).disk.kept == [EVENT]
