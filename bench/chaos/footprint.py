"""What each part takes of memory and disk while a run goes on, and whether that stays flat.

A value is flat when the median of the run's last quarter is at most the median of its first quarter plus a tenth, or
plus `SLACK_MB` where that is more. A leak of 1 MB a minute is over that in less than a quarter of an hour; a run
shorter than `JUDGED_MIN` minutes is shown and not judged. The store grows by design, by so much for each reading.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench.chaos.clinic import Clinic
from bench.chaos.parts import FILLER, with_log

EVERY_S: Final = 10.0
GROWTH: Final = 0.10
SLACK_MB: Final = {"memory": 8.0, "disk": 4.0}
"""Of memory: what Python's allocator moves by itself. Of disk: one write-ahead log before its checkpoint."""
JUDGED_MIN: Final = 10.0
FEWEST: Final = 8
"""Samples of which quarters say anything."""
OTHERS: Final = frozenset({"influxd memory"})
"""Not ours to judge: its cache is written out when it is full, not when a quarter ends."""


class Sample(NamedTuple):
    """`mb` by what it is of; a part that was down has no memory. `rows`: with a receipt by then."""

    at_s: float
    rows: int
    mb: Mapping[str, float]


class Track(NamedTuple):
    """One value over a run, in MB. `grows`: by design, with the rows stored; `flat`: None where it is not judged."""

    name: str
    first: float
    last: float
    most: float
    a_minute: float
    grows: bool
    flat: bool | None


class Footprint(NamedTuple):
    """`rows`: stored between the first and the last sample."""

    minutes: float
    rows: int
    tracks: Sequence[Track]

    def of_1000_rows(self, track: Track) -> float:
        """kB by which it grew for each 1,000 rows stored."""
        return track.a_minute * self.minutes * 1e6 / self.rows if self.rows else 0.0

    @property
    def not_flat(self) -> list[str]:
        return [
            f"{t.name} is not flat: {t.first:.1f} MB in the first quarter, {t.last:.1f} MB in the last"
            for t in self.tracks
            if t.flat is False
        ]


def sample(clinic: Clinic, at_s: float, rows: int) -> Sample:
    memory = {f"{part.name} memory": part.memory_mb for part in clinic.lasting()}
    disk: dict[str, Sequence[Path]] = {
        **{f"{gateway} outbox": with_log(clinic.outbox(gateway)) for gateway in clinic.ledgers},
        **{f"{name} disk": files for name, files in clinic.store.files().items()},
        "broker disk": [clinic.folder / "mosquitto"],
        "logs disk": list(clinic.folder.glob("*.log")),
    }
    mb = {name: size for name, size in memory.items() if size is not None}
    return Sample(at_s, rows, mb | {name: sum(map(_size, files)) / 1e6 for name, files in disk.items()})


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder, whichever are there at the moment."""
    try:
        if path.is_dir():
            return sum(map(_size, path.iterdir()))
        return path.stat().st_size if path.name != FILLER else 0
    except OSError:
        return 0


def footprint(samples: Sequence[Sample], growing: Sequence[str]) -> Footprint | None:
    """`growing`: names of what grows by design. None of too few samples."""
    if len(samples) < FEWEST:
        return None
    minutes = (samples[-1].at_s - samples[0].at_s) / 60
    names = dict.fromkeys(name for one in samples for name in one.mb)
    tracks = [_track(name, samples, minutes, grows=name in growing) for name in names]
    return Footprint(minutes, samples[-1].rows - samples[0].rows, tracks)


def _track(name: str, samples: Sequence[Sample], minutes: float, *, grows: bool) -> Track:
    values = [(one.at_s, one.mb[name]) for one in samples if name in one.mb]
    begin, end = samples[0].at_s, samples[-1].at_s
    quarter = (end - begin) / 4
    early = [mb for at, mb in values if at <= begin + quarter]
    late = [mb for at, mb in values if at >= end - quarter]
    most = max(mb for _, mb in values)
    if not (early and late):  # it was down all the while
        return Track(name, 0.0, 0.0, most, 0.0, grows, None)
    first, last = median(early), median(late)
    slack = max(GROWTH * first, SLACK_MB["memory" if name.endswith("memory") else "disk"])
    judged = minutes >= JUDGED_MIN and not grows and name not in OTHERS
    # From the middle of the first quarter to the middle of the last.
    return Track(
        name, first, last, most, (last - first) / (0.75 * minutes), grows, last - first <= slack if judged else None
    )
