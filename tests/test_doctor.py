"""`vitals doctor` against real parts: each fault is found, and the line names what mends it."""

import os
import shutil
import socketserver
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from ingest.store.opening import TOKEN_ENV
from ingest.store.refusals import Refusal, Refusals
from tests.clinic import Clinic
from tests.ingest_making import observation
from tests.parts import Influx, Mosquitto, free_port, needs, wait_until
from tests.test_bus_security import Bus, now
from tests.test_health import MEASURES, get, names_of, parsed
from vitals.cli import app, live_check
from vitals.cli.doctor import bus, machine
from vitals.cli.doctor.examination import examine
from vitals.cli.doctor.finding import Finding, fault, line
from vitals.cli.provision.folder import Provision
from vitals.clock import NS, Clock, ManualClock, SystemClock
from vitals.messages import Outcome, encode
from vitals.outbox import Outbox, Row
from vitals.telemetry.report import NO_BROKER, Reason, Report
from vitals.telemetry.server import HealthServer
from vitals.telemetry.watch import Watch


class Examined:
    """The findings of one run."""

    def __init__(self, path: Path, *parts: str) -> None:
        self.all = list(examine(path, parts))

    def one(self, check: str, verdict: str, *words: str) -> Finding:
        """The finding of this check and verdict that has all the words; each such has a mend."""
        fitting = [
            f for f in self.all if (f.check, f.verdict) == (check, verdict) and all(word in line(f) for word in words)
        ]
        assert len(fitting) == 1, "\n".join(map(line, self.all))
        assert verdict == "ok" or (fitting[0].do and fitting[0].expected)
        return fitting[0]

    def faults(self) -> list[str]:
        return [f.check for f in self.all if f.verdict == "fault"]


@pytest.fixture(autouse=True)
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own clock is not under test, and where no broker is under test nobody waits for one."""
    monkeypatch.setattr(machine, "unsynchronised", lambda: False)
    monkeypatch.setattr(bus, "HEAR_S", 0.5)
    if request.node.get_closest_marker("broker") is None:
        monkeypatch.setattr(bus, "checks", lambda *_: iter(()))


def write(folder: Path, text: str) -> Path:
    """Settings that meet no service of another test."""
    path = folder / "vitals.toml"
    ports = "".join(f"{part}_port = {free_port()}\n" for part in ("gateway", "ingest", "board"))
    path.write_text(f'[gateway]\noutbox = "outbox.db"\noutbox_max_mb = 16\n[health]\n{ports}{text}', encoding="utf-8")
    return path


def broker(port: int) -> str:
    return f"[broker]\nport = {port}\n"


def device(port: str) -> str:
    return f'[[gateway.devices]]\nname = "ekg"\ndriver = "ekg_openview"\nroom = "1"\nport = "{port}"\n'


# -- a clinic of real parts ----------------------------------------------------------------------------------

_CLINIC = """
[broker]
port = {{broker}}
[gateway]
outbox = "outbox.db"
outbox_max_mb = 16
[[gateway.devices]]
name = "ekg"
driver = "ekg_openview"
room = "1"
port = "{tty}"
[ingest.store]
path = "store.db"
[board]
port = {{board}}
[health]
gateway_port = {ports[0]}
ingest_port = {ports[1]}
board_port = {ports[2]}
"""


@pytest.mark.broker
@needs("mosquitto")
def test_a_clinic_that_is_well_until_ingest_dies(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """As doctor tells it, and as the health pages and the figures do."""
    controller, tty = os.openpty()
    pages = dict(zip(("gateway", "ingest", "board"), (free_port() for _ in range(3)), strict=True))
    text = _CLINIC.format(tty=os.ttyname(tty), ports=[*pages.values()])
    clinic = Clinic(tmp_path / "clinic", text, broker_port=mosquitto.port)
    clinic.start("gateway", "ingest", "board")
    try:
        wait_until(lambda: not Examined(clinic.config).faults(), 60, "a clinic without a fault")
        well = Examined(clinic.config)
        well.one("broker", "ok", "gateway, ingest, board connected")
        well.one("ingest online", "ok")
        well.one("device ekg", "ok")
        well.one("store", "ok")
        for part in ("gateway", "ingest", "board"):
            well.one(part, "ok", "well")
        names = {*names_of(MEASURES.values())}
        for port in pages.values():
            found = parsed(get(port, "/metrics")[1])
            assert found["vitals_healthy", ()] == found["vitals_broker_connected", ()] == 1
            assert {key[0] for key in found if key[0].startswith("vitals_")} <= names
        clinic.kill("ingest")
        wait_until(lambda: {"gateway", "board"} <= {*Examined(clinic.config).faults()}, 40, "both noticing")
        ill = Examined(clinic.config)
        ill.one("ingest online", "fault", "Start `vitals ingest`")
        ill.one("ingest", "fault", "nothing answers", "Start it")
        ill.one("gateway", "fault", "ingest is not there")
        ill.one("board", "fault", "the checking service is down")
        assert CliRunner().invoke(app, ["doctor", "--config", str(clinic.config)]).exit_code == 1
        mosquitto.kill()
        wait_until(lambda: Examined(clinic.config).faults().count("broker") == 2, 40, "both without a broker")
        assert all("Look at the broker's log" in f.do or "Start the broker" in f.do
                   for f in Examined(clinic.config).all if f.check == "broker")  # fmt: skip
        for name in ("gateway", "board"):
            status, body = get(pages[name])
            assert (status, "no broker" in body) == (503, True)
            assert parsed(get(pages[name], "/metrics")[1])["vitals_broker_connected", ()] == 0
            assert [line for line in clinic.log(name).splitlines() if "GET" in line or "/metrics" in line] == []
    finally:
        clinic.stop_all()
        os.close(controller)
        os.close(tty)


@pytest.mark.broker
@needs("mosquitto")
def test_nobody_runs_and_the_bus_is_tried(tmp_path: Path, mosquitto: Mosquitto) -> None:
    found = Examined(write(tmp_path, broker(mosquitto.port)))
    found.one("broker", "ok", "accepts us")
    found.one("ingest online", "fault", "no word of it", "Start `vitals ingest`")
    found.one("ingest", "fault", "nothing answers")


@pytest.mark.broker
def test_a_broker_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_check, "BROKER_S", 0.5)
    port = free_port()
    found = Examined(write(tmp_path, broker(port)))
    found.one("broker", "fault", f"nothing listens at 127.0.0.1:{port}", "Start the broker")


# -- a broker that asks who we are ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    made = Bus(tmp_path_factory.mktemp("bus"))
    yield made
    made.end()


def provisioned(bus: Bus, name: str, folder: Path) -> Path:
    """A copy of what was made for that client, with a health port of its own."""
    shutil.copytree(bus.folder / name, folder / name)
    path = folder / name / "settings.toml"
    ports = "".join(f"{part}_port = {free_port()}\n" for part in ("gateway", "ingest", "board"))
    path.write_text(path.read_text(encoding="utf-8") + f"\n[health]\n{ports}", encoding="utf-8")
    return path


@pytest.mark.broker
@needs("mosquitto")
def test_a_credential_that_is_right(shared_bus: Bus, tmp_path: Path) -> None:
    found = Examined(provisioned(shared_bus, "g1", tmp_path))
    found.one("broker", "ok")
    found.one("broker rights", "ok")
    found.one("certificate", "ok", "the authority")
    assert {f.check for f in found.all} >= {"gateway", "outbox"}, "it is a gateway's, as its credential says"
    assert {f.check for f in found.all}.isdisjoint({"ingest", "board", "store"})


@pytest.mark.broker
@needs("mosquitto")
def test_a_wrong_password(shared_bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_check, "BROKER_S", 2.0)
    path = provisioned(shared_bus, "g1", tmp_path)
    (path.parent / "password").write_text("not this one\n", encoding="utf-8")
    found = Examined(path)
    refused = found.one("broker", "fault", "refused the connection", "Copy this client's folder again")
    assert "not this one" not in line(refused)


@pytest.mark.broker
@needs("mosquitto")
def test_a_credential_of_another_gateway(shared_bus: Bus, tmp_path: Path) -> None:
    path = provisioned(shared_bus, "g1", tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace('id = "g1"', 'id = "g7"'), encoding="utf-8")
    found = Examined(path, "gateway")
    found.one("broker rights", "fault", "g7", "g1", "Correct gateway.id")


@pytest.mark.broker
@needs("mosquitto")
def test_a_running_service_is_not_pushed_off_the_broker(shared_bus: Bus, tmp_path: Path) -> None:
    path = provisioned(shared_bus, "g2", tmp_path)
    clinic = Clinic(tmp_path / "clinic", "", broker_port=0)
    clinic.run("gateway", "gateway", "--config", str(path))
    try:
        wait_until(lambda: "broker connected" in clinic.log("gateway"), 20, "the gateway being connected")
        wait_until(lambda: any("gateway connected" in f.found for f in Examined(path).all), 10, "the gateway's word")
        assert clinic.log("gateway").count("broker connected") == 1
    finally:
        clinic.stop_all()


@contextmanager
def aged_bus(folder: Path, days: int) -> Iterator[Path]:
    """A broker whose certificates, which last 825 days, were made so long ago; the settings of a gateway."""
    port, then = free_port(), now() - timedelta(days=days, minutes=-5)
    tmp_path, folder = folder, folder / "provision"
    made = Provision(folder, lambda: then)
    made.init(
        site="clinic", hosts=["localhost"], port=port, credentials="certificate", broker_folder="",
        data_folder=str(tmp_path),
    )  # fmt: skip
    made.gateway("g1")
    mosquitto = Mosquitto.provisioned(tmp_path / "broker", folder / "broker", port)
    mosquitto.start()
    try:
        yield folder / "g1" / "settings.toml"
    finally:
        mosquitto.kill()


@pytest.mark.broker
@needs("mosquitto")
def test_certificates_that_end_soon(tmp_path: Path) -> None:
    with aged_bus(tmp_path, 825 - 20) as path:
        found = Examined(path, "gateway")
    found.one("broker", "ok")
    found.one("certificate", "warning", "the broker's certificate ends in 20 days", "vitals provision rotate")
    found.one("certificate", "warning", "our certificate (broker.cert_file) ends in 20 days")
    found.one("certificate", "ok", "the authority")


@pytest.mark.broker
@needs("mosquitto")
def test_certificates_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_check, "BROKER_S", 2.0)
    with aged_bus(tmp_path, 825 + 3) as path:
        found = Examined(path, "gateway")
    found.one("broker", "fault", "the broker's certificate", "expired")
    found.one("certificate", "fault", "our certificate (broker.cert_file)", "expired", "vitals provision rotate")
    found.one("certificate", "ok", "the authority")


# -- the store -----------------------------------------------------------------------------------------------


def influx_settings(url: str) -> str:
    return f'[ingest]\nstate = "state.db"\n[ingest.store]\nkind = "influx"\nurl = "{url}"\nbucket = "b"\n'


def test_a_store_that_is_down(tmp_path: Path) -> None:
    path = write(tmp_path, broker(free_port()) + influx_settings(f"http://127.0.0.1:{free_port()}"))
    Examined(path, "ingest").one("store", "fault", "cannot be read", "Start InfluxDB")


@needs("influxd")
@needs("nginx")
def test_a_token_that_is_wrong(tmp_path: Path, influx: Influx, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path, broker(free_port()) + influx_settings(influx.locked_url).replace('"b"', f'"{influx.database()}"')
    )
    monkeypatch.setenv(TOKEN_ENV, "wrong")
    found = Examined(path, "ingest").one("store", "fault", "token")
    assert "unauthorized" in found.found
    monkeypatch.setenv(TOKEN_ENV, "right")
    Examined(path, "ingest").one("store", "ok")


def test_a_store_that_is_no_database(tmp_path: Path) -> None:
    path = write(tmp_path, broker(free_port()) + '[ingest.store]\npath = "store.db"\n')
    (tmp_path / "store.db").write_bytes(b"not a database" * 100)
    Examined(path, "ingest").one("store", "fault", "store.db")


# -- this machine --------------------------------------------------------------------------------------------


def test_settings_that_are_wrong_end_it(tmp_path: Path) -> None:
    found = Examined(write(tmp_path, "[board]\nprot = 1\n"))
    assert [f.check for f in found.all] == ["settings"]
    found.one("settings", "fault", "'prot'")


def test_a_serial_line_that_is_not_there(tmp_path: Path) -> None:
    found = Examined(write(tmp_path, device("/dev/no-such-line") + broker(free_port())))
    found.one("device ekg", "fault", "no such path", "Plug the adapter in")


def test_a_serial_line_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forbidden to root, so the system's answer is given here."""
    monkeypatch.setattr("vitals.cli.live_check.os.access", lambda *_: False)
    found = Examined(write(tmp_path, device("/dev/null") + broker(free_port())), "gateway")
    found.one("device ekg", "fault", "permission denied", "dialout")
    found.one("disk of the outbox", "fault", "may not be written", "to the service's user")


@pytest.mark.parametrize("text", [
    'username = "x"\npassword_file = "pw"\n',
    'ca_file = "ca"\ncert_file = "cert"\nkey_file = "pw"\n',
    '[ingest]\nstate = "state.db"\n'
    '[ingest.store]\nkind = "influx"\nurl = "http://127.0.0.1:1"\nbucket = "b"\ntoken_file = "pw"\n',
], ids=["password", "key", "token"])  # fmt: skip
def test_a_secret_that_everybody_may_read(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, broker(free_port()) + text)
    secret = tmp_path / "pw"
    secret.write_text("hush-hush", encoding="utf-8")
    secret.chmod(0o644)
    found = Examined(path, "ingest")
    found.one("secret", "warning", "0644", f"chmod 600 {secret}")
    assert "hush-hush" not in str(list(map(line, found.all)))
    secret.chmod(0o600)
    Examined(path, "ingest").one("secret", "ok")
    secret.unlink()
    Examined(path, "ingest").one("secret", "fault", "No such file")


def test_a_name_without_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, f'{broker(free_port())}username = "x"\n')
    Examined(path, "ingest").one("secret", "warning", "without a password", "VITALS_BROKER_PASSWORD")
    monkeypatch.setenv("VITALS_BROKER_PASSWORD", "hush")
    assert [f for f in Examined(path, "ingest").all if f.check == "secret"] == []


def test_settings_that_everybody_may_change(tmp_path: Path) -> None:
    path = write(tmp_path, broker(free_port()))
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    Examined(path, "board").one("settings file", "fault", "chmod o-w")


@pytest.mark.parametrize(("unsynchronised", "verdict"), [(True, "warning"), (None, "warning"), (False, "ok")])
def test_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsynchronised: bool | None, verdict: str) -> None:
    monkeypatch.setattr(machine, "unsynchronised", lambda: unsynchronised)
    Examined(write(tmp_path, broker(free_port())), "board").one("clock", verdict)


@pytest.mark.parametrize(("answer", "told"), [(5, True), (0, False), (-1, None)])
def test_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch, answer: int, told: bool | None) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("ctypes.CDLL", lambda *_a, **_k: type("C", (), {"adjtimex": lambda _s, _t: answer})())
    assert machine.unsynchronised() is told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("NOT RUN: no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_nearly_full(tmp_path: Path, small_disk: Path) -> None:
    path = write(tmp_path, device("/dev/null") + broker(free_port()))
    text = path.read_text(encoding="utf-8").replace('"outbox.db"', f'"{small_disk}/outbox.db"')
    path.write_text(text, encoding="utf-8")
    Examined(path, "gateway").one("disk of the outbox", "ok")
    path.write_text(text.replace("outbox_max_mb = 16", "outbox_max_mb = 1000"), encoding="utf-8")
    Examined(path, "gateway").one("disk of the outbox", "warning", "expected: 1000 MB", "lower gateway.outbox_max_mb")
    (small_disk / "ballast").write_bytes(bytes(40_000_000))
    Examined(path, "gateway").one("disk of the outbox", "fault", "Make room")


# -- the outbox ----------------------------------------------------------------------------------------------


def test_what_waits_and_what_was_refused(tmp_path: Path) -> None:
    path = write(tmp_path, device("/dev/null") + broker(free_port()))
    Examined(path, "gateway").one("outbox", "ok", "not there yet")
    outbox = Outbox(tmp_path / "outbox.db")
    old = SystemClock().now() - 3 * 3600 * NS
    rows = [Row(*outbox.stamp(), "vitals/v1/clinic/up/g/1/cuff/obs", encode(observation()), old) for _ in range(4)]
    outbox.put(rows)
    outbox.settle([Outcome(row.epoch, row.seq, "refused", f"bad value {n // 2}") for n, row in enumerate(rows[:3])])
    found = Examined(path, "gateway")  # beside the gateway that has it open
    outbox.close()
    found.one("outbox", "warning", "1 rows wait", "the oldest for 3 h")
    found.one("refused readings", "warning", "3, which are in no store: bad value 0 (2), bad value 1 (1)")
    (tmp_path / "outbox.db.damaged-20261124T085801Z").write_bytes(b"")
    (tmp_path / "outbox.db.damaged-20261124T085801Z-wal").write_bytes(b"")
    Examined(path, "gateway").one("outbox", "warning", "damaged-20261124T085801Z;", "Check the disk")


def test_an_outbox_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, device("/dev/null") + broker(free_port()))
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    Examined(path, "gateway").one("outbox", "fault", "cannot be read")


def test_doctor_reads_the_outbox_and_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, device("/dev/null") + broker(free_port()))
    Outbox(tmp_path / "outbox.db").close()
    before = (tmp_path / "outbox.db").read_bytes()
    Examined(path, "gateway")
    assert (tmp_path / "outbox.db").read_bytes() == before
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)


# -- what ingest refused -------------------------------------------------------------------------------------


def test_what_ingest_refused_is_told_with_its_reasons(tmp_path: Path) -> None:
    path = write(tmp_path, '[ingest.store]\npath = "s.db"\n' + broker(free_port()))
    Examined(path, "ingest").one("refused messages", "ok", "none")
    keeping = Refusals(tmp_path / "s.db.refused")
    reasons = ("malformed: at byte 3", "bad value: empty id", "bad value: empty id")
    for n, reason in enumerate(reasons):
        keeping.keep([Refusal("gateway-1/4/cuff-1/obs", b"{", reason)], SystemClock().now() + n * NS)
    found = Examined(path, "ingest")  # beside the ingest that has it open
    keeping.close()
    found.one(
        "refused messages", "warning", "3 (2 different ones kept), which were not stored", ": bad value, malformed;",
        "vitals store refused", f"move {tmp_path / 's.db.refused'} away",
    )  # fmt: skip
    (tmp_path / "s.db.refused").write_bytes(b"no database" * 1000)
    Examined(path, "ingest").one("refused messages", "fault", "cannot be read", "move it away")
    assert not [f for f in Examined(path, "board").all if f.check == "refused messages"]


# -- what the running parts say ------------------------------------------------------------------------------


@contextmanager
def says(folder: Path, part: str, watch: Watch) -> Iterator[Path]:
    """Settings by which this is the health page of the part."""
    server = HealthServer(watch, "127.0.0.1", free_port(), "x")
    server.start()
    try:
        yield answering(folder, part, server.port)
    finally:
        server.stop()


def answering(folder: Path, part: str, port: int) -> Path:
    path = write(folder, device("/dev/null") + broker(free_port()))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"{part}_port", f"{part}_port = {port} #"), encoding="utf-8")
    return path


def reporting(part: str, name: str, report: Report, clock: Clock | None = None) -> Watch:
    watch = Watch(part, name, clock or SystemClock())
    watch.publish(report)
    return watch


def test_a_service_that_answers_on_anothers_port(tmp_path: Path) -> None:
    with says(tmp_path, "ingest", reporting("gateway", "attic", Report([], [], {}))) as path:
        Examined(path, "ingest").one("ingest", "fault", "gateway attic answers", "health.ingest_port")
    Examined(answering(tmp_path, "ingest", 0), "ingest").one("ingest", "warning", "no health page")


@pytest.mark.parametrize("off_s", [2.5, -2.5])
def test_a_clock_that_is_not_ingests(tmp_path: Path, off_s: float) -> None:
    with says(tmp_path, "gateway", reporting("gateway", "gateway-1", Report([], [], {"clock_off_s": off_s}))) as path:
        found = Examined(path, "gateway")
    found.one("clock", "fault", f"differs from ingest's by {off_s:.3f} s", "Turn NTP on")
    assert len([f for f in found.all if f.check == "clock"]) == 2, "and this machine's own"


def test_a_clock_that_is_ingests(tmp_path: Path) -> None:
    with says(tmp_path, "gateway", reporting("gateway", "gateway-1", Report([], [], {"clock_off_s": 0.02}))) as path:
        Examined(path, "gateway").one("clock", "ok", "0.020 s")


def test_a_service_that_hangs(tmp_path: Path) -> None:
    clock = ManualClock()
    watch = reporting("gateway", "gateway-1", Report([], [], {}), clock)
    clock.advance(60)
    with says(tmp_path, "gateway", watch) as path:
        Examined(path, "gateway").one("gateway", "fault", "has not turned for 60 s", "Restart it")


def test_what_a_service_notices_is_a_warning_and_it_is_still_well(tmp_path: Path) -> None:
    report = Report([], [], {}, [Reason("EKG was dropped", "Find out why.")])
    with says(tmp_path, "gateway", reporting("gateway", "gateway-1", report)) as path:
        found = Examined(path, "gateway")
    found.one("gateway", "warning", "EKG was dropped", "Find out why.")
    found.one("gateway", "ok", "well")


@pytest.mark.broker
def test_only_what_is_about_the_broker_is_told_as_the_brokers(tmp_path: Path) -> None:
    """A service that has no connection is asked why; that its disk is full too stands under its own name."""
    full, away = Reason("the outbox takes nothing", "Make room."), Reason(f"{NO_BROKER}nothing listens", "Start it.")
    watch = reporting("gateway", "gateway-1", Report([full, away], [], {"broker_connected": False}))
    with says(tmp_path, "gateway", watch) as path:
        found = Examined(path, "gateway")
    found.one("broker", "fault", "gateway: no broker: nothing listens", "Start it.")
    found.one("gateway", "fault", "takes nothing", "Make room.")
    assert [f.found for f in found.all if f.check == "broker" and f.verdict == "fault"] == [
        "gateway: no broker: nothing listens"
    ]


@pytest.fixture
def stranger() -> Iterator[int]:
    """A port where another program answers, and not in HTTP."""

    class Greets(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"220 mail.example ESMTP\r\n")
            self.request.recv(4096)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greets) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


def test_a_health_port_that_another_program_has(tmp_path: Path, stranger: int) -> None:
    path = answering(tmp_path, "gateway", stranger)
    Examined(path, "gateway").one("gateway", "fault", "another program answers", "health.gateway_port")


def test_a_board_port_that_another_program_has(tmp_path: Path, stranger: int) -> None:
    path = write(tmp_path, broker(free_port()) + f"[board]\nport = {stranger}\n")
    Examined(path, "board").one("board port", "fault", "another program listens there", "board.port")
    path.write_text(path.read_text().replace(f"[board]\nport = {stranger}", f"[board]\nport = {free_port()}"))
    Examined(path, "board").one("board port", "ok", "is free")
    with says(tmp_path, "board", reporting("board", "board", Report([], [], {}))) as path:
        path.write_text(path.read_text() + f"[board]\nport = {stranger}\n")
        assert "board port" not in {f.check for f in Examined(path, "board").all}, "a board that runs has it itself"


# -- how it is told ------------------------------------------------------------------------------------------


def test_one_line_a_finding() -> None:
    text = line(fault("store", "a\nb", expected="c", do="d"))
    assert text == "fault    store: a b; expected: c; do: d"


def test_json_and_the_exit_code(tmp_path: Path) -> None:
    path = write(tmp_path, broker(free_port()))
    run = CliRunner().invoke(app, ["doctor", "--config", str(path), "--part", "board", "--json"])
    assert run.exit_code == 1
    found = msgspec.json.decode(run.stdout, type=list[Finding])
    assert {f.verdict for f in found} == {"ok", "fault"}
    assert "board" in {f.check for f in found}
