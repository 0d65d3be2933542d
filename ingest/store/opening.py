"""Which store the settings mean: for writing by ingest, for reading by the board.

InfluxDB's client takes half a second to import, so only who uses it imports it.
"""

import threading
from collections.abc import Mapping
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ingest.store.contract import HistoryPoint, Store, StoreReader
from ingest.store.sqlite import SqliteStore
from vitals.clock import Instant
from vitals.errors import SettingsError
from vitals.messages import FlaggedMessage
from vitals.settings import Settings, secret

if TYPE_CHECKING:
    from ingest.store.influx import Place
    from ingest.store.prune import Pruner
    from ingest.store.scan import Scan
    from ingest.store.verify import Checked

TOKEN_ENV: Final = "VITALS_INFLUX_TOKEN"
BOARD_S: Final = 3.0
"""A page that asks for the past waits no longer for InfluxDB."""
TOOL_S: Final = 60.0
"""A tool waits so long for one page, or one deletion."""


def open_store(settings: Settings, stop: threading.Event | None = None) -> Store:
    """The store for writing. Raises StoreError. An InfluxDB that is down is no error: it is waited for.

    Once `stop` is set a slow InfluxDB is not waited for any longer.
    """
    if settings.ingest.store.kind == "sqlite":
        return SqliteStore(Path(settings.ingest.store.path))
    from ingest.store.influx import Bucket
    from ingest.store.influx_store import InfluxStore
    from ingest.store.ledger import Ledger

    return InfluxStore(Bucket(place(settings), stop=stop), Ledger(Path(settings.ingest.state)))


def open_reader(settings: Settings) -> StoreReader:
    """The store for reading. Raises StoreError where there is no file yet; InfluxDB is asked by the first call."""
    if settings.ingest.store.kind == "sqlite":
        return SqliteStore(Path(settings.ingest.store.path), read_only=True)
    from ingest.store.influx import Bucket
    from ingest.store.influx_reader import InfluxReader

    return InfluxReader(Bucket(place(settings), timeout_s=BOARD_S))


def place(settings: Settings, environment: Mapping[str, str] = environ) -> "Place":
    """Where the bucket is, with the token from its file or the environment. Raises SettingsError."""
    from ingest.store.influx import Place

    store = settings.ingest.store
    token = secret(store.token_file, TOKEN_ENV, environment) or ""
    if not (token.isascii() and token.isprintable()):
        # It goes into a header, and what cannot be sent there must not come back in the words of an error.
        raise SettingsError(
            f"The token in {store.token_file or TOKEN_ENV} is no token.", expected="printable ASCII on one line",
            found="other characters (not shown)", do="Copy the token again, alone and without quotes.",
        )  # fmt: skip
    return Place(store.url, store.bucket, store.org, token, store.ca_file, store.gzip)


def refusals_path(settings: Settings) -> Path:
    """What was refused is kept beside what ingest writes anyhow: no path of its own to get wrong."""
    store = settings.ingest.store
    return Path(f"{store.path if store.kind == 'sqlite' else settings.ingest.state}.refused")


def open_scan(settings: Settings) -> "Scan":
    """The store, to be read from end to end. Raises StoreError."""
    if settings.ingest.store.kind == "sqlite":
        from ingest.store.sqlite_scan import SqliteScan

        return SqliteScan(Path(settings.ingest.store.path))
    from ingest.store.influx import Bucket
    from ingest.store.influx_scan import InfluxScan

    return InfluxScan(Bucket(place(settings), timeout_s=TOOL_S))


def open_checked(settings: Settings) -> "Checked":
    """The store, to be verified. Raises StoreError."""
    if settings.ingest.store.kind == "sqlite":
        from ingest.store.sqlite_verify import CheckedSqlite

        return CheckedSqlite(Path(settings.ingest.store.path))
    from ingest.store.influx import Bucket
    from ingest.store.influx_verify import CheckedInflux

    return CheckedInflux(Bucket(place(settings), timeout_s=TOOL_S), Path(settings.ingest.state))


def open_pruner(settings: Settings) -> "Pruner":
    """The store, to be pruned. Raises StoreError; StoreDown when InfluxDB is."""
    if settings.ingest.store.kind == "sqlite":
        from ingest.store.sqlite_prune import SqlitePruner

        return SqlitePruner(Path(settings.ingest.store.path))
    from ingest.store.influx import Bucket
    from ingest.store.influx_prune import InfluxPruner

    return InfluxPruner(Bucket(place(settings), timeout_s=TOOL_S), Path(settings.ingest.state))


class LazyReader:
    """The store for reading, opened when it is first there: the board may start before ingest has made it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader: StoreReader | None = None

    def latest(self, room: str) -> list[FlaggedMessage]:
        reader = self._open()
        return reader.latest(room) if reader else []

    def history(self, room: str, metric: str, since: Instant) -> list[HistoryPoint]:
        reader = self._open()
        return reader.history(room, metric, since) if reader else []

    def _open(self) -> StoreReader | None:
        store = self._settings.ingest.store
        if self._reader is None and (store.kind == "influx" or Path(store.path).exists()):
            self._reader = open_reader(self._settings)
        return self._reader


def whereabouts(settings: Settings) -> str:
    """For people: `sqlite at FILE`, `influx, bucket B at URL`."""
    store = settings.ingest.store
    return f"sqlite at {store.path}" if store.kind == "sqlite" else f"influx, bucket {store.bucket} at {store.url}"
