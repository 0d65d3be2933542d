"""A message before it has its place in the outbox: only the commit gives it its epoch, seq and id."""

from typing import NamedTuple, TypeAlias

import msgspec

from vitals.clock import Instant
from vitals.messages import EventMessage, ObservationMessage, StripMessage, encode, observation_id
from vitals.outbox import Row

Message: TypeAlias = ObservationMessage | StripMessage | EventMessage


class Draft(NamedTuple):
    """A message without its identity. `urgent`: a spot reading, committed at once; the rest once a second."""

    topic: str
    message: Message
    urgent: bool
    physical: str = ""

    def finish(self, epoch: str, seq: int, now: Instant) -> Row:
        """The outbox row."""
        message = msgspec.structs.replace(self.message, epoch=epoch, seq=seq)
        if isinstance(message, ObservationMessage):
            reading = observation_id(message.observation, physical=self.physical, epoch=epoch, seq=seq)
            message = msgspec.structs.replace(message, id=reading)
        return Row(epoch, seq, self.topic, encode(message), now)
