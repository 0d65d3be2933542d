"""A client of the harness on the broker: listens to everything, says again what it heard, and says what is wrong."""

import contextlib
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from vitals.messages import MAX_PAYLOAD

HEARD: Final = 400
"""Messages kept to be said again: some minutes old ones and some that are under way."""
TWICE: Final = 2
DELIVER_S: Final = 10
"""For the broker to answer for all of them; the rest goes on its way all the same."""
REFUSED: Final = 128
INGEST: Final = "core/ingest/status"


class Traffic:
    """`doubled` are alerts that had ended, came again with the same beginning, and stayed.

    After a lost connection MQTT delivers again, in order, what was not acknowledged: an alert and its end. Those that
    ended again are counted in `renewed`.
    """

    def __init__(self, site: str, port: int) -> None:
        self._root = f"vitals/v1/{site}"
        self._heard: deque[tuple[str, bytes]] = deque(maxlen=HEARD)
        self._guard = threading.Lock()
        self._standing: dict[str, Any] = {}
        self._ended: dict[str, set[Any]] = {}
        """By topic: when alerts that are over began."""
        self.raised = 0
        self.doubled: set[str] = set()
        self.renewed = 0
        self.repeated = 0
        self.poisoned = 0
        self.forged = 0
        self.receipts: Counter[str] = Counter()
        """Heard so far, by the store that gives them."""
        self._answers: dict[int, int] = {}
        self._online: dict[str, bool] = {}
        """By topic of a status. It is retained, and the last will too: the broker says who is there."""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="chaos", protocol=mqtt.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, *_rest: Any) -> None:
        self._standing.clear()
        self._online.clear()
        # What we say ourselves is not heard, or it would be said again without end.
        options = SubscribeOptions(qos=1, noLocal=True)
        up = [f"{self._root}/up/+/+/+/{leaf}" for leaf in ("obs", "strip", "event")]
        others = [f"{self._root}/{topic}" for topic in ("core/+/alert/+", "down/+/stored", "up/+/status", INGEST)]
        client.subscribe([(topic, options) for topic in (*up, *others)])

    def _on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._answers[mid] = reason.value

    def _deliver(self, messages: Sequence[tuple[str, bytes]], status: str) -> int:
        """How many of them the broker took while the one they are for was there, as its `status` says."""
        if not self._online.get(f"{self._root}/{status}"):
            return 0
        sent = [self._client.publish(topic, payload, qos=1) for topic, payload in messages]
        until = time.monotonic() + DELIVER_S
        for info in sent:
            with contextlib.suppress(RuntimeError):  # no connection, though it goes out with the next one
                info.wait_for_publish(max(0.0, until - time.monotonic()))
        return sum(self._answers.pop(info.mid, REFUSED) == 0 for info in sent)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with self._guard:
            payload = bytes(message.payload)
            if message.topic.endswith("/stored"):
                self.receipts[msgspec.json.decode(payload)["store_id"]] += 1
            elif message.topic.endswith("/status"):
                self._online[message.topic] = bool(payload) and msgspec.json.decode(payload)["online"]
            elif "/alert/" in message.topic:
                self._alert(message.topic, payload, retained=message.retain)
            else:
                self._heard.append((message.topic, payload))

    def _alert(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """A retained one is a state; the others are changes."""
        said = msgspec.json.decode(payload) if payload else None
        before = self._standing.pop(topic, None)
        if said is None:
            if before is not None:
                self._ended.setdefault(topic, set()).add(before["since"])
                self.renewed += topic in self.doubled
                self.doubled.discard(topic)
            return
        self._standing[topic] = said
        if before is None and not retained:
            self.raised += 1
            if said["since"] in self._ended.get(topic, ()) and not said["technical"]:
                self.doubled.add(topic)

    def standing(self) -> set[str]:
        """`room/id` of every alert that stands."""
        with self._guard:
            topics = [topic.split("/") for topic in self._standing]
        return {f"{parts[-3]}/{parts[-1]}" for parts in topics}

    @property
    def foreign_receipts(self) -> int:
        """Of all stores but the one that was heard first."""
        return sum(list(self.receipts.values())[1:])

    def replay(self, seed: int) -> int:
        """All that was heard lately, each twice, in another order. As `forge` and `poison`: how many got through."""
        with self._guard:
            again = list(self._heard) * TWICE
        random.Random(seed).shuffle(again)
        taken = self._deliver(again, INGEST)
        self.repeated += taken
        return taken

    def forge(self, gateway: str, rows: list[tuple[str, int]], now: int) -> int:
        """A receipt of another store for rows that wait: the gateway must not believe it."""
        outcomes = [(epoch, seq, "stored") for epoch, seq in rows]
        receipt = {"v": 1, "store_id": "another store", "now": now, "outcomes": outcomes}
        taken = self._deliver(
            [(f"{self._root}/down/{gateway}/stored", msgspec.json.encode(receipt))], f"up/{gateway}/status"
        )
        self.forged += taken * len(rows)
        return taken

    def poison(self, seed: int) -> int:
        """What cannot be read, is too large, or comes from the future, on the topics of real devices."""
        rng = random.Random(seed)
        root = f"{self._root}/up"
        messages = [
            (f"{root}/gateway-{rng.randint(1, 2)}/{rng.randint(1, 8)}/ekg-openview-1/{leaf}", payload)
            for leaf, payload in POISON
        ]
        messages += [
            (f"{self._root}/core/ingest/status", b'{"v": 1, "session": 5}'),
            (f"{self._root}/down/gateway-1/stored", b"\x00\xff"),
            (f"{self._root}/core/1/assoc", b"[[[["),
            (f"{self._root}/up/UPPER case/1/x/obs", b"{}"),
        ]
        taken = self._deliver(messages, INGEST)
        self.poisoned += taken
        return taken


_ROW: Final = {"epoch": "poison", "seq": 1}
_READING: Final = {
    "v": 1, "id": "poison", **_ROW, "driver": "x", "t_determined": 1_700_000_000_000_000_000, "uncertainty_ms": 1,
    "observation": {
        "kind": "temp", "t_received": 1_700_000_000_000_000_000,
        "quantities": {"temp": {"value": 37.0, "raw": "37.0", "raw_unit": "Cel"}},
    },
}  # fmt: skip


def _changed(**fields: object) -> bytes:
    return msgspec.json.encode(_READING | fields)


POISON: Final[list[tuple[str, bytes]]] = [
    ("obs", b"{"),
    ("obs", b"[" * 5_000),
    ("obs", b"x" * (MAX_PAYLOAD + 1)),
    ("obs", _changed(v=99)),
    ("obs", _changed(v=0)),
    ("obs", _changed(t_determined=1)),
    ("obs", _changed(id="")),
    ("obs", _changed(observation={"kind": "temp", "t_received": 1, "quantities": {"no such": {"value": 1}}})),
    ("obs", b"[" + _changed(v=2) + b",17," + b'"text"]'),
    ("strip", b"\xc1\xff\x00"),
    ("strip", msgspec.msgpack.encode(_READING | {"v": 99})),
    ("event", b"null"),
    ("event", msgspec.json.encode({"v": 1, **_ROW, "code": 7})),
]
"""(leaf, payload): none of them may come to be stored."""
