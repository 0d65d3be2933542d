"""Listens at the broker beside the product, to tell where on the road the time goes."""

import threading
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from bench.figures import Seen
from vitals.broker import Broker
from vitals.messages import FlaggedMessage, FlaggedValue, decode_observations, decode_strips
from vitals.model import Quantity
from vitals.settings import Broker as Where
from vitals.topics import Topics

SPIKE: Final = 100
"""Counts: the line rests at 0, so whatever is above this is a spike."""
_FLAGGED: Final = msgspec.json.Decoder(list[FlaggedMessage] | FlaggedMessage)


class Tap:
    """What passed the broker, and when it reached us. Decoded only afterwards, so as not to be late for the next."""

    def __init__(self, port: int, site: str) -> None:
        self._topics = Topics(site)
        leaves = [(self._topics.up_all("obs"), 0), (self._topics.flagged("+"), 0), (self._topics.up_all("wave"), 0)]
        self._broker = Broker(Where(port=port), f"{site}-bench", subscriptions=leaves)
        self._passed: list[tuple[int, str, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        self._broker.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._broker.stop()

    def _listen(self) -> None:
        while not self._stop.is_set():
            for message in self._broker.take(100, 0.1):
                self._passed.append((time.monotonic_ns(), message.topic, message.payload))

    def seen(self, wall_minus_monotonic: int) -> dict[str, list[Seen]]:
        """(room, metric, value) by stage: `read` is the gateway's own stamp of when it read the bytes, `sent` and
        `flagged` are when the message came by here."""
        found: dict[str, list[Seen]] = {"read": [], "sent": [], "flagged": []}
        for at, topic, payload in self._passed:
            up = self._topics.parse_up(topic)
            if up is None:
                room = (self._topics.parse_core(topic) or ("", "", ""))[0]
                found["flagged"] += [Seen((room, *one), at) for one in _flagged(payload)]
            elif up.leaf == "obs":
                for observation in (message.observation for message in decode_observations(payload)):
                    values = [Seen((up.room, *one), at) for one in _values(observation.quantities)]
                    found["sent"] += values
                    read = observation.received_at - wall_minus_monotonic
                    found["read"] += [Seen(one.what, read) for one in values]
            else:
                counts = [int(count) for strip in decode_strips(payload) for count in strip.samples()]
                found["sent"] += [Seen((up.room, "ekg", count), at) for count in counts if count > SPIKE]
        return found


def _flagged(payload: bytes) -> list[tuple[str, int]]:
    decoded = _FLAGGED.decode(payload)
    messages = decoded if isinstance(decoded, list) else [decoded]
    return [one for message in messages for one in _values(message.values)]


def _values(values: Mapping[str, Quantity | FlaggedValue]) -> list[tuple[str, int]]:
    return [(key, round(one.value)) for key, one in values.items() if one.value is not None]
