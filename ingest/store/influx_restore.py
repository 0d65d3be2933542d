"""A ledger made anew from what the bucket holds: its file was lost, or the bucket was filled from elsewhere."""

from collections.abc import Sequence
from typing import Final

import msgspec

from ingest.store.contract import Floors, StripTail
from ingest.store.influx import Bucket
from ingest.store.influxql import Record, select
from ingest.store.ledger import Kept, Ledger
from ingest.store.points import EARLIEST, LATEST, reading_digest, series
from vitals.messages import ObservationMessage

PAGE: Final = 5000
"""Readings of one answer, about 3 MB."""
_LANES: Final = {
    "strip": ("device", "gateway", "metric"),
    "event": ("gateway",),
    "evaluation": ("device", "gateway"),
}
_LAST: Final = "GROUP BY * ORDER BY time DESC LIMIT 1"
_OBSERVATION: Final = msgspec.json.Decoder(ObservationMessage)


def restore(bucket: Bucket, ledger: Ledger) -> None:
    """Note what is there. Repeating it changes nothing. Raises StoreDown."""
    _readings(bucket, ledger)
    with ledger.transaction(durable=True):
        for measurement, tags in _LANES.items():
            for last in bucket.query(select('"key"', measurement, tail=_LAST)):
                ledger.raise_marks({_lane(measurement, tags, last): last["time"]})
        for last in bucket.query(select('"stream", "next_index", "t_end", "t0"', "strip", tail=_LAST)):
            ledger.note_tail(_tail(last), last["t0"])
        for found in bucket.query(
            select(", ".join(f'"floor_{kind}"' for kind in Floors._fields), "store", start=LATEST)
        ):
            ledger.raise_floors(Floors(*(int(found[f"floor_{kind}"] or 0) for kind in Floors._fields)))
        for newest in bucket.query(select('max("no")', "evaluation")):
            ledger.skip_numbers(int(newest["max"]))


def _readings(bucket: Bucket, ledger: Ledger) -> None:
    start = EARLIEST
    columns = '"id", "message", "gateway", "room", "device"'
    while True:
        points = bucket.query(select(columns, "observation", start=start, tail=f"ORDER BY time ASC LIMIT {PAGE}"))
        with ledger.transaction(durable=True):
            ledger.restore([_kept(point) for point in points])
        # Two pages share the points of their common nanosecond; noting one twice changes nothing.
        if len(points) < PAGE or points[-1]["time"] == start:
            return
        start = points[-1]["time"]


def _kept(point: Record) -> tuple[str, Kept]:
    message = _OBSERVATION.decode(point["message"])
    lane = _lane("observation", ("device", "gateway", "room"), point)
    room = point["room"] or ""
    return message.id, Kept(lane, point["time"], message.t_determined, room, reading_digest(message), True)


def _lane(measurement: str, tags: Sequence[str], point: Record) -> str:
    return series(measurement, tuple((tag, point.get(tag) or "") for tag in tags))


def _tail(last: Record) -> StripTail:
    return StripTail(
        last["gateway"], last["device"], last.get("room", ""), last["metric"], last["stream"], last["next_index"],
        last["t_end"],
    )  # fmt: skip
