"""The road whole: a recorded EKG travels serial bytes -> outbox -> real broker -> ingest -> store, equal to the bit."""

import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.clinic import Clinic
from tests.parts import Mosquitto, needs, wait_until
from tests.shared import SHARED, needs_shared
from vitals.messages import StripMessage, decode_strips

pytestmark = [pytest.mark.broker, pytest.mark.shared, pytest.mark.slow, needs("mosquitto"), needs_shared]

SETTINGS = """
[site]
id = "test"
[broker]
port = {broker}
[gateway]
id = "g1"
outbox = "outbox.db"
[[gateway.devices]]
name = "ekg"
driver = "ekg_openview"
room = "1"
port = "tty"
timebase = "samples"
options = {{ rate_hz = 360.0, uv_per_count = 5.0, lead = "MLII" }}
[ingest]
profile = "demo"
store = {{ kind = "sqlite", path = "store.db" }}
[board]
port = {board}
[[board.rooms]]
id = "1"
"""


def stored(folder: Path) -> list[StripMessage]:
    """Every stored EKG pack, read past the store's own code: the column is the message as the gateway sent it."""
    db = sqlite3.connect(f"file:{folder / 'store.db'}?mode=ro", uri=True, timeout=10)
    try:
        rows = db.execute("SELECT message FROM strip WHERE metric = 'ekg'").fetchall()
    finally:
        db.close()
    strips = [strip for (payload,) in rows for strip in decode_strips(payload)]
    return sorted(strips, key=lambda strip: strip.first_index)


@pytest.mark.timeout(400)
def test_a_whole_record_arrives_bit_for_bit_though_the_broker_is_killed(mosquitto: Mosquitto, tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb", reason="NOT RUN: wfdb is not installed")
    record = SHARED / "ekg" / "mitdb" / "101"
    truth = wfdb.rdrecord(str(record), physical=False).d_signal[:, 0]
    clinic = Clinic(tmp_path / "clinic", SETTINGS, broker_port=mosquitto.port)
    try:
        clinic.start("ingest")
        clinic.run("replay", "replay", str(record), "--link", str(clinic.folder / "tty"), "--speed", "0")
        clinic.start("gateway")
        count = "SELECT sum(next_index - first_index) FROM strip WHERE metric = 'ekg'"

        def samples() -> int:
            found = clinic.query("store.db", count)
            return found[0][0] or 0 if found else 0

        wait_until(lambda: samples() > 100_000, 120, "the first part being stored")
        mosquitto.kill()
        wait_until(lambda: len(clinic.outbox_rows()) > 100, 60, "a backlog, while the broker is away")
        mosquitto.start()
        assert clinic.wait("replay") == 0, clinic.log("replay")
        wait_until(lambda: samples() >= len(truth), 180, "every sample being stored")
        wait_until(lambda: clinic.outbox_rows() == [], 60, "a receipt for every row")
        assert (clinic.stop("gateway"), clinic.stop("ingest")) == (0, 0)
        strips = stored(clinic.folder)
    finally:
        clinic.stop_all()
    assert {strip.stream for strip in strips} == {strips[0].stream}
    assert [s.first_index for s in strips] == list(np.cumsum([0] + [s.count for s in strips])[:-1]), (
        "no gap, no overlap"
    )
    assert np.array_equal(np.concatenate([strip.samples() for strip in strips]), truth)
    assert "samples_lost" not in msgspec.json.encode(clinic.query("store.db", "SELECT code FROM event")).decode()
