"""A simulated Bluetooth blood pressure cuff: Blood Pressure Service 0x1810, written from the SIG's documents.

Every `interval_s` it wakes, advertises, and takes a reading once a host has subscribed (the cuff's pressure on 2A36
while it inflates), then indicates it on 2A35 and hangs up. A reading that no host confirmed stays in its memory and is
sent again at the next connection, oldest first, as real cuffs do; when nobody comes it measures all the same.

A failed run sends flags 16, all values NaN and status 0 although the display shows Err (public captures).
"""

from typing import Final

from simulators.core.blood_pressure import NAN, Reading, encode_cuff_pressure, pressure
from simulators.core.gatt import Characteristic, Property, Service
from simulators.core.handover import BATTERY, DAYS_OFF, FIRST, LOW_BATTERY, Handover, about
from simulators.core.physiology import State
from simulators.core.registry import Setup, SimulatedKind
from vitals.clock import NS, Instant
from vitals.driver import Option
from vitals.model import Validity
from vitals.wire import MedFloat


class Cuff(Handover):
    """The device (a `GattDevice`)."""

    name = "SIM-BP"
    advertised = ("1810",)
    measurement = "2a35"
    intermediate = "2a36"
    step_ns = NS // 5

    def __init__(self, setup: Setup) -> None:
        options = setup.options
        super().__init__(setup, float(options["inflate_s"]))
        self._advertise = round(float(options["advertise_s"]) * NS)
        self._kpa = options["unit"] == "kPa"
        features = Characteristic("2a49", Property.READ, (0b11111).to_bytes(2, "little"))
        measured = Characteristic(self.measurement, Property.INDICATE)
        inflating = Characteristic(self.intermediate, Property.NOTIFY)
        self.table = (Service("1810", (measured, inflating, features)), *about(self.name, setup))

    @property
    def advertising(self) -> bool:
        return self._run is None and super().advertising

    def _may_start(self, until: Instant) -> bool:
        unheard = self._connected_at is None and until - self._due > self._advertise
        return self._listening or unheard

    def _glimpse(self, part: float, state: State) -> bytes:
        return encode_cuff_pressure(_curve(part, state), kpa=self._kpa)

    def _take(self, state: State, at: Instant) -> bytes:
        options = self._setup.options
        kpa = self._kpa
        stamp = self._stamp(at)
        if self._rng.random() < float(options["fail_rate"]):
            return Reading(NAN, NAN, NAN, kpa, stamp, NAN, None, 0).encode()
        moved = self._rng.random() < float(options["motion_rate"]) or state.motion
        # Oscillometry repeats to a few mmHg on one arm.
        error = self._rng.normal(0.0, 1.5, 2)
        sys, dia = state.sys + float(error[0]), state.dia + float(error[1])
        mean = dia + (sys - dia) / 3
        beats = round(state.hr)
        beyond = 1 if beats > 120 else 2 if beats < 45 else 0
        return Reading(
            pressure(sys, kpa=kpa), pressure(dia, kpa=kpa), pressure(mean, kpa=kpa), kpa, stamp,
            MedFloat(beats, 0, Validity.VALID),
            int(options["user"]) if "user" in options else None,
            int(moved) | beyond << 3,
        ).encode()  # fmt: skip


def _curve(part: float, state: State) -> float:
    """Cuff pressure over a run: up past systolic in the first 40 %, then down past diastolic."""
    top, bottom = state.sys + 30.0, max(state.dia - 15.0, 20.0)
    return top * part / 0.4 if part < 0.4 else top - (top - bottom) * (part - 0.4) / 0.6


SIMULATOR: Final = SimulatedKind(
    name="bp_gatt",
    title="Bluetooth blood pressure cuff (SIG profile)",
    transport="ble",
    factory=Cuff,
    options=(
        Option("interval_s", float, "Seconds from one reading to the next.", 300.0),
        FIRST,
        Option("inflate_s", float, "Seconds a run takes.", 8.0),
        Option("advertise_s", float, "Seconds it waits for a host before it measures all the same.", 60.0),
        Option("unit", str, "mmHg or kPa.", "mmHg"),
        Option("user", int, "User slot 0 to 255 to send along."),
        Option("stamp", bool, "Whether readings carry the cuff's wall time.", True),
        Option("clock_skew_s", float, "How far the cuff's clock is ahead.", 0.0),
        Option("fail_rate", float, "Share of runs that fail (all values NaN), 0 to 1.", 0.0),
        Option("motion_rate", float, "Share of runs with body movement reported, 0 to 1.", 0.0),
        BATTERY,
    ),
    tricks={"wrong_clock": DAYS_OFF, "wrong_unit": {"unit": "kPa"}, "low_battery": LOW_BATTERY, "motion": {}},
)
