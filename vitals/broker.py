"""MQTT 5 by iteration: messages are taken in batches and acknowledged when their work is done.

paho-mqtt runs its network loop in a thread of its own; this wrapper turns its callbacks into a queue. A message of
QoS 1 is acknowledged to the broker only by `ack`, so one that was taken but not finished comes again.

Messages are read and acknowledged many at a time, beside paho (`_Client`): one by one they cost twelve times the CPU.
"""

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from vitals import settings, tls
from vitals.errors import BrokerError
from vitals.log import Log
from vitals.messages import MAX_PAYLOAD
from vitals.packets import PUBACK, PacketStream, Published, acknowledgements

KEEPALIVE_S: Final = 10
RECONNECT_MAX_S: Final = 4
MAX_PACKET: Final = MAX_PAYLOAD + 65_536
"""The broker drops what is larger before it reaches us: payload, topic and properties."""
MAX_QUEUED_BYTES: Final = 67_108_864
MAX_QUEUED: Final = 20_000
"""Messages taken from the network and not yet from us. QoS 1 is bounded by the receive maximum; this bounds QoS 0."""
SESSION_EXPIRY_S: Final = 3600
"""How long the broker queues for a persistent client that is away: as long as an observation is worth sending."""
MAX_TOLD: Final = 64
"""Topics a denial was logged for by name; further ones are counted."""
MAX_TAKEN: Final = 500_000
"""Bytes of payload after which `take` takes no more: some 1,200 readings. A backlog comes in packs: hundreds of them at
once would keep a fresh reading waiting for seconds."""
READ: Final = 65_536
"""Bytes asked of the socket at a time: some 150 readings."""
_log = Log("broker")


class Message(NamedTuple):
    """`connection` counts reconnects: an acknowledgement belongs to the connection that delivered the message."""

    topic: str
    payload: bytes
    retain: bool
    qos: int = 0
    mid: int = 0
    connection: int = 0


class Will(NamedTuple):
    """What the broker publishes for us, retained, when the connection breaks."""

    topic: str
    payload: bytes


@lru_cache(64)
def _properties(expiry_s: int | None, content_type: str) -> Properties | None:
    """Of a message to publish. Few differ, and paho takes 25 us to make a set of them."""
    if expiry_s is None and not content_type:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    if content_type:
        properties.ContentType = content_type
    return properties


class _Client(mqtt.Client):
    """paho's client, which never sees a message: those are taken out of what it reads.

    paho asks the socket for each byte of a packet's head, and makes a table of properties for every message. The only
    hook for another way is `_sock_recv`, as `_packet_queue` is for many acknowledgements in one. Both are private to
    paho; tests/test_broker.py fails where a release changes them.
    """

    def __init__(self, client_id: str, deliver: Callable[[Sequence[Published]], None]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, manual_ack=True)
        self._deliver = deliver
        self.begin()

    def begin(self) -> None:
        """A new connection: what is left of the old one's bytes is worth nothing."""
        self._stream = PacketStream(MAX_PACKET)
        self._others = b""

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        code = super().loop_read(max_packets)
        while not code and self._others:
            code = super().loop_read(max_packets)
        return code

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._others:
            data = super()._sock_recv(READ)
            if not data:
                return data
            try:
                messages, self._others = self._stream.feed(data)
            except ValueError as error:
                raise ConnectionError(f"no MQTT: {error}") from None
            if messages:
                self._deliver(messages)
            if not self._others:
                raise BlockingIOError
        part, self._others = self._others[:bufsize], self._others[bufsize:]
        return part

    def end(self) -> None:
        """After the loop. Left to itself, paho closes the sockets it wakes itself by only when it is collected."""
        self._reset_sockets()

    def acknowledge(self, mids: Sequence[int]) -> None:
        self._packet_queue(PUBACK, acknowledgements(mids), mids[-1], 1)


class Broker:
    """One connection to the broker, kept up for ever, in any thread's reach.

    `subscriptions` are (topic filter, QoS). `on_connect` runs in the network thread after every (re)connect and
    subscription: there the owner of retained topics publishes them again, since a broker may have forgotten them.
    `wake` is called from the network thread whenever `take` would return something.
    """

    def __init__(
        self,
        where: settings.Broker,
        client_id: str,
        *,
        subscriptions: Sequence[tuple[str, int]] = (),
        will: Will | None = None,
        persistent: bool = False,
        receive_maximum: int = 1000,
        password: str | None = None,
        on_connect: Callable[[], None] | None = None,
        on_disconnect: Callable[[], None] | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._where = where
        self._subscriptions = list(subscriptions)
        self._persistent = persistent
        self._receive_maximum = receive_maximum
        self.on_connect = on_connect
        self.on_disconnect = on_disconnect
        self.wake = wake
        self.connected = False
        self.fault = ""
        """Why there is no connection, for people; empty while connected."""
        self._set(tls.Trouble("not connected yet", "a broker that answers", "Start the broker."))
        self._refused = False
        self.dropped = 0
        """Messages for eyes only (QoS 0) that came while the reader was too far behind."""
        self.denied = 0
        """Messages and subscriptions the broker's access rules did not let pass. A denied message was not delivered;
        it is not sent again from here."""
        self._denied_topics: set[str] = set()
        self._under_way: dict[int, str] = {}
        self._queued_bytes = 0
        self._connection = 0
        self._arrived = threading.Condition()
        self._messages: deque[Message] = deque()
        self._client = self._make_client(client_id, will, password)

    def _make_client(self, client_id: str, will: Will | None, password: str | None) -> _Client:
        context = tls.context(self._where)
        client = _Client(client_id, self._on_messages)
        client.reconnect_delay_set(1, RECONNECT_MAX_S)
        client.max_inflight_messages_set(self._receive_maximum)
        if self._where.username:
            client.username_pw_set(self._where.username, password)
        if context is not None:
            if self._where.key_file:
                settings.warn_if_open(self._where.key_file)
            client.tls_set_context(context)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def start(self) -> None:
        """Begin connecting, and go on for ever. Returns at once; see `connected` and `fault`."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = MAX_PACKET
        properties.SessionExpiryInterval = SESSION_EXPIRY_S if self._persistent else 0
        self._client.connect_async(
            self._where.host,
            self._where.port,
            keepalive=KEEPALIVE_S,
            clean_start=not self._persistent,
            properties=properties,
        )
        self._client.on_connect_fail = self._on_connect_fail
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect and end the thread. The will is not published: say goodbye by `publish` before."""
        self._client.disconnect()
        with contextlib.suppress(AttributeError):  # paho forgets its thread when that ends, here between look and join
            self._client.loop_stop()
        self._client.end()

    @property
    def trouble(self) -> tls.Trouble | None:
        """Why there is no connection, with what to do; None while there is one."""
        return self._trouble

    @property
    def settled(self) -> bool:
        """Whether the broker has answered for all that was published with QoS 1."""
        return not self._under_way

    def wait_connected(self, timeout_s: float) -> bool:
        """Whether a connection stands within the time."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self.connected, timeout_s)

    def require(self, timeout_s: float) -> None:
        """As `wait_connected`, and a BrokerError that says what to do when there is none."""
        if not self.wait_connected(timeout_s) and self._trouble is not None:
            found, expected, do = self._trouble
            place = f"{self._where.host}:{self._where.port}"
            raise BrokerError(f"No MQTT broker at {place}.", expected=expected, found=found, do=do)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str = "",
    ) -> bool:
        """Hand a message to the connection. False when there is none.

        What was handed over in the very moment a connection broke may be sent once more on the next one.
        """
        if not self.connected:
            return False
        info = self._client.publish(topic, payload, qos, retain, _properties(expiry_s, content_type))
        if qos:
            self._under_way[info.mid] = topic  # bounded by the 65,535 message ids, which come round again
        return info.rc == mqtt.MQTT_ERR_SUCCESS

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """Up to `limit` messages in order of arrival, fewer where they are long; waits `timeout_s` for the first."""
        with self._arrived:
            if not self._messages:
                self._arrived.wait(timeout_s)
            taken: list[Message] = []
            size = 0
            while self._messages and len(taken) < limit and size < MAX_TAKEN:
                taken.append(self._messages.popleft())
                size += len(taken[-1].payload)
            self._queued_bytes -= size
            return taken

    def ack(self, messages: Sequence[Message]) -> None:
        """Their work is done. Messages of an earlier connection are skipped: the broker sends those again."""
        mids = [message.mid for message in messages if message.qos and message.connection == self._connection]
        if mids:
            self._client.acknowledge(mids)

    def _on_socket_open(self, _client: mqtt.Client, _data: Any, _socket: Any) -> None:
        # Counted here and not when the broker says hello: the first messages come with that in one read.
        self._connection += 1
        self._client.begin()

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = True
            self._tell(tls.refused(str(reason), self._where))
            return
        if self._subscriptions:
            client.subscribe([(topic, SubscribeOptions(qos=qos)) for topic, qos in self._subscriptions])
        with self._arrived:
            self.connected = True
            self._set(None)
            self._arrived.notify_all()
        _log.info("broker connected", host=self._where.host, port=self._where.port)
        if self.on_connect is not None:
            self.on_connect()

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped % 1000 == 1:
            do = "look at the load of this machine"
            _log.warning("reader too slow, messages for eyes only dropped", dropped=self.dropped, do=do)

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        """A broker that refuses a subscription goes on as if nothing were wrong; we would wait in silence."""
        for (topic, _), reason in zip(self._subscriptions, reasons, strict=False):
            if reason.is_failure:
                self._deny("subscription refused", topic, reason)

    def _on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        """MQTT 5 acknowledges a message that was denied as well: only the reason code says that nobody got it."""
        topic = self._under_way.pop(mid, "")
        if reason.is_failure:
            self._deny("message refused", topic, reason)

    def _deny(self, what: str, topic: str, reason: object) -> None:
        self.denied += 1
        known = topic in self._denied_topics or len(self._denied_topics) >= MAX_TOLD
        if known and self.denied % 1000:
            return
        if not known:
            self._denied_topics.add(topic)
        _log.error(what, topic=topic, reason=reason, denied=self.denied, do="correct the broker's ACL")

    def _tell(self, trouble: tls.Trouble) -> None:
        """Logged once, not for each of the attempts that follow."""
        if trouble != self._trouble:
            found, expected, do = trouble
            _log.error("no broker, trying again for ever", found=found, expected=expected, do=do)
        self._set(trouble)

    def _set(self, trouble: tls.Trouble | None) -> None:
        self._trouble = trouble
        self.fault = "" if trouble is None else trouble.found

    def _on_connect_fail(self, _client: mqtt.Client, _data: Any) -> None:
        # paho calls this while it handles the error, and does not pass it on.
        self._tell(tls.explain(sys.exception(), self._where))

    def _on_disconnect(self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        was, self.connected = self.connected, False
        refused, self._refused = self._refused, False
        if was:
            self._set(tls.Trouble(f"connection lost: {reason}", "a connection that stays", "Look at the broker's log."))
            _log.warning("broker disconnected", reason=reason, do="look at the broker's log; trying again for ever")
            if self.on_disconnect is not None:
                self.on_disconnect()
        elif reason.is_failure and not refused:  # else it was us who ended the attempt
            self._tell(tls.hung_up(str(reason), self._where))

    def _on_messages(self, messages: Sequence[Published]) -> None:
        with self._arrived:
            for message in messages:
                full = len(self._messages) >= MAX_QUEUED or self._queued_bytes >= MAX_QUEUED_BYTES
                if full and not message.qos:
                    self._drop()
                    continue
                self._queued_bytes += len(message.payload)
                self._messages.append(Message(*message, self._connection))
            self._arrived.notify()
        if self.wake is not None:
            self.wake()
