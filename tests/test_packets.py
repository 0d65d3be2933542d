"""MQTT packets out of a stream. The bytes are written by hand from OASIS MQTT 5.0, sections 2.1.4, 3.3 and 3.4."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitals.packets import PacketStream, Published, acknowledgements

QOS1 = b"\x32\x0c" + b"\x00\x03a/b" + b"\x12\x34" + b"\x00" + b"hey!"
QOS0_RETAINED = b"\x31\x06" + b"\x00\x01c" + b"\x00" + b"ok"
WITH_EXPIRY = b"\x3a\x0b" + b"\x00\x01d" + b"\x00\x07" + b"\x05" + b"\x02\x00\x00\x00\x3c"
"""Sent again (DUP), with a message expiry of 60 s and no payload."""
LONG = b"\x32\xc8\x01" + b"\x00\x01e" + b"\x00\x08" + b"\x00" + b"x" * 194
"""200 bytes: a length of two bytes, 0xC8 0x01."""
PUBACK = b"\x40\x02\x00\x09"
PINGRESP = b"\xd0\x00"
QOS2 = b"\x34\x07" + b"\x00\x01f" + b"\x00\x0a" + b"\x00" + b"z"
STREAM = QOS1 + PUBACK + QOS0_RETAINED + WITH_EXPIRY + PINGRESP + LONG + QOS2
MESSAGES = [
    Published("a/b", b"hey!", False, 1, 0x1234),
    Published("c", b"ok", True, 0, 0),
    Published("d", b"", False, 1, 7),
    Published("e", b"x" * 194, False, 1, 8),
]
OTHERS = PUBACK + PINGRESP + QOS2


def fed(parts: list[bytes]) -> tuple[list[Published], bytes]:
    stream = PacketStream(1000)
    messages: list[Published] = []
    others = b""
    for part in parts:
        found, rest = stream.feed(part)
        messages += found
        others += rest
    return messages, others


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(STREAM)])
def test_messages_are_found_however_the_bytes_are_cut_and_the_rest_is_passed_on(size: int) -> None:
    assert fed([STREAM[i : i + size] for i in range(0, len(STREAM), size)]) == (MESSAGES, OTHERS)


@pytest.mark.parametrize(
    ("bytes_", "what"),
    [
        (b"\x32\xff\xff\xff\xff\x01", "length"),
        (b"\x32\xff\x7f" + b"\x00", "at most 1000"),
        (b"\x32\x01\x00", "its head"),
        (b"\x32\x04\x00\x09ab" + QOS1, "its head"),
        (b"\x32\x05\x00\x01a\x00\x01" + QOS1, "its head"),
        (b"\x32\x07\x00\x01a\x00\x01\x05x" + QOS1, "its properties"),
    ],
)
def test_what_is_no_mqtt_is_an_error_and_never_read_past_its_end(bytes_: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        PacketStream(1000).feed(bytes_)


@given(st.binary(max_size=200))
def test_any_bytes_give_packets_or_a_value_error(data: bytes) -> None:
    stream = PacketStream(100)
    try:
        messages, others = stream.feed(data)
    except ValueError:
        return
    assert sum(len(message.payload) for message in messages) + len(others) <= len(data)


def test_one_puback_each() -> None:
    assert acknowledgements([9, 0xFFFE]) == PUBACK + b"\x40\x02\xff\xfe"
