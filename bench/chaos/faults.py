"""How each kind of fault is begun, held and ended. One function a kind; each runs in a thread of its own."""

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from bench.chaos.clinic import Clinic
from bench.chaos.plan import KINDS, Fault, Kind
from bench.chaos.proxy import Mode
from bench.chaos.traffic import Traffic

SECOND_S: Final = 90
"""For a second ingest to start under load, look at the store, and give up."""


class Hands:
    """What a fault may touch. `halt` is set when the run ends early: then no fault holds on."""

    def __init__(self, clinic: Clinic, traffic: Traffic) -> None:
        self.clinic = clinic
        self.traffic = traffic
        self.halt = threading.Event()
        self.failed: list[str] = []
        """Faults that the bench could not commit, and why."""
        self.not_refused: list[str] = []
        """What a second ingest on the same store said when it was not refused."""

    def hold(self, fault: Fault) -> None:
        self.halt.wait(fault.seconds)

    def commit(self, fault: Fault) -> None:
        """From its beginning to its end. A fault that meets a part already down is none, and does no harm."""
        _HOW[fault.kind](self, fault)


def _kill(hands: Hands, fault: Fault) -> None:
    part = hands.clinic.parts[fault.target]
    part.kill()
    hands.hold(fault)
    part.start()


def _stop(hands: Hands, fault: Fault) -> None:
    part = hands.clinic.parts[fault.target]
    part.stop()
    hands.hold(fault)
    part.start()


def _freeze(hands: Hands, fault: Fault) -> None:
    part = hands.clinic.parts[fault.target]
    part.signal(signal.SIGSTOP)
    hands.hold(fault)
    part.signal(signal.SIGCONT)


def _road(mode: Mode) -> Callable[[Hands, Fault], None]:
    def spoil(hands: Hands, fault: Fault) -> None:
        link = hands.clinic.links[fault.target]
        link.set(mode)
        hands.hold(fault)
        link.set("pass")

    return spoil


def _full(hands: Hands, fault: Fault) -> None:
    disk = hands.clinic.disks[fault.target]
    disk.fill()
    hands.hold(fault)
    disk.free()


def _busy(hands: Hands, fault: Fault) -> None:
    try:
        hands.clinic.store.busy(fault.seconds, hands.halt)
    except sqlite3.Error:
        pass  # another fault has it already


def _clock(hands: Hands, fault: Fault) -> None:
    file = hands.clinic.offset_file(fault.target)
    file.write_text(str(fault.amount), encoding="ascii")
    hands.hold(fault)
    file.write_text("0", encoding="ascii")


def _restore(hands: Hands, fault: Fault) -> None:
    """A person stops the gateway, copies an old outbox back, and starts it."""
    part = hands.clinic.parts[fault.target]
    with part.guard:
        part.kill() if fault.amount % 2 else part.stop()
        try:
            hands.clinic.ledgers[fault.target].restore()
        finally:
            part.start()


def _foreign(hands: Hands, fault: Fault) -> None:
    """An ingest with another store, which takes the other's place at the broker and gives receipts."""
    part = hands.clinic.parts["foreign"]
    part.start()
    hands.hold(fault)
    part.kill() if fault.amount % 2 else part.stop()


def _second(hands: Hands, fault: Fault) -> None:
    """The same settings started twice: it has to end by itself, as long as the first one runs."""
    first, second = hands.clinic.parts["ingest"], hands.clinic.parts["second"]
    starts, ran = first.starts, first.alive
    second.start()
    until = time.monotonic() + SECOND_S
    while second.alive and time.monotonic() < until and (first.alive, first.starts) == (ran, starts):
        time.sleep(0.1)
    if second.alive and ran and (first.alive, first.starts) == (ran, starts):
        hands.not_refused.append(second.log_tail())
    second.kill()


def _forged(hands: Hands, fault: Fault) -> None:
    rows = hands.clinic.ledgers[fault.target].waiting()
    hands.traffic.forge(fault.target, rows, time.time_ns())


def _replay(hands: Hands, fault: Fault) -> None:
    hands.traffic.replay(fault.amount)


def _poison(hands: Hands, fault: Fault) -> None:
    hands.traffic.poison(fault.amount)


_HOW: Final[dict[str, Callable[[Hands, Fault], None]]] = {
    "kill": _kill,
    "stop": _stop,
    "freeze": _freeze,
    "cut": _road("cut"),
    "hole": _road("hole"),
    "half": _road("half"),
    "slow": _road("slow"),
    "full": _full,
    "busy": _busy,
    "clock": _clock,
    "restore": _restore,
    "foreign": _foreign,
    "second": _second,
    "forged": _forged,
    "replay": _replay,
    "poison": _poison,
}


def possible(clinic: Clinic) -> Mapping[str, Kind]:
    """The kinds that this machine and this store can suffer."""
    store = clinic.store
    lacks = set(store.lacks)
    if not all(disk.small for disk in clinic.disks.values()):
        lacks.add("full")
    return {
        name: kind._replace(targets=(*kind.targets, *store.adds.get(name, ())))
        for name, kind in KINDS.items()
        if name not in lacks
    }
