"""docker-compose.yml says what the code understands: checked without Docker, and by Docker itself where it is there."""

import ipaddress
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from tests.parts import free_port, needs, program, wait_until
from vitals.cli import wiring
from vitals.clock import ManualClock
from vitals.settings import Settings, load
from vitals.telemetry.report import Reason, Report
from vitals.telemetry.server import HealthServer
from vitals.telemetry.watch import Watch

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
OURS = ("gateway", "ingest", "board")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings as the containers get them: the inline file, and their environment over it."""
    path = tmp_path / "vitals.toml"
    path.write_text(COMPOSE["configs"]["settings"]["content"], encoding="utf-8")
    environments = [SERVICES[name]["environment"] for name in OURS]
    assert environments[0] == environments[1] == environments[2]
    return load(path, environments[0])


def test_all_parts_are_there() -> None:
    assert {"mosquitto", "influxdb", "grafana", *OURS} == set(SERVICES)
    for name in OURS:
        assert SERVICES[name]["command"] == [name]


def test_the_settings_are_in_order(settings: Settings) -> None:
    assert wiring.check(settings)


def test_the_broker_of_the_settings_is_the_service(settings: Settings) -> None:
    assert settings.broker.host in SERVICES
    assert f"listener {settings.broker.port}" in mosquitto_lines()
    assert f"max_inflight_messages {settings.broker.window}" in mosquitto_lines()


def test_the_board_is_published_where_it_listens(settings: Settings) -> None:
    assert settings.board.host == "0.0.0.0"
    assert [port.rpartition(":")[2] for port in SERVICES["board"]["ports"]] == [str(settings.board.port)]


def test_the_commented_devices_are_right_too(tmp_path: Path) -> None:
    text = COMPOSE["configs"]["settings"]["content"]
    devices = "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if re.match(r"# [\[a-z]", line))
    devices = "\n".join(line for line in devices.splitlines() if re.match(r"\[\[|\w+ = ", line))
    (tmp_path / "vitals.toml").write_text(devices, encoding="utf-8")
    settings = load(tmp_path / "vitals.toml", {})
    assert len(settings.gateway.devices) == 2
    assert wiring.check(settings)


@pytest.mark.parametrize(("name", "keeps"), [("gateway", "outbox"), ("ingest", "state")])
def test_files_are_on_volumes(settings: Settings, name: str, keeps: str) -> None:
    """What a part keeps lies on a named volume."""
    mounts = {path: volume for volume, _, path in (entry.partition(":") for entry in SERVICES[name]["volumes"])}
    kept = Path(getattr(getattr(settings, name), keeps))
    assert mounts[str(kept.parent)] in COMPOSE["volumes"]
    folders = re.findall(r"/var/lib/vitals/\w+", SERVICES[name]["build"]["dockerfile_inline"])
    assert str(kept.parent) in folders, "the folder must be there, and ours, before the volume is laid over it"


def test_the_store_is_the_influxdb_that_is_started(settings: Settings) -> None:
    store, service = settings.ingest.store, SERVICES["influxdb"]
    made = service["environment"]
    assert store.kind == "influx" and "profiles" not in service
    assert store.url == f"http://influxdb:{service['ports'][0].rpartition(':')[2]}"
    assert (store.org, store.bucket) == (made["DOCKER_INFLUXDB_INIT_ORG"], made["DOCKER_INFLUXDB_INIT_BUCKET"])
    assert "DOCKER_INFLUXDB_INIT_RETENTION" not in made, "a reading older than the retention is refused"
    assert store.token_file == made["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN_FILE"]
    for name in ("influxdb", "ingest", "board"):
        assert Path(store.token_file).name in SERVICES[name]["secrets"]
    assert "influx" not in str(SERVICES["gateway"]["environment"]), "a gateway needs no store"


def known(kind: type) -> Iterator[str]:
    for name, hint in kind.__annotations__.items():
        inner = getattr(hint, "__args__", (hint,))[0]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from (f"{name}.{key}" for key in known(inner))
        else:
            yield name


@pytest.mark.parametrize("name", OURS)
def test_every_variable_names_a_setting(name: str) -> None:
    keys = {*known(Settings), "config"}
    for variable in SERVICES[name]["environment"]:
        assert variable.removeprefix("VITALS_").lower().replace("__", ".") in keys
    target = SERVICES[name]["configs"][0]["target"]
    assert SERVICES[name]["environment"]["VITALS_CONFIG"] == target


def test_ports_are_published_on_loopback_only() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:")
        assert "network_mode" not in service


def test_services_survive_a_restart_and_tell_their_health() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name


@pytest.mark.parametrize("name", OURS)
def test_health_is_what_the_parts_own_page_says(settings: Settings, name: str) -> None:
    """The very command of the file, against a page on the port that the settings name: well, unwell, hung, gone."""
    assert ipaddress.ip_address(settings.health.host).is_loopback
    command, port = SERVICES[name]["healthcheck"]["test"], wiring.health_port(settings, name)
    assert command[:3] == ["CMD", "python", "-c"]
    free = free_port()
    script, times = re.subn(rf":{port}/health'", f":{free}/health'", command[3])
    assert times == 1
    clock = ManualClock()
    watch = Watch(name, name, clock)
    server = HealthServer(watch, "127.0.0.1", free, "x")

    def check() -> int:
        """Python's exit code: 1 for what is raised."""
        try:
            exec(compile(script, name, "exec"), {})
        except OSError:
            return 1
        return 0

    assert check() != 0, "nothing answers"
    server.start()
    try:
        watch.publish(Report([], [], {}))
        assert check() == 0
        watch.publish(Report([Reason("no store", "start it")], [], {}))
        assert check() != 0
        watch.publish(Report([], [], {}))
        clock.advance(30)
        assert check() != 0, "its loop hangs"
    finally:
        server.stop()


def test_nothing_of_ours_waits_for_another_part_to_be_well() -> None:
    """Each works, and says what is missing, while another is away: so it must be started."""
    for name in OURS:
        conditions = {on: how["condition"] for on, how in SERVICES[name]["depends_on"].items()}
        assert {on for on, how in conditions.items() if how == "service_healthy"} <= {"mosquitto"}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_not_root(name: str) -> None:
    recipe = SERVICES[name]["build"]["dockerfile_inline"]
    assert re.search(r"^USER vitals$", recipe, flags=re.MULTILINE)
    for folder in re.findall(r"^COPY (\w+) \./\1$", recipe, flags=re.MULTILINE):
        assert (ROOT / folder / "__init__.py").exists()
    assert len(re.findall(r"^COPY (\w+) \./\1$", recipe, flags=re.MULTILINE)) == 5


def test_secrets_are_not_in_the_file() -> None:
    assert all(set(secret) == {"environment"} for secret in COMPOSE["secrets"].values())
    assert not re.search(r"(?i)(password|token)\w*:\s*[\"']?\w{6,}$", re.sub(r"/run/secrets/\w+", "", FILE.read_text()))


def mosquitto_lines() -> list[str]:
    return COMPOSE["configs"]["mosquitto"]["content"].splitlines()


@pytest.mark.parametrize(
    "line", ["persistence true", "autosave_interval 1", "max_inflight_messages 1000", "max_queued_messages 0"]
)
def test_mosquitto_loses_nothing_and_drops_nothing(line: str) -> None:
    assert line in mosquitto_lines()
    assert any(line.startswith("max_queued_bytes ") for line in mosquitto_lines())


@pytest.mark.broker
@needs("mosquitto")
def test_mosquitto_takes_the_configuration(tmp_path: Path) -> None:
    port = free_port()
    text = COMPOSE["configs"]["mosquitto"]["content"].replace("/mosquitto/data/", f"{tmp_path}/")
    (tmp_path / "mosquitto.conf").write_text(text.replace("listener 1883", f"listener {port} 127.0.0.1"))
    command = [str(program("mosquitto")), "-c", str(tmp_path / "mosquitto.conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(port) or process.poll() is not None, 10, "mosquitto listening")
            assert process.poll() is None
        finally:
            process.terminate()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def compose_plugin() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not compose_plugin(), reason="NOT RUN: docker with its compose plugin is not installed")
def test_docker_compose_takes_the_file() -> None:
    command = ["docker", "compose", "-f", str(FILE), "--profile", "grafana", "config", "-q"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
