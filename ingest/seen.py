"""Which readings came before, so that one sent again is stored, answered, and neither shown nor alarmed twice."""

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Final

MAX_SEEN: Final = 100_000
"""Ids remembered, some 15 MB."""
BEFORE: Final = ""
"""In place of a gateway, for what was seen before the start; no gateway is called so."""


class Seen:
    """The ids of many gateways. Who sends the most forgets first: made-up ids push out none of another gateway."""

    def __init__(self, ids: Iterable[str] = (), limit: int = MAX_SEEN) -> None:
        """`ids`: seen before the start, oldest first."""
        self._limit = limit
        self._known: set[str] = set()
        self._order: defaultdict[str, deque[str]] = defaultdict(deque)
        """By gateway, oldest first. Ingest takes messages of few gateways (`ingest/quota.py`)."""
        for key in ids:
            self.add(key, BEFORE)

    def add(self, key: str, gateway: str) -> bool:
        """Whether it is new."""
        if key in self._known:  # whoever sent it: two gateways may read the same record out of one meter
            return False
        self._known.add(key)
        self._order[gateway].append(key)
        if len(self._known) > self._limit:
            self._known.remove(max(self._order.values(), key=len).popleft())
        return True
