"""Who may not, does not: each refused case against a real mosquitto with the files that `vitals provision` makes."""

import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from simulators.core.scenario import Room, Scenario
from tests.clinic import Clinic
from tests.ingest_making import observation
from tests.parts import Mosquitto, free_port, needs, wait_until
from vitals import settings as conf
from vitals.broker import Broker, Message, Will
from vitals.cli import demo_settings
from vitals.cli.provision.authority import Authority
from vitals.cli.provision.folder import Provision
from vitals.clock import SystemClock, to_datetime
from vitals.errors import BrokerError, SettingsError
from vitals.messages import Receipts, encode
from vitals.settings import Settings

pytestmark = [pytest.mark.broker, needs("mosquitto")]
ROOT_FOLDER = Path(__file__).resolve().parents[1]
ROOT = "vitals/v1/clinic"
OBS = encode(observation())


def now() -> datetime:
    return to_datetime(SystemClock().now())


class Bus:
    """A provisioned broker of the site `clinic`, with the gateways `g1` and `g2`; its clients end with it."""

    def __init__(self, folder: Path, credentials: str = "password") -> None:
        self.folder = folder / "provision"
        self.port = free_port()
        self.provision = Provision(self.folder, now)
        self.provision.init(
            site="clinic",
            hosts=["localhost", "127.0.0.1"],
            port=self.port,
            credentials=credentials,  # type: ignore[arg-type]
            broker_folder="",
            data_folder=str(folder),
        )
        for name in ("g1", "g2"):
            self.provision.gateway(name)
        self.mosquitto = Mosquitto.provisioned(folder / "broker", self.folder / "broker", self.port)
        self.mosquitto.start()
        self._clients: list[Broker] = []

    def settings(self, name: str) -> Settings:
        return conf.load(self.folder / name / "settings.toml", {})

    def client(self, name: str, *filters: str, connected: bool = True, **more: object) -> Broker:
        """As the program of that name connects, but for its subscriptions."""
        where = self.settings(name).broker
        broker = Broker(
            where, f"clinic-{name}", subscriptions=[(f, 1) for f in filters],
            password=conf.secret(where.password_file, ""), **more,  # type: ignore[arg-type]
        )  # fmt: skip
        self._clients.append(broker)
        broker.start()
        assert not connected or broker.wait_connected(10), broker.fault
        return broker

    def part(self) -> None:
        while self._clients:
            self._clients.pop().stop()

    def end(self) -> None:
        self.part()
        self.mosquitto.kill()


@pytest.fixture(scope="module")
def shared_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    made = Bus(tmp_path_factory.mktemp("bus"))
    yield made
    made.end()


@pytest.fixture
def bus(shared_bus: Bus) -> Iterator[Bus]:
    """For tests that change no credential. The broker knows a client by its credential, so none may stay behind."""
    yield shared_bus
    shared_bus.part()


@pytest.fixture(params=["password", "certificate"])
def own_bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    made = Bus(tmp_path, request.param)
    yield made
    made.end()


MARK = f"{ROOT}/up/g1/mark/mark/obs"


def heard_until(reader: Broker, mark: str) -> list[str]:
    """The topics that came before the mark, which was sent after them. What was retained is of an earlier test."""
    topics: list[str] = []

    def marked() -> bool:
        topics.extend(message.topic for message in reader.take(10, 0.1) if not message.retain)
        return mark in topics

    wait_until(marked, 10, f"{mark}, after {topics}")
    return topics[: topics.index(mark)]


# -- a gateway that was taken over


def test_a_gateway_cannot_write_what_is_not_its_own(bus: Bus) -> None:
    thief = bus.client("g1")
    reader = bus.client("ingest", f"{ROOT}/#")  # reads everything that could be hurt but the receipts
    victim = bus.client("g2", f"{ROOT}/down/g2/#", f"{ROOT}/core/#")
    topics = [
        "up/g2/1/cuff/obs", "up/g2/status", "core/1/flagged", "core/1/alert/spo2", "core/1/assoc", "core/ingest/status",
        "down/g2/stored", "down/g1/stored", "down/g2/cmd/x",
    ]  # fmt: skip
    for number, topic in enumerate(topics, 1):
        wait_until(lambda topic=topic: thief.publish(f"{ROOT}/{topic}", OBS, qos=1), 10, "mosquitto cuts a liar off")
        wait_until(lambda number=number: thief.denied == number, 10, f"{topic} being denied, and seen")
    wait_until(lambda: thief.publish(MARK, OBS, qos=1), 10)
    assert heard_until(reader, MARK) == []
    assert reader.publish(f"{ROOT}/down/g2/stored", b"{}", qos=1)
    assert heard_until(victim, f"{ROOT}/down/g2/stored") == []
    assert (reader.denied, victim.denied) == (0, 0)


def test_a_gateway_cannot_read_what_is_not_for_it(bus: Bus) -> None:
    topics = {
        "ingest": ["down/g2/stored", "core/1/flagged", "core/1/alert/spo2"],
        "g2": ["up/g2/1/cuff/obs", "up/g2/1/ekg/wave", "up/g2/status"],
        "board": ["core/1/assoc"],
    }
    thief = bus.client("g1", f"{ROOT}/#", *(f"{ROOT}/{topic}" for of in topics.values() for topic in of))
    for name, written in topics.items():
        author = bus.client(name)
        assert all(author.publish(f"{ROOT}/{topic}", b"{}", qos=1) for topic in written)
        wait_until(lambda author=author: not author._under_way, 10, "the broker's answer")
        assert author.denied == 0, "its writer may write it"
    mark = f"{ROOT}/down/g1/stored"
    assert bus.client("ingest").publish(mark, b"{}", qos=1)
    assert heard_until(thief, mark) == []


def test_the_will_of_a_gateway_cannot_speak_for_another(bus: Bus) -> None:
    reader = bus.client("ingest", f"{ROOT}/#")
    for gateway in ("g2", "g1"):
        doomed = bus.client("g1", will=Will(f"{ROOT}/up/{gateway}/status", gateway.encode()))
        doomed._client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        wait_until(lambda doomed=doomed: doomed._connection == 2, 15, "the thief being back")
        doomed.stop()
    heard: list[Message] = []
    wait_until(lambda: heard.extend(reader.take(9, 0.1)) or any(m.payload == b"g1" for m in heard), 10, "its own will")
    assert [m.topic for m in heard if m.topic.startswith(f"{ROOT}/up/g2")] == []


def test_a_client_id_does_not_push_its_owner_out(bus: Bus) -> None:
    ingest = bus.client("ingest", f"{ROOT}/up/#")
    where = bus.settings("g1").broker
    thief = Broker(where, "ingest", password=conf.secret(where.password_file, ""), persistent=True)
    thief.start()
    assert thief.wait_connected(10)
    assert bus.client("g2").publish(f"{ROOT}/up/g2/1/cuff/obs", OBS, qos=1)
    assert heard_until(ingest, f"{ROOT}/up/g2/1/cuff/obs") == []
    assert ingest._connection == 1, "never disturbed"
    thief.stop()


# -- nobody, and the wrong one


def test_nobody_is_let_in_without_a_name(bus: Bus) -> None:
    where = conf.Broker(host="localhost", port=bus.port, ca_file=bus.settings("g1").broker.ca_file)
    nobody = Broker(where, "nobody")
    nobody.start()
    with pytest.raises(BrokerError, match="No MQTT broker") as told:
        nobody.require(2)
    nobody.stop()
    assert "Not authorized" in told.value.found
    assert "broker.password_file" in told.value.expected


def test_nothing_is_spoken_in_clear(bus: Bus) -> None:
    plain = Broker(conf.Broker(host="localhost", port=bus.port), "plain")
    plain.start()
    with pytest.raises(BrokerError) as told:
        plain.require(2)
    plain.stop()
    assert "without TLS" in told.value.expected
    assert "broker.ca_file" in told.value.do


def test_tls_to_a_broker_that_has_none_says_so(bus: Bus, mosquitto: Mosquitto) -> None:
    where = msgspec.structs.replace(bus.settings("g1").broker, port=mosquitto.port)
    client = Broker(where, "g1")
    client.start()
    with pytest.raises(BrokerError) as told:
        client.require(3)
    client.stop()
    assert "does not speak TLS" in told.value.found
    assert "TLS listener" in told.value.expected


def test_a_broker_of_another_authority_is_refused(bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "other.crt").write_bytes(Authority.create("clinic", now()).certificate)
    where = msgspec.structs.replace(bus.settings("g1").broker, ca_file=str(tmp_path / "other.crt"))
    client = Broker(where, "g1", password="secret")
    client.start()
    with pytest.raises(BrokerError) as told:
        client.require(2)
    client.stop()
    assert "certificate is not accepted" in told.value.found
    assert "other.crt" in told.value.expected
    assert "not our broker" in told.value.do


def test_a_broker_of_another_name_is_refused(bus: Bus) -> None:
    where = msgspec.structs.replace(bus.settings("g1").broker, host="127.0.0.2")
    client = Broker(where, "g1")
    client.start()
    with pytest.raises(BrokerError) as told:
        client.require(2)
    client.stop()
    assert "127.0.0.2" in told.value.expected
    assert "rotate broker --host" in told.value.do


def test_a_certificate_file_that_is_none_is_a_settings_error(bus: Bus, tmp_path: Path) -> None:
    for text in (None, "rubbish"):
        if text is not None:
            (tmp_path / "ca.crt").write_text(text)
        where = msgspec.structs.replace(bus.settings("g1").broker, ca_file=str(tmp_path / "ca.crt"))
        with pytest.raises(SettingsError, match=r"broker\.ca_file cannot be used"):
            Broker(where, "g1")


@pytest.mark.parametrize(("ago", "days", "word"), [(900, 825, "expired"), (-30, 825, "not yet valid")])
def test_a_broker_whose_certificate_is_out_of_date(tmp_path: Path, ago: int, days: int, word: str) -> None:
    """Valid for `days` from `ago` days ago."""
    bus = Bus(tmp_path)
    bus.mosquitto.kill()
    authority = Authority.load(
        (bus.folder / "ca/ca.key").read_bytes(), (bus.folder / "ca/ca.crt").read_bytes()
    )  # fmt: skip
    server = authority.server(["localhost"], now() - timedelta(days=ago), days)
    (bus.folder / "broker/server.key").write_bytes(server.key)
    (bus.folder / "broker/server.crt").write_bytes(server.certificate)
    bus.mosquitto.start()
    client = bus.client("g1", connected=False)
    with pytest.raises(BrokerError) as told:
        client.require(2)
    assert word in told.value.found
    assert "clock" in told.value.do
    bus.provision.rotate("broker")
    bus.mosquitto.reload()
    assert client.wait_connected(15), "the new certificate is taken by a reload"
    bus.end()


# -- rotated, revoked, expired


def test_a_rotated_credential_works_and_the_old_one_does_not(own_bus: Bus, tmp_path: Path) -> None:
    old = tmp_path / "old"
    subprocess.run(["cp", "-r", own_bus.folder / "g1", old], check=True)
    own_bus.provision.rotate("g1")
    own_bus.mosquitto.reload()
    assert own_bus.client("g1").publish(f"{ROOT}/up/g1/1/cuff/obs", OBS, qos=1)
    where = conf.load(old / "settings.toml", {}).broker
    late = Broker(where, "g1", password=conf.secret(where.password_file, ""))
    late.start()
    with pytest.raises(BrokerError) as told:
        late.require(2)
    late.stop()
    assert "refused" in told.value.found or "hung up" in told.value.found


def test_a_revoked_gateway_is_out_also_when_it_was_connected(own_bus: Bus) -> None:
    ingest = own_bus.client("ingest", f"{ROOT}/up/#")
    thief, honest = own_bus.client("g1"), own_bus.client("g2")
    copied = {path: path.read_bytes() for path in (own_bus.folder / "g1").iterdir()}
    own_bus.provision.revoke("g1")
    own_bus.mosquitto.reload()
    thief.publish(f"{ROOT}/up/g1/1/cuff/obs", OBS, qos=1)
    wait_until(lambda: not thief.connected, 10, "the thief being put out")
    mark = f"{ROOT}/up/g2/1/cuff/obs"
    assert honest.publish(mark, OBS, qos=1)
    assert heard_until(ingest, mark) == []
    for path, data in copied.items():  # a thief keeps a copy of what `revoke` removes
        path.write_bytes(data)
    again = own_bus.client("g1", connected=False)
    with pytest.raises(BrokerError, match="No MQTT broker") as told:
        again.require(3)
    assert "evoked" in told.value.expected + told.value.do
    assert honest._connection == ingest._connection == 1, "nobody else was disturbed"


def test_an_expired_client_certificate(tmp_path: Path) -> None:
    bus = Bus(tmp_path, "certificate")
    ca = bus.folder / "ca"
    authority = Authority.load((ca / "ca.key").read_bytes(), (ca / "ca.crt").read_bytes())
    old = authority.client("g1", now() - timedelta(days=900))
    (bus.folder / "g1/client.key").write_bytes(old.key)
    (bus.folder / "g1/client.crt").write_bytes(old.certificate)
    client = bus.client("g1", connected=False)
    with pytest.raises(BrokerError) as told:
        client.require(3)
    assert "neither expired nor revoked" in told.value.expected
    bus.end()


# -- ingest beside a hostile publisher


FLOOD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
port, ca, password, obs = int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5].encode()
client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.username_pw_set("g1", open(password).read().strip())
client.tls_set(ca)
client.connect("localhost", port)
client.loop_start()
number = 0
while True:
    number += 1
    client.publish(f"vitals/v1/clinic/up/g1/r{number % 5000}/d{number % 9999}/obs", obs, qos=number % 2)
    client.publish("vitals/v1/clinic/up/g1/1/cuff/obs", obs, qos=0)
    if number % 500 == 0:
        while len(client._out_packet) > 2000:
            time.sleep(0.001)
"""


@pytest.mark.slow
def test_a_flood_of_one_gateway_leaves_the_other_its_answers(tmp_path: Path) -> None:
    """The hostile one sends as fast as it can, under thousands of names; the honest one's readings are answered."""
    bus = Bus(tmp_path)
    clinic = Clinic(tmp_path / "clinic", "", broker_port=1)
    settings = bus.folder / "ingest/settings.toml"
    limits = "\n[ingest.quota]\ngateway_rows_per_s = 200.0\ndevice_rows_per_s = 50.0\nburst_s = 1.0\n"
    settings.write_text(settings.read_text(encoding="utf-8") + limits, encoding="utf-8")
    clinic.run("ingest", "ingest", "--config", str(settings))
    honest = bus.client("g2", f"{ROOT}/down/g2/stored", f"{ROOT}/core/ingest/status")
    files = [str(bus.folder / "g1/ca.crt"), str(bus.folder / "g1/password")]
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(ROOT_FOLDER), str(bus.port), *files, OBS.decode()])
    try:
        refused: dict[str, int] = {}
        waits: list[float] = []
        number = 0
        stop_at = time.monotonic() + 25
        while time.monotonic() < stop_at and len(waits) < 12:
            number += 1
            sent = time.monotonic()
            reading = observation(f"{number:032x}", epoch="honest", seq=number, t=SystemClock().now())
            assert honest.publish(f"{ROOT}/up/g2/2/cuff/obs", encode(reading), qos=1)
            answered, again_at = False, sent + 5
            while not answered and time.monotonic() < sent + 60:
                if time.monotonic() > again_at:  # as the forwarder does: a full queue of the broker drops
                    honest.publish(f"{ROOT}/up/g2/2/cuff/obs", encode(reading), qos=1)
                    again_at += 5
                for message in honest.take(50, 0.1):
                    if message.topic.endswith("/stored"):
                        outcomes = msgspec.json.decode(message.payload, type=Receipts).outcomes
                        answered |= any(o.seq == number for o in outcomes)
                    else:
                        refused = msgspec.json.decode(message.payload).get("refused", {})
            assert answered, f"no answer to reading {number}; refused {refused}"
            waits.append(time.monotonic() - sent)
            time.sleep(1)
    finally:
        flood.kill()
        flood.wait()
        clinic.stop_all()
        bus.end()
    print("waits", [round(wait, 2) for wait in waits], refused)
    assert max(waits) < 60
    assert refused["too frequent"] > 100, "the flood was one"
    assert refused["too many names"] > 100


# -- the clinic itself


class SecureClinic(Clinic):
    """Two rooms of the demo, each part with the settings and the credential that `vitals provision` made for it."""

    FOLDERS = {"gateway": "gateway-1", "ingest": "ingest", "board": "board"}  # noqa: RUF012

    def __init__(self, folder: Path, provision: Path) -> None:
        super().__init__(folder, "", broker_port=1)
        calm = Room(name="Nguyen, Linh", age=34, sex="female", options={"bp_gatt": {"interval_s": 12.0}})
        scenario = Scenario(title="two calm rooms", see="nothing but readings", rooms=[calm, calm])
        demo_settings.write(folder, scenario, board_port=self.board_port, broker_port=1, window=1000, seed=3)
        # The generated lines, and the rest of the demo's settings below them, as a person would put them together.
        _, _, rest = self.config.read_text(encoding="utf-8").partition("[gateway]\n")
        rest = rest.partition('id = "gateway-1"\n')[2]
        for part, name in self.FOLDERS.items():
            file = provision / name / "settings.toml"
            head = file.read_text(encoding="utf-8")
            text = head + ("" if part == "gateway" else "[gateway]\n") + rest
            for path in ("outbox.db", "air.sock", "store.db", "tty/"):
                text = text.replace(f'"{path}', f'"{folder}/{path}')
            file.write_text(text, encoding="utf-8")
        self._provision = provision

    def start_part(self, part: str) -> None:
        config = self._provision / self.FOLDERS[part] / "settings.toml"
        self.run(part, part, "--config", str(config), "--log-level", "debug")


@pytest.mark.air
@pytest.mark.slow
@pytest.mark.parametrize("credentials", ["password", "certificate"])
def test_the_clinic_works_over_tls_and_logs_no_secret(tmp_path: Path, credentials: str) -> None:
    provision = Provision(tmp_path / "provision", now)
    port = free_port()
    provision.init(
        site="demo", hosts=["localhost"], port=port, credentials=credentials,  # type: ignore[arg-type]
        broker_folder="", data_folder=str(tmp_path),
    )  # fmt: skip
    provision.gateway("gateway-1")
    broker = Mosquitto.provisioned(tmp_path / "broker", tmp_path / "provision/broker", port)
    broker.start()
    clinic = SecureClinic(tmp_path / "clinic", tmp_path / "provision")
    try:
        clinic.start("simulate")
        for part in SecureClinic.FOLDERS:
            clinic.start_part(part)
        clinic.await_board()
        evaluated = "SELECT count(*) FROM evaluation WHERE assoc_version > 0"
        wait_until(lambda: (clinic.query("store.db", evaluated) or [(0,)])[0][0] > 0, 60, "a reading bound to a visit")
        wait_until(lambda: "bp" in kinds(clinic), 60, "a cuff's reading being stored")
        clinic.stop("simulate")
        wait_until(lambda: clinic.outbox_rows() == [], 30, "a receipt for every row")
        with urllib.request.urlopen(f"http://127.0.0.1:{clinic.board_port}/api/health", timeout=5) as answer:
            health = msgspec.json.decode(answer.read())
        assert (health["broker"], health["faults"]) == (True, {})
    finally:
        clinic.stop_all()
        broker.kill()
    logs = {part: clinic.log(part) for part in SecureClinic.FOLDERS}
    assert [part for part, log in logs.items() if ' refused"' in log or "Traceback" in log] == []
    assert all("broker connected" in log for log in logs.values())
    files = [path for path in (tmp_path / "provision").rglob("*") if path.name in ("password", "client.key", "ca.key")]
    secrets = [path.read_text(encoding="utf-8").strip().splitlines()[-2:][0] for path in files]
    assert len(secrets) == 4, "of three parts, and of the authority"
    assert [part for part, log in logs.items() for secret in secrets if secret in log] == []


def kinds(clinic: Clinic) -> set[str]:
    messages = clinic.query("store.db", "SELECT message FROM observation")
    return {msgspec.json.decode(message)["observation"]["kind"] for (message,) in messages}


def test_a_secret_open_to_everybody_is_used_and_said(
    bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    password = (bus.folder / "g1/password").read_text(encoding="utf-8")
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
    # What a test may not do to the machine it runs on; the files and the signal are real.
    "sudo": 'exec "$@"',
    "chown": ":",
    "systemctl": 'if [ "$1" = reload ]; then kill -HUP "$(cat "$BROKER_PID")"; else touch "$RESTARTED"; fi',
}


@pytest.mark.slow
def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    """In order, each block as it stands but for the folder of mosquitto, with a broker that takes the files."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 8
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, body in STUBS.items():
        (binaries / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (binaries / name).chmod(0o755)
    etc, port = tmp_path / "etc", free_port()
    etc.mkdir()
    path = f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {
        **os.environ,
        "PATH": path,
        "BROKER_PID": str(tmp_path / "pid"),
        "RESTARTED": str(tmp_path / "restarted"),
    }
    sqlite3.connect(tmp_path / "store.db").executescript("CREATE TABLE t (x); INSERT INTO t VALUES (7);")
    broker: Mosquitto | None = None
    client: Broker | None = None
    try:
        for block in blocks:
            text = block.replace("/etc/mosquitto", str(etc)).replace(
                "provision init ", f"provision init --port {port} --data-folder {tmp_path} "
            )
            run = subprocess.run(
                ["sh", "-ec", text], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
            )
            assert run.returncode == 0, f"{text}\n{run.stdout}{run.stderr}"
            if broker is None and (tmp_path / "restarted").exists():
                broker = Mosquitto.provisioned(tmp_path / "m", etc, port)
                broker.start()
                (tmp_path / "pid").write_text(str(broker._process.pid))  # type: ignore[union-attr]
            if "systemctl" in block:
                time.sleep(0.5)
                expected = "revoke" not in block
                if expected:
                    where = conf.load(tmp_path / "provision/cupboard/settings.toml", {}).broker
                    where = msgspec.structs.replace(where, host="127.0.0.1")
                    client = Broker(where, "c", password=conf.secret(where.password_file, ""))
                    client.start()
                    assert client.wait_connected(10), client.fault
                    client.stop()
    finally:
        if broker is not None:
            broker.kill()
    assert broker is not None
    assert sqlite3.connect(tmp_path / "backup.db").execute("SELECT x FROM t").fetchall() == [(7,)]
