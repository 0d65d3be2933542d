"""The nouns: what a device said, as frozen values that cannot lie.

Names follow FHIR and IEEE 11073. A number that is not a number is a `Validity`, HI and LO are a comparator with the
device's own limit, and three times are kept apart: what the device said (naive text), what we determined (UTC with
an uncertainty, added by the gateway), and when the bytes arrived.
"""

from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from vitals.clock import Instant


class Validity(StrEnum):
    """Why a quantity has a number, or why it has none."""

    VALID = "valid"
    NOT_A_NUMBER = "nan"
    """IEEE 11073 NaN: the device finished without a value (failed cuff run, finger out)."""
    NOT_AT_RESOLUTION = "nres"
    """IEEE 11073 NRes: a value exists but cannot be stated at this resolution."""
    RESERVED = "reserved"
    """IEEE 11073 reserved code."""
    ABOVE_RANGE = "above_range"
    """HI: above what the device can measure; the comparator and limit say what is known."""
    BELOW_RANGE = "below_range"
    """LO: below what the device can measure."""
    NOT_AVAILABLE = "not_available"
    """A sentinel of the device's own (SpO2 0, rate 0 with the lead off): nothing was measured."""


Comparator: TypeAlias = Literal["<", ">"]


class Quantity(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value of one metric, in the metric's one unit, beside exactly what the device reported.

    `value` is None unless `validity` is VALID, or the comparator is set (then it is the device's limit).
    `raw` is the device's own decimal text (`37.60` keeps its resolution), `raw_unit` its UCUM unit.
    """

    value: float | None
    raw: str
    raw_unit: str
    validity: Validity = Validity.VALID
    comparator: Comparator | None = None


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """Circumstances that choose a rule: where and how the reading was taken. Empty means not recorded."""

    site: str = ""
    """Body site: oral, axillary, rectal, ear, tympanic, temporal, finger, toe, skin, upper_arm, wrist, ..."""
    position: str = ""
    meal: str = ""
    user: str = ""
    """The device's own user slot on two-user cuffs: the other patient's reading must be tellable apart."""


class Observation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One act of measuring by one device.

    `quality` names the device's status bits that were set (`cuff_too_loose`, `irregular_pulse`, ...).
    `transient` marks values for eyes only (cuff pressure while inflating): shown, never stored.
    `historical`: not of now. A driver says so of what it reads from a device's memory, newest first or with a
    `record_no`; the gateway takes it back for a reading that the device's clock shows to be just taken.
    `t_device` is the device's wall time as sent, ISO 8601 without zone; unknown parts are X (`XXXX-04-17T20:41:59`).
    """

    kind: str
    quantities: dict[str, Quantity]
    received_at: Instant = msgspec.field(name="t_received")
    t_device: str = ""
    record_no: int | None = None
    context: Context = Context()
    method: str = ""
    quality: tuple[str, ...] = ()
    historical: bool = False
    transient: bool = False
    raw: str = ""
    """The frame this came from, in hex."""


class SampleArray(msgspec.Struct, frozen=True, eq=False):
    """Consecutive samples of one signal. The sample index is the truth; time is fitted to it later.

    `samples` is a one-dimensional int16 or int32 array of the device's counts. `scale` is microvolt (or the
    metric's unit) a count, None where nobody knows it: then the trace is labelled in counts.
    A jump of `first_index` past the end of the array before is a gap: samples the device made and we never read.
    """

    metric: str
    first_index: int
    rate: float
    """Samples a second, nominal."""
    samples: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    received_at: Instant
    scale: float | None = None
    lead: str = ""
    lead_off: bool = False


class DeviceInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the device says about itself. Empty means it did not say. `battery` is percent.

    `clock` is the device's wall clock as it read at `clock_read_at`: the difference turns its time stamps into ours.
    """

    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    firmware: str = ""
    hardware: str = ""
    software: str = ""
    system_id: str = ""
    battery: int | None = None
    features: tuple[str, ...] = ()
    clock: str = ""
    clock_read_at: Instant = 0


class Fault(msgspec.Struct, frozen=True):
    """Bytes that could not be read, as a value with a name. Decoding went on at the next frame."""

    code: str
    detail: str
    raw: bytes
    at: Instant


class Send(msgspec.Struct, frozen=True):
    """Ask the runner to write these bytes to the device (`channel`: the characteristic, empty on serial)."""

    data: bytes
    channel: str = ""


class Chunk(msgspec.Struct, frozen=True):
    """Bytes as they came: a BLE value with its characteristic, or any slice of a serial stream."""

    data: bytes
    received_at: Instant
    channel: str = ""


Event: TypeAlias = Observation | SampleArray | DeviceInfo | Fault | Send
