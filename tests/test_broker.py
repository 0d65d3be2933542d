"""The MQTT wrapper against a real mosquitto: nothing is acknowledged before its work is done, nothing is hidden."""

import socket

import pytest

from tests.parts import Mosquitto, free_port, needs, wait_until
from vitals import settings
from vitals.broker import Broker, Message, Will
from vitals.errors import BrokerError

pytestmark = [pytest.mark.broker, needs("mosquitto")]


def connect(broker: Mosquitto, name: str, **more) -> Broker:  # type: ignore[no-untyped-def]
    client = Broker(settings.Broker(port=broker.port), name, **more)
    client.start()
    assert client.wait_connected(10)
    return client


def take(client: Broker, count: int) -> list[Message]:
    found: list[Message] = []

    def enough() -> bool:
        found.extend(client.take(100, 0.1))
        return len(found) >= count

    wait_until(enough, 10, f"{count} messages")
    return found


def test_what_was_taken_but_not_acknowledged_comes_again(mosquitto: Mosquitto) -> None:
    reader = connect(mosquitto, "reader", subscriptions=[("t/#", 1)], persistent=True)
    writer = connect(mosquitto, "writer")
    wait_until(lambda: writer.publish("t/1", b"a", qos=1) and bool(reader.take(1, 0.2)), 10, "delivery")
    reader.stop()
    again = connect(mosquitto, "reader", subscriptions=[("t/#", 1)], persistent=True)
    messages = take(again, 1)
    assert messages[0].payload == b"a"
    again.ack(messages)
    again.stop()
    third = connect(mosquitto, "reader", subscriptions=[("t/#", 1)], persistent=True)
    assert third.take(10, 0.5) == []
    third.stop()
    writer.stop()


def test_the_will_speaks_when_the_connection_breaks(mosquitto: Mosquitto) -> None:
    watcher = connect(mosquitto, "watcher", subscriptions=[("s", 1)])
    doomed = connect(mosquitto, "doomed", will=Will("s", b"gone"))
    doomed._client.socket().close()  # type: ignore[union-attr]
    assert take(watcher, 1)[0].payload == b"gone"
    doomed.stop()
    watcher.stop()


def test_a_killed_broker_is_seen_and_the_owner_republishes(mosquitto: Mosquitto) -> None:
    connects: list[int] = []
    client: Broker

    def republish() -> None:
        connects.append(1)
        client.publish("state", b"on", qos=1, retain=True)

    client = Broker(settings.Broker(port=mosquitto.port), "owner", on_connect=republish)
    client.start()
    assert client.wait_connected(10)
    mosquitto.kill()
    wait_until(lambda: not client.connected, 10, "the loss being seen")
    assert client.publish("x", b"y", qos=1) is False, "nothing is queued behind the caller's back"
    mosquitto.start()
    wait_until(lambda: len(connects) == 2, 15, "a second connect")
    late = connect(mosquitto, "late", subscriptions=[("state", 1)])
    assert take(late, 1)[0][:3] == ("state", b"on", True)
    late.stop()
    client.stop()


def test_no_broker_is_an_error_that_says_what_to_do() -> None:
    client = Broker(settings.Broker(port=free_port()), "alone")
    client.start()
    with pytest.raises(BrokerError, match="No MQTT broker at") as told:
        client.require(1.5)
    assert "Start the broker" in str(told.value)
    client.stop()


CONNACK = b"\x20\x03\x00\x00\x00"
"""Success, nothing said of a session."""


def publish(mid: int) -> bytes:
    return b"\x32\x07\x00\x01t" + bytes([0, mid]) + b"\x00" + b"x"


def test_what_comes_with_the_greeting_is_delivered_and_nothing_of_a_lost_connection_is_acknowledged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        client = Broker(settings.Broker(port=server.getsockname()[1]), "reader")
        client.start()
        first, _ = server.accept()
        first.recv(1000)
        first.sendall(CONNACK + publish(5) + publish(6)[:4])
        old = take(client, 1)
        first.close()
        second, _ = server.accept()
        second.settimeout(10)
        second.recv(1000)
        second.sendall(CONNACK + publish(7))
        new = take(client, 1)
        client.ack([*old, *new])
        assert (old[0].mid, new[0].mid) == (5, 7)
        assert second.recv(1000) == b"\x40\x02\x00\x07"
        client.stop()
        second.close()
