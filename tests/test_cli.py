"""The command line as people meet it: help that reads well, errors that say what to do, and never a traceback.

Most tests call `main` in this process, since a start costs a second; a few run the real program.
"""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main

from tests.command import Run, Vitals
from tests.parts import Mosquitto, free_port, needs
from vitals.cli import app

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
SERVICES = ("gateway", "ingest", "board")


def environ(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VITALS_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1", **more}


def program(folder: Path, *arguments: str) -> Run:
    """`python -m vitals.cli ARGUMENTS` in `folder`, until it ends."""
    command = [sys.executable, "-m", "vitals.cli", *arguments]
    run = subprocess.run(
        command, cwd=folder, env=environ(), capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip
    return Run(run.returncode, run.stdout, run.stderr)


def refused(run: Run, code: int) -> str:
    """The error, after it was found to be one a person can act on."""
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    error = run.stderr[run.stderr.index("error: ") :]
    for label in ("expected", "found", "to do"):
        assert re.search(rf"^  {label}: \S", error, flags=re.MULTILINE), error
    return error


def write(folder: Path, text: str) -> Path:
    path = folder / "vitals.toml"
    path.write_text(text, encoding="utf-8")
    return path


DEVICE = '[[gateway.devices]]\nname = "one"\ndriver = "{driver}"\nroom = "1"\n{more}\n'


# -- help --------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_says_what_it_is_not(vitals: Vitals) -> None:
    run = vitals("--help")
    assert run.returncode == 0
    assert "Not a medical device" in " ".join(run.stdout.split())
    assert [name for name in COMMANDS if name not in run.stdout] == []


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    run = program(tmp_path)
    assert "Usage" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(vitals: Vitals, command: str) -> None:
    run = vitals(command, "--help")
    assert run.returncode == 0
    assert "Traceback" not in run.stdout + run.stderr
    words = [line.strip() for line in run.stdout.splitlines() if line.strip()]
    assert words[0].startswith("Usage")
    assert words[1][0].isupper()
    for option in re.findall(r"│ \*? *(--[a-z-]+)", run.stdout):
        row = next(line for line in run.stdout.splitlines() if option in line)
        assert len(re.findall(r"[A-Za-z]{2,}", row)) > 2, f"{option} has no explanation"


def test_help_shows_what_stands_in_brackets(vitals: Vitals) -> None:
    assert "[simulate]" in vitals("simulate", "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("gatewya",),
        ("gateway", "--confg", "x"),
        ("replay",),
        ("replay", "x.jsonl", "--speed", "-1"),
        ("decode",),
        ("scan", "--seconds", "0"),
        ("demo", "--rooms", "99"),
        ("demo", "x"),
    ],
)
def test_a_mistyped_command_line_is_explained(vitals: Vitals, arguments: tuple[str, ...]) -> None:
    run = vitals(*arguments)
    assert run.returncode == 2
    assert "Error" in run.stderr
    assert "Traceback" not in run.stderr


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*SERVICES, "simulate", "check-config"])
def test_there_is_no_settings_file(vitals: Vitals, command: str) -> None:
    assert "vitals.toml" in refused(vitals(command), 2)


@pytest.mark.parametrize("command", [*SERVICES, "simulate", "check-config"])
def test_a_wrong_key_is_named(tmp_path: Path, vitals: Vitals, command: str) -> None:
    write(tmp_path, "[broker]\nprot = 1883\n")
    assert "'prot'" in refused(vitals(command), 2)


def test_the_environment_names_the_file_and_overrides_it(tmp_path: Path, vitals: Vitals) -> None:
    path = write(tmp_path, "").rename(tmp_path / "other.toml")
    run = vitals("check-config", VITALS_CONFIG=str(path), VITALS_BROKER__PORT="1999")
    assert run.returncode == 0, run.stderr
    assert "127.0.0.1:1999" in run.stdout
    assert "'prot'" in refused(vitals("check-config", "-c", str(path), VITALS_BROKER__PROT="1"), 2)


@pytest.mark.parametrize("command", ["gateway", "check-config"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        (DEVICE.format(driver="bp_gat", more=""), "bp_gatt"),
        (DEVICE.format(driver="bp_gatt", more="options = { unit = 1 }"), "unit"),
        (DEVICE.format(driver="ekg_openview", more='port = "x"\noptions = { rate_hz = "fast" }'), "rate_hz"),
        (DEVICE.format(driver="ekg_openview", more=""), "/dev/ttyUSB0"),
        (DEVICE.format(driver="bp_gatt", more='address = "AA:BB"\n[[board.rooms]]\nid = "2"'), "[[board.rooms]]"),
        ('[gateway]\nble = { backend = "air" }\n', "air_socket"),
    ],
    ids=["unknown driver", "unknown option", "wrong type", "no port", "room not shown", "no socket"],
)
def test_a_device_entry_that_cannot_work(tmp_path: Path, vitals: Vitals, command: str, text: str, named: str) -> None:
    write(tmp_path, text)
    assert named in refused(vitals(command), 2)


@pytest.mark.parametrize("command", SERVICES)
def test_a_password_file_that_is_not_there(tmp_path: Path, command: str) -> None:
    write(tmp_path, f'[broker]\npassword_file = "secret"\n[board]\nport = {free_port()}\n')
    assert "secret" in refused(program(tmp_path, command), 2)


def test_a_rules_file_that_is_not_there(tmp_path: Path, vitals: Vitals) -> None:
    write(tmp_path, '[ingest]\nrules_file = "ours.toml"\n')
    assert "ours.toml" in refused(vitals("ingest"), 2)


def test_a_simulated_device_nobody_knows(tmp_path: Path, vitals: Vitals) -> None:
    write(tmp_path, '[[simulate.devices]]\nkind = "toaster"\nroom = "1"\nlink = "tty"\n')
    assert "bp_gatt" in refused(vitals("simulate"), 2)


# -- files and ports ---------------------------------------------------------------------------------------------


def rubbish(path: Path) -> None:
    path.write_text("Dear diary,\n" * 100, encoding="utf-8")


def foreign(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE invoice (id INTEGER)")
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("make", "command", "file"),
    [
        (rubbish, "ingest", "store.db"),
        (foreign, "ingest", "store.db"),
        (rubbish, "gateway", "outbox.db"),
        (foreign, "gateway", "outbox.db"),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, vitals: Vitals, make, command: str, file: str) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, '[gateway]\noutbox = "outbox.db"\n[ingest]\nstore = { path = "store.db" }\n')
    make(tmp_path / file)
    before = (tmp_path / file).read_bytes()
    error = refused(vitals(command), 3)
    assert file in error
    assert "keep it" in error
    assert (tmp_path / file).read_bytes() == before


def test_a_folder_in_the_place_of_the_store(tmp_path: Path, vitals: Vitals) -> None:
    write(tmp_path, '[ingest]\nstore = { path = "store.db" }\n')
    (tmp_path / "store.db").mkdir()
    refused(vitals("ingest"), 3)


@pytest.mark.parametrize("command", ["board", "demo"])
def test_the_port_of_the_board_is_taken(tmp_path: Path, vitals: Vitals, command: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        write(tmp_path, f"[board]\nport = {port}\n")
        arguments = ("board",) if command == "board" else ("demo", "--port", str(port), "--folder", "demo")
        assert str(port) in refused(vitals(*arguments), 6)


def test_a_capture_that_is_not_there(vitals: Vitals) -> None:
    assert "nothing.jsonl" in refused(vitals("replay", "nothing.jsonl"), 1)


def test_a_record_that_is_not_there(vitals: Vitals) -> None:
    assert "nothing" in refused(vitals("replay", "nothing"), 1)


# -- without a broker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", SERVICES)
def test_a_service_waits_for_the_broker_and_ends_when_told(tmp_path: Path, command: str) -> None:
    """No broker is no error: readings wait in the outbox, and the board says what is missing."""
    write(
        tmp_path,
        f'[broker]\nport = {free_port()}\n[gateway]\noutbox = "outbox.db"\n'
        f'[ingest]\nstore = {{ path = "store.db" }}\n[board]\nport = {free_port()}\n',
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "vitals.cli", command], cwd=tmp_path, env=environ(), stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 15
        while b"level=info" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def test_a_bluetooth_device_without_an_address_would_be_any_device_in_reach(tmp_path: Path, vitals: Vitals) -> None:
    write(tmp_path, '[[gateway.devices]]\nname="c"\ndriver="bp_gatt"\nroom="1"\n')
    assert "within radio reach" in refused(vitals("check-config"), 2)


# -- check-config --live: everything tried, each failure with an exit code -------------------------------------------


def test_live_check_names_a_serial_path_that_does_not_exist(tmp_path: Path, vitals: Vitals) -> None:
    write(tmp_path, '[[gateway.devices]]\nname="m"\ndriver="ekg_openview"\nroom="1"\nport="/dev/no-such-line"\n')
    error = refused(vitals("check-config", "--live"), 5)
    assert "/dev/no-such-line" in error


def test_live_check_names_a_broker_that_is_down(tmp_path: Path, vitals: Vitals) -> None:
    write(tmp_path, f"[broker]\nport = {free_port()}\n")
    error = refused(vitals("check-config", "--live"), 4)
    assert "No MQTT broker at 127.0.0.1" in error


@needs("mosquitto")
@pytest.mark.broker
def test_live_check_names_a_store_that_is_no_database(tmp_path: Path, vitals: Vitals, mosquitto: Mosquitto) -> None:
    write(tmp_path, f'[broker]\nport = {mosquitto.port}\n[ingest]\nstore = {{ path = "store.db" }}\n')
    rubbish(tmp_path / "store.db")
    refused(vitals("check-config", "--live"), 3)


@needs("mosquitto")
@pytest.mark.broker
def test_live_check_names_a_board_port_that_is_taken(tmp_path: Path, vitals: Vitals, mosquitto: Mosquitto) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        write(tmp_path, f"[broker]\nport = {mosquitto.port}\n[board]\nport = {other.getsockname()[1]}\n")
        refused(vitals("check-config", "--live"), 6)


@needs("mosquitto")
@pytest.mark.broker
def test_live_check_of_a_clinic_in_order(tmp_path: Path, vitals: Vitals, mosquitto: Mosquitto) -> None:
    write(tmp_path, f"[broker]\nport = {mosquitto.port}\n[board]\nport = {free_port()}\n")
    run = vitals("check-config", "--live")
    assert run.returncode == 0, run.stderr
    assert "accepts us" in run.stdout
