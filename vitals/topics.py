"""The MQTT topic tree, `vitals/v1/<site>/...`, made so that an access rule is a prefix.

A gateway writes `up/<gateway>/` and reads `down/<gateway>/`; ingest and board write `core/`. No patient identifier
is ever part of a topic. Names are checked by the settings (`NAME`), so a segment never holds a slash or wildcard.
"""

import re
from typing import Final, Literal, NamedTuple, TypeAlias

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
"""A site, gateway, room or device name in a topic. 32 characters keep the longest topic far below MQTT's limit."""

UpLeaf: TypeAlias = Literal["birth", "status", "obs", "strip", "event", "wave", "live"]
"""`obs`, `strip`, `event` go through the outbox; `wave` and `live` are for eyes only; the rest are retained."""


class Up(NamedTuple):
    """Who sent it, from the topic alone: the broker enforced it, the body cannot contradict it."""

    gateway: str
    room: str
    device: str
    leaf: str


class Topics:
    """Builds and reads the topics of one site."""

    def __init__(self, site: str) -> None:
        self.root = f"vitals/v1/{site}"

    def up(self, gateway: str, room: str, device: str, leaf: UpLeaf) -> str:
        return f"{self.root}/up/{gateway}/{room}/{device}/{leaf}"

    def up_all(self, leaf: UpLeaf) -> str:
        return f"{self.root}/up/+/+/+/{leaf}"

    def gateway_status(self, gateway: str) -> str:
        """Retained, and the gateway's last will: one connection has one will, so it speaks for all its devices."""
        return f"{self.root}/up/{gateway}/status"

    def stored(self, gateway: str) -> str:
        return f"{self.root}/down/{gateway}/stored"

    def flagged(self, room: str) -> str:
        return f"{self.root}/core/{room}/flagged"

    def alert(self, room: str, alert: str) -> str:
        return f"{self.root}/core/{room}/alert/{alert}"

    def assoc(self, room: str) -> str:
        return f"{self.root}/core/{room}/assoc"

    def ask(self, room: str, verb: str) -> str:
        return f"{self.root}/core/{room}/ask/{verb}"

    @property
    def ingest_status(self) -> str:
        return f"{self.root}/core/ingest/status"

    def split(self, topic: str) -> list[str]:
        """The segments below the site, or an empty list for a topic of another tree."""
        prefix = self.root + "/"
        return topic[len(prefix) :].split("/") if topic.startswith(prefix) else []

    def parse_up(self, topic: str) -> Up | None:
        """A device's topic taken apart; None when it is not one."""
        parts = self.split(topic)
        return Up(*parts[1:]) if len(parts) == 5 and parts[0] == "up" else None

    def parse_gateway_status(self, topic: str) -> str | None:
        """The gateway's name, when this is a gateway's status topic."""
        parts = self.split(topic)
        return parts[1] if len(parts) == 3 and parts[0] == "up" and parts[2] == "status" else None

    def parse_core(self, topic: str) -> tuple[str, str, str] | None:
        """(room, leaf, rest) of a `core/<room>/...` topic, such as ("4", "alert", "spo2"); None otherwise."""
        parts = self.split(topic)
        if len(parts) not in (3, 4) or parts[0] != "core":
            return None
        return parts[1], parts[2], parts[3] if len(parts) == 4 else ""
