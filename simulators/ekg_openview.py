"""Simulated ProtoCentral boards: HealthyPi v4 and 5, ADS1292R shield, as streams of OpenView packets.

Written from the layouts in ProtoCentral's firmware and app (no capture is known):

    0A FA | payload length u16 LE | type u8 | payload, little-endian | 0B   (HealthyPi v4: 00 0B)

v4, type 2, 20 bytes, one a sample: ECG s16, respiration s16, IR s32, red s32, temperature u16 (0.01 C), respiration
rate, SpO2, heart rate, 80, 120 (constants: placeholders of a blood pressure), ADS1292R status (low 5 bits: lead off;
ECG, respiration and the rates are 0 then). v5, type 3, 50 bytes: 8 ECG s32, 4 bioimpedance s32 at half the rate, heart
rate, respiration rate; type 4, 19 bytes: 8 PPG s16 at 100 Hz, temperature s16, SpO2. ADS1292R, type 2, 8 bytes: ECG,
respiration, heart rate, respiration rate, all s16. Boards send on their own and answer nothing. No packet says that
the patient moves, how full a battery is or what time it is: motion is in the signal alone.
"""

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from simulators.core.registry import Setup, SimulatedKind
from simulators.core.samples import ModelSource, Samples, SampleSource
from vitals.clock import NS, Instant
from vitals.driver import Option
from vitals.model import Chunk, Send

START: Final = b"\x0a\xfa"
LEAD_OFF: Final = 0x1F
"""All five electrode bits of the ADS1292R status."""
BEHIND_LIMIT_S: Final = 30
"""After a longer pause (a suspended computer) the samples in between are skipped, not made up."""
V5_BATCH: Final = 8
V5_PPG_HZ: Final = 100


class Panel(NamedTuple):
    """The slow numbers of a packet. Zeros are what boards send when they have nothing."""

    hr: int = 0
    rr: int = 0
    spo2: int = 0
    temp_c: float = 0.0
    lead_off: bool = False


Encoder: TypeAlias = Callable[[Samples, Panel], list[bytes]]

_V4: Final = np.dtype(
    [
        ("head", "S5"), ("ekg", "<i2"), ("resp", "<i2"), ("ir", "<i4"), ("red", "<i4"), ("temp", "<u2"), ("rr", "u1"),
        ("spo2", "u1"), ("hr", "u1"), ("dia", "u1"), ("sys", "u1"), ("status", "u1"), ("tail", "S2"),
    ]
)  # fmt: skip
_ADS1292R: Final = np.dtype(
    [("head", "S5"), ("ekg", "<i2"), ("resp", "<i2"), ("hr", "<i2"), ("rr", "<i2"), ("tail", "S1")]
)


def _s16(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    """What a saturating front end sends."""
    return np.clip(values, -32_768, 32_767).astype(np.int16)


def _cut(packets: npt.NDArray[np.void]) -> list[bytes]:
    data, size = packets.tobytes(), packets.dtype.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def encode_v4(samples: Samples, panel: Panel) -> list[bytes]:
    """One packet of 27 bytes for each sample."""
    packets = np.zeros(len(samples), _V4)
    packets["head"], packets["tail"] = START + b"\x14\x00\x02", b"\x00\x0b"
    packets["ir"], packets["red"] = samples.ir, samples.red
    packets["temp"], packets["spo2"] = round(panel.temp_c * 100), panel.spo2
    packets["dia"], packets["sys"] = 80, 120
    if panel.lead_off:
        packets["status"] = LEAD_OFF
    else:
        packets["status"] = 0xC0  # the ADS1292R status word always begins with 1100
        packets["ekg"], packets["resp"] = _s16(samples.ekg), _s16(samples.resp)
        packets["hr"], packets["rr"] = min(panel.hr, 255), min(panel.rr, 255)
    return _cut(packets)


def encode_ads1292r(samples: Samples, panel: Panel) -> list[bytes]:
    """One packet of 14 bytes for each sample. The board does not say when a lead is off: it sends zeros."""
    packets = np.zeros(len(samples), _ADS1292R)
    packets["head"], packets["tail"] = START + b"\x08\x00\x02", b"\x0b"
    if not panel.lead_off:
        packets["ekg"], packets["resp"] = _s16(samples.ekg), _s16(samples.resp)
        packets["hr"], packets["rr"] = panel.hr, panel.rr
    return _cut(packets)


def encode_v5_ekg(samples: Samples, panel: Panel) -> list[bytes]:
    """Type 3: one packet of 56 bytes for each 8 samples (`len(samples)` is a multiple of 8)."""
    loose = panel.lead_off
    rates = bytes([0, 0] if loose else [min(panel.hr, 255), min(panel.rr, 255)])
    packets = []
    for at in range(0, len(samples), V5_BATCH):
        ekg = samples.ekg[at : at + V5_BATCH].astype("<i4").tobytes()
        resp = samples.resp[at : at + V5_BATCH : 2].astype("<i4").tobytes()
        body = bytes(len(ekg) + len(resp)) if loose else ekg + resp
        packets.append(START + b"\x32\x00\x03" + body + rates + b"\x0b")
    return packets


def encode_v5_ppg(ppg: npt.NDArray[np.int16], panel: Panel) -> bytes:
    """Type 4: 8 plethysmogram values, temperature, SpO2."""
    temp = round(panel.temp_c * 100).to_bytes(2, "little", signed=True)
    return START + b"\x13\x00\x04" + ppg.astype("<i2").tobytes() + temp + bytes([panel.spo2]) + b"\x0b"


class OpenView:
    """The board (a `Simulator`): makes the samples that are due and wraps them, one `Send` a packet."""

    def __init__(self, setup: Setup, source: SampleSource | None = None) -> None:
        options = setup.options
        self._setup = setup
        self._board = str(options["board"])
        self._source = source or ModelSource(
            setup.patient, float(options["rate_hz"]), setup.seed, float(options["uv_per_count"])
        )
        if self._board not in ("v4", "v5", "ads1292r"):
            raise ValueError(f"unknown board {self._board!r}; known: v4, v5, ads1292r")
        self._batch = V5_BATCH if self._board == "v5" else 1
        self.sent = 0
        """Samples sent, or skipped after a pause: the index of the next one."""
        self.skipped = 0
        self._made = 0
        self._ppg_made = 0
        self._ready: deque[tuple[int, bytes]] = deque()

    def respond(self, chunk: Chunk) -> list[Send]:
        """The board listens to nobody."""
        return []

    def advance(self, until: Instant) -> list[Send]:
        rate = self._source.rate_hz
        due = int((until - self._setup.start) * rate / NS)
        if due - self.sent > BEHIND_LIMIT_S * rate:
            self._skip(due)
        while self._made < due and self._make_second():
            pass
        sends = []
        while self._ready and self._ready[0][0] <= due:
            sends.append(Send(self._ready.popleft()[1]))
        self.sent = max(self.sent, min(due, self._made) // self._batch * self._batch)
        return sends

    def _skip(self, due: int) -> None:
        aligned = due // self._batch * self._batch
        self.skipped += aligned - self.sent
        self.sent = self._made = aligned
        self._ppg_made = int(aligned / self._source.rate_hz * V5_PPG_HZ) // V5_BATCH * V5_BATCH
        self._ready.clear()

    def _make_second(self) -> bool:
        """Packets up to the next whole second, where the panel changes, each with the sample count that completes it.

        Made in one go because a few numpy calls a second for each board are cheap and fifty are not.
        """
        rate = self._source.rate_hz
        second = int(self._made // rate)
        end = ceil((second + 1) * rate / self._batch) * self._batch
        samples = self._source.take(end - self._made)
        first = self._made
        self._made += len(samples)
        if self._board == "v5":
            samples = samples.first(len(samples) // V5_BATCH * V5_BATCH)  # a recording may end in mid-packet
        packets = self._packets(samples, self._panel(float(second)))
        if packets:
            self._ready.extend((first + (at + 1) * self._batch, packet) for at, packet in enumerate(packets))
            if self._board == "v5":
                self._add_ppg(first, samples, self._panel(float(second)))
        return len(samples) > 0

    def _packets(self, samples: Samples, panel: Panel) -> list[bytes]:
        if self._board == "v4":
            return encode_v4(samples, panel)
        return encode_ads1292r(samples, panel) if self._board == "ads1292r" else encode_v5_ekg(samples, panel)

    def _add_ppg(self, first: int, samples: Samples, panel: Panel) -> None:
        """The 100 Hz trace, taken from the nearest sample of the EKG's pace, between the EKG packets."""
        due = int(self._made / self._source.rate_hz * V5_PPG_HZ) // V5_BATCH * V5_BATCH
        count, self._ppg_made = due - self._ppg_made, due
        nearest = np.linspace(0, len(samples) - 1, count).round().astype(np.intp)
        trace = _s16((samples.ir[nearest] - 800_000) // 2)  # the app's s16 trace is without the level
        step = len(samples) * V5_BATCH / max(count, 1)
        light = [
            (first + ceil((at // V5_BATCH + 1) * step), encode_v5_ppg(trace[at : at + V5_BATCH], panel))
            for at in range(0, count, V5_BATCH)
        ]
        self._ready = deque(sorted((*self._ready, *light), key=lambda entry: entry[0]))

    def _panel(self, t: float) -> Panel:
        state = self._setup.patient.at(t)
        return Panel(round(state.hr), round(state.rr), round(state.spo2), round(state.temp, 2), state.lead_off)


SIMULATOR: Final = SimulatedKind(
    name="ekg_openview",
    title="ProtoCentral HealthyPi and ADS1292R (OpenView packets)",
    transport="serial",
    factory=OpenView,
    options=(
        Option("board", str, "v4, v5 or ads1292r.", "v4"),
        Option("rate_hz", float, "EKG samples a second.", 125.0),
        Option("uv_per_count", float, "Microvolt a count; tell the driver the same.", 5.0),
    ),
    tricks={"lead_off": {}, "motion": {}},
)
