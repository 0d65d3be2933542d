"""Messages out of the bytes of an MQTT 5 connection (OASIS MQTT 5.0, sections 2.1 and 3.3).

Bytes in, PUBLISH packets of QoS 0 and 1 out; every other packet is passed on as it came. Properties of a message are
skipped: nobody here reads them, and topic aliases are not sent to a client that does not ask for them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

PUBLISH: Final = 0x30
PUBACK: Final = 0x40
KIND: Final = 0xF0
QOS: Final = 0x06
RETAIN: Final = 0x01
MAX_LENGTH_BYTES: Final = 4


class Published(NamedTuple):
    """A message as it was delivered. `mid` is 0 with QoS 0."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    mid: int


class PacketStream:
    """One connection's bytes. `limit`: the longest packet we told the broker to send."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> tuple[list[Published], bytes]:
        """The messages that are whole now, and the bytes of all other whole packets, both in order.

        Raises ValueError on what is no MQTT; then the connection is worth nothing.
        """
        data = self._rest + data if self._rest else data
        messages: list[Published] = []
        others: list[bytes] = []
        at = 0
        while (length := _length(data, at + 1)) is not None:
            start, end = length[1], length[1] + length[0]
            if length[0] > self._limit:
                raise ValueError(f"a packet of {length[0]} bytes, expected at most {self._limit}")
            if end > len(data):
                break
            head = data[at]
            if head & KIND == PUBLISH and head & QOS < 4:
                messages.append(_message(data, start, end, head))
            else:
                others.append(data[at:end])
            at = end
        self._rest = data[at:]
        return messages, b"".join(others)


def acknowledgements(mids: Sequence[int]) -> bytes:
    """A PUBACK for each, one after the other: success, no properties."""
    return b"".join([b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids])


def _length(data: bytes, at: int) -> tuple[int, int] | None:
    """A variable byte integer and where it ends; None while it is not whole."""
    length = 0
    for i, byte in enumerate(data[at : at + MAX_LENGTH_BYTES]):
        length |= (byte & 127) << 7 * i
        if byte < 128:
            return length, at + i + 1
    if len(data) >= at + MAX_LENGTH_BYTES:
        raise ValueError("a length of more than four bytes")
    return None


def _message(data: bytes, start: int, end: int, head: int) -> Published:
    at = start + 2
    if at <= end:
        at += data[start] << 8 | data[start + 1]
    if at + (3 if head & QOS else 1) > end:
        raise ValueError("a message that ends within its head")
    # A broker checks that topics are UTF-8; one that is not names no topic of ours, and is counted as such.
    topic = data[start + 2 : at].decode(errors="replace")
    mid = 0
    if head & QOS:
        mid = data[at] << 8 | data[at + 1]
        at += 2
    properties = _length(data, at)
    if properties is None or sum(properties) > end:
        raise ValueError("a message that ends within its properties")
    return Published(topic, data[sum(properties) : end], bool(head & RETAIN), (head & QOS) >> 1, mid)
