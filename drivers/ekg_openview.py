"""ProtoCentral boards that stream OpenView packets over serial: HealthyPi v4, HealthyPi 5, ADS1292R.

The board streams from power-up, unasked and unanswered. All integers little-endian.

    +----+----+-----------+------+---------------+-----------------+
    | 0A | FA | length 2  | type | payload       | 0B, or 00 0B    |
    +----+----+-----------+------+---------------+-----------------+
    length counts the payload only; no checksum, no sequence number, no time stamp

    Line: 115200 8N1 (v4), USB (5, any rate), 57600 8N1 (ADS1292R board: set `baudrate` of the device).

    HealthyPi v4, type 2, 20 bytes, 125 frames/s: ECG i16, respiration i16, IR i32, red i32, temperature u16 0.01 C,
      respiration rate u8, SpO2 u8, heart rate u8, 80, 120 (constants, a placeholder blood pressure), ADS1292R status u8
    HealthyPi 5, type 2, 22 bytes: ECG i32, impedance i32, skip u8, red i32, IR i32, temperature i16 0.01 C, SpO2 u8,
      heart rate u8, respiration rate u8
    HealthyPi 5, type 3, 50 bytes: 8 ECG i32 (125 Hz), 4 impedance i32 (62.5 Hz), heart rate u8, respiration rate u8
    HealthyPi 5, type 4, 19 bytes: 8 PPG red i16 (100 Hz), temperature i16 0.01 C, SpO2 u8
    ADS1292R board, type 2, 8 bytes: ECG i16, respiration i16, heart rate i16, respiration rate i16

How it is known: layouts from the maker's OpenView app (packet framer, board decoders) and open firmware of the boards;
no capture was found, so the vectors are built by hand from the layouts. One HealthyPi 5 firmware writes respiration
rate before heart rate in type 2, though always as 0; we follow the app. Medium.

Quirks, each with a vector:
- Length and type together select the board; type 2 alone is three boards.
- There is no checksum, so start, length for the type, and tail are all checked. Firmware writes 00 0B, the app accepts
  both; v4 always sends 00 0B. One lost byte before a 00 0B tail would look like a whole frame with a 0B tail, so the
  tail of the first frame is remembered and the other kind is damage from then on.
- The sample index is the truth about time here. After damage the indices of all signals move on by the frames that the
  discarded bytes were (rounded), so that damage is a visible gap and not a stitched trace. What was lost without any
  trace cannot be seen without a sequence number; arrival times give it away (drivers/core/feed.py): `samples_lost`
  where frames are missing in a row, only `off_pace` where single ones are missing evenly.
- Lead off: any of the low 5 status bits (v4), or ECG 0 with rate 0 (all boards): never asystole. Heart and respiration
  rate come from the same electrodes and are not available then.
- SpO2 0, 25 and above 100 are no reading (0 stands for -999 of the algorithm); neither is a rate of 0 or below.
- A temperature below 30 C is kept but marked: most likely the probe is not on a patient.
- 80 and 120 are never emitted. Counts have no documented factor to microvolt: `uv_per_count` is for who measured it.
- Arduino boards reset when the port opens: up to 2 s of boot text, one fault.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from drivers.core.framing import NOT_A_FRAME, TRUNCATED, WAIT, Framer, Piece, Rubbish
from vitals.clock import Instant
from vitals.driver import Driver, Option, Options, SerialSpec
from vitals.model import Chunk, Event, Fault, Observation, Quantity, SampleArray, Validity
from vitals.wire import MedFloat

Records: TypeAlias = npt.NDArray[Any]
"""Payloads of one layout as a structured array, one row a frame."""

START: Final = re.compile(rb"\x0a(?:\xfa|\Z)")
HEADER: Final = 5
TAIL: Final = b"\x0b"
LONG_TAIL: Final = b"\x00\x0b"
OTHER_TAIL_AGREES: Final = 3
"""So many frames in a row with the other tail: the first frame, whose tail was remembered, was the damaged one."""
MAX_PAYLOAD: Final = 256
"""Known payloads have at most 50 bytes. A false start holds back what follows until this much has come (75 ms of a
HealthyPi v4), which is why the 8192 of the maker's app is not ours."""
MAX_FRAME: Final = HEADER + MAX_PAYLOAD + len(LONG_TAIL)

LEAD_OFF_BITS: Final = 0x1F
SPO2_NOTHING: Final = frozenset({0, 25})
PROBE_ON_CEL: Final = 30.0
LEAD_OFF: Final = "lead_off"
PROBE_OFF: Final = "probe_off_suspected"
UNKNOWN_PACKET: Final = "unknown_packet"
ELECTRODES: Final = frozenset({"ekg", "resp_impedance"})
"""Signals that come from the electrodes: what lead off spoils."""


class Signal(NamedTuple):
    """A payload field, named after its metric, that holds samples; `share` of the ECG's rate, or a rate of its own."""

    metric: str
    share: float = 1.0
    own_rate: float = 0.0

    def rate(self, ecg_rate: float) -> float:
        return self.own_rate or self.share * ecg_rate


class Layout:
    """One kind of frame: board, packet type, payload fields in order, and which of them are samples."""

    def __init__(
        self,
        board: str,
        packet_type: int,
        payload: list[tuple[str, str] | tuple[str, str, tuple[int]]],
        *signals: Signal,
        short_tail: bool = True,
    ) -> None:
        self.board = board
        self.payload = np.dtype(payload)
        self.signals = signals
        self.short_tail = short_tail
        self.end = HEADER + self.payload.itemsize
        self.key = self.payload.itemsize.to_bytes(2, "little") + bytes([packet_type])
        self.fields = frozenset(self.payload.names or ())

    def samples(self, metric: str) -> int:
        """Samples of a signal in one frame."""
        shape = self.payload[metric].shape
        return shape[0] if shape else 1

    def frame_rate(self, ecg_rate: float) -> float:
        """Frames a second."""
        first = self.signals[0]
        return first.rate(ecg_rate) / self.samples(first.metric)

    def records(self, frames: list[bytes]) -> Records:
        """The payloads, in one step for all frames: the road for replays of hours."""
        return np.frombuffer(b"".join([frame[HEADER : self.end] for frame in frames]), self.payload)


V4: Final = Layout(
    "HealthyPi v4",
    2,
    [
        ("ekg", "<i2"),
        ("resp_impedance", "<i2"),
        ("ppg_ir", "<i4"),
        ("ppg_red", "<i4"),
        ("temp", "<u2"),
        ("rr", "u1"),
        ("spo2", "u1"),
        ("hr_device", "u1"),
        ("placeholder_80_120", "V2"),
        ("status", "u1"),
    ],
    Signal("ekg"),
    Signal("resp_impedance"),
    Signal("ppg_ir"),
    Signal("ppg_red"),
    short_tail=False,
)
V5_SINGLE: Final = Layout(
    "HealthyPi 5",
    2,
    [
        ("ekg", "<i4"),
        ("resp_impedance", "<i4"),
        ("skip", "u1"),  # 1: the impedance is a repeat of the sample before; the trace is kept as sent
        ("ppg_red", "<i4"),
        ("ppg_ir", "<i4"),
        ("temp", "<i2"),
        ("spo2", "u1"),
        ("hr_device", "u1"),
        ("rr", "u1"),
    ],
    Signal("ekg"),
    Signal("resp_impedance"),
    Signal("ppg_red"),
    Signal("ppg_ir"),
)
V5_EKG: Final = Layout(
    "HealthyPi 5",
    3,
    [("ekg", "<i4", (8,)), ("resp_impedance", "<i4", (4,)), ("hr_device", "u1"), ("rr", "u1")],
    Signal("ekg"),
    Signal("resp_impedance", share=0.5),
)
V5_PPG: Final = Layout(
    "HealthyPi 5",
    4,
    [("ppg_red", "<i2", (8,)), ("temp", "<i2"), ("spo2", "u1")],
    Signal("ppg_red", own_rate=100.0),
)
ADS1292R: Final = Layout(
    "ADS1292R board",
    2,
    [("ekg", "<i2"), ("resp_impedance", "<i2"), ("hr_device", "<i2"), ("rr", "<i2")],
    Signal("ekg"),
    Signal("resp_impedance"),
)
LAYOUTS: Final = {layout.key: layout for layout in (V4, V5_SINGLE, V5_EKG, V5_PPG, ADS1292R)}
"""By length and type as they stand in the frame."""


class _Shape:
    """Decides where a frame ends. Remembers the tail the board sends."""

    def __init__(self) -> None:
        self._tail = b""
        self._others = 0

    def measure(self, data: bytes, at: int) -> int | str:
        if len(data) - at < HEADER:
            return WAIT
        layout = LAYOUTS.get(data[at + 2 : at + HEADER])
        if layout is None:
            return _measure_unknown(data, at)
        tail = _tail(data, at + layout.end)
        if tail is None:
            return WAIT
        if not tail or (tail is TAIL and not layout.short_tail) or not self._agrees(tail):
            return NOT_A_FRAME
        return layout.end + len(tail)

    def _agrees(self, tail: bytes) -> bool:
        if self._tail and tail is not self._tail:
            self._others += 1
            if self._others < OTHER_TAIL_AGREES:
                return False
        self._tail, self._others = tail, 0
        return True


def _tail(data: bytes, at: int) -> bytes | None:
    """The tail that stands there, empty if it is none, None if the data ends too early to say."""
    if at >= len(data):
        return None
    if data[at] == TAIL[0]:
        return TAIL
    if data[at] != LONG_TAIL[0]:
        return b""
    if at + 1 >= len(data):
        return None
    return LONG_TAIL if data[at + 1] == LONG_TAIL[1] else b""


def _measure_unknown(data: bytes, at: int) -> int | str:
    size = int.from_bytes(data[at + 2 : at + 4], "little")
    end = at + HEADER + size
    # A start inside says that this "packet" is a damaged header that would swallow good frames.
    if not 0 < size <= MAX_PAYLOAD or data.find(b"\x0a\xfa", at + 2, end) >= 0:
        return NOT_A_FRAME
    tail = _tail(data, end)
    if tail is None:
        return WAIT
    return HEADER + size + len(tail) if tail else NOT_A_FRAME


class _Session:
    def __init__(self, rate_hz: float, scale: float | None, lead: str) -> None:
        self._rate = rate_hz
        self._scale = scale
        self._lead = lead
        self._framer = Framer(START, _Shape().measure, cap=MAX_FRAME)
        self._sizes: dict[bytes, int] = {}
        """Frame size of each layout seen, by its key: what a gap is measured with."""
        self._index: dict[str, int] = {}
        self._second: dict[bytes, int] = {}
        """The last second of samples that gave an observation, by layout."""
        self._lost = 0
        self._lost_head = b""

    def start(self) -> list[Event]:
        return []

    def receive(self, chunk: Chunk) -> list[Event]:
        return self._events(self._framer.feed(chunk.data, chunk.received_at), chunk.received_at)

    def tick(self, now: Instant) -> list[Event]:
        return self._events(self._framer.tick(now), now)

    def close(self) -> list[Event]:
        return self._events(self._framer.close(), self._framer.last_byte_at)

    def _events(self, pieces: list[Piece], at: Instant) -> list[Event]:
        """Frames are gathered by layout and decoded together, up to the next fault."""
        events: list[Event] = []
        batch: dict[bytes, list[bytes]] = {}
        for piece in pieces:
            if isinstance(piece, Rubbish):
                events += self._decode(batch, at)
                self._lose(piece.size, piece.head)
                events.append(Fault(piece.code, f"{piece.size} bytes belong to no frame", piece.head, at))
                continue
            key = piece[2:HEADER]
            if key not in LAYOUTS:
                events += self._decode(batch, at)
                events.append(self._unknown(piece, at))
                continue
            if self._lost:
                self._skip_lost()
            self._sizes[key] = len(piece)
            batch.setdefault(key, []).append(piece)
        return events + self._decode(batch, at)

    def _unknown(self, frame: bytes, at: Instant) -> Fault:
        if any(len(frame) == size or frame[2:4] == key[:2] for key, size in self._sizes.items()):
            # As long as a frame of ours, or says so: one with its type or length damaged. Its samples are missing.
            self._lose(len(frame), frame)
        detail = f"type {frame[4]} with {int.from_bytes(frame[2:4], 'little')} bytes is no packet of a known board"
        return Fault(UNKNOWN_PACKET, detail, frame, at)

    # -- gaps ------------------------------------------------------------------------------------------------

    def _lose(self, size: int, head: bytes) -> None:
        if not self._sizes:
            return  # before the first frame there is nothing to be missing
        if not self._lost:
            self._lost_head = head
        self._lost += size

    def _frames_lost(self) -> dict[bytes, int]:
        """How many frames of each layout the discarded bytes were; all zero below half a frame."""
        if self._lost < 1.5 * max(self._sizes.values()):
            named = self._lost_head[2:HEADER]
            key = (
                named if named in self._sizes else min(self._sizes, key=lambda key: abs(self._sizes[key] - self._lost))
            )
            return {key: _round(self._lost / self._sizes[key])}
        # Several frames: as the layouts share the line. With one layout this is lost bytes by its size.
        paces = {key: LAYOUTS[key].frame_rate(self._rate) for key in self._sizes}
        bytes_per_second = sum(paces[key] * size for key, size in self._sizes.items())
        return {key: _round(self._lost * pace / bytes_per_second) for key, pace in paces.items()}

    def _skip_lost(self) -> None:
        for key, frames in self._frames_lost().items():
            layout = LAYOUTS[key]
            for signal in layout.signals:
                self._index[signal.metric] = self._index.get(signal.metric, 0) + frames * layout.samples(signal.metric)
        self._lost = 0

    # -- values ----------------------------------------------------------------------------------------------

    def _decode(self, batch: dict[bytes, list[bytes]], at: Instant) -> list[Event]:
        """Empties the batch."""
        events: list[Event] = []
        for key, frames in batch.items():
            layout = LAYOUTS[key]
            records = layout.records(frames)
            lead_off = _lead_off(layout, records)
            for i in self._due(layout, len(frames)):
                events.append(_observation(layout, records[i], frames[i], at, lead_off=bool(lead_off[i])))
            for signal in layout.signals:
                events += self._arrays(layout, signal, records, lead_off, at)
        batch.clear()
        return events

    def _arrays(
        self, layout: Layout, signal: Signal, records: Records, lead_off: npt.NDArray[np.bool_], at: Instant
    ) -> Iterator[SampleArray]:
        """One array, or more where the lead goes off or on."""
        metric = signal.metric
        count = layout.samples(metric)
        first = self._index.get(metric, 0)
        self._index[metric] = first + count * len(records)
        edges = np.flatnonzero(lead_off[1:] != lead_off[:-1]) + 1 if metric in ELECTRODES else ()
        for begin, end in pairwise((0, *map(int, edges), len(records))):
            samples = records[metric][begin:end].reshape(-1)
            yield SampleArray(
                metric,
                first + begin * count,
                signal.rate(self._rate),
                samples.astype(samples.dtype.newbyteorder("=")),
                at,
                scale=self._scale if metric == "ekg" else None,
                lead=self._lead if metric == "ekg" else "",
                lead_off=metric in ELECTRODES and bool(lead_off[begin]),
            )

    def _due(self, layout: Layout, frames: int) -> list[int]:
        """The frames that begin a new second of samples, counted by the index: no clock is asked."""
        clock = layout.signals[0]
        first = self._index.get(clock.metric, 0)
        indices = first + layout.samples(clock.metric) * np.arange(frames)
        seconds = (indices / clock.rate(self._rate)).astype(np.int64)
        fresh = np.flatnonzero(np.diff(seconds, prepend=self._second.get(layout.key, -1)))
        self._second[layout.key] = int(seconds[-1])
        return [int(i) for i in fresh]


def _round(frames: float) -> int:
    return int(frames + 0.5)


def _lead_off(layout: Layout, records: Records) -> npt.NDArray[np.bool_]:
    """By frame. A board without electrodes in its frame has none off."""
    off = np.zeros(len(records), dtype=np.bool_)
    if "ekg" in layout.fields:
        flat = records["ekg"].reshape(len(records), -1) == 0
        off |= flat.all(axis=1) & (records["hr_device"] == 0)
    if "status" in layout.fields:
        off |= (records["status"] & LEAD_OFF_BITS) != 0
    return off


def _observation(layout: Layout, record: Any, frame: bytes, at: Instant, *, lead_off: bool) -> Observation:
    quantities: dict[str, Quantity] = {}
    quality = [LEAD_OFF] if lead_off else []
    if "spo2" in layout.fields:
        spo2 = int(record["spo2"])
        quantities["spo2"] = _quantity(spo2, "%", valid=spo2 not in SPO2_NOTHING and spo2 <= 100)
    if "temp" in layout.fields:
        temperature = MedFloat(int(record["temp"]), -2, Validity.VALID)
        quantities["temp"] = Quantity(temperature.value, temperature.text, "Cel")
        if temperature.mantissa < PROBE_ON_CEL * 100:
            quality.append(PROBE_OFF)
    for metric in ("hr_device", "rr"):
        if metric in layout.fields:
            rate = int(record[metric])
            quantities[metric] = _quantity(rate, "/min", valid=rate > 0 and not lead_off)
    return Observation("monitor", quantities, at, quality=tuple(quality), raw=frame.hex())


def _quantity(number: int, unit: str, *, valid: bool) -> Quantity:
    if valid:
        return Quantity(float(number), str(number), unit)
    return Quantity(None, str(number), unit, Validity.NOT_AVAILABLE)


def _new_session(options: Options) -> _Session:
    rate = float(options.get("rate_hz", 125.0))
    if not 0 < rate < 100_000:
        raise ValueError(f"option 'rate_hz': expected a rate above 0 and below 100000, got {rate}")
    scale = options.get("uv_per_count")
    return _Session(rate, None if scale is None else float(scale), str(options.get("lead", "II")))


DRIVER: Final = Driver(
    name="ekg_openview",
    title="ProtoCentral HealthyPi v4, HealthyPi 5, ADS1292R board (OpenView packets)",
    transport="serial",
    spec=SerialSpec(baudrate=115200),
    metrics=("ekg", "resp_impedance", "ppg_ir", "ppg_red", "spo2", "temp", "rr", "hr_device"),
    faults={
        NOT_A_FRAME: "bytes that belong to no frame (boot text, damage, a wrong baud rate)",
        TRUNCATED: "a frame stopped in its middle: the line went quiet or closed",
        UNKNOWN_PACKET: "a well-formed packet of a type and length no known board sends",
    },
    new_session=_new_session,
    options=(
        Option("rate_hz", float, "ECG samples a second, as set in the board's firmware", 125.0),
        Option("uv_per_count", float, "microvolt a count, where somebody measured it; else the trace is in counts"),
        Option("lead", str, "name of the ECG lead", "II"),
    ),
    evidence="medium",
)
