"""A clinic of real processes over TLS, with the credentials of `vitals provision`: it works, and no secret leaks."""

import stat
import urllib.request
from pathlib import Path

import msgspec
import pytest

from simulators.core.scenario import Room, Scenario
from tests.bus import now
from tests.clinic import Clinic
from tests.parts import Mosquitto, free_port, needs, wait_until
from vitals.cli import demo_settings
from vitals.cli.provision.folder import Provision

pytestmark = [pytest.mark.broker, needs("mosquitto")]


class SecureClinic(Clinic):
    """Two rooms of the demo, each part with the settings and the credential that `vitals provision` made for it."""

    FOLDERS = {"gateway": "gateway-1", "ingest": "ingest", "board": "board"}  # noqa: RUF012

    def __init__(self, folder: Path, provision: Path) -> None:
        super().__init__(folder, "", broker_port=1)
        calm = Room(
            name="Nguyen, Linh", age=34, sex="female", options={"bp_gatt": {"interval_s": 12.0, "first_s": 1.0}}
        )
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

    @property
    def health(self) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.board_port}/api/health", timeout=5) as answer:
            return msgspec.json.decode(answer.read(), type=dict[str, object])

    def kinds(self) -> set[str]:
        """Of readings that are stored."""
        messages = self.query("store.db", "SELECT message FROM observation")
        return {msgspec.json.decode(message)["observation"]["kind"] for (message,) in messages}

    def bound(self) -> int:
        """Evaluations of readings that belong to a visit: the board said so over the bus."""
        return (self.query("store.db", "SELECT count(*) FROM evaluation WHERE assoc_version > 0") or [(0,)])[0][0]  # type: ignore[no-any-return]


@pytest.mark.air
@pytest.mark.slow
@pytest.mark.parametrize("credentials", ["password", "certificate"])
def test_the_clinic_works_over_tls_and_shows_no_secret(tmp_path: Path, credentials: str) -> None:
    """With certificates the parts are let in; that each has its rights then is in test_bus_security.py."""
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
        for part in SecureClinic.FOLDERS:
            clinic.start_part(part)
        if credentials == "password":
            clinic.start("simulate")
            wait_until(lambda: clinic.bound() > 0, 60, "a reading bound to a visit")
            wait_until(lambda: "bp" in clinic.kinds(), 60, "a cuff's reading being stored")
            clinic.stop("simulate")
            wait_until(lambda: clinic.outbox_rows() == [], 30, "a receipt for every row")
        wait_until(lambda: all("broker connected" in clinic.log(p) for p in SecureClinic.FOLDERS), 60, "all let in")
        clinic.await_board()
        assert (clinic.health["broker"], clinic.health["faults"]) == (True, {})
        arguments = {p: Path(f"/proc/{clinic.pid(p)}/cmdline").read_bytes() for p in SecureClinic.FOLDERS}
    finally:
        clinic.stop_all()
        broker.end()
    logs = {part: clinic.log(part).encode() for part in SecureClinic.FOLDERS}
    assert [part for part, log in logs.items() if b' refused"' in log or b"Traceback" in log] == []
    databases = {path.name: path for path in tmp_path.rglob("*.db*") if path.is_file()}
    assert databases.keys() >= {"mosquitto.db", "outbox.db", "store.db"}
    assert [p for p in databases.values() if p.name != "mosquitto.db" and stat.S_IMODE(p.stat().st_mode) & 0o077] == []
    # What mosquitto keeps holds the status of each part, retained.
    shown = arguments | logs | {name: path.read_bytes() for name, path in databases.items()}
    assert b"/core/ingest/status" in shown["mosquitto.db"]
    secrets = secrets_in(tmp_path / "provision")
    assert len(secrets) == 4, "of three parts, and of the authority"
    assert [place for place, data in shown.items() for secret in secrets if secret in data] == []


def secrets_in(folder: Path) -> list[bytes]:
    """Every password, and a line out of the middle of every private key."""
    files = [path for path in folder.rglob("*") if path.name in ("password", "client.key", "ca.key")]
    return [path.read_bytes().strip().splitlines()[-2:][0] for path in files]
