"""What the store has, read past the store's own code; and what a fault can do to it."""

import base64
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from bench.chaos.parts import Part, cut_log, with_log
from bench.chaos.proxy import Proxy
from bench.chaos.verify import Evaluation, Leaf, Stored
from tests.parts import program


class StoreSide(Protocol):
    """One kind of store under test. It is made, with what it needs of other programs, by its constructor."""

    lacks: frozenset[str]
    """Kinds of `plan.KINDS` that it cannot suffer."""
    adds: Mapping[str, tuple[str, ...]]
    """Targets that it adds to a kind."""
    parts: Mapping[str, Part]
    links: Mapping[str, Proxy]

    def settings(self) -> str:
        """Lines of [ingest] in the settings file."""
        ...

    def other_settings(self) -> str:
        """As `settings`, for an ingest with another store."""
        ...

    def busy(self, seconds: float, halt: threading.Event) -> bool:
        """Keep every write of the store waiting. False: another one does already."""
        ...

    def checkpoint(self) -> None:
        """Cut the write-ahead log of what is on the disk, whose room could be used again on a full one."""
        ...

    def files(self) -> Mapping[str, Sequence[Path]]:
        """What grows with every reading, by name: files and folders."""
        ...

    def rows(self) -> Iterator[Stored]:
        """Readings and events in any order; packs of one stream by time."""
        ...

    def evaluations(self) -> list[Evaluation]: ...

    def close(self) -> None: ...


_ROWS: Final[dict[Leaf, str]] = {
    "obs": "SELECT gateway, room, device, message FROM observation ORDER BY rowid",
    "strip": "SELECT gateway, room, device, message FROM strip ORDER BY gateway, device, metric, stream, t0",
    "event": "SELECT gateway, room, device, message FROM event ORDER BY rowid",
}


class Sqlite:
    """The embedded store's file, in `folder`."""

    lacks: frozenset[str] = frozenset()
    adds: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, folder: Path, _work: Path) -> None:
        self.parts: Mapping[str, Part] = {}
        self.links: Mapping[str, Proxy] = {}
        self._path = folder / "store.db"
        self._other = folder / "foreign.db"

    def settings(self) -> str:
        return f'store = {{ kind = "sqlite", path = "{self._path}" }}'

    def other_settings(self) -> str:
        return f'store = {{ kind = "sqlite", path = "{self._other}" }}'

    def busy(self, seconds: float, halt: threading.Event) -> bool:
        """Another connection holds the write lock, as a backup or a person with a database browser would."""
        try:
            with closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                halt.wait(seconds)
                db.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return True

    def checkpoint(self) -> None:
        cut_log(self._path)

    def files(self) -> Mapping[str, Sequence[Path]]:
        return {"store": with_log(self._path)}

    def rows(self) -> Iterator[Stored]:
        with closing(self._open()) as db:
            for leaf, statement in _ROWS.items():
                for gateway, room, device, message in db.execute(statement):
                    yield Stored(gateway, room, device, leaf, bytes(message))

    def evaluations(self) -> list[Evaluation]:
        with closing(self._open()) as db:
            found = [msgspec.json.decode(message) for (message,) in db.execute("SELECT message FROM evaluation")]
        return [Evaluation(message["id"], message.get("derived", False)) for message in found]

    def close(self) -> None:
        pass

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)


_STORE_LINKS: Final = ("store",)


class Influx:
    """The real engine in `work`, a road with faults before it; what ingest remembers is a file in `folder`."""

    lacks: frozenset[str] = frozenset({"busy"})
    adds: Mapping[str, tuple[str, ...]] = {
        "kill": ("influxd",), "freeze": ("influxd",),
        "cut": _STORE_LINKS, "hole": _STORE_LINKS, "half": _STORE_LINKS, "slow": _STORE_LINKS,
    }  # fmt: skip

    def __init__(self, folder: Path, work: Path) -> None:
        from tests.parts import Influx as Programs

        self._folder = folder
        self._work = work / "influx"
        self._programs = Programs(self._work)
        self._programs.start()
        self._bucket, self._other = self._programs.database(), self._programs.database()
        self._programs.kill_engine()  # from here on it is a part like the others
        binary = program("influxd")
        assert binary is not None  # noqa: S101  it has just been run
        command = [binary, "-config", str(work / "influx" / "influxd.conf")]
        engine = Part("influxd", command, work / "influxd.log", work)
        engine.start()
        self.parts: Mapping[str, Part] = {"influxd": engine}
        self._port = int(self._programs.url.rpartition(":")[2])
        self.links: Mapping[str, Proxy] = {"store": Proxy(self._port)}

    def settings(self) -> str:
        return self._settings(self._bucket, self.links["store"].port, "state.db")

    def other_settings(self) -> str:
        return self._settings(self._other, self._port, "foreign.db")

    def _settings(self, bucket: str, port: int, state: str) -> str:
        url, file = f"http://127.0.0.1:{port}", self._folder / state
        return f'state = "{file}"\nstore = {{ kind = "influx", url = "{url}", bucket = "{bucket}" }}'

    def busy(self, seconds: float, halt: threading.Event) -> bool:
        return False  # nobody can hold a lock of it; the plan leaves the kind out, see `lacks`

    def checkpoint(self) -> None:
        cut_log(self._folder / "state.db")

    def files(self) -> Mapping[str, Sequence[Path]]:
        return {"store": [self._work], "ledger": with_log(self._folder / "state.db")}

    def rows(self) -> Iterator[Stored]:
        leaves: tuple[Leaf, ...] = ("obs", "event")
        for leaf in leaves:
            for point in self._points("observation" if leaf == "obs" else leaf, "message"):
                yield Stored(point["gateway"], point["room"], point["device"], leaf, point["message"].encode())
        # The engine's own time is cut to the millisecond; the exact one is a field.
        for point in sorted(self._points("strip", "head, block, t0"), key=lambda point: int(point["t0"])):
            said = msgspec.json.decode(point["head"]) | {"block": base64.b64decode(point["block"])}
            yield Stored(point["gateway"], point["room"], point["device"], "strip", msgspec.msgpack.encode(said))

    def evaluations(self) -> list[Evaluation]:
        found = [msgspec.json.decode(point["message"]) for point in self._points("evaluation", "message")]
        return [Evaluation(message["id"], message.get("derived", False)) for message in found]

    def close(self) -> None:
        self._programs.stop()

    def _points(self, measurement: str, fields: str) -> Iterator[dict[str, Any]]:
        """In order of time. An engine that was just started needs its moment."""
        for attempt in range(ATTEMPTS):
            try:
                answer = self._programs.ask(f"SELECT *::tag, {fields} FROM {measurement}", self._bucket)
                break
            except OSError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(1)
        for series in msgspec.json.decode(answer)["results"][0].get("series", ()):
            for values in series["values"]:
                yield dict(zip(series["columns"], values, strict=True))


ATTEMPTS: Final = 30
STORES: Final[Mapping[str, Callable[[Path, Path], StoreSide]]] = {"sqlite": Sqlite, "influx": Influx}
"""Made with the folder of the disk that can be filled, and a folder for all else."""
