"""The loop that keeps a link up: commits before it confirms, counts a loss once, and hands on what it holds."""

import asyncio
import random
from datetime import UTC
from typing import Any

import pytest

from drivers.core.feed import DeviceFeed, Output
from drivers.core.link import LinkLost, LossReason
from drivers.core.runner import Runner
from drivers.transports.memory import MemoryTransport
from vitals import settings
from vitals.clock import NS, Instant, ManualClock
from vitals.driver import BleSpec, Driver, Options, SerialSpec
from vitals.messages import EventMessage, ObservationMessage
from vitals.model import Chunk, Event, Fault, Observation, Quantity, Send
from vitals.topics import Topics


class Echo:
    """A session that turns each chunk into a reading and an answer, and owes a fault at the end."""

    def start(self) -> list[Event]:
        return [Send(b"hello")]

    def receive(self, chunk: Chunk) -> list[Event]:
        value = Quantity(float(chunk.data[0]), str(chunk.data[0]), "%")
        return [Observation("spo2", {"spo2": value}, chunk.received_at), Send(b"ok" + chunk.data)]

    def tick(self, now: Instant) -> list[Event]:
        return []

    def close(self) -> list[Event]:
        return [Fault("truncated", "", b"", 0)]


def echo(_options: Options) -> Echo:
    return Echo()


SERIAL = Driver("echo", "Echo", "serial", SerialSpec(), ("spo2",), {}, echo)
BLE = Driver("echo", "Echo", "ble", BleSpec("1822", ("2a5e",)), ("spo2",), {}, echo)


class Impatient(random.Random):
    """No pause between attempts: the policy is not under test here, its consequences are."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


class Bench:
    def __init__(self, transports: list[Any], driver: Driver = SERIAL) -> None:
        self.clock = ManualClock()
        self.log: list[str] = []
        self.outputs: list[Output] = []
        self.feed = DeviceFeed(
            settings.Device(name="dev", driver="echo", room="1"), driver, gateway="g", topics=Topics("s"),
            session="x", zone=UTC,
        )  # fmt: skip
        self._transports = iter(transports)
        self.done = asyncio.Event()
        self.runner = Runner(
            self.feed, driver, {}, self._connect, self._commit, self.clock, jitter=Impatient()
        )  # fmt: skip

    def _connect(self) -> Any:
        found = next(self._transports, None)
        if found is None:
            self.done.set()
            return Never()
        return found

    async def _commit(self, output: Output) -> None:
        self.outputs.append(output)
        self.log += [f"commit {type(d.message).__name__}" for d in output.drafts]

    async def run(self) -> None:
        task = asyncio.create_task(self.runner.run())
        await asyncio.wait_for(self.done.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def messages(self, kind: type) -> list[Any]:
        return [d.message for o in self.outputs for d in o.drafts if isinstance(d.message, kind)]


class Never(MemoryTransport):
    def __init__(self) -> None:
        super().__init__([])

    async def __aenter__(self) -> Any:
        await asyncio.sleep(3600)


class Refusing(MemoryTransport):
    def __init__(self, reason: LossReason) -> None:
        super().__init__([])
        self.reason = reason

    async def __aenter__(self) -> Any:
        raise LinkLost(self.reason, "no such thing")


class Breaking(MemoryTransport):
    async def __anext__(self) -> Chunk:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            raise LinkLost(LossReason.UNPLUGGED, "pulled out") from None


class Confirming(MemoryTransport):
    def __init__(self, chunks: list[Chunk], log: list[str]) -> None:
        super().__init__(chunks)
        self.log = log

    def confirm(self, chunk: Chunk) -> None:
        self.log.append("confirm")


def chunk(value: int) -> Chunk:
    return Chunk(bytes([value]), 7 * NS)


def test_readings_are_committed_before_the_link_confirms_them() -> None:
    async def run() -> list[str]:
        bench = Bench([])
        bench._transports = iter([Confirming([chunk(97)], bench.log)])
        await bench.run()
        return bench.log

    assert asyncio.run(run())[:2] == ["commit ObservationMessage", "confirm"]


def test_the_session_speaks_first_and_answers() -> None:
    async def run() -> MemoryTransport:
        transport = MemoryTransport([chunk(97)])
        await Bench([transport]).run()
        return transport

    assert asyncio.run(run()).sent == [Send(b"hello"), Send(b"oka")]


def test_what_a_session_owes_at_link_down_is_committed() -> None:
    async def run() -> Bench:
        bench = Bench([MemoryTransport([chunk(97)])])
        await bench.run()
        return bench

    bench = asyncio.run(run())
    assert [m.code for m in bench.messages(EventMessage)] == ["truncated"]
    assert len(bench.messages(ObservationMessage)) == 1


def test_a_line_that_stays_away_is_one_loss_however_often_it_is_tried() -> None:
    async def run() -> Bench:
        bench = Bench([Refusing(LossReason.NO_PATH)] * 3)
        await bench.run()
        return bench

    bench = asyncio.run(run())
    assert bench.feed.faults.totals == {"link_no_path": 1}
    assert (bench.feed.state, bench.feed.reason) == ("lost", "no_path")


def test_each_break_of_a_line_is_counted_and_the_line_taken_up_again() -> None:
    async def run() -> Bench:
        bench = Bench([Breaking([chunk(1)]), Breaking([chunk(2)])])
        await bench.run()
        return bench

    bench = asyncio.run(run())
    assert bench.feed.faults.totals["link_unplugged"] == 2
    assert len(bench.messages(ObservationMessage)) == 2


@pytest.mark.parametrize(("driver", "state"), [(SERIAL, "connecting"), (BLE, "idle")])
def test_a_cuff_that_hangs_up_is_idle_not_lost(driver: Driver, state: str) -> None:
    async def run() -> Bench:
        bench = Bench([MemoryTransport([chunk(1)])], driver)
        await bench.run()
        return bench

    bench = asyncio.run(run())
    assert bench.feed.state == state
    assert not [code for code in bench.feed.faults.totals if code.startswith("link_")]


class Buggy(Echo):
    def receive(self, chunk: Chunk) -> list[Event]:
        raise ZeroDivisionError("our bug")


def test_a_bug_in_one_devices_code_is_a_fault_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver("echo", "Echo", "serial", SerialSpec(), ("spo2",), {}, lambda _options: Buggy())

    async def run() -> Bench:
        bench = Bench([MemoryTransport([chunk(1)])], driver)
        await bench.run()
        return bench

    bench = asyncio.run(run())
    assert bench.feed.faults.totals["link_internal_error"] == 1
    assert "ZeroDivisionError" in caplog.text, "the traceback is in the log"


def test_a_capture_that_cannot_be_written_costs_the_capture_only(caplog: pytest.LogCaptureFixture) -> None:
    def no_capture(_address: str, _simulated: bool) -> Any:
        raise FileExistsError("a file stands in the folder's place")

    async def run() -> Bench:
        bench = Bench([MemoryTransport([chunk(1)])])
        bench.runner._open_capture = no_capture
        await bench.run()
        return bench

    assert len(asyncio.run(run()).messages(ObservationMessage)) == 1
    assert "no capture" in caplog.text
