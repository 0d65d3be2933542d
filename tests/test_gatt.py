"""Shared characteristics where ../shared has no vector; expected values by hand from the protocol sheet."""

import pytest

from drivers.core import gatt
from drivers.core.gatt import BadValue, InfoBook
from vitals.model import Chunk, DeviceInfo, Fault

AT = 1_764_000_000_000_000_000


@pytest.mark.parametrize(
    ("wire", "minutes"), [("d0", -720), ("38", 840), ("00", 0), ("16", 330), ("17", 345), ("80", None)]
)
def test_time_zone(wire: str, minutes: int | None) -> None:
    """-48 and +56 quarters are the ends; India is 22 quarters, Nepal 23."""
    assert gatt.time_zone_minutes(bytes.fromhex(wire)) == minutes


@pytest.mark.parametrize(("wire", "minutes"), [("00", 0), ("02", 30), ("04", 60), ("08", 120), ("ff", None)])
def test_dst(wire: str, minutes: int | None) -> None:
    assert gatt.dst_minutes(bytes.fromhex(wire)) == minutes


REFUSED = [
    (gatt.time_zone_minutes, "cf", "out_of_range"),
    (gatt.time_zone_minutes, "39", "out_of_range"),
    (gatt.time_zone_minutes, "", "bad_length"),
    (gatt.dst_minutes, "01", "out_of_range"),
    (gatt.dst_minutes, "0000", "bad_length"),
    (gatt.pnp_id, "000a000b000100", "out_of_range"),
    (gatt.pnp_id, "010a000b0001", "bad_length"),
    (gatt.system_id, "", "bad_length"),
    (gatt.date_time, "e8070d01000000", "out_of_range"),
    (gatt.current_time, "e9070d0100000001 0000".replace(" ", ""), "out_of_range"),
    (gatt.battery_percent, "", "bad_length"),
]


@pytest.mark.parametrize(("decode", "wire", "code"), REFUSED)
def test_refused(decode, wire: str, code: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadValue) as refused:
        decode(bytes.fromhex(wire))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"UA-651BLE", "UA-651BLE"),
        (b"UA-651BLE\x00\x00\x00", "UA-651BLE"),
        (b"  UA-651BLE \r\n", "UA-651BLE"),
        (b"UA\x00old rubbish", "UA"),
        (b"serial number", ""),
        (b"Firmware Revision\x00", ""),
        (b"\x00\x00", ""),
        (b"", ""),
        (b"A\x01B\x7f", "AB"),
        ("Prüfgerät".encode(), "Prüfgerät"),
        (b"x" * 512, "x" * 128),
    ],
)
def test_clean_text(data: bytes, text: str) -> None:
    assert gatt.clean_text(data) == text


def test_book_without_features() -> None:
    book = InfoBook()
    assert not book.knows("2a49")
    assert book.read(Chunk(b"\x28", AT, "2a19")) == [DeviceInfo(battery=40)]
    assert book.read(Chunk(b"\x28", AT, "2a19")) == [], "nothing new, nothing told"
    assert book.read(Chunk(b"?", AT, "ffff")) == []


def test_first_value_bad_tells_only_the_fault() -> None:
    (fault,) = InfoBook().read(Chunk(b"\xff", AT, "2a19"))
    assert isinstance(fault, Fault)
    assert (fault.code, fault.raw, fault.at) == ("out_of_range", b"\xff", AT)
    assert fault.detail.startswith("2a19: ")


def test_clock_is_kept_with_its_moment() -> None:
    (info,) = InfoBook().read(Chunk(bytes.fromhex("e907010f0e1e2d032101"), AT, "2a2b"))
    assert isinstance(info, DeviceInfo)
    assert (info.clock, info.clock_read_at) == ("2025-01-15T14:30:45", AT)


def test_whole_values() -> None:
    """PnP: USB (2), vendor 1915, product EEEE, version 0102, each low byte first."""
    assert gatt.pnp_id(bytes.fromhex("021519eeee0201")) == (2, 0x1915, 0xEEEE, 0x0102)
    assert gatt.date_time(bytes.fromhex("e20704110f3300")).text == "2018-04-17T15:51:00"
