"""One device on its way to the outbox: events in, drafts of messages out. Pure: no clock, no I/O."""

import secrets
from collections.abc import Sequence
from datetime import tzinfo
from typing import Final, NamedTuple

import msgspec

from drivers.core.draft import Draft
from drivers.core.faults import FaultCount, FaultLog
from drivers.core.strips import WAVE_S, Pack, Packer
from drivers.core.timeline import TimeLine
from drivers.core.times import DeviceTimes
from vitals import settings
from vitals.clock import NS, Instant
from vitals.driver import Driver
from vitals.messages import (
    VERSION,
    DeviceBirth,
    DeviceState,
    DeviceStatus,
    EventMessage,
    ObservationMessage,
    StripMessage,
    encode,
    strip_message,
)
from vitals.model import DeviceInfo, Event, Fault, Observation, SampleArray
from vitals.topics import Topics

IDLE_FLUSH_S: Final = 2
"""A pack that waits this long for its second to fill goes out short: the stream has paused."""
CLOCK_STEP_S: Final = 1.0
"""Slewing (500 ppm) moves a clock by far less between two chunks; a step of NTP or of a person is more."""
OFF_PACE: Final = 0.005
"""What a ceramic resonator may be off. Beyond it a person is told: lost samples can look like a slow clock."""
SHOWN_LIVE: Final = frozenset({"ekg"})
"""Signals that go on the wave lane; the others are stored only."""


class Output(NamedTuple):
    """What a batch of events gives: `drafts` for the outbox, `live` for eyes only (topic, payload)."""

    drafts: list[Draft]
    live: list[tuple[str, bytes]]


class _Stream:
    """One signal of one link-up: where its index stands in time, and its packs."""

    def __init__(self, array: SampleArray, *, by_samples: bool) -> None:
        self.line = TimeLine(array.rate, by_samples=by_samples)
        self.strips = Packer(round(array.rate))
        self.waves = Packer(max(1, round(array.rate * WAVE_S)))
        self.shift = 0
        self.reached: Instant = 0
        """Where the newest pack began."""
        self.pace_told = False


class DeviceFeed:
    """The state of one configured device. `changed` says that birth or status must be published again."""

    def __init__(
        self, device: settings.Device, driver: Driver, *, gateway: str, topics: Topics, session: str, zone: tzinfo
    ) -> None:
        self.device = device
        self.driver = driver
        self.faults = FaultLog()
        self.info = DeviceInfo()
        self.changed = True
        self.lost_samples = 0
        self.link_ups = 0
        self._session = session
        self._times = DeviceTimes(zone)
        self._topic = {
            leaf: topics.up(gateway, device.room, device.name, leaf)
            for leaf in ("obs", "strip", "event", "wave", "live", "birth", "status")
        }
        self._streams: dict[str, _Stream] = {}
        self._stream_id = ""
        self._clock_offset: int | None = None
        self._address = device.address or device.port
        self._simulated = device.simulated
        self.state: DeviceState = "connecting"
        self._since: Instant = 0
        self.reason = ""

    # -- link ------------------------------------------------------------------------------------------------

    def link_up(self, address: str, *, simulated: bool, at: Instant) -> None:
        """A new conversation: sample indices start anew, so the stream gets a new name."""
        self.link_ups += 1
        self._stream_id = secrets.token_hex(8)
        self._streams = {}
        self._address = address
        self._simulated = self.device.simulated or simulated
        self.set_state("online", "", at)

    def clock(self, wall: Instant, monotonic: int) -> Output:
        """The host's clock was set while samples came: they go on under a new stream with a new line to UTC.

        Otherwise the step would look like samples lost, or bend the line for a minute.
        """
        offset = wall - monotonic
        before, self._clock_offset = self._clock_offset, offset
        if before is None or abs(offset - before) <= CLOCK_STEP_S * NS:
            return Output([], [])
        self.fault("clock_stepped", f"this computer's clock was set by {(offset - before) / NS:.1f} s", b"", wall)
        drafts = [self._strip(stream, pack) for stream in self._streams.values() for pack in stream.strips.flush()]
        self._streams = {}
        self._stream_id = secrets.token_hex(8)
        return Output(drafts, [])

    def set_state(self, state: DeviceState, reason: str, at: Instant) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason, self._since = state, reason, at
            self.changed = True

    def link_down(self) -> Output:
        """Short packs of what was waiting, and the faults still being counted."""
        drafts = [self._strip(stream, pack) for stream in self._streams.values() for pack in stream.strips.flush()]
        self._streams = {}
        return Output(drafts + self._events(self.faults.flush()), [])

    # -- events ----------------------------------------------------------------------------------------------

    def take(self, events: Sequence[Event]) -> Output:
        """Everything but `Send`, which is the runner's."""
        output = Output([], [])
        for event in events:
            if isinstance(event, SampleArray):
                self._samples(event, output)
            elif isinstance(event, Observation):
                self._observation(event, output)
            elif isinstance(event, DeviceInfo):
                self.info = event
                self._times.told(event)
                self.changed = True
            elif isinstance(event, Fault):
                self.fault(event.code, event.detail, event.raw, event.at)
        return output

    def fault(self, code: str, detail: str, raw: bytes, at: Instant) -> None:
        self.faults.add(code, detail, raw, at)
        self.changed = True

    def tick(self, now: Instant) -> Output:
        """Faults whose second is over, and packs that wait in vain."""
        drafts = self._events(self.faults.due(now))
        for stream in self._streams.values():
            since = stream.strips.pending_since
            if since and now - since > IDLE_FLUSH_S * NS:
                drafts += [self._strip(stream, pack) for pack in stream.strips.flush()]
        return Output(drafts, [])

    def _observation(self, observation: Observation, output: Output) -> None:
        if self.device.site and not observation.context.site and "temp" in observation.quantities:
            context = msgspec.structs.replace(observation.context, site=self.device.site)
            observation = msgspec.structs.replace(observation, context=context)
        t, uncertainty_ms, historical = self._times.determine(observation)
        historical = historical or self.device.historical
        if historical != observation.historical:
            observation = msgspec.structs.replace(observation, historical=historical)
        message = ObservationMessage(
            VERSION, "", "", 0, self.driver.name, observation, t, uncertainty_ms, self._simulated
        )
        if observation.transient:
            output.live.append((self._topic["live"], encode(message)))
        else:
            output.drafts.append(Draft(self._topic["obs"], message, True, self._physical()))

    def _physical(self) -> str:
        """What tells this device from every other, however it is connected: never a port, where it can be helped.

        A Bluetooth address is that by itself (several vendors leave a constant in the serial number).
        """
        if self.driver.transport == "ble":
            return self._address.upper()
        return self.info.serial or self._address

    def _samples(self, array: SampleArray, output: Output) -> None:
        stream = self._streams.get(array.metric)
        if stream is None:
            by_samples = self.device.timebase == "samples"
            stream = self._streams[array.metric] = _Stream(array, by_samples=by_samples)
        if stream.shift:
            array = msgspec.structs.replace(array, first_index=array.first_index + stream.shift)
        lost = stream.line.observe(array.first_index + len(array.samples), array.received_at)
        if lost:
            stream.shift += lost
            self.fault("samples_lost", f"{lost} samples of {array.metric} never arrived", b"", array.received_at)
            array = msgspec.structs.replace(array, first_index=array.first_index + lost)
        self._tell_pace(stream, array)
        output.drafts.extend(self._strip(stream, pack) for pack in stream.strips.push(array))
        if array.metric in SHOWN_LIVE and not self.device.historical:
            for pack in stream.waves.push(array):
                output.live.append((self._topic["wave"], encode(self._pack(stream, pack))))

    def _tell_pace(self, stream: _Stream, array: SampleArray) -> None:
        off = stream.line.off_pace
        if stream.pace_told or off is None or abs(off) < OFF_PACE:
            return
        stream.pace_told = True
        how = "slower than stated: a slow clock, or samples lost"
        if off < 0:
            how = "faster than stated: a fast clock, or samples sent twice"
        detail = f"{array.metric} comes {abs(off):.1%} {how}"
        self.fault("off_pace", detail, b"", array.received_at)

    def _pack(self, stream: _Stream, pack: Pack) -> StripMessage:
        return strip_message(
            pack.array,
            stream=self._stream_id,
            driver=self.driver.name,
            t0=stream.line.at(pack.array.first_index),
            simulated=self._simulated,
            historical=self.device.historical,
            lost_before=pack.lost_before,
        )

    def _strip(self, stream: _Stream, pack: Pack) -> Draft:
        if pack.lost_before:
            self.lost_samples += pack.lost_before
            self.changed = True
        message = self._pack(stream, pack)
        # A line that is fitted anew may lie earlier; a pack never begins before the one that its samples follow.
        stream.reached = max(message.t0, stream.reached + 1)
        message = msgspec.structs.replace(message, t0=stream.reached)
        return Draft(self._topic["strip"], message, urgent=False)

    def _events(self, faults: Sequence[FaultCount]) -> list[Draft]:
        return [
            Draft(
                self._topic["event"],
                EventMessage(VERSION, "", 0, f.code, f.detail, f.at, f.times, f.raw.hex(), self._simulated),
                urgent=False,
            )
            for f in faults
        ]

    # -- retained states -------------------------------------------------------------------------------------

    def retained(self) -> list[tuple[str, bytes]]:
        """Birth and status, to publish on every connect and on every change."""
        birth = DeviceBirth(
            VERSION,
            self._session,
            self.driver.name,
            self.driver.title,
            self.driver.transport,
            tuple(self.driver.metrics),
            self.info,
            self._simulated,
        )
        status = DeviceStatus(
            VERSION, self._session, self.state, self._since, self.reason, dict(self.faults.totals), self.lost_samples
        )
        return [
            (self._topic["birth"], msgspec.json.encode(birth)),
            (self._topic["status"], msgspec.json.encode(status)),
        ]
