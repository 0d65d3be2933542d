"""Readings as fast as a broker takes them: prepared packets written to a plain socket, so that the publisher costs
little of the machine it shares with what is measured.

It behaves as a gateway does: QoS 1, a bounded window, and, where asked, a reading is sent again until a receipt names
it.
"""

import random
import select
import socket
import struct
import time
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from vitals.clock import NS_PER_MS
from vitals.messages import ObservationMessage, Receipts, encode
from vitals.model import Observation, Quantity
from vitals.packets import PacketStream
from vitals.topics import Topics

TOPICS: Final = Topics("bench")
GATEWAYS: Final = 8
ROOMS: Final = 40
EPOCH: Final = "0123456789abcdef"
WINDOW: Final = 1000
"""Messages that the broker has not acknowledged yet."""
RESEND_S: Final = 5.0
"""Without any receipt for so long, what has none is sent again."""
IDLE_S: Final = 0.05
KINDS: Final = (("temperature", "temp", "Cel", (36.4, 37.2), (38.6, 39.2)), ("spo2", "spo2", "%", (96, 99), (86, 88)))
"""Kind, metric, unit, values of those who are well, and of those who are not: one room in eight, with an alert."""
_RECEIPTS: Final = msgspec.json.Decoder(Receipts)


class Packet(NamedTuple):
    """One PUBLISH. `rows`: the seqs of the readings in it."""

    head: bytes
    tail: bytes
    rows: range

    def bytes(self, mid: int) -> bytes:
        return self.head + mid.to_bytes(2, "big") + self.tail


def readings(count: int, pack: int) -> list[Packet]:
    """`count` readings of one quantity each, `pack` a message, from `ROOMS` rooms in turn, a millisecond apart."""
    chance = random.Random(1)
    begun = (time.time_ns() - count * NS_PER_MS) // NS_PER_MS * NS_PER_MS
    packets = []
    for first in range(0, count, pack):
        room = first // pack % ROOMS
        rows = range(first + 1, min(first + pack, count) + 1)
        messages = [_reading(row, room, begun + row * NS_PER_MS, chance) for row in rows]
        topic = TOPICS.up(f"gateway-{room % GATEWAYS}", f"room-{room}", f"monitor-{room}", "obs")
        packets.append(_publish(topic, encode(messages if pack > 1 else messages[0]), rows))
    return packets


def _reading(row: int, room: int, t: int, chance: random.Random) -> ObservationMessage:
    kind, metric, unit, well, ill = KINDS[room % len(KINDS)]
    value = round(chance.uniform(*(ill if room % 8 == 0 else well)), 1)
    quantities = {metric: Quantity(value, f"{value:g}", unit)}
    body = Observation(kind, quantities, t + NS_PER_MS // 2, raw="aa550f3b02c4")
    return ObservationMessage(1, f"{chance.getrandbits(128):032x}", EPOCH, row, "bench", body, t, 50, simulated=True)


def _publish(topic: str, payload: bytes, rows: range) -> Packet:
    name = topic.encode()
    length = 2 + len(name) + 2 + 1 + len(payload)
    return Packet(b"\x32" + _length(length) + struct.pack("!H", len(name)) + name, b"\x00" + payload, rows)


def _length(value: int) -> bytes:
    out = bytearray()
    while True:
        value, seven = value >> 7, value & 127
        out.append(seven | (128 if value else 0))
        if not value:
            return bytes(out)


class Publisher:
    """One connection. `receipts`: whether readings stay until a receipt names them."""

    def __init__(self, port: int, packets: list[Packet], *, receipts: bool) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = PacketStream(1 << 28)
        self._packets = packets
        self._open = {row for packet in packets for row in packet.rows} if receipts else set()
        """Seqs of the readings that no receipt has named yet."""
        self._under_way = 0
        self._told = time.monotonic()
        self._closed = False
        self._socket.sendall(b"\x10\x12\x00\x04MQTT\x05\x02\x00\x00\x00" + b"\x00\x05bench")
        self._hear(5.0)
        if receipts:
            topic = TOPICS.stored("+").encode()
            body = b"\x00\x01\x00" + struct.pack("!H", len(topic)) + topic + b"\x00"
            self._socket.sendall(b"\x82" + _length(len(body)) + body)

    def run(self) -> None:
        """Until the broker has acknowledged everything, and, where they are asked for, receipts have named it; or until
        `close`."""
        self._told = time.monotonic()
        waiting = iter(self._packets)
        mid = 0
        while not self._closed:
            part = list(islice(waiting, WINDOW - self._under_way))
            if part:
                self._under_way += len(part)
                self._socket.sendall(b"".join([p.bytes((mid + i) % 65_535 + 1) for i, p in enumerate(part)]))
                mid += len(part)
            elif not self._under_way and not self._open:
                return
            self._hear(IDLE_S)
            if self._open and not self._under_way and time.monotonic() - self._told > RESEND_S:
                self._told = time.monotonic()
                waiting = iter([packet for packet in self._packets if not self._open.isdisjoint(packet.rows)])

    def _hear(self, timeout_s: float) -> None:
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return
        messages, others = self._stream.feed(self._socket.recv(1 << 16))
        at = 0
        while at < len(others):  # none of what a broker answers here is longer than 127 bytes
            self._under_way -= others[at] & 0xF0 == 0x40
            at += 2 + others[at + 1]
        for message in messages:
            self._told = time.monotonic()
            self._open.difference_update(outcome.seq for outcome in _RECEIPTS.decode(message.payload).outcomes)

    def close(self) -> None:
        """`run` ends soon after."""
        self._closed = True
