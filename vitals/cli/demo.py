"""`vitals demo`: a simulated clinic on this machine. Each part is a process of its own and can be killed alone."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final, NamedTuple

from simulators.core.scenario import Scenario
from vitals.cli import demo_broker, demo_settings
from vitals.cli.outages import Outages
from vitals.clock import NS, Clock
from vitals.errors import PortTaken, VitalsError

RESTART_S: Final = 5
"""Long enough to watch the board say what is missing, short enough for a demo."""
READY_S: Final = 30
PARTS: Final = ("simulate", "gateway", "ingest", "board")


class Part(NamedTuple):
    name: str
    command: list[str]


class Demo:
    """Starts the parts, restarts what dies, stops them all at the end. Logs go to one file a part."""

    def __init__(self, folder: Path, clock: Clock, *, restart: bool) -> None:
        self._folder = folder
        self._clock = clock
        self._restart = restart
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._due: dict[str, int] = {}
        self._parts: dict[str, Part] = {}
        self._out: set[str] = set()
        """Parts that an outage of the scenario keeps away."""
        self._stopping = False

    def run(self, scenario: Scenario, *, rooms: int | None, port: int, broker_port: int, seed: int) -> None:
        """Until SIGINT or SIGTERM. Raises SettingsError for a scenario these rooms cannot play."""
        demo_settings.require_fittings(scenario)
        for number, option in ((port, "--port"), (broker_port, "--broker-port")):
            require_free(number, option)
        broker = demo_broker.prepare(self._folder, broker_port)
        path = demo_settings.write(
            self._folder, scenario, rooms=rooms, board_port=port, broker_port=broker_port, window=broker.window,
            seed=seed,
        )  # fmt: skip
        self._parts = {"broker": Part("broker", broker.command)} | {
            name: Part(name, [sys.executable, "-m", "vitals.cli", name, "--config", str(path)]) for name in PARTS
        }
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        try:
            for name in self._parts:
                self._start(name)
            self._await_board(port)
            print(
                _WELCOME.format(
                    title=scenario.title, see=scenario.see.strip(), rooms=rooms or len(scenario.rooms),
                    broker=broker.name, port=port, folder=self._folder, config=path,
                ),
                flush=True,
            )  # fmt: skip
            outages = Outages(scenario.outages, self._clock.monotonic())
            while not self._stopping:
                self._keep_away(outages.due(self._clock.monotonic()))
                self._watch()
                time.sleep(0.2)
        finally:
            self._stop_all()

    def _start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._parts[name].command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        (self._folder / f"{name}.pid").write_text(str(self._running[name].pid), encoding="utf-8")

    def _keep_away(self, parts: set[str]) -> None:
        """kill -9 what an outage begins for; start again what one is over for."""
        for name in parts - self._out:
            self._due.pop(name, None)
            process = self._running.pop(name, None)
            if process is not None:
                process.kill()
                process.wait()
            print(f"{name} fails, as the scenario says", flush=True)
        for name in self._out - parts:
            self._start(name)
            print(f"{name} started again", flush=True)
        self._out = parts

    def _watch(self) -> None:
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            again = " ".join(self._parts[name].command)
            if self._restart:
                self._due[name] = self._clock.monotonic() + RESTART_S * NS
                print(f"{name} ended ({how}); starting it again in {RESTART_S} s", flush=True)
            else:
                print(f"{name} ended ({how}). Start it again with:\n  {again}", flush=True)
        for name, due in list(self._due.items()):
            if self._clock.monotonic() >= due:
                del self._due[name]
                self._start(name)
                print(f"{name} started again", flush=True)

    def _await_board(self, port: int) -> None:
        deadline = self._clock.monotonic() + READY_S * NS
        while self._clock.monotonic() < deadline and not self._stopping:
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended:
                raise self._part_failed(ended[0])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        if not self._stopping:
            raise VitalsError(
                "The board did not answer.", expected=f"an answer within {READY_S} s", found="none",
                do=f"Read {self._folder / 'board.log'}.",
            )  # fmt: skip

    def _part_failed(self, name: str) -> VitalsError:
        log = self._folder / f"{name}.log"
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-4:]
        return VitalsError(
            f"{name} did not start.", expected=f"{name} running", found="\n    ".join(["it ended:", *tail]),
            do=f"Read {log}.",
        )  # fmt: skip

    def _stop(self, *_signal: object) -> None:
        self._stopping = True

    def _stop_all(self) -> None:
        """Gateway before broker, so that the farewells arrive."""
        for name in ("simulate", "gateway", "ingest", "board", "broker"):
            process = self._running.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def require_free(port: int, option: str) -> None:
    """Raises PortTaken when another program listens on the loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PortTaken(
                f"Port {port} is taken.", expected="a free port", found="another program listens there",
                do=f"Stop that program, or choose another port with {option}.",
            ) from None  # fmt: skip


_WELCOME: Final = """
The simulated clinic is running: {rooms} rooms, broker: {broker}.
{title}. {see}

    Board   http://127.0.0.1:{port}/
    Logs    {folder}/*.log
    Config  {config}

Try: kill -9 $(cat {folder}/ingest.pid)   and watch the board. Ctrl+C ends it all.
"""
