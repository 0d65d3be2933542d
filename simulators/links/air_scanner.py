"""bleak's scanner on the simulated air: `BleakScanner(..., backend=...)`."""

from typing import Any, ClassVar

from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError
from bumble import core

from simulators.links.air_adapter import Adapter, uuid_text


class AirScanner(BaseBleakScanner):
    """A scan on the simulated air. Use a bound subclass from `air_backends`."""

    socket_path: ClassVar[str] = ""

    def __init__(
        self, detection_callback: Any, service_uuids: list[str] | None, scanning_mode: str = "active", **kwargs: Any
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self._adapter: Adapter | None = None

    async def start(self) -> None:
        """Raises BleakBluetoothNotAvailableError when there is no air."""
        if self._adapter is not None:
            raise BleakError("scan already started")
        self.seen_devices = {}
        adapter = self._adapter = await Adapter.open(self.socket_path)
        adapter.device.on("advertisement", self._heard)
        await adapter.run(adapter.device.start_scanning())

    async def stop(self) -> None:
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            await adapter.close()

    def _heard(self, advertisement: Any) -> None:
        fields = [(int(kind), bytes(body)) for kind, body in advertisement.data.ad_structures]
        data = _advertised(fields, int(advertisement.rssi), advertisement)
        if not self.is_allowed_uuid(data.service_uuids):
            return
        address = advertisement.address.to_string(False)
        device = self.create_or_update_device(address, address, data.local_name, advertisement, data)
        self.call_detection_callbacks(device, data)


def _advertised(fields: list[tuple[int, bytes]], rssi: int, platform: Any) -> AdvertisementData:
    uuids: dict[str, None] = {}
    name: str | None = None
    for kind, body in fields:
        if kind in (0x02, 0x03):
            pairs = (body[i : i + 2] for i in range(0, len(body) - 1, 2))
            uuids.update({uuid_text(core.UUID.from_bytes(pair)): None for pair in pairs})
        elif kind in (0x06, 0x07):
            blocks = (body[i : i + 16] for i in range(0, len(body) - 15, 16))
            uuids.update({uuid_text(core.UUID.from_bytes(block)): None for block in blocks})
        elif kind in (0x08, 0x09):
            name = body.decode("utf-8", "replace")
    return AdvertisementData(name, {}, {}, list(uuids), None, rssi, (platform,))
