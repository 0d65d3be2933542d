"""The demo's broker: mosquitto where it is on PATH, else the one embedded in the `iotcore` wheel. Loopback only.

Either keeps messages in memory at most: the outbox keeps what has no receipt, and every owner of retained topics
publishes them again on each connect. For all but the demo install mosquitto; docker-compose.yml has its settings.
"""

import shutil
import sys
from pathlib import Path
from typing import Final, NamedTuple

from vitals.messages import MAX_PAYLOAD

INFLIGHT: Final = 100
"""rumqttd's unacknowledged window; more is not accepted."""
MOSQUITTO_WINDOW: Final = 1000

_MOSQUITTO: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages {window}
max_queued_messages 0
max_queued_bytes 268435456
log_type error
log_type warning
log_dest stderr
"""
# rumqttd's own defaults bind all interfaces, speak 3.1.1 and refuse payloads over 20 kB.
_IOTCORE: Final = """\
id = 0

[router]
id = 0
max_connections = 200
max_outgoing_packet_count = 200
max_segment_size = 33554432
max_segment_count = 4

[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload}
max_inflight_count = {inflight}
throttle_delay_us = 0
"""


class DemoBroker(NamedTuple):
    """`command` runs the broker in the foreground; `window` is what it lets a client leave unacknowledged."""

    name: str
    command: list[str]
    window: int


def prepare(folder: Path, port: int) -> DemoBroker:
    """Choose the broker and write its configuration into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mosquitto = shutil.which("mosquitto")
    if mosquitto:
        file = folder / "mosquitto.conf"
        file.write_text(_MOSQUITTO.format(port=port, window=MOSQUITTO_WINDOW), encoding="utf-8")
        return DemoBroker("mosquitto", [mosquitto, "-c", str(file)], MOSQUITTO_WINDOW)
    file = folder / "iotcore.toml"
    file.write_text(_IOTCORE.format(port=port, payload=MAX_PAYLOAD, inflight=INFLIGHT), encoding="utf-8")
    command = [sys.executable, "-m", "iotcore", "--config", str(file), "--log-level", "CRITICAL"]
    return DemoBroker("embedded (iotcore)", command, INFLIGHT)
