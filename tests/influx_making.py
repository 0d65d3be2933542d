"""Stores of kind `influx` for tests: each folder has a database of its own, and its ledger."""

import json
import os
import secrets
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from ingest.store.influx import Bucket, Place
from ingest.store.influx_reader import InfluxReader
from ingest.store.influx_store import InfluxStore
from ingest.store.ledger import Ledger
from tests.parts import Influx, needs

NEEDS_INFLUX = [needs("influxd"), needs("nginx")]
NAMED = bool(os.environ.get("VITALS_INFLUX_URL"))
NEEDS_NAMED = pytest.mark.skipif(
    not NAMED,
    reason="NOT RUN: InfluxDB 2 and 3 themselves are tested only where VITALS_INFLUX_URL, _TOKEN, _ORG and _BUCKET are"
    " set; elsewhere the engine is 1.6 behind a rewrite",
)


class InfluxStores:
    """Opens, and opens again, the store of a folder."""

    def __init__(self, server: Influx, *, gzip: bool = False) -> None:
        self.server = server
        self._gzip = gzip
        self.databases: dict[Path, str] = {}

    def place(self, folder: Path) -> Place:
        if folder not in self.databases:
            self.databases[folder] = self.server.database()
        return Place(self.server.url, self.databases[folder], token="any", gzip=self._gzip)

    def __call__(self, folder: Path) -> InfluxStore:
        return open_influx(folder, self.place(folder))

    def reader(self, folder: Path) -> InfluxReader:
        return InfluxReader(Bucket(self.place(folder)))


def open_influx(folder: Path, place: Place, *, timeout_s: float = 5.0) -> InfluxStore:
    return InfluxStore(Bucket(place, timeout_s=timeout_s), Ledger(folder / "state.db"))


class NamedStores:
    """The same on the server that the environment names, with new buckets that are deleted afterwards."""

    def __init__(self) -> None:
        self._url = os.environ["VITALS_INFLUX_URL"].rstrip("/")
        self._token = os.environ.get("VITALS_INFLUX_TOKEN", "")
        self._org = os.environ.get("VITALS_INFLUX_ORG", "")
        self._stem = os.environ.get("VITALS_INFLUX_BUCKET", "vitals")
        self._places: dict[Path, Place] = {}
        self._undo: list[Callable[[], object]] = []

    def place(self, folder: Path) -> Place:
        if folder not in self._places:
            name = f"{self._stem}-test-{secrets.token_hex(4)}"
            self._create(name)
            self._places[folder] = Place(self._url, name, self._org, self._token)
        return self._places[folder]

    def __call__(self, folder: Path) -> InfluxStore:
        return open_influx(folder, self.place(folder))

    def reader(self, folder: Path) -> InfluxReader:
        return InfluxReader(Bucket(self.place(folder)))

    def close(self) -> None:
        for undo in self._undo:
            undo()

    def _create(self, name: str) -> None:
        """A database of InfluxDB 3, or else a bucket of InfluxDB 2 (whose name maps itself to a database)."""
        try:
            self._call("POST", "/api/v3/configure/database", {"db": name})
            self._undo.append(lambda: self._call("DELETE", f"/api/v3/configure/database?db={quote(name)}"))
        except OSError:
            orgs = self._call("GET", f"/api/v2/orgs?org={quote(self._org)}")
            made = self._call("POST", "/api/v2/buckets", {"name": name, "orgID": orgs["orgs"][0]["id"]})
            self._undo.append(lambda: self._call("DELETE", f"/api/v2/buckets/{made['id']}"))

    def _call(self, method: str, path: str, body: object = None) -> dict:  # type: ignore[type-arg]
        headers = {"Authorization": f"Token {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"{}")
