"""What a batch of messages comes to: rows to store, messages to publish, outbox rows that wait for an answer."""

from typing import NamedTuple, Protocol

from ingest.store.contract import EvaluationRow, EventRow, Row
from ingest.store.refusals import Refusal
from vitals.messages import OutcomeWord


class Incoming(Protocol):
    """What is used of a broker's message."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def retain(self) -> bool: ...


class Publication(NamedTuple):
    """A message to publish with QoS 1. An empty retained payload ends what was retained."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    content_type: str = ""


class Claim(NamedTuple):
    """An outbox row that waits for its outcome: that of `rows[row]`, or, without a row, the one given."""

    gateway: str
    epoch: str
    seq: int
    row: int | None
    outcome: OutcomeWord = "refused"
    reason: str = ""


class Work:
    """What a batch comes to. `loose`: numbers of the messages whose rows no outbox keeps.

    `refused`: messages of which the door did not let everything in.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.claims: list[Claim] = []
        self.publish: list[Publication] = []
        self.loose: set[int] = set()
        self.refused: list[Refusal] = []

    def own_rows(self) -> list[Row]:
        """Rows that nobody sends again: heart rates, and the gaps that ingest itself reports."""
        claimed = {claim.row for claim in self.claims}
        return [
            row
            for number, row in enumerate(self.rows)
            if (isinstance(row, EvaluationRow) and row.reading is None)
            or (isinstance(row, EventRow) and number not in claimed and row.message.epoch)
        ]
