"""One run: a clinic at work, faults as planned, a calm end, and the verdict."""

import contextlib
import json
import shutil
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from websockets.sync.client import connect
from websockets.typing import Origin

from bench.chaos.clinic import DISK_MB, ROOMS, SITE, Clinic, monitor, spot_device
from bench.chaos.faults import Done, Hands, possible
from bench.chaos.footprint import EVERY_S, Footprint, Sample, footprint, sample
from bench.chaos.ledger import Ledger
from bench.chaos.parts import STOP_S
from bench.chaos.plan import GATEWAYS, KINDS, Fault, plan
from bench.chaos.traffic import Traffic
from bench.chaos.verify import Verdict, unproved, verify

LOOK_S: Final = 0.5
BACKUP_S: Final = 4.0
START_S: Final = 180
CALM_S: Final = 8
"""After the last fault, with the devices still measuring: twice the slowest one's interval."""
PATIENCE_S: Final = 240
"""After the last fault for a busy machine to start every part again, and after that for the outboxes to be empty."""
ALARM_TRIES: Final = 10
QUIET_S: Final = 4
"""Empty outboxes with nothing new for so long: what a gateway says of lost links is committed a second later."""


class Recovery(NamedTuple):
    """A fault that is over. `seconds`: from then until every gateway concerned had a receipt for a newer row,
    whatever else went wrong meanwhile."""

    done: Done
    seconds: float


class Result(NamedTuple):
    """`faults`: all that were planned; of these `recoveries` tells which did something."""

    seed: int
    store: str
    minutes: float
    verdict: Verdict
    faults: Sequence[Fault]
    left_out: Sequence[str]
    recoveries: Sequence[Recovery]
    deepest: Mapping[str, int]
    drained_s: float | None
    footprint: Footprint | None
    revived: Mapping[str, Sequence[int]]
    slowest_stops_s: Mapping[str, float]
    alerts: tuple[int, int, int]
    """Raised; come again after their end and stayed; come again and ended again."""
    said: Mapping[str, int]
    problems: Sequence[str]
    """Everything else that is wrong, in words."""

    @property
    def good(self) -> bool:
        return not self.problems and not self.verdict.wrong

    @property
    def took_effect(self) -> list[Fault]:
        return [recovery.done.fault for recovery in self.recoveries if recovery.done.proof]


class Watch(threading.Thread):
    """Looks at everything twice a second: what was committed, what waits, who recovered, who ended by itself."""

    def __init__(self, clinic: Clinic) -> None:
        super().__init__(daemon=True)
        self.clinic = clinic
        self.waiting = dict.fromkeys(GATEWAYS, 0)
        self.deepest = dict.fromkeys(GATEWAYS, 0)
        self.recoveries: list[Recovery] = []
        self.samples: list[Sample] = []
        self.done = threading.Event()
        self._sampling = threading.Event()
        self._sample_at = 0.0
        self._pending: list[tuple[Done, float, dict[str, int]]] = []
        self._guard = threading.Lock()
        self._backup_at = 0.0

    def over(self, done: Done) -> None:
        """A fault has ended: from now on its recovery is timed."""
        concerned = [done.fault.target] if done.fault.target in GATEWAYS else list(GATEWAYS)
        with self._guard:
            self._pending.append((done, time.monotonic(), {g: self.clinic.ledgers[g].head for g in concerned}))

    def sampling(self, on: bool) -> None:
        """Memory and disk are looked at while the load is on, and neither before nor after."""
        self._sampling.set() if on else self._sampling.clear()

    def run(self) -> None:
        while not self.done.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        backup = time.monotonic() >= self._backup_at
        for name in GATEWAYS:
            part = self.clinic.parts[name]
            # A file left by a kill is recovered by its gateway, not by us. Held, so that no restore comes between.
            if part.guard.acquire(timeout=0):
                try:
                    if part.alive:
                        self._ledger(name, backup=backup)
                finally:
                    part.guard.release()
        if backup:
            self._backup_at = time.monotonic() + BACKUP_S
        for part in self.clinic.lasting():
            part.revive()
        self._recovered()
        now = time.monotonic()
        if self._sampling.is_set() and now >= self._sample_at:
            self._sample_at = now + EVERY_S
            rows = sum(len(ledger.rows) for ledger in self.clinic.ledgers.values()) - sum(self.waiting.values())
            self.samples.append(sample(self.clinic, now, rows))

    def _ledger(self, name: str, *, backup: bool) -> None:
        ledger = self.clinic.ledgers[name]
        with contextlib.suppress(sqlite3.Error):  # a full or busy disk: the next look will do
            self.waiting[name] = ledger.harvest()
            self.deepest[name] = max(self.deepest[name], self.waiting[name])
            if backup:
                ledger.back_up()

    def _recovered(self) -> None:
        now = time.monotonic()
        with self._guard:
            pending, self._pending = self._pending, []
        for done, since, heads in pending:
            for gateway in list(heads):
                with contextlib.suppress(sqlite3.Error):
                    # A restored outbox numbers from where its backup stood.
                    head = min(heads[gateway], self.clinic.ledgers[gateway].head)
                    if self.clinic.parts[gateway].alive and self.clinic.ledgers[gateway].delivered_after(head):
                        del heads[gateway]
            if not heads:
                self.recoveries.append(Recovery(done, now - since))
            else:
                with self._guard:
                    self._pending.append((done, since, heads))


def run(
    folder: Path,
    *,
    seed: int,
    seconds: float,
    store: str = "sqlite",
    every_s: float = 2.0,
    kinds: Sequence[str] = tuple(KINDS),
    disk_mb: int = DISK_MB,
    calm_s: float = CALM_S,
    patience_s: float = PATIENCE_S,
    say: Callable[[str], None] = lambda _text: None,
) -> Result:
    """Raises AssertionError when the clinic does not even start. `kinds`: of faults; with none it is a plain soak."""
    clinic = Clinic(folder, seed=seed, store=store, disk_mb=disk_mb)
    traffic = Traffic(SITE, clinic.broker_port)
    hands = Hands(clinic, traffic)
    watch = Watch(clinic)
    try:
        clinic.start()
        watch.start()
        _begin(clinic)
        able = possible(clinic)
        chosen = {name: kind for name, kind in able.items() if name in kinds}
        left_out = [name for name in kinds if name not in able]
        faults = plan(seed, seconds, chosen, every_s=every_s)
        watch.sampling(True)
        _play(faults, seconds, hands, watch, say)
        watch.sampling(False)
        settled = _settle(hands, watch, len(faults), calm_s, patience_s, say)
        return settled._replace(seed=seed, store=store, minutes=seconds / 60, faults=faults, left_out=left_out)
    finally:
        hands.halt.set()
        watch.done.set()
        traffic.close()
        clinic.close()


def _begin(clinic: Clinic) -> None:
    """Until both gateways have something to lose, and receipts come. A part that does not even start says why."""
    try:
        _until(lambda: all(map(_at_work, clinic.ledgers.values())), START_S, "devices measuring, ingest storing")
    except AssertionError as error:
        ended = [f"{part.name}: {part.log_tail()}" for part in clinic.lasting() if part.ended_by_itself]
        raise AssertionError("\n".join([str(error), *ended])) from None


def _at_work(ledger: Ledger) -> bool:
    with contextlib.suppress(sqlite3.Error):
        return ledger.head > 50 and ledger.delivered_after(0)
    return False


def _until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(LOOK_S)


def _play(faults: Sequence[Fault], seconds: float, hands: Hands, watch: Watch, say: Callable[[str], None]) -> None:
    """Each fault at its time in a thread of its own; returns when all are over and the time is up."""
    begun = time.monotonic()

    def commit(fault: Fault) -> None:
        done = Done(fault, "")
        try:
            done = hands.commit(fault)
        except Exception as error:  # noqa: BLE001  told with the verdict: the others go on
            hands.failed.append(f"{fault.kind} of {fault.target}: {type(error).__name__}: {error}")
        watch.over(done)
        say(f"{fault.at:7.1f} s  {fault.kind:8} {fault.target:10} {fault.seconds:5.1f} s  {done.proof or 'NO EFFECT'}")

    threads = []
    for fault in faults:
        hands.halt.wait(max(0.0, begun + fault.at - time.monotonic()))
        threads.append(threading.Thread(target=commit, args=(fault,), daemon=True))
        threads[-1].start()
    hands.halt.wait(max(0.0, begun + seconds - time.monotonic()))
    for thread in threads:
        thread.join()


def _settle(
    hands: Hands, watch: Watch, faults: int, calm_s: float, patience_s: float, say: Callable[[str], None]
) -> Result:
    """Everybody well, then the devices silent, then the outboxes empty; then everything is held against each other."""
    clinic, traffic = hands.clinic, hands.traffic
    problems: list[str] = []
    say("faults over; calm")
    time.sleep(calm_s)
    _expect(problems, lambda: len(watch.recoveries) == faults, patience_s, "recovery from each fault")
    if clinic.parts["simulate"].stop() != 0:
        problems.append("the simulators did not end well: " + clinic.parts["simulate"].log_tail())
    begun = time.monotonic()
    drained = _expect(problems, _Silence(clinic), patience_s, "empty outboxes")
    drained_s = time.monotonic() - begun - QUIET_S if drained else None
    say("outboxes empty" if drained else "outboxes NOT empty")
    time.sleep(1)  # the last flagged readings on their way to the board
    problems += _board(clinic, traffic)
    watch.done.set()
    watch.join()
    for gateway in GATEWAYS:
        clinic.parts[gateway].kill()  # at the very moment in which it has nothing to say: nothing may be left behind
        clinic.ledgers[gateway].harvest()
        for reason, rows in clinic.ledgers[gateway].refused():
            problems.append(f"{gateway}: {rows} rows refused by ingest: {reason}")
    if clinic.parts["ingest"].stop() != 0:
        problems.append("ingest did not end well: " + clinic.parts["ingest"].log_tail())
    for part in clinic.parts.values():
        problems += [f"{part.name} did not end on SIGTERM within {STOP_S} s"] * part.slow_stops
        problems += [f"{part.name} ended by a bug: {crash}" for crash in part.crashes]
    problems += [f"the bench could not commit a fault: {failure}" for failure in hands.failed]
    problems += [f"a second ingest was not refused: {tail}" for tail in hands.not_refused]
    problems += [f"alert came again after its end, and stayed: {topic}" for topic in sorted(traffic.doubled)]
    ledgers = list(clinic.ledgers.values())
    forgone = set().union(*(ledger.forgone for ledger in ledgers))
    committed = [row for ledger in ledgers for row in ledger.rows.values()]
    problems += [problem for ledger in ledgers for problem in ledger.wrong]
    stored = list(clinic.store.rows())
    verdict = verify(committed, stored, clinic.store.evaluations(), forgone)
    problems += unproved(committed, stored, GATEWAYS)
    taken = footprint(watch.samples, [f"{name} disk" for name in clinic.store.files()])
    problems += taken.not_flat if taken else []
    return Result(
        seed=0,
        store="",
        minutes=0,
        verdict=verdict,
        faults=(),
        left_out=(),
        recoveries=watch.recoveries,
        deepest=watch.deepest,
        drained_s=drained_s,
        footprint=taken,
        revived={p.name: p.ended_by_itself for p in clinic.lasting() if p.ended_by_itself},
        slowest_stops_s={p.name: p.slowest_stop_s for p in clinic.parts.values() if p.slowest_stop_s},
        alerts=(traffic.raised, len(traffic.doubled), traffic.renewed),
        said={"repeated": traffic.repeated, "poisoned": traffic.poisoned, "forged receipts": traffic.forged},
        problems=problems,
    )


def _expect(problems: list[str], condition: Callable[[], bool], timeout_s: float, what: str) -> bool:
    try:
        _until(condition, timeout_s, what)
    except AssertionError as error:
        problems.append(str(error))
        return False
    return True


class _Silence:
    """Whether the outboxes have been empty, and nothing was committed, for QUIET_S."""

    def __init__(self, clinic: Clinic) -> None:
        self._clinic = clinic
        self._heads: list[int] = []
        self._since = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        heads = [ledger.head for ledger in self._clinic.ledgers.values()]
        if heads != self._heads or any(ledger.waiting() for ledger in self._clinic.ledgers.values()):
            self._heads, self._since = heads, now
        return now - self._since >= QUIET_S


# -- the board -----------------------------------------------------------------------------------------------


def _snapshot(clinic: Clinic) -> dict[str, Any]:
    address = f"127.0.0.1:{clinic.board_port}"
    with connect(f"ws://{address}/ws", origin=Origin(f"http://{address}")) as socket:
        while True:
            message = socket.recv(timeout=5)
            if isinstance(message, str) and json.loads(message)["t"] == "snap":
                found: dict[str, Any] = json.loads(message)
                return found


def _board(clinic: Clinic, traffic: Traffic) -> list[str]:
    """It shows each room's newest reading, each alert once, and no trouble."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{clinic.board_port}/api/health", timeout=5):
            pass
        shown = _snapshot(clinic)
    except (OSError, TimeoutError) as error:
        return [f"the board does not answer: {error}"]
    wrong = []
    if shown["sys"]["band"]:
        wrong.append(f"the board still says: {shown['sys']['band']['txt']}")
    rooms = {room["id"]: room for room in shown["rooms"]}
    kept = _newest(clinic)
    for room in (room for gateway in GATEWAYS for room in ROOMS[gateway]):
        device = spot_device(room)
        cell, metric = ("bp", "bp_sys") if device.startswith("bp") else ("temp", "temp")
        # Which of a room's thermometers is shown depends on the visit; it is in any case the newest of its own.
        newest = kept.get((device, metric), set()) | kept.get((monitor(room), metric), set())
        seen = rooms[room]["obs"].get(cell, {}).get("id", "")
        if seen not in (newest or {""}):  # a cuff may have had no calm moment to measure in
            wrong.append(f"room {room}: the board shows {cell} {seen or 'nothing'}, the store has {sorted(newest)}")
    return wrong + _alarms(clinic, traffic)


def _alarms(clinic: Clinic, traffic: Traffic) -> list[str]:
    """Silent devices go on raising alerts, so the page and the broker may be asked on either side of one."""
    problem = ""
    for _ in range(ALARM_TRIES):
        alarms = [alarm["id"] for alarm in _snapshot(clinic)["alarms"]]
        if len(alarms) == len(set(alarms)) and set(alarms) == traffic.standing():
            return []
        problem = f"the board's alerts {sorted(alarms)} are not the broker's {sorted(traffic.standing())}"
        time.sleep(1)
    return [problem]


def _newest(clinic: Clinic) -> dict[tuple[str, str], set[str]]:
    """Ids of each device's newest reading of a metric that is neither historical nor from the future.

    Several, where several came in one piece and so at one time.
    """
    now = time.time_ns()
    times: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str], set[str]] = {}
    for row in clinic.store.rows():
        if row.leaf != "obs":
            continue
        said = json.loads(row.message)
        reading, t = said["observation"], said["t_determined"]
        if t > now or reading.get("historical"):
            continue
        for key in ((row.device, metric) for metric in reading["quantities"]):
            if t > times.get(key, 0):
                times[key], found[key] = t, set()
            if t == times[key]:
                found[key].add(said["id"])
    return found


def clean(folder: Path) -> None:
    """Only after a good run; a bad one keeps its files, to be looked into."""
    shutil.rmtree(folder, ignore_errors=True)
