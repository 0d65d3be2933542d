"""The gateway as a whole, without a broker: what it received is on its disk, however it is stopped or disturbed."""

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drivers.core.draft import Draft
from drivers.core.feed import Output
from drivers.core.gateway import Gateway
from drivers.core.registry import load_all
from drivers.transports.ble import Backend
from vitals import settings
from vitals.broker import Message
from vitals.clock import NS, SystemClock
from vitals.messages import VERSION, EventMessage, IngestStatus, ObservationMessage, Outcome, Receipts
from vitals.model import Observation
from vitals.outbox import Outbox
from vitals.topics import Topics

TOPICS = Topics("clinic")


class Deaf:
    """A broker connection that never stands."""

    connected = False
    on_connect = wake = None

    def __init__(self, **_options: Any) -> None:
        pass

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def publish(self, *_args: Any, **_options: Any) -> bool:
        return False

    def take(self, *_args: Any) -> list[Message]:
        return []

    def ack(self, _messages: Any) -> None: ...


def make(folder: Path) -> Gateway:
    config = settings.Settings(gateway=settings.Gateway(outbox=str(folder / "outbox.db")))
    return Gateway(config, {}, SystemClock(), Deaf, Backend())  # type: ignore[arg-type]


def reading() -> Draft:
    message = ObservationMessage(VERSION, "", "", 0, "d", Observation("bp", {}, 1), 1, 0)
    return Draft(TOPICS.up("g", "1", "d", "obs"), message, urgent=True)


def event() -> Draft:
    return Draft(TOPICS.up("g", "1", "d", "event"), EventMessage(VERSION, "", 0, "x", "", 1), urgent=False)


async def committed(gateway: Gateway, *drafts: Draft) -> None:
    waiting = asyncio.create_task(gateway._commit(Output(list(drafts), [])))
    await asyncio.sleep(0)
    assert await gateway._intake.commit()
    await waiting


def full(*_args: Any) -> Any:
    raise sqlite3.OperationalError("database or disk is full")


def kept_now(gateway: Gateway) -> list[str]:
    return [row.topic.rpartition("/")[2] for row in gateway._outbox.after(0, 100)]


def kept(folder: Path) -> list[str]:
    outbox = Outbox(folder / "outbox.db")
    topics = [row.topic.rpartition("/")[2] for row in outbox.after(0, 100)]
    outbox.close()
    return topics


def test_a_stop_loses_nothing_that_was_received_though_the_disk_is_busy(tmp_path: Path) -> None:
    async def run() -> None:
        gateway, stop = make(tmp_path), asyncio.Event()
        running = asyncio.create_task(gateway.run(stop))
        await asyncio.sleep(0.1)
        gateway._disk.submit(time.sleep, 0.8)  # the outbox's thread is held up
        waiting = asyncio.create_task(gateway._commit(Output([reading(), event()], [])))
        await asyncio.sleep(0.05)
        stop.set()
        waiting.cancel()  # as the stop cancels the device's loop
        await running

    asyncio.run(run())
    assert sorted(kept(tmp_path)) == ["event", "obs"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no json",
        b'{"v":1,"store_id":"s","now":1,"outcomes":[["e",9223372036854775808,"stored",""]]}',
        b'{"v":1,"store_id":"s","now":99999999999999999999999,"outcomes":[]}',
        b'{"v":1,"store_id":"s","now":1,"outcomes":[["e",1,"eaten",""]]}',
        b'{"v":1,"store_id":"\xff","now":1,"outcomes":[]}',
        b'{"v":1,"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_receipt_that_makes_no_sense_changes_nothing(tmp_path: Path, payload: bytes) -> None:
    async def run() -> None:
        gateway = make(tmp_path)
        await committed(gateway, reading())
        gateway._receive(Message(TOPICS.stored(gateway._id), payload, retain=False))
        await gateway._farewell()

    asyncio.run(run())
    assert kept(tmp_path) == ["obs"]


def test_a_receipt_that_the_disk_refuses_is_no_end(tmp_path: Path) -> None:
    async def run() -> None:
        gateway = make(tmp_path)
        await committed(gateway, reading())
        commit, gateway._outbox.commit = gateway._outbox.commit, full  # type: ignore[method-assign]
        receipt = Receipts(1, "s", 1, [Outcome(gateway._outbox.epoch, 1, "stored")])
        gateway._receive(Message(TOPICS.stored(gateway._id), msgspec.json.encode(receipt), retain=False))
        assert not await gateway._intake.commit()
        gateway._outbox.commit = commit  # type: ignore[method-assign]
        assert kept_now(gateway) == ["obs"]
        await gateway._farewell()

    asyncio.run(run())
    assert kept(tmp_path) == [], "what the receipt said is done when the disk takes it"


def test_only_a_radio_link_waits_for_a_disk_that_refuses(tmp_path: Path) -> None:
    devices = [
        settings.Device(name="cuff", driver="bp_gatt", room="1", address="5C:31:3E:00:11:22"),
        settings.Device(name="ekg", driver="ekg_openview", room="1", port="/dev/none"),
    ]
    config = settings.Settings(gateway=settings.Gateway(outbox=str(tmp_path / "outbox.db"), devices=devices))
    gateway = Gateway(config, load_all(), SystemClock(), Deaf, Backend())  # type: ignore[arg-type]
    assert [runner._commit.keywords["hold"] for _, runner in gateway._devices] == [True, False]  # type: ignore[attr-defined]
    gateway._outbox.close()


def test_a_retained_state_of_ingest_is_of_any_age_and_no_word_about_the_clock(tmp_path: Path) -> None:
    gateway = make(tmp_path)
    told = msgspec.json.encode(IngestStatus(VERSION, "i1", True, 0, now=SystemClock().now() - 60 * NS))
    for retain, off_s in ((True, None), (False, 60)):
        gateway._receive(Message(TOPICS.ingest_status, told, retain=retain))
        off = gateway._forwarder.clock_off_ns
        assert (None if off is None else round(off / NS)) == off_s
    gateway._outbox.close()
