"""A broker with the files that `vitals provision` makes, and clients with its credentials."""

from datetime import datetime
from pathlib import Path

import pytest

from tests.parts import Mosquitto, free_port, wait_until
from vitals import settings as conf
from vitals.broker import Broker
from vitals.cli.provision.folder import Provision
from vitals.clock import SystemClock, to_datetime
from vitals.errors import BrokerError
from vitals.settings import Settings

ROOT = "vitals/v1/clinic"


def now() -> datetime:
    return to_datetime(SystemClock().now())


class Bus:
    """A provisioned broker of the site `clinic`, with the gateways `g1` and `g2`; its clients end with it."""

    def __init__(self, folder: Path, credentials: str = "password") -> None:
        self.folder = folder / "provision"
        self.credentials = credentials
        self.port = free_port()
        self.provision = Provision(self.folder, now)
        self.provision.init(
            site="clinic",
            hosts=["localhost", "127.0.0.1"],
            port=self.port,
            credentials=credentials,  # type: ignore[arg-type]
            broker_folder="",
            data_folder=str(folder),
        )
        for name in ("g1", "g2"):
            self.provision.gateway(name)
        self.mosquitto = Mosquitto.provisioned(folder / "broker", self.folder / "broker", self.port)
        self.mosquitto.start()
        self._clients: list[Broker] = []

    def add(self, name: str) -> None:
        """Another gateway, as a person adds one beside those that run."""
        self.provision.gateway(name)
        self.mosquitto.reload()

    def settings(self, name: str) -> Settings:
        return conf.load(self.folder / name / "settings.toml", {})

    def client(self, name: str, *filters: str, connected: bool = True, **more: object) -> Broker:
        """As the program of that name connects, but for its subscriptions."""
        return self.connect(self.settings(name).broker, f"clinic-{name}", *filters, connected=connected, **more)

    def connect(
        self, where: conf.Broker, client_id: str, *filters: str, connected: bool = False, **more: object
    ) -> Broker:
        broker = Broker(
            where, client_id, subscriptions=[(f, 1) for f in filters],
            password=conf.secret(where.password_file, ""), **more,  # type: ignore[arg-type]
        )  # fmt: skip
        self._clients.append(broker)
        broker.start()
        assert not connected or broker.wait_connected(10), broker.fault
        return broker

    def part(self) -> None:
        while self._clients:
            self._clients.pop().stop()

    def end(self) -> None:
        self.part()
        self.mosquitto.kill()


def refusal(client: Broker) -> BrokerError:
    """What the client says of its first attempt, which must fail."""
    wait_until(lambda: client.connected or client.fault != "not connected yet", 10, "an attempt to connect")
    with pytest.raises(BrokerError, match="No MQTT broker") as told:
        client.require(0)
    return told.value


def answered(client: Broker) -> Broker:
    """The same client, when the broker has answered for all that it sent."""
    wait_until(lambda: client.settled, 10, "the broker's answer")
    return client


def heard_until(reader: Broker, topic: str, payload: bytes) -> set[tuple[str, bytes]]:
    """What came before this message, which must come."""
    heard: list[tuple[str, bytes]] = []

    def marked() -> bool:
        heard.extend((message.topic, message.payload) for message in reader.take(50, 0.1))
        return (topic, payload) in heard

    wait_until(marked, 10, f"{topic}, after {heard}")
    return set(heard[: heard.index((topic, payload))])
