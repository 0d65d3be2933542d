"""What leaves ingest besides receipts: flagged readings in packs, alerts retained. Kept over a batch that failed."""

from collections.abc import Sequence
from typing import Final

from ingest.alerts import Change
from ingest.store.contract import Row
from ingest.work import Publication, Work
from vitals.messages import FlaggedMessage, encode
from vitals.topics import Topics

FLAGGED_EXPIRY_S: Final = 3600
MAX_FLAGGED_PACK: Final = 100
SCHEMA_FLAGGED: Final = "application/vnd.vitals.flagged+json;v=1"


class Outgoing:
    """Gathers during a batch; `finish` puts it into the batch's work."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._flagged: dict[str, list[FlaggedMessage]] = {}
        self._untold: list[Publication] = []
        self._rows: list[Row] = []

    def show(self, room: str, message: FlaggedMessage) -> None:
        self._flagged.setdefault(room, []).append(message)

    def alerts(self, changes: Sequence[Change]) -> list[Publication]:
        return [
            Publication(
                self._topics.alert(change.room, change.id),
                encode(change.alert) if change.alert is not None else b"",
                retain=True,
            )
            for change in changes
        ]

    def keep(self, work: Work) -> None:
        """The batch failed and is given again in parts: what has happened all the same goes out with the next one."""
        self._untold += work.publish
        self._rows += work.own_rows()

    def finish(self, work: Work) -> Work:
        flagged, self._flagged = self._flagged, {}
        packs = [
            Publication(
                self._topics.flagged(room),
                encode(messages[i : i + MAX_FLAGGED_PACK] if len(messages) > 1 else messages[0]),
                expiry_s=FLAGGED_EXPIRY_S,
                content_type=SCHEMA_FLAGGED,
            )
            for room, messages in flagged.items()
            for i in range(0, len(messages), MAX_FLAGGED_PACK)
        ]
        work.publish = packs + self._untold + work.publish
        work.rows += self._rows
        self._untold, self._rows = [], []
        return work
