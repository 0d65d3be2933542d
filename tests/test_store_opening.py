"""Which store the settings mean, and what is wrong with settings that mean none."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.store.influx_reader import InfluxReader
from ingest.store.influx_store import InfluxStore
from ingest.store.opening import LazyReader, open_reader, open_store, place, whereabouts
from ingest.store.sqlite import SqliteStore
from tests.influx_making import NEEDS_INFLUX
from tests.ingest_making import evaluation_row, observation_row
from tests.parts import Influx, free_port
from vitals.cli import live_check
from vitals.errors import SettingsError, StoreError
from vitals.settings import Settings, load


def written(folder: Path, store: str, more: str = "") -> Settings:
    (folder / "vitals.toml").write_text(f'[ingest]\nstate = "state.db"\n{more}\n[ingest.store]\n{store}\n')
    return load(folder / "vitals.toml", {})


INFLUX = 'kind = "influx"\nurl = "http://127.0.0.1:1"\nbucket = "vitals"\n'


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ('kind = "influx"\nbucket = "b"', "ingest.store.url"),
        ('kind = "influx"\nurl = "http://127.0.0.1:8086"', "ingest.store.bucket"),
        ('kind = "influx"\nbucket = "b"\nurl = "127.0.0.1:8086"', "http://HOST:PORT"),
        ('kind = "influx"\nbucket = "b"\nurl = "ftp://127.0.0.1"', "http://HOST:PORT"),
        ('kind = "influx"\nbucket = "b"\nurl = "http://127.0.0.1:port"', "http://HOST:PORT"),
        ('kind = "influx"\nbucket = "b"\nurl = "http://"', "http://HOST:PORT"),
        ('kind = "influx"\nbucket = "b"\nurl = "http://me:secret@127.0.0.1"', "http://HOST:PORT"),
        ('kind = "influx"\nbucket = "b"\nurl = "http://influx:8086"', "allow_plain"),
        ('kind = "influxdb"', "ingest.store.kind"),
        ('kind = "influx"\ntoken = "abc"', "token"),
    ],
)
def test_settings_that_mean_no_store(tmp_path: Path, store: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        written(tmp_path, store)
    assert says in str(caught.value)
    assert caught.value.expected and caught.value.found and caught.value.do


@pytest.mark.parametrize("url", ["http://localhost:8086", "http://[::1]:8086", "https://influx.example:8086/base"])
def test_settings_that_mean_one(tmp_path: Path, url: str) -> None:
    assert written(tmp_path, f'kind = "influx"\nbucket = "b"\nurl = "{url}"').ingest.store.url == url


def test_another_host_without_tls_only_on_purpose(tmp_path: Path) -> None:
    settings = written(tmp_path, 'kind = "influx"\nbucket = "b"\nurl = "http://influx:8086"\nallow_plain = true')
    assert whereabouts(settings) == "influx, bucket b at http://influx:8086"


def test_files_are_beside_the_settings(tmp_path: Path) -> None:
    settings = written(tmp_path, INFLUX + 'token_file = "token"\nca_file = "ca.pem"')
    store = settings.ingest.store
    assert [store.token_file, store.ca_file] == [str(tmp_path / "token"), str(tmp_path / "ca.pem")]
    assert settings.ingest.state == str(tmp_path / "state.db")


def test_the_token_comes_from_its_file_or_the_environment(tmp_path: Path) -> None:
    bare = written(tmp_path, INFLUX)
    assert place(bare, {"VITALS_INFLUX_TOKEN": "from-environment\n"}).token == "from-environment"
    assert place(bare, {}).token == ""
    with_file = written(tmp_path, INFLUX + 'token_file = "token"\norg = "clinic"\ngzip = true')
    with pytest.raises(SettingsError, match="cannot be read"):
        place(with_file, {})
    (tmp_path / "token").write_text("from-file\n")
    found = place(with_file, {"VITALS_INFLUX_TOKEN": "from-environment"})
    assert (found.token, found.org, found.gzip, found.bucket) == ("from-file", "clinic", True, "vitals")


@pytest.mark.parametrize("token", ["s3cret\nline2", "s3cret\u2013x", "s3cret\x00"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(tmp_path: Path, token: str) -> None:
    with pytest.raises(SettingsError, match="VITALS_INFLUX_TOKEN") as caught:
        place(written(tmp_path, INFLUX), {"VITALS_INFLUX_TOKEN": token})
    assert "s3cret" not in str(caught.value)
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape(str(tmp_path / "token"))) as caught:
        place(written(tmp_path, INFLUX + 'token_file = "token"'), {})
    assert "s3cret" not in str(caught.value)


def test_each_kind_opens_its_own(tmp_path: Path) -> None:
    sqlite = written(tmp_path, 'path = "store.db"')
    assert LazyReader(sqlite).latest("4") == []
    store = open_store(sqlite)
    assert isinstance(store, SqliteStore)
    lazy = LazyReader(sqlite)
    store.append([evaluation_row()])
    assert len(lazy.latest("4")) == len(lazy.history("4", "bp_sys", 0)) == 1
    store.close()
    influx = written(tmp_path, INFLUX)
    opened, reader = open_store(influx), open_reader(influx)
    assert isinstance(opened, InfluxStore) and isinstance(reader, InfluxReader)
    opened.close()
    reader.close()


def test_who_does_not_use_influxdb_does_not_wait_for_its_client() -> None:
    """It takes half a second to import; `vitals --help` and a clinic on one file never do."""
    code = "import sys, vitals.cli.wiring; sys.exit('influxdb_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def settings(influx: Influx, tmp_path: Path) -> Iterator[Settings]:
    more = f'kind = "influx"\nurl = "{influx.locked_url}"\nbucket = "{influx.database()}"\ntoken_file = "token"'
    (tmp_path / "token").write_text("right")
    return written(tmp_path, more)


class TestLive:
    """`vitals check-config --live` on the store; it writes nothing."""

    pytestmark = NEEDS_INFLUX

    def test_before_and_after_ingest_began(self, settings: Settings, tmp_path: Path) -> None:
        assert "ingest will begin it" in live_check.store(settings)
        assert not (tmp_path / "state.db").exists()
        store = open_store(settings)
        store.append([observation_row()])
        assert live_check.store(settings).endswith(f"is in order: {store.store_id}")
        store.close()

    def test_a_wrong_token_is_named_and_not_shown(
        self, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        (tmp_path / "token").write_text("s3cret-wr0ng")
        with pytest.raises(StoreError, match="refuses the token") as caught:
            live_check.store(settings)
        open_store(settings).close()
        assert "s3cret" not in str(caught.value) + caplog.text


def test_live_check_of_nobody(tmp_path: Path) -> None:
    settings = written(tmp_path, f'kind = "influx"\nurl = "http://127.0.0.1:{free_port()}"\nbucket = "b"')
    with pytest.raises(StoreError, match="cannot be reached"):
        live_check.store(settings)
