"""Which devices can be heard: their own status, and their gateway's last will, which speaks for all of them."""

from typing import Final, NamedTuple

import msgspec

from vitals.messages import DeviceStatus, GatewayStatus

GATEWAY_OFFLINE: Final = "gateway offline"
MAX_DEVICES: Final = 4096


class Heard(NamedTuple):
    """`reason` is why the device cannot be heard, empty when it can; None: no news, a try to connect."""

    room: str
    device: str
    reason: str | None
    simulated: bool


class _Device:
    def __init__(self) -> None:
        self.status: DeviceStatus | None = None
        self.simulated = False


class Presence:
    """Fed with retained messages in any order; answers which devices' state to look at again."""

    def __init__(self) -> None:
        self._devices: dict[tuple[str, str, str], _Device] = {}
        self._gateways: dict[str, GatewayStatus] = {}

    def device(self, gateway: str, room: str, device: str, status: DeviceStatus | None) -> Heard:
        """A device's status; None when its retained message was removed with the device."""
        key = (gateway, room, device)
        if status is None:
            known = self._devices.pop(key, _Device())
            return Heard(room, device, "", known.simulated)
        self._get(key).status = status
        return self._heard(key)

    def birth(self, gateway: str, room: str, device: str, *, simulated: bool) -> None:
        self._get((gateway, room, device)).simulated = simulated

    def gateway(self, name: str, status: GatewayStatus) -> list[Heard]:
        """A gateway's status. The will of an earlier session says nothing of the one that lives."""
        now = self._gateways.get(name)
        if now is not None and now.online and not status.online and status.session != now.session:
            return []
        if now is None and len(self._gateways) >= MAX_DEVICES:
            return []
        if now is not None and not status.online:
            # Its will cannot know the clock; what it still has sent was timed by the clock of before.
            status = msgspec.structs.replace(status, clock_off_ms=now.clock_off_ms)
        self._gateways[name] = status
        return [self._heard(key) for key in self._devices if key[0] == name]

    def clock_off_ms(self, gateway: str) -> int | None:
        """How far a gateway's clock is off, as it says itself; None when it does not know, or has not said."""
        status = self._gateways.get(gateway)
        return status.clock_off_ms if status is not None else None

    def fine(self, room: str, device: str) -> bool:
        """Whether a device of that name in that room is known and can be heard."""
        keys = [key for key, known in self._devices.items() if key[1:] == (room, device) and known.status is not None]
        return any(self._heard(key).reason == "" for key in keys)

    def _get(self, key: tuple[str, str, str]) -> _Device:
        if key not in self._devices and len(self._devices) >= MAX_DEVICES:
            del self._devices[next(iter(self._devices))]
        return self._devices.setdefault(key, _Device())

    def _heard(self, key: tuple[str, str, str]) -> Heard:
        gateway, room, name = key
        device = self._devices[key]
        status = self._gateways.get(gateway)
        if status is not None and not status.online:
            return Heard(room, name, GATEWAY_OFFLINE, device.simulated)
        state = device.status
        if state is None or state.state == "connecting":
            return Heard(room, name, None, device.simulated)
        reason = (state.reason or "lost") if state.state == "lost" else ""
        return Heard(room, name, reason, device.simulated)
