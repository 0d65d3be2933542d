"""The wire primitives against published values and an oracle that goes another way."""

import struct
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitals.model import Validity
from vitals.wire import (
    Cursor,
    MedFloat,
    TooShort,
    WireDateTime,
    crc16_ccitt_false,
    crc16_mcrf4xx,
    crc16_modbus,
    decode_float,
    decode_sfloat,
    encode_float,
    encode_sfloat,
    med_float,
)

# IEEE 11073-20601, whole words, typed from the published table.
SFLOAT_SPECIALS = {0x07FF: "NaN", 0x0800: "NRes", 0x07FE: "+INF", 0x0802: "-INF", 0x0801: "reserved"}
FLOAT_SPECIALS = {
    0x007FFFFF: "NaN",
    0x00800000: "NRes",
    0x007FFFFE: "+INF",
    0x00800002: "-INF",
    0x00800001: "reserved",
}
VALIDITY = {
    "NaN": Validity.NOT_A_NUMBER,
    "NRes": Validity.NOT_AT_RESOLUTION,
    "+INF": Validity.ABOVE_RANGE,
    "-INF": Validity.BELOW_RANGE,
    "reserved": Validity.RESERVED,
}


def oracle(word: int, mantissa_bits: int, exponent_bits: int) -> Decimal:
    """By other means: the word as a string of binary digits, two's complement by weights, decimal text parsed."""
    digits = format(word, f"0{mantissa_bits + exponent_bits}b")
    exponent, mantissa = (
        sum(int(digit) << place for place, digit in enumerate(reversed(part[1:]))) - (int(part[0]) << len(part) - 1)
        for part in (digits[:exponent_bits], digits[exponent_bits:])
    )
    return Decimal(f"{mantissa}E{exponent}")


def test_sfloat_all_words() -> None:
    for word in range(0x10000):
        found = decode_sfloat(word)
        if word in SFLOAT_SPECIALS:
            assert found.value is None
            assert found.text == SFLOAT_SPECIALS[word]
            assert found.validity is VALIDITY[SFLOAT_SPECIALS[word]]
            continue
        wanted = oracle(word, 12, 4)
        assert found.validity is Validity.VALID
        assert found.value == float(wanted), hex(word)
        assert Decimal(found.text) == wanted
        assert "E" not in found.text.upper()
        decimals = len(found.text.partition(".")[2])
        assert decimals == max(0, 16 - (word >> 12) if word >> 15 else 0), "the resolution is kept"


def test_sfloat_roundtrip_all_words() -> None:
    for word in range(0x10000):
        assert encode_sfloat(decode_sfloat(word)) == struct.pack("<H", word)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_float_any_word(word: int) -> None:
    found = decode_float(word)
    if word in FLOAT_SPECIALS:
        assert found.value is None
        return
    wanted = oracle(word, 24, 8)
    assert found.value == float(wanted)
    assert Decimal(found.text) == wanted
    assert encode_float(found) == struct.pack("<I", word)


@pytest.mark.parametrize(("word", "name"), FLOAT_SPECIALS.items())
def test_float_specials(word: int, name: str) -> None:
    found = decode_float(word)
    assert (found.value, found.text, found.validity) == (None, name, VALIDITY[name])
    assert encode_float(found) == struct.pack("<I", word)


def test_specials_have_exponent_zero() -> None:
    """2047 with another exponent is a number: 0x17FF is 20470."""
    assert decode_sfloat(0x17FF).value == 20470
    assert decode_sfloat(0xF7FF).value == 204.7
    assert decode_sfloat(0x1800).value == -20480
    assert decode_float(0x017FFFFF).value == 83886070


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        ("7200", 114.0),
        ("01fe", -51.1),
        ("2420", 3600.0),
        ("bdf0", 18.9),
        ("d7f0", 21.5),
        ("64 00", 100.0),
        ("e8f3", 100.0),
    ],
)
def test_sfloat_published(wire: str, value: float) -> None:
    assert Cursor(bytes.fromhex(wire)).sfloat().value == value


@pytest.mark.parametrize(
    ("wire", "value", "text"),
    [("b00e00fe", 37.6, "37.60"), ("01fe03fc", 26.1633, "26.1633"), ("c40900fe", 25.0, "25.00")],
)
def test_float_published(wire: str, value: float, text: str) -> None:
    found = Cursor(bytes.fromhex(wire)).float32()
    assert (found.value, found.text) == (value, text)


def test_same_number_other_bytes() -> None:
    """100 as 64 00 and as E8 F3: equal values, other resolution."""
    whole, tenth = decode_sfloat(0x0064), decode_sfloat(0xF3E8)
    assert whole.value == tenth.value
    assert (whole.text, tenth.text) == ("100", "100.0")


def test_tenths_keep_their_digits() -> None:
    """Multiplying by 0.1 gives other digits in a quarter of cases; we must not."""
    wrong = sum(mantissa * 0.1 != float(f"{mantissa // 10}.{mantissa % 10}") for mantissa in range(2000))
    assert wrong > 100, "the trap is real"
    for mantissa in range(2000):
        assert decode_sfloat(0xF000 | mantissa).value == float(f"{mantissa // 10}.{mantissa % 10}")


@settings(deadline=None)
@given(st.integers(-2048, 2047), st.integers(-8, 7))
def test_sfloat_encode(mantissa: int, exponent: int) -> None:
    word = (exponent & 0xF) << 12 | mantissa & 0xFFF
    number = MedFloat(mantissa, exponent, Validity.VALID)
    if word in SFLOAT_SPECIALS:
        with pytest.raises(ValueError, match="code of"):
            encode_sfloat(number)
    else:
        assert encode_sfloat(number) == word.to_bytes(2, "little")


@pytest.mark.parametrize("number", [(2048, 0), (-2049, 0), (1, 8), (1, -9)])
def test_sfloat_does_not_fit(number: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_sfloat(MedFloat(*number, Validity.VALID))


@pytest.mark.parametrize(
    ("text", "wire"), [("37.60", "b00e00fe"), ("37.6", "780100ff"), ("-0.5", "fbffffff"), ("120", "78000000")]
)
def test_med_float(text: str, wire: str) -> None:
    assert encode_float(med_float(text)).hex() == wire


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_med_float_takes_numbers_only(text: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        med_float(text)


# -- CRC -----------------------------------------------------------------------------------------------------------

CHECK = b"123456789"


def test_crc_published_check_values() -> None:
    assert crc16_ccitt_false(CHECK) == 0x29B1
    assert crc16_mcrf4xx(CHECK) == 0x6F91
    assert crc16_modbus(CHECK) == 0x4B37


def test_crc_of_real_frames() -> None:
    """OneTouch UltraMini: 02 06 08 03 gives 62C2, 02 06 06 03 gives 41CD."""
    assert crc16_ccitt_false(bytes.fromhex("02060803")) == 0x62C2
    assert crc16_ccitt_false(bytes.fromhex("02060603")) == 0x41CD


@pytest.mark.parametrize("crc", [crc16_ccitt_false, crc16_mcrf4xx, crc16_modbus])
@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=40), place=st.integers(0, 10_000))
def test_crc_sees_every_single_bit(crc, data: bytes, place: int) -> None:  # type: ignore[no-untyped-def]
    at = place % (8 * len(data))
    flipped = bytearray(data)
    flipped[at // 8] ^= 1 << at % 8
    assert crc(bytes(flipped)) != crc(data)
    assert 0 <= crc(data) <= 0xFFFF


# -- the cursor ----------------------------------------------------------------------------------------------------

FIELDS = {"u8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "sfloat": 2, "float32": 4, "date_time": 7}


@settings(deadline=None)
@given(st.binary(max_size=20), st.lists(st.sampled_from(sorted(FIELDS)), max_size=12))
def test_cursor_cannot_over_read(data: bytes, fields: list[str]) -> None:
    cursor = Cursor(data)
    left = len(data)
    for field in fields:
        if FIELDS[field] > left:
            with pytest.raises(TooShort, match="expected"):
                getattr(cursor, field)()
            return  # a date time may have taken its year already; a driver gives up at TooShort
        getattr(cursor, field)()
        left -= FIELDS[field]
        assert cursor.left == left


@settings(deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**16 - 1))
def test_cursor_integers(signed: int, unsigned: int) -> None:
    cursor = Cursor(struct.pack("<iIhHB", signed, signed & 0xFFFFFFFF, signed >> 16, unsigned, unsigned & 0xFF))
    found = cursor.i32(), cursor.u32(), cursor.i16(), cursor.u16(), cursor.u8()
    assert found == (signed, signed & 0xFFFFFFFF, signed >> 16, unsigned, unsigned & 0xFF)
    assert cursor.left == 0


def test_cursor_says_where() -> None:
    cursor = Cursor(b"\x01\x02\x03")
    cursor.u16()
    with pytest.raises(TooShort, match="expected 2 bytes at offset 2, found 1"):
        cursor.u16()
    assert cursor.left == 1, "a field that is not there takes nothing"


# -- date and time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        ("e20704110f3300", "2018-04-17T15:51:00"),
        ("e40701020a1530", "2020-01-02T10:21:48"),
        ("00000000121a20", "XXXX-XX-XXT18:26:32"),
        ("00000411142 93b".replace(" ", ""), "XXXX-04-17T20:41:59"),
        ("e80702 1d000000".replace(" ", ""), "2024-02-29T00:00:00"),
        ("e80700 00000000".replace(" ", ""), "2024-XX-XXT00:00:00"),
    ],
)
def test_date_time(wire: str, text: str) -> None:
    found = Cursor(bytes.fromhex(wire)).date_time()
    assert found.text == text
    assert found.in_range
    assert found.encode().hex() == wire


@pytest.mark.parametrize(
    "fields",
    [
        (1581, 1, 1, 0, 0, 0),
        (10000, 1, 1, 0, 0, 0),
        (2024, 13, 1, 0, 0, 0),
        (2024, 1, 32, 0, 0, 0),
        (2024, 1, 1, 24, 0, 0),
        (2024, 1, 1, 0, 60, 0),
        (2024, 1, 1, 0, 0, 60),
        (2024, 2, 30, 0, 0, 0),
        (2023, 2, 29, 0, 0, 0),
        (2024, 4, 31, 0, 0, 0),
    ],
)
def test_date_time_out_of_range(fields: tuple[int, ...]) -> None:
    assert not WireDateTime(*fields).in_range


def test_date_time_edges() -> None:
    assert WireDateTime(1582, 12, 31, 23, 59, 59).in_range
    assert WireDateTime(9999, 12, 31, 23, 59, 59).in_range
    assert WireDateTime(0, 2, 29, 0, 0, 0).in_range, "without a year nobody knows whether it leaps"


@settings(deadline=None)
@given(st.binary(min_size=7, max_size=7))
def test_date_time_any_bytes(data: bytes) -> None:
    found = Cursor(data).date_time()
    assert found.encode() == data
    assert len(found.text) >= 19
