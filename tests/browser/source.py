"""The board as a process of its own, fed by its parent: `python -m tests.browser.source PORT ROOMS [NAME]`.

Commands come as JSON lines on stdin: {"messages": [[topic, base64], ...]}, {"connected": false},
{"clinic": {"rooms": 16, "plain": false, "widest": false}} or {"clinic": null} to silence it.
"""

import asyncio
import base64
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from dashboards.app import serve
from tests.browser import clinic
from vitals.clock import NS, NS_PER_MS, SystemClock

BEGUN_S = 1800


class Arrived(NamedTuple):
    topic: str
    payload: bytes


class BegunEarlier(SystemClock):
    """The true time, except for the first question, by which the board begins its visits: half an hour ago.

    Else every reading of a clinic that is already at work would be from before the visit.
    """

    def __init__(self) -> None:
        self._asked = False

    def now(self) -> int:
        asked, self._asked = self._asked, True
        return super().now() - (0 if asked else BEGUN_S * NS)


class StdinBroker:
    """Stands in for the broker: what the parent writes arrives as messages."""

    def __init__(self) -> None:
        self.connected = True
        self.fault = ""
        self.stopped: Any = None
        self._messages: deque[Arrived] = deque()
        self._arrived = threading.Condition()
        self._clinic: clinic.Clinic | None = None

    def take(self, limit: int, timeout_s: float) -> list[Arrived]:
        with self._arrived:
            if not self._messages:
                self._arrived.wait(timeout_s)
            return [self._messages.popleft() for _ in range(min(limit, len(self._messages)))]

    def ack(self, messages: Sequence[Arrived]) -> None:
        pass

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        return True

    def put(self, messages: Sequence[tuple[str, bytes]]) -> None:
        with self._arrived:
            self._messages.extend(Arrived(*message) for message in messages)
            self._arrived.notify()

    def read(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if "messages" in command:
                self.put([(topic, base64.b64decode(body)) for topic, body in command["messages"]])
            if "connected" in command:
                self.connected = command["connected"]
                self.fault = "" if self.connected else "connection lost: test"
            if "clinic" in command:
                chosen = command["clinic"]
                fresh = clinic.Clinic(**chosen) if chosen else None
                if fresh and chosen["rooms"] == 16:
                    self.put(list(fresh.past(SystemClock().now())))
                if fresh:
                    self.put(list(fresh.start(SystemClock().now())))
                self._clinic = fresh
        self.stopped()

    def run_clinic(self) -> None:
        due = time.monotonic()
        at = SystemClock().now()
        while True:
            due += 0.1
            time.sleep(max(0.0, due - time.monotonic()))
            at += 100 * NS_PER_MS
            if time.monotonic() - due > 1:  # this process was stopped for a while: samples of that time are lost
                due, at = time.monotonic(), SystemClock().now()
            if self._clinic is not None:
                self.put(list(self._clinic.step(at)))


async def main(port: int, rooms: int, name: str) -> None:
    broker = StdinBroker()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    broker.stopped = lambda: loop.call_soon_threadsafe(stop.set)
    for work in (broker.read, broker.run_clinic):
        threading.Thread(target=work, daemon=True).start()
    await serve(clinic.settings(rooms, port, name), broker, None, BegunEarlier(), stop)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
