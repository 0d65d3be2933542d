"""A simulated device and its driver, talking in memory and in virtual time."""

from typing import Any

from simulators.core.gatt import Property
from tests.test_every_driver import new_session
from vitals.clock import Instant
from vitals.driver import BleSpec, Driver, Options, Session
from vitals.model import Chunk, Event, Send


def host_of(driver: Driver, device: Any, at: Instant, options: Options | None = None) -> "Cable | Radio":
    """`device`: a simulator, with or without mischief around it."""
    return (Radio if isinstance(driver.spec, BleSpec) else Cable)(driver, device, at, options)


class Tap:
    """The device as it is, with what it says written down before any mischief."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.said: list[Send] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def respond(self, chunk: Chunk) -> list[Send]:
        return self._note(self._device.respond(chunk))

    def advance(self, until: int) -> list[Send]:
        return self._note(self._device.advance(until))

    def _note(self, sends: list[Send]) -> list[Send]:
        self.said += sends
        return sends


class Cable:
    """A serial line: bytes run together as they do in a UART's buffer."""

    def __init__(self, driver: Driver, device: Any, at: Instant, options: Options | None = None) -> None:
        self.device = device
        self.session: Session = new_session(driver, options)
        self.arrived: list[tuple[Chunk, list[Event]]] = []
        self._now = at
        self._line: list[Send] = []
        self._take(Chunk(b"", at), self.session.start())

    def turn(self, now: int) -> None:
        self._now = now
        data = b"".join(send.data for send in (*self._line, *self.device.advance(now)))
        self._line = []
        if data:
            chunk = Chunk(data, now)
            self._take(chunk, self.session.receive(chunk))
        self._take(Chunk(b"", now), self.session.tick(now))

    def end(self) -> None:
        self._take(Chunk(b"", self._now), self.session.close())

    def _take(self, chunk: Chunk, events: list[Event]) -> None:
        self.arrived.append((chunk, events))
        for event in events:
            if isinstance(event, Send):
                self._line += self.device.respond(Chunk(event.data, self._now))


class Radio:
    """A host in Bluetooth reach: links up when the device can be found, reads, subscribes, confirms indications."""

    def __init__(self, driver: Driver, device: Any, at: Instant, options: Options | None = None) -> None:
        assert isinstance(driver.spec, BleSpec)
        self._driver, self._spec, self._options = driver, driver.spec, options
        self.device = device
        self.session: Session = new_session(driver, options)
        self.arrived: list[tuple[Chunk, list[Event]]] = []
        table = [c for service in self.device.table for c in service.characteristics]
        self._fixed = {c.uuid: c.value for c in table if Property.READ in c.properties}
        self._confirmed = {c.uuid for c in table if Property.INDICATE in c.properties}
        self._linked = False

    def turn(self, now: int) -> None:
        sends = self.device.advance(now)
        if not self._linked:
            if self.device.advertising:
                self._link_up(now)
            return
        for send in sends:
            self._hear(Chunk(send.data, now, send.channel))
            if send.channel in self._confirmed:
                self.device.confirmed(send, now)
        self.arrived.append((Chunk(b"", now), self.session.tick(now)))
        if self.device.hanging_up:
            self._linked = False
            self.end()
            self.device.disconnected(now)

    def _link_up(self, now: int) -> None:
        self._linked = True
        self.device.connected(now)
        self.session = new_session(self._driver, self._options)
        self.arrived.append((Chunk(b"", now), self.session.start()))
        for uuid in self._spec.read:
            if uuid in self._fixed:
                self._hear(Chunk(self.device.read(uuid, now) or self._fixed[uuid], now, uuid))
        for uuid in self._spec.subscribe:
            self.device.subscribed(uuid, True, now)

    def _hear(self, chunk: Chunk) -> None:
        self.arrived.append((chunk, self.session.receive(chunk)))

    def end(self) -> None:
        self.arrived.append((Chunk(b"", 0), self.session.close()))
