"""What goes wrong, to whom, when and for how long: a pure function of the seed.

The plan repeats exactly. How the processes interleave under it does not: that is the machine's.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

GATEWAYS: Final = ("gateway-1", "gateway-2")


class Fault(NamedTuple):
    """`at` and `seconds` count from the start of the run; `amount` is a kind's own number (a jump, a choice)."""

    at: float
    kind: str
    target: str
    seconds: float
    amount: int

    @property
    def ends(self) -> float:
        return self.at + self.seconds


class Kind(NamedTuple):
    """One way to go wrong: who may be hit, and how long it lasts at least and at most."""

    targets: Sequence[str]
    shortest_s: float
    longest_s: float


PARTS: Final = (*GATEWAYS, "ingest", "broker", "board", "simulate")
LINKS: Final = (*GATEWAYS, "ingest", "board")
KINDS: Final[Mapping[str, Kind]] = {
    "kill": Kind(PARTS, 0.3, 5),
    "stop": Kind((*GATEWAYS, "ingest", "board", "simulate"), 0.3, 5),
    "freeze": Kind(PARTS, 0.5, 20),  # longer than one and a half keepalives: the broker gives the connection up
    "cut": Kind(LINKS, 0.5, 8),
    "hole": Kind(LINKS, 0.5, 20),
    "half": Kind(LINKS, 0.5, 20),
    "slow": Kind(LINKS, 1, 8),
    "full": Kind((*GATEWAYS, "store"), 1, 8),
    "busy": Kind(("store",), 1, 7),  # past the store's own patience of 5 s, and below it
    "clock": Kind((*GATEWAYS, "ingest"), 1, 8),
    "restore": Kind(GATEWAYS, 0, 0),
    "foreign": Kind(("ingest",), 2, 8),
    "second": Kind(("ingest",), 0, 0),
    "forged": Kind(GATEWAYS, 0, 0),
    "replay": Kind(("up",), 0, 0),
    "poison": Kind(("up",), 0, 0),
}
JUMPS_S: Final = (-86_400, -3_600, -300, 300, 3_600, 86_400)
"""All longer than a run's calm end, so that a reading with a wrong time is still told apart there."""
SHORTEST_GAP_S: Final = 0.2


def plan(seed: int, seconds: float, kinds: Mapping[str, Kind] = KINDS, *, every_s: float = 2.0) -> list[Fault]:
    """Faults in order of time, none meant to last past `seconds`, about one each `every_s`, so that many overlap.

    Without kinds there are none. All kinds are dealt out once, in random order, before any comes again.
    """
    rng = random.Random(seed)
    faults: list[Fault] = []
    deck: list[str] = []
    at = rng.uniform(0, every_s)
    while kinds and at < seconds:
        if not deck:
            deck = sorted(kinds)
            rng.shuffle(deck)
        kind = deck.pop()
        targets, shortest, longest = kinds[kind]
        target = rng.choice(list(targets))
        lasts = min(_often_short(rng, shortest, longest), seconds - at)
        amount = rng.choice(JUMPS_S) if kind == "clock" else rng.randrange(1 << 30)
        faults.append(Fault(round(at, 2), kind, target, round(lasts, 2), amount))
        at += rng.uniform(SHORTEST_GAP_S, 2 * every_s - SHORTEST_GAP_S)
    return faults


def _often_short(rng: random.Random, shortest: float, longest: float) -> float:
    """Between the two, the short ones more often: most faults of a clinic are over before anybody looks."""
    return shortest + (longest - shortest) * float(rng.random() ** 2)
