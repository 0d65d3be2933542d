"""`vitals provision`: whole, repeatable, closed to others, and never the place where a secret leaks."""

import re
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer.main
from cryptography import x509
from typer.testing import CliRunner

from dashboards import app as board
from ingest.pipeline import Pipeline
from ingest.rules import load_rules
from vitals.cli import app
from vitals.cli.provision import mosquitto
from vitals.cli.provision.folder import Provision
from vitals.errors import VitalsError
from vitals.settings import load
from vitals.topics import Topics

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[1]


def made(folder: Path, credentials: str = "password", now: datetime = NOW) -> Provision:
    provision = Provision(folder, lambda: now)
    provision.init(
        site="clinic",
        hosts=["broker.lan", "10.0.0.5"],
        port=8883,
        credentials=credentials,  # type: ignore[arg-type]
        broker_folder="/etc/mosquitto/vitals",
        data_folder="/var/lib/mosquitto",
    )
    return provision


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def secrets_in(folder: Path) -> Iterator[str]:
    """Every password, and the body of every private key."""
    for name, data in files(folder).items():
        if name.endswith("/password"):
            yield data.decode().strip()
        if name.endswith(".key"):
            yield data.decode().splitlines()[1]


def cli(*arguments: str) -> str:
    """The command line as a person calls it; everything it printed."""
    run = subprocess.run(
        [sys.executable, "-m", "vitals.cli", "provision", *arguments], capture_output=True, text=True, check=False
    )
    return f"{run.returncode}\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize("credentials", ["password", "certificate"])
def test_everything_is_closed_to_other_users(tmp_path: Path, credentials: str) -> None:
    made(tmp_path / "p", credentials).gateway("g1")
    for path in (tmp_path / "p", *(tmp_path / "p").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("credentials", ["password", "certificate"])
def test_the_key_of_the_authority_is_nowhere_else(tmp_path: Path, credentials: str) -> None:
    made(tmp_path / "p", credentials).gateway("g1")
    found = files(tmp_path / "p")
    body = found["ca/ca.key"].splitlines()[1]
    assert [name for name, data in found.items() if body in data] == ["ca/ca.key"]


def test_no_password_in_clear_reaches_the_broker(tmp_path: Path) -> None:
    made(tmp_path / "p").gateway("g1")
    password = (tmp_path / "p/g1/password").read_bytes().strip()
    assert len(password) >= 43, "256 bits"
    assert [name for name, data in files(tmp_path / "p").items() if password in data] == ["g1/password"]


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path / "p").gateway("g1")
    before = files(tmp_path / "p")
    provision = Provision(tmp_path / "p", lambda: NOW + timedelta(days=9))
    made(tmp_path / "p")
    assert "nothing changed" in provision.gateway("g1")[0]
    assert files(tmp_path / "p") == before


def test_init_for_something_else_says_how_that_is_done(tmp_path: Path) -> None:
    made(tmp_path / "p")
    with pytest.raises(VitalsError, match="for something else") as told:
        Provision(tmp_path / "p", lambda: NOW).init(
            site="clinic", hosts=["other.lan"], port=8883, credentials="password", broker_folder="", data_folder="/d"
        )
    assert "rotate broker --host" in told.value.do


def test_a_key_that_lies_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "p/ca").mkdir(parents=True)
    (tmp_path / "p/ca/ca.key").write_text("precious")
    with pytest.raises(VitalsError, match=r"ca\.key is there already"):
        made(tmp_path / "p")
    assert (tmp_path / "p/ca/ca.key").read_text() == "precious"


@pytest.mark.parametrize("name", ["ingest", "board", "broker", "ca", "A", "a/b", "+", "../x", ""])
def test_a_gateway_cannot_be_called_like_a_service_or_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(VitalsError, match="cannot be called so"):
        made(tmp_path / "p").gateway(name)


@pytest.mark.parametrize("host", ["", "a b", "x\nlistener 1883", "*", "-a"])
def test_a_host_is_a_host(tmp_path: Path, host: str) -> None:
    with pytest.raises(VitalsError, match="no host name or address"):
        Provision(tmp_path / "p", lambda: NOW).init(
            site="clinic", hosts=[host], port=1, credentials="password", broker_folder="", data_folder=""
        )


def test_who_is_not_known_cannot_be_rotated_or_revoked(tmp_path: Path) -> None:
    provision = made(tmp_path / "p")
    for act in (provision.rotate, provision.revoke):
        with pytest.raises(VitalsError, match="'g9' has no credential"):
            act("g9")


def test_no_folder_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    text = cli("list", "--folder", str(tmp_path / "none"))
    assert text.startswith("1\n")
    assert "vitals provision init" in text
    assert "Traceback" not in text


def test_a_damaged_folder_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    made(tmp_path / "p")
    (tmp_path / "p/ca/ca.key").write_text("rubbish")
    with pytest.raises(VitalsError, match="cannot be used"):
        Provision(tmp_path / "p", lambda: NOW).expiries()


def test_an_edited_settings_file_survives_a_rotation(tmp_path: Path) -> None:
    provision = made(tmp_path / "p")
    provision.gateway("g1")
    edited = tmp_path / "p/g1/settings.toml"
    edited.write_text(edited.read_text() + 'outbox = "mine.db"\n')
    before = (tmp_path / "p/g1/password").read_bytes()
    provision.rotate("g1")
    assert (tmp_path / "p/g1/password").read_bytes() != before
    assert load(edited, {}).gateway.outbox.endswith("mine.db")


@pytest.mark.parametrize("credentials", ["password", "certificate"])
@pytest.mark.parametrize("name", ["g1", "ingest", "board"])
def test_the_settings_are_in_order(tmp_path: Path, name: str, credentials: str) -> None:
    made(tmp_path / "p", credentials).gateway("g1")
    settings = load(tmp_path / "p" / name / "settings.toml", {})
    assert (settings.broker.host, settings.broker.port, settings.site.id) == ("broker.lan", 8883, "clinic")
    broker = settings.broker
    for file in (broker.ca_file, broker.password_file, broker.cert_file, broker.key_file):
        assert not file or Path(file).parent == tmp_path / "p" / name
    assert bool(broker.password_file) is (credentials == "password")
    assert name != "g1" or settings.gateway.id == "g1"


def test_the_certificates_say_what_a_strict_verifier_wants(tmp_path: Path) -> None:
    made(tmp_path / "p", "certificate").gateway("g1")
    server = x509.load_pem_x509_certificate((tmp_path / "p/broker/server.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.lan"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]
    for leaf in ("broker/server.crt", "g1/client.crt"):
        run = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", "ca/ca.crt", leaf],
            cwd=tmp_path / "p", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.stdout.strip() == f"{leaf}: OK", run.stderr


def test_a_gateway_is_no_broker_to_anybody(tmp_path: Path) -> None:
    """A stolen gateway certificate cannot serve as the broker's."""
    made(tmp_path / "p", "certificate").gateway("g1")
    run = subprocess.run(
        ["openssl", "verify", "-purpose", "sslserver", "-CAfile", "ca/ca.crt", "g1/client.crt"],
        cwd=tmp_path / "p", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "purpose" in run.stderr


def test_new_hosts_come_with_a_new_broker_certificate(tmp_path: Path) -> None:
    provision = made(tmp_path / "p")
    provision.rotate("broker", ["new.lan"])
    server = x509.load_pem_x509_certificate((tmp_path / "p/broker/server.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["new.lan"]
    assert ssl.create_default_context().load_cert_chain(
        tmp_path / "p/broker/server.crt", tmp_path / "p/broker/server.key"
    ) is None  # fmt: skip


# -- access rules: what the code does, and nothing else


def test_ingest_and_board_read_what_they_subscribe_to_and_nothing_else() -> None:
    topics = Topics("clinic")
    pipeline = Pipeline(topics, load_rules("data-only", None), session="s")
    for role, subscribed in (("ingest", pipeline.subscriptions()), ("board", board.subscriptions("clinic"))):
        readable = {topic for access, topic in mosquitto.rights(role, role, topics) if "read" in access}  # type: ignore[arg-type]
        assert readable == {topic for topic, _ in subscribed}, role


def test_a_gateway_is_let_into_nothing_of_others() -> None:
    rights = mosquitto.rights("gateway", "g1", Topics("clinic"))
    assert rights == [
        ("write", "vitals/v1/clinic/up/g1/#"),
        ("read", "vitals/v1/clinic/down/g1/#"),
        ("read", "vitals/v1/clinic/core/ingest/status"),
    ]


def test_every_queue_of_the_broker_is_bounded_and_nobody_is_anonymous(tmp_path: Path) -> None:
    made(tmp_path / "p")
    lines = (tmp_path / "p/broker/mosquitto.conf").read_text().splitlines()
    assert {"allow_anonymous false", "persistence true", "autosave_interval 1"} <= set(lines)
    assert [line for line in lines if line.startswith("listener")] == ["listener 8883"]
    for bound in (
        "max_queued_messages",
        "max_queued_bytes",
        "max_packet_size",
        "max_connections",
        "max_inflight_messages",
    ):
        assert [int(line.split()[1]) > 0 for line in lines if line.startswith(f"{bound} ")] == [True]


# -- the command line


def test_the_commands_from_init_to_revoke_print_no_secret(tmp_path: Path) -> None:
    at = ("--folder", str(tmp_path / "p"))
    printed = ""
    secrets: set[str] = set()
    for arguments in (
        ("init", "--host", "broker.lan"), ("gateway", "g1"), ("gateway", "g1"), ("rotate", "g1"), ("rotate", "broker"),
        ("list",), ("revoke", "g1"), ("revoke", "g1"),
    ):  # fmt: skip
        run = CliRunner().invoke(app, ["provision", *arguments, *at])
        printed += run.output + str(run.exception or "")
        secrets |= set(secrets_in(tmp_path / "p"))
    assert "g1: password, since 20" in printed
    assert "g1 is revoked" in printed
    assert "'g1' has no credential" in printed, "the second revocation"
    assert len(secrets) == 3 + 1 + 2 + 1, "passwords of three, one rotated; two keys, one rotated"
    assert [secret for secret in secrets if secret in printed] == []


def test_list_says_what_expires_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitals.cli.provision import commands

    made(tmp_path / "p", now=NOW)
    for days, expected in ((1, ""), (800, "SOON: in 2"), (830, "EXPIRED on 2029-02-26")):
        monkeypatch.setattr(commands, "_now", lambda days=days: NOW + timedelta(days=days))
        run = CliRunner().invoke(app, ["provision", "list", "--folder", str(tmp_path / "p")])
        line = next(line for line in run.output.splitlines() if line.startswith("broker:"))
        assert expected in line
        assert expected or line.endswith("expires on 2029-02-26")


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition("## `vitals provision")[2], maxsplit=1, flags=re.MULTILINE)[0]
    for name, command in typer.main.get_command(app).commands["provision"].commands.items():  # type: ignore[attr-defined]
        assert f"`vitals provision {name}" in section
        assert [o for p in command.params for o in p.opts if o.startswith("--") and f"`{o}`" not in section] == []
