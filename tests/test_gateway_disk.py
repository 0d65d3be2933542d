"""A gateway whose disk is full, damaged or beyond its budget: it goes on, keeps what it can, says what it cannot."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from drivers.core import gateway as module
from drivers.core import intake
from drivers.core.draft import Draft
from drivers.core.feed import Output
from drivers.core.gateway import Gateway
from drivers.core.telemetry import Backlog, report
from drivers.transports.ble import Backend
from tests.ingest_making import observation, strip
from tests.test_outbox_damage import middle_pages
from vitals import settings
from vitals.broker import Message
from vitals.clock import NS, SystemClock
from vitals.messages import GatewayStatus, IngestStatus, Outcome, Receipts, decode_events, encode
from vitals.outbox import Outbox
from vitals.topics import Topics

TOPICS = Topics("clinic")


class Wire:
    """A broker connection that takes everything."""

    connected = True
    denied = 0
    trouble = None
    on_connect = wake = None

    def __init__(self, **_options: Any) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def publish(self, topic: str, payload: bytes, **_options: Any) -> bool:
        self.sent.append((topic, payload))
        return True

    def take(self, *_args: Any) -> list[Message]:
        return []

    def ack(self, _messages: Any) -> None: ...


class Bench:
    def __init__(self, folder: Path, max_mb: int) -> None:
        config = settings.Settings(gateway=settings.Gateway(outbox=str(folder / "outbox.db"), outbox_max_mb=max_mb))
        self.gateway = Gateway(config, {}, SystemClock(), Wire, Backend())  # type: ignore[arg-type]
        self.wire: Wire = self.gateway._broker  # type: ignore[assignment]
        self.outbox = self.gateway._outbox

    async def read(self, *drafts: Draft, hold: bool = True) -> None:
        await self.gateway._commit(Output(list(drafts), []), hold=hold)

    @property
    def status(self) -> GatewayStatus:
        payloads = [payload for topic, payload in self.wire.sent if topic == TOPICS.gateway_status("gateway-1")]
        return msgspec.json.decode(payloads[-1], type=GatewayStatus)

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await asyncio.sleep(0.01)


def run(folder: Path, work: Callable[[Bench], Awaitable[None]], max_mb: int = 1000) -> Bench:
    async def whole() -> Bench:
        bench, stop = Bench(folder, max_mb), asyncio.Event()
        running = asyncio.create_task(bench.gateway.run(stop))
        await bench.until(lambda: bool(bench.wire.sent))
        await work(bench)
        stop.set()
        await running
        return bench

    return asyncio.run(asyncio.wait_for(whole(), 40))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "DISK_RETRY_S", 0.02)
    monkeypatch.setattr(module, "PUMP_S", 0.02)
    monkeypatch.setattr(module, "STATUS_S", 0.04)


def reading() -> Draft:
    return Draft(TOPICS.up("gateway-1", "1", "cuff", "obs"), observation(), urgent=True)


def pack(first: int, size: int = 250) -> Draft:
    message = strip(first, np.zeros(size))
    return Draft(TOPICS.up("gateway-1", "1", "m1", "strip"), message, urgent=False)


def kept(path: Path) -> list[tuple[str, bytes]]:
    outbox = Outbox(path / "outbox.db")
    rows = [(row.topic.rpartition("/")[2], row.payload) for row in outbox.after(0, 100_000)]
    outbox.close()
    return rows


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("NOT RUN: no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_costs_nothing_once_there_is_space_again(small_disk: Path) -> None:
    ballast = small_disk / "ballast"

    async def work(bench: Bench) -> None:
        await bench.read(reading())
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while file.write(bytes(4096)):
                pass
        # SQLite's log has no page left: at the latest the first strips find that out.
        for second in range(40):
            await bench.read(pack(250 * second, 20_000))
        held = asyncio.create_task(bench.read(reading()))
        await bench.until(lambda: bench.status.outbox_fault != "")
        assert "full" in bench.status.outbox_fault or "disk I/O" in bench.status.outbox_fault
        assert bench.status.in_memory >= 1
        assert not held.done(), "a cuff is not told that its reading is safe"
        await bench.read(reading(), hold=False)  # a serial line is read on
        ballast.unlink()
        await held
        await bench.until(lambda: bench.status.outbox_fault == "" and bench.status.in_memory == 0)
        assert bench.status.aged_out_strips == 0

    run(small_disk, work, max_mb=1000)
    assert sorted(leaf for leaf, _ in kept(small_disk)) == ["obs"] * 3 + ["strip"] * 40


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        limit = bench.outbox._db.execute("PRAGMA page_count").fetchone()[0] + 20
        await bench.gateway._on_disk(bench.outbox._db.execute, f"PRAGMA max_page_count = {limit}")
        await bench.read(*(pack(250 * n, 20_000) for n in range(5)))
        held = asyncio.create_task(bench.read(reading()))
        await bench.until(lambda: "full" in bench.status.outbox_fault)
        assert not held.done()
        await bench.gateway._on_disk(bench.outbox._db.execute, "PRAGMA max_page_count = 1000000")
        await held
        await bench.until(lambda: bench.status.outbox_fault == "")

    run(tmp_path, work)
    assert [leaf for leaf, _ in kept(tmp_path)] == ["obs"] + ["strip"] * 5


def test_beyond_the_budget_strips_go_and_it_is_said_everywhere(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await bench.read(reading())
        second = 0
        while bench.status.aged_out_strips == 0:
            await bench.read(*(pack(250 * (second + n), 250) for n in range(1000)))
            second += 1000
            await bench.gateway._intake.commit()
            await asyncio.sleep(0.05)
        assert bench.outbox.used() <= 16_000_000

    bench = run(tmp_path, work, max_mb=16)
    rows = kept(tmp_path)
    assert [leaf for leaf, _ in rows].count("obs") == 1
    gone = bench.gateway._losses.strips
    said = [decode_events(payload)[0] for leaf, payload in rows if leaf == "event"]
    assert {event.code for event in said} == {"strips_aged_out"}
    assert sum(event.count for event in said) == gone
    assert said[0].detail == f"{said[0].count} strips dropped, the outbox was full: {said[0].count}.0 s of ekg"
    assert bench.gateway._losses.seconds == {"m1/ekg": float(gone)}


def test_damage_while_running_is_no_end_and_is_said(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        for n in range(40):
            await bench.read(*(pack(250 * (50 * n + m)) for m in range(50)))
        await bench.read(reading())
        for pragma in ("wal_checkpoint(TRUNCATE)", "cache_size = 0"):
            await bench.gateway._on_disk(bench.outbox._db.execute, f"PRAGMA {pragma}")
        middle_pages(tmp_path / "outbox.db")
        await bench.gateway._on_disk(bench.outbox._db.execute, "PRAGMA shrink_memory")
        await bench.gateway._on_disk(bench.outbox.after, 0, 10_000)
        await bench.read(reading())
        await bench.until(lambda: "set aside as outbox.db.damaged-" in bench.status.set_aside)

    run(tmp_path, work)
    leaves = [leaf for leaf, _ in kept(tmp_path)]
    assert leaves.count("obs") == 2
    assert 1500 < leaves.count("strip") < 2000
    assert len(list(tmp_path.glob("outbox.db.damaged-*Z"))) == 1


def test_a_damaged_outbox_at_the_start_is_no_end_either(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await bench.read(*(pack(250 * m) for m in range(2000)), reading())

    run(tmp_path, work)
    middle_pages(tmp_path / "outbox.db")

    async def later(bench: Bench) -> None:
        await bench.until(lambda: "set aside" in bench.status.set_aside)
        await bench.read(reading())

    run(tmp_path, later)
    assert [leaf for leaf, _ in kept(tmp_path)].count("obs") == 2


def test_a_clock_that_is_off_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest binds no reading to a visit as soon as it knows: the next beat would be ten seconds away."""
    monkeypatch.setattr(module, "STATUS_S", 3600)

    async def work(bench: Bench) -> None:
        receipt = Receipts(1, "s", SystemClock().now() + 3 * NS, [])
        bench.gateway._receive(Message(TOPICS.stored("gateway-1"), encode(receipt), retain=False))
        await bench.until(lambda: bench.status.clock_off_ms is not None)
        assert -3001 <= bench.status.clock_off_ms <= -2900  # type: ignore[operator]

    run(tmp_path, work)


def test_rows_that_ingest_is_too_old_for_are_a_reason_with_what_to_do(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await bench.read(reading())
        gateway, epoch = bench.gateway, bench.outbox.epoch
        for topic, message in (
            (TOPICS.ingest_status, IngestStatus(1, "i1", True, 0, "s", now=SystemClock().now())),
            (TOPICS.stored("gateway-1"), Receipts(1, "s", SystemClock().now(), [Outcome(epoch, 1, "hold")])),
        ):
            gateway._receive(Message(topic, encode(message), retain=False))
        await gateway._intake.commit()
        reasons = report(gateway._parts(), Backlog()).reasons
        assert [(r.what, r.do) for r in reasons] == [
            ("ingest is older than this gateway and cannot read 1 rows; they wait", "Upgrade ingest."),
        ]

    run(tmp_path, work)
    assert [leaf for leaf, _ in kept(tmp_path)] == ["obs"]


def test_one_message_that_cannot_be_encoded_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await bench.read(pack(2**70), reading())
        assert bench.gateway._losses.rows == 1

    run(tmp_path, work)
    assert [leaf for leaf, _ in kept(tmp_path)] == ["obs"]
