"""How each kind of fault is begun, held and ended, and how it is known to have done something.

One function a kind; each runs in a thread of its own. It returns its proof: what the kernel, the road, the broker or
the part itself says of it, never that we tried. Nothing is returned where it met a part that was down already, or a
road on which nobody went; such a fault is not counted.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from bench.chaos.clinic import Clinic
from bench.chaos.parts import cut_log
from bench.chaos.plan import KINDS, Fault, Kind
from bench.chaos.proxy import Mode
from bench.chaos.traffic import Traffic

SECOND_S: Final = 90
"""For a second ingest to start under load, look at the store, and give up."""
TRIES: Final = 3
"""Of a second ingest, where another fault ends the first one meanwhile."""
EFFECT_S: Final = 30
"""For a fault to be noticed by a part that may be just starting, on a busy machine. It lasts from then on."""
LOOK_S: Final = 0.1


class Done(NamedTuple):
    """A fault that is over; without a proof it had no effect."""

    fault: Fault
    proof: str


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

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came to hold in time."""
        deadline = time.monotonic() + timeout_s
        while not (held := condition()) and time.monotonic() < deadline and not self.halt.is_set():
            time.sleep(LOOK_S)
        return held

    def commit(self, fault: Fault) -> Done:
        """From its beginning to its end."""
        return Done(fault, _HOW[fault.kind](self, fault))


def _kill(hands: Hands, fault: Fault) -> str:
    part = hands.clinic.parts[fault.target]
    killed = part.kill()
    hands.hold(fault)
    part.start()
    return "killed by signal 9" if killed else ""


def _stop(hands: Hands, fault: Fault) -> str:
    part = hands.clinic.parts[fault.target]
    code = part.stop()
    hands.hold(fault)
    part.start()
    return "" if code is None else f"ended with {code}"


def _freeze(hands: Hands, fault: Fault) -> str:
    part = hands.clinic.parts[fault.target]
    frozen = part.freeze()
    hands.hold(fault)
    part.thaw()
    return "the kernel says: stopped" if frozen else ""


def _road(mode: Mode) -> Callable[[Hands, Fault], str]:
    def spoil(hands: Hands, fault: Fault) -> str:
        link = hands.clinic.links[fault.target]
        before = link.hurt
        link.set(mode)
        hands.hold(fault)
        hurt = link.hurt - before
        link.set("pass")
        return f"{hurt} connections or pieces" if hurt else ""

    return spoil


def _full(hands: Hands, fault: Fault) -> str:
    """To the last byte. Before that the write-ahead log is cut: a long one has room in it for seconds."""
    clinic = hands.clinic
    disk, part = clinic.disks[fault.target], clinic.parts["ingest" if fault.target == "store" else fault.target]
    said = part.log_size
    clinic.store.checkpoint() if fault.target == "store" else cut_log(clinic.outbox(fault.target))
    disk.fill()
    full = hands.until(lambda: "disk is full" in part.log_since(said), EFFECT_S)
    hands.hold(fault)
    full = full and disk.takes_nothing
    disk.free()
    return f"{part.name} says: disk is full" if full else ""


def _busy(hands: Hands, fault: Fault) -> str:
    return "lock held" if hands.clinic.store.busy(fault.seconds, hands.halt) else ""


def _clock(hands: Hands, fault: Fault) -> str:
    file = hands.clinic.offset_file(fault.target)
    seen = file.with_suffix(".seen")
    file.write_text(str(fault.amount), encoding="ascii")
    wrong = hands.until(lambda: seen.exists() and seen.read_text("ascii") == str(fault.amount), EFFECT_S)
    hands.hold(fault)
    file.write_text("0", encoding="ascii")
    return f"{fault.target} read it" if wrong else ""


def _restore(hands: Hands, fault: Fault) -> str:
    """A person stops the gateway, copies an old outbox back, and starts it."""
    part, ledger = hands.clinic.parts[fault.target], hands.clinic.ledgers[fault.target]
    hands.until(lambda: ledger.older.exists(), EFFECT_S)
    with part.guard:
        part.kill() if fault.amount % 2 else part.stop()
        try:
            done = ledger.restore()
        finally:
            part.start()
    return "the older file is in place" if done else ""


def _foreign(hands: Hands, fault: Fault) -> str:
    """An ingest with another store, which takes the other's place at the broker and gives receipts."""
    part, traffic = hands.clinic.parts["foreign"], hands.traffic
    before = traffic.foreign_receipts
    part.start()
    told = hands.until(lambda: traffic.foreign_receipts > before, EFFECT_S)
    hands.hold(fault)
    part.kill() if fault.amount % 2 else part.stop()
    return f"{traffic.foreign_receipts - before} receipts" if told else ""


def _second(hands: Hands, fault: Fault) -> str:
    """The same settings started twice: it has to end by itself, as long as the first one runs."""
    first, second = hands.clinic.parts["ingest"], hands.clinic.parts["second"]
    for _ in range(TRIES):
        hands.until(lambda: first.alive, SECOND_S)
        starts, said = first.starts, second.log_size
        second.start()

        def undisturbed(starts: int = starts) -> bool:
            return first.alive and first.starts == starts

        hands.until(lambda: not (second.alive and undisturbed()), SECOND_S)
        ended, whole = not second.alive, undisturbed()
        second.kill()
        if whole and not hands.halt.is_set():
            words = second.log_since(said)
            if ended and not words:
                continue  # ended by the hand of another fault of this kind before it could speak
            if ended and "in use" in words:
                return "refused: the store is in use"
            hands.not_refused.append(words[-1000:] or "nothing")
            return "not refused"
    return ""


def _forged(hands: Hands, fault: Fault) -> str:
    """For rows that wait at this moment; one always does before long."""
    ledger = hands.clinic.ledgers[fault.target]
    rows: list[tuple[str, int]] = []

    def some() -> bool:
        with contextlib.suppress(sqlite3.Error):  # its gateway is just starting
            rows[:] = ledger.waiting()
        return bool(rows) and bool(hands.traffic.forge(fault.target, rows, time.time_ns()))

    taken = hands.until(some, EFFECT_S)
    return f"for {len(rows)} rows" if taken else ""


def _delivered(hands: Hands, send: Callable[[], int]) -> str:
    """Tried until the broker took some of it for somebody who is there."""
    taken = 0

    def told() -> bool:
        nonlocal taken
        taken = send()
        return taken > 0

    hands.until(told, EFFECT_S)
    return f"{taken} messages delivered" if taken else ""


def _replay(hands: Hands, fault: Fault) -> str:
    return _delivered(hands, lambda: hands.traffic.replay(fault.amount))


def _poison(hands: Hands, fault: Fault) -> str:
    return _delivered(hands, lambda: hands.traffic.poison(fault.amount))


_HOW: Final[dict[str, Callable[[Hands, Fault], str]]] = {
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
