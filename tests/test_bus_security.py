"""Who may not, does not: each refused case against a real mosquitto with the files that `vitals provision` makes."""

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from tests.bus import ROOT, answered, heard_until, refusal
from tests.bus import Bus as Bus  # tests/test_doctor.py finds both here
from tests.bus import now as now
from tests.ingest_making import observation
from tests.parts import Mosquitto, free_port, needs, wait_until
from vitals import settings as conf
from vitals.broker import Broker, Will
from vitals.cli.provision.authority import Authority
from vitals.cli.provision.mosquitto import MAX_MESSAGE
from vitals.errors import SettingsError
from vitals.messages import encode

pytestmark = [pytest.mark.broker, needs("mosquitto")]
ROOT_FOLDER = Path(__file__).resolve().parents[1]
OBS = encode(observation())


@pytest.fixture(scope="module")
def password_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    made = Bus(tmp_path_factory.mktemp("password"), "password")
    yield made
    made.end()


@pytest.fixture(scope="module")
def certificate_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    made = Bus(tmp_path_factory.mktemp("certificate"), "certificate")
    yield made
    made.end()


@pytest.fixture(params=["password", "certificate"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    """The broker knows a client by its credential, so none may stay behind. Tests that end one make their own."""
    shared: Bus = request.getfixturevalue(f"{request.param}_bus")
    yield shared
    shared.part()


# -- the whole table of rights

GATEWAYS, SERVICES = ("g1", "g2"), ("ingest", "board")
RIGHTS = {
    # topic below the site: who may write it, who may read it. By hand, from the table of topics in the design.
    "up/g1/status": ("g1", "ingest board"),
    "up/g1/1/cuff/birth": ("g1", "ingest board"),
    "up/g1/1/cuff/status": ("g1", "ingest board"),
    "up/g1/1/cuff/obs": ("g1", "ingest"),
    "up/g1/1/ekg/strip": ("g1", "ingest"),
    "up/g1/1/cuff/event": ("g1", "ingest"),
    "up/g1/1/ekg/wave": ("g1", "board"),
    "up/g1/1/cuff/live": ("g1", "board"),
    "up/g2/1/cuff/obs": ("g2", "ingest"),
    "up/g2/status": ("g2", "ingest board"),
    "up/g10/1/cuff/obs": ("", ""),
    "down/g1/stored": ("ingest", "g1"),
    "down/g2/stored": ("ingest", "g2"),
    "down/g1/cmd/read": ("", ""),
    "core/1/flagged": ("ingest", "board"),
    "core/1/alert/spo2": ("ingest", "ingest board"),
    "core/ingest/status": ("ingest", "g1 g2 board"),
    "core/1/assoc": ("board", "ingest"),
    "core/1/ask/acknowledge": ("", ""),
    "../other/up/g1/1/cuff/obs": ("", ""),
}
TOPICS = {f"{ROOT}/{short}".replace("/clinic/../", "/"): rights for short, rights in RIGHTS.items()}
MARKS = {  # what each reader hears last: its topic, and who may write that
    "g1": ("down/g1/stored", "ingest"),
    "g2": ("down/g2/stored", "ingest"),
    "ingest": ("up/g1/1/cuff/obs", "g1"),
    "board": ("core/1/flagged", "ingest"),
}
QOS = (0, 1, 2)


def written_by(name: str) -> set[str]:
    return {topic for topic, (writers, _) in TOPICS.items() if name in writers.split()}


def read_by(name: str) -> set[tuple[str, bytes]]:
    """Topic and author."""
    return {(t, w.encode()) for t, (writers, readers) in TOPICS.items() if name in readers.split()
            for w in writers.split()}  # fmt: skip


def tell(writer: Broker, payload: bytes, *, retain: bool = False) -> None:
    """Every topic, right or wrong, with every QoS. (Of a denial paho tells the reason with QoS 1 only.)"""
    for topic in TOPICS:
        for qos in QOS:
            assert writer.publish(topic, payload, qos=qos, retain=retain)


def test_who_writes_what_and_nothing_else_is_let_through(bus: Bus) -> None:
    for name in (*GATEWAYS, *SERVICES):
        writer = bus.client(name)
        tell(writer, name.encode(), retain=True)
        answered(writer)
        denied = TOPICS.keys() - written_by(name)
        wait_until(lambda w=writer, d=denied: w._denied_topics >= d, 5, f"{name} being denied {denied}")
        assert writer._denied_topics == denied, name
    bus.part()
    everything = (f"{ROOT}/#", "vitals/#", "#", "$SYS/#", *TOPICS)
    readers = {name: bus.client(name, *everything) for name in (*GATEWAYS, *SERVICES)}
    for name, reader in readers.items():
        tell(reader, name.encode())
        answered(reader)
    for topic, author in MARKS.values():
        assert readers[author].publish(f"{ROOT}/{topic}", b"mark", qos=1)
    for name, reader in readers.items():
        assert heard_until(reader, f"{ROOT}/{MARKS[name][0]}", b"mark") == read_by(name), name


# -- a gateway that was taken over


def test_the_will_of_a_gateway_cannot_speak_for_another(bus: Bus) -> None:
    reader = bus.client("ingest", f"{ROOT}/#")
    for gateway in ("g2", "g1"):
        doomed = bus.client("g1", will=Will(f"{ROOT}/up/{gateway}/1/cuff/event", gateway.encode()))
        doomed._client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        wait_until(lambda doomed=doomed: not doomed.connected, 10, "the thief's end")
        doomed.stop()
    heard = heard_until(reader, f"{ROOT}/up/g1/1/cuff/event", b"g1")
    assert (f"{ROOT}/up/g2/1/cuff/event", b"g2") not in heard


def test_calling_oneself_ingest_does_not_make_one_it(bus: Bus) -> None:
    """Neither by the client id, which would push it off the broker, nor beside a certificate by the user name."""
    ingest = bus.client("ingest", f"{ROOT}/up/g2/#", f"{ROOT}/up/g1/1/thief/obs")
    own = bus.settings("g1").broker
    posing = msgspec.structs.replace(own, username="ingest") if own.cert_file else own
    thief = bus.connect(posing, "clinic-ingest", connected=True, persistent=True)
    assert thief.publish(f"{ROOT}/down/g2/stored", b"{}", qos=1)
    assert thief.publish(f"{ROOT}/up/g1/1/thief/obs", OBS, qos=1)
    wait_until(lambda: thief.denied == 1, 10, "the receipt being denied")
    heard_until(ingest, f"{ROOT}/up/g1/1/thief/obs", OBS)
    assert ingest._connection == 1, "never disturbed"


def test_who_sends_a_packet_that_is_too_large_is_cut_off_alone(bus: Bus) -> None:
    ingest = bus.client("ingest", f"{ROOT}/up/#")
    thief, honest = bus.client("g1"), bus.client("g2")
    thief.publish(f"{ROOT}/up/g1/1/cuff/obs", b"x" * (MAX_MESSAGE + 1))
    wait_until(lambda: not thief.connected, 10, "the thief being cut off")
    assert honest.publish(f"{ROOT}/up/g2/1/cuff/obs", b"large", qos=1)
    heard = heard_until(ingest, f"{ROOT}/up/g2/1/cuff/obs", b"large")
    assert max(len(payload) for _, payload in [*heard, ("", b"")]) < MAX_MESSAGE
    assert (ingest._connection, honest._connection) == (1, 1)


# -- nobody, and the wrong one


def test_nobody_is_let_in_without_a_credential(bus: Bus) -> None:
    where = conf.Broker(host="localhost", port=bus.port, ca_file=bus.settings("g1").broker.ca_file)
    told = refusal(bus.connect(where, "nobody"))
    assert "broker.password_file" in told.expected or bus.credentials == "certificate"
    assert "Not authorized" in told.found or "hung up" in told.found or "TLS" in told.found


def test_a_wrong_password_is_refused_and_not_said(bus: Bus, password_bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("guessed-wrong")
    (tmp_path / "password").chmod(0o600)
    own = password_bus.settings("g1").broker
    told = refusal(password_bus.connect(msgspec.structs.replace(own, password_file=str(tmp_path / "password")), "g1"))
    assert "Not authorized" in told.found
    assert "guessed-wrong" not in str(told)


def test_nothing_is_spoken_in_clear(bus: Bus) -> None:
    told = refusal(bus.connect(conf.Broker(host="localhost", port=bus.port), "plain"))
    assert "without TLS" in told.expected
    assert "broker.ca_file" in told.do


def test_tls_to_a_broker_that_has_none_says_so(bus: Bus, mosquitto: Mosquitto) -> None:
    told = refusal(bus.connect(msgspec.structs.replace(bus.settings("g1").broker, port=mosquitto.port), "g1"))
    assert "does not speak TLS" in told.found
    assert "TLS listener" in told.expected


def test_a_broker_of_another_authority_is_refused(bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "other.crt").write_bytes(Authority.create("clinic", now()).certificate)
    told = refusal(
        bus.connect(msgspec.structs.replace(bus.settings("g1").broker, ca_file=str(tmp_path / "other.crt")), "g1")
    )
    assert "certificate is not accepted" in told.found
    assert "other.crt" in told.expected
    assert "not our broker" in told.do


def test_a_broker_of_another_name_is_refused(bus: Bus) -> None:
    told = refusal(bus.connect(msgspec.structs.replace(bus.settings("g1").broker, host="127.0.0.2"), "g1"))
    assert "127.0.0.2" in told.expected
    assert "rotate broker --host" in told.do


def test_a_certificate_file_that_is_none_is_a_settings_error(password_bus: Bus, tmp_path: Path) -> None:
    for text in (None, "rubbish"):
        if text is not None:
            (tmp_path / "ca.crt").write_text(text)
        where = msgspec.structs.replace(password_bus.settings("g1").broker, ca_file=str(tmp_path / "ca.crt"))
        with pytest.raises(SettingsError, match=r"broker\.ca_file cannot be used"):
            Broker(where, "g1")


def test_a_broker_whose_certificate_is_out_of_date_until_it_is_renewed(tmp_path: Path) -> None:
    bus = Bus(tmp_path)
    authority = Authority.load((bus.folder / "ca/ca.key").read_bytes(), (bus.folder / "ca/ca.crt").read_bytes())
    try:
        for ago, word in ((-30, "not yet valid"), (900, "expired")):  # days; it is valid for 825
            server = authority.server(["localhost"], now() - timedelta(days=ago))
            (bus.folder / "broker/server.key").write_bytes(server.key)
            (bus.folder / "broker/server.crt").write_bytes(server.certificate)
            bus.mosquitto.reload()
            client = bus.client("g1", connected=False)
            told = refusal(client)
            assert word in told.found
            assert "clock" in told.do
        assert "reload" in bus.provision.rotate("broker")[-1]
        bus.mosquitto.reload()
        assert client.wait_connected(15), "the new certificate is taken by a reload, and the client notices"
    finally:
        bus.end()


# -- rotated, revoked, expired: by what `vitals provision` says, to the letter


def copy_of(bus: Bus, name: str, place: Path) -> conf.Broker:
    """A thief keeps a copy of what `revoke` and `rotate` remove."""
    shutil.copytree(bus.folder / name, place)
    return conf.load(place / "settings.toml", {}).broker


def test_a_rotated_credential_works_and_the_old_one_does_not(bus: Bus, tmp_path: Path) -> None:
    bus.add("rotated")
    stolen = copy_of(bus, "rotated", tmp_path / "copy")
    thief = bus.client("rotated")
    assert "restart" in bus.provision.rotate("rotated")[0]
    bus.mosquitto.restart()
    told = refusal(bus.connect(stolen, "again"))
    assert "refused" in told.found or "hung up" in told.found
    wait_until(lambda: "refused" in thief.fault or "hung up" in thief.fault, 10, "the thief being put out")
    thief.stop()
    ingest = bus.client("ingest", f"{ROOT}/up/rotated/#")
    assert bus.client("rotated").publish(f"{ROOT}/up/rotated/1/cuff/obs", b"new", qos=1)
    assert heard_until(ingest, f"{ROOT}/up/rotated/1/cuff/obs", b"new") == set()


def test_a_revoked_gateway_is_out_also_when_it_was_connected_and_shown_as_offline(bus: Bus, tmp_path: Path) -> None:
    bus.add("stolen")
    stolen = copy_of(bus, "stolen", tmp_path / "copy")
    status, obs = f"{ROOT}/up/stolen/status", f"{ROOT}/up/stolen/1/cuff/obs"
    ingest = bus.client("ingest", f"{ROOT}/up/+/1/cuff/obs")
    honest, thief = bus.client("g2"), bus.client("stolen", will=Will(status, b"offline"))
    assert thief.publish(status, b"online", qos=1, retain=True)
    answered(thief)
    assert "restart" in bus.provision.revoke("stolen")[-1]
    bus.mosquitto.restart()
    wait_until(lambda: "refused" in thief.fault or "hung up" in thief.fault, 10, "the thief being put out")
    assert not thief.publish(obs, b"stolen", qos=1)
    told = refusal(bus.connect(stolen, "again"))
    assert "evoked" in told.expected + told.do
    assert honest.wait_connected(10), honest.fault
    assert ingest.wait_connected(10), ingest.fault
    assert honest.publish(f"{ROOT}/up/g2/1/cuff/obs", b"honest", qos=1)
    assert all(topic != obs for topic, _ in heard_until(ingest, f"{ROOT}/up/g2/1/cuff/obs", b"honest"))
    shown = [(m.topic, m.payload) for m in bus.client("board", status).take(1, 10)]
    assert shown == [(status, b"offline")]


def test_an_expired_client_certificate(certificate_bus: Bus) -> None:
    bus = certificate_bus
    bus.add("expired")
    ca = bus.folder / "ca"
    authority = Authority.load((ca / "ca.key").read_bytes(), (ca / "ca.crt").read_bytes())
    old = authority.client("expired", now() - timedelta(days=900))
    (bus.folder / "expired/client.key").write_bytes(old.key)
    (bus.folder / "expired/client.crt").write_bytes(old.certificate)
    told = refusal(bus.client("expired", connected=False))
    bus.part()
    assert "neither expired nor revoked" in told.expected


def test_a_secret_open_to_everybody_is_used_and_said(
    password_bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    password = (password_bus.folder / "g1/password").read_text(encoding="utf-8")
    for mode, warned in ((0o600, False), (0o640, False), (0o644, True)):
        caplog.clear()
        (tmp_path / "password").write_text(password, encoding="utf-8")
        (tmp_path / "password").chmod(mode)
        assert conf.secret(str(tmp_path / "password"), "") == password.strip()
        assert ("open to every user" in caplog.text) is warned, oct(mode)
        assert password.strip() not in caplog.text


# -- the page for the person who does it


PAGE = ROOT_FOLDER / "docs/security.md"
STUBS = {
    # What a test may not do to the machine it runs on; the files and the signals are real.
    "sudo": 'exec "$@"',
    "chown": ":",
    "systemctl": 'echo "$1" > "$ASKED.new"; mv "$ASKED.new" "$ASKED"; while [ -e "$ASKED" ]; do sleep 0.02; done',
}


class Host:
    """The machine of the broker: its folders under `folder`, and a `systemctl` that this process obeys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.broker: Mosquitto | None = None
        for name, body in STUBS.items():
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
        for place in ("etc", "var"):
            (folder / place).mkdir()
        path = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._asked = folder / "asked"
        self._environ = {**os.environ, "PATH": path, "ASKED": str(self._asked)}

    def run(self, block: str) -> None:
        text = block.replace("/etc/mosquitto", f"{self.folder}/etc").replace("/var/lib/mosquitto", f"{self.folder}/var")
        text = text.replace("provision init ", f"provision init --port {self.port} --data-folder {self.folder}/var ")
        output = self.folder / "output"
        with output.open("wb") as out:
            run = subprocess.Popen(["sh", "-ec", text], cwd=self.folder, env=self._environ, stdout=out, stderr=out)
        while run.poll() is None:
            if self._asked.exists():
                self._obey(self._asked.read_text(encoding="utf-8").strip())
                self._asked.unlink()
            time.sleep(0.02)
        assert run.returncode == 0, f"{text}\n{output.read_text(encoding='utf-8')}"

    def _obey(self, verb: str) -> None:
        if self.broker is None:  # which is installed, and runs without our files
            assert verb == "restart"
            self.broker = Mosquitto.provisioned(self.folder / "m", self.folder / "etc", self.port)
            self.broker.start()
        else:
            {"restart": self.broker.restart, "reload": self.broker.reload, "stop": self.broker.end,
             "start": self.broker.start}[verb]()  # fmt: skip

    def lets_in(self, password: str) -> bool:
        """Whether it does so with the gateway, which leaves a retained state."""
        where = conf.load(self.folder / "provision/cupboard/settings.toml", {}).broker
        client = Broker(msgspec.structs.replace(where, host="127.0.0.1"), "c", password=password)
        client.start()
        wait_until(lambda: client.connected or client.fault != "not connected yet", 10, "an attempt to connect")
        if client.publish(f"{ROOT}/up/cupboard/status", b"left over", qos=1, retain=True):
            answered(client)
        client.stop()
        return client.fault in ("", "connection lost: Normal disconnection")

    def remembers(self) -> bool:
        """Whether the broker, started again, still has that state."""
        kept = self.folder / "var/mosquitto.db"
        return kept.exists() and b"left over" in kept.read_bytes()


@pytest.mark.slow
def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    """In order, each block as it stands but for the folders of mosquitto, with a broker that takes the files."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 9
    sqlite3.connect(tmp_path / "store.db").executescript("CREATE TABLE t (x); INSERT INTO t VALUES (7);")
    host = Host(tmp_path)
    file = tmp_path / "provision/cupboard/password"
    password, done = "", []
    try:
        for block in blocks:
            host.run(block)
            password = file.read_text(encoding="utf-8").strip() if file.exists() else password
            if "mosquitto.db" in block:
                done.append(("forgets", not host.remembers()))
            elif "revoke" in block:
                done.append(("revoked", not host.lets_in(password) and host.remembers()))
            elif "systemctl" in block:
                done.append(("lets in", host.lets_in(password)))
    finally:
        if host.broker is not None:
            host.broker.kill()
    expected = ["lets in", "revoked", "forgets", "lets in", "lets in"]
    assert done == [(what, True) for what in expected]
    assert sqlite3.connect(tmp_path / "backup.db").execute("SELECT x FROM t").fetchall() == [(7,)]
