"""The import contracts of pyproject.toml catch what they are there for: each is broken on purpose, in a copy."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vitals", "drivers", "simulators", "ingest", "dashboards")
LINT = Path(sys.executable).with_name("lint-imports")

pytestmark = pytest.mark.skipif(not LINT.exists(), reason="NOT RUN: import-linter is not installed (make check does)")


class Plant(NamedTuple):
    """`file` gets `import {imported}`; the contract `contract` must name it. `shown`: how the report calls it."""

    contract: str
    file: str
    imported: str

    @property
    def shown(self) -> str:
        importer = self.file.removesuffix(".py").replace("/", ".")
        internal = self.imported.partition(".")[0] in PACKAGES
        return f"{importer} -> {self.imported if internal else self.imported.partition('.')[0]} "


PLANTS = [
    Plant("layers", "vitals/units.py", "vitals.cli"),
    Plant("layers", "vitals/clock.py", "ingest.rules"),
    Plant("layers", "drivers/core/faults.py", "dashboards.visits"),
    Plant("layers", "simulators/core/contract.py", "ingest.rules"),
    Plant("ingest-apart", "ingest/rules.py", "drivers.core.faults"),
    Plant("ingest-apart", "ingest/store/contract.py", "simulators.core.contract"),
    Plant("board-apart", "dashboards/visits.py", "ingest.rules"),
    Plant("board-apart", "dashboards/visits.py", "drivers.core.faults"),
    Plant("board-apart", "dashboards/visits.py", "simulators.core.contract"),
    Plant("store-apart", "ingest/store/contract.py", "ingest.rules"),
    Plant("drivers-simulators", "drivers/core/faults.py", "simulators.core.contract"),
    Plant("drivers-simulators", "simulators/core/contract.py", "drivers.core.faults"),
    Plant("device-alone", "drivers/bp_gatt.py", "drivers.core.runner"),
    Plant("device-alone", "drivers/bp_gatt.py", "drivers.transports.memory"),
    Plant("device-alone", "drivers/bp_gatt.py", "drivers.ekg_openview"),
    *(
        Plant("device-pure", "drivers/bp_gatt.py", imported)
        for imported in (
            "asyncio", "time", "logging", "threading", "socket", "os", "pathlib", "random", "serial", "bleak",
            "bumble", "paho.mqtt.client", "vitals.log", "vitals.broker", "vitals.outbox", "vitals.settings",
        )
    ),
    Plant("fence-vocabulary", "vitals/model.py", "scipy"),
    Plant("fence-vocabulary", "vitals/topics.py", "paho.mqtt.client"),
    Plant("fence-vocabulary", "vitals/broker.py", "starlette"),
    Plant("fence-mqtt", "ingest/rules.py", "paho.mqtt.client"),
    Plant("fence-mqtt", "dashboards/visits.py", "paho.mqtt.client"),
    Plant("fence-radio", "drivers/core/faults.py", "serial"),
    Plant("fence-radio", "drivers/core/faults.py", "bleak"),
    Plant("fence-radio", "simulators/core/contract.py", "bleak"),
    Plant("fence-radio", "vitals/cli/wiring.py", "serial"),
    Plant("fence-air", "simulators/core/contract.py", "bumble"),
    Plant("fence-air", "drivers/transports/ble.py", "bumble"),
    Plant("fence-influx", "dashboards/visits.py", "influxdb_client"),
    Plant("fence-influx", "ingest/store/contract.py", "influxdb_client"),
    Plant("fence-keys", "vitals/cli/wiring.py", "cryptography.x509"),
    Plant("fence-influx", "ingest/store/influx_store.py", "urllib3"),
    Plant("fence-metrics", "drivers/core/telemetry.py", "prometheus_client"),
    Plant("fence-metrics", "vitals/telemetry/watch.py", "prometheus_client"),
    Plant("fence-web", "ingest/rules.py", "starlette.applications"),
    Plant("fence-web", "drivers/core/faults.py", "uvicorn"),
    Plant("fence-web", "vitals/cli/wiring.py", "jinja2"),
]  # fmt: skip


def copy(folder: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "static"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` on the packages of `folder`, not on the installed ones."""
    environ = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "400", "NO_COLOR": "1"}
    command = [str(LINT), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60)


def contracts() -> list[dict]:  # type: ignore[type-arg]
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the report says of each contract, by id, after all plants were put into one copy."""
    folder = copy(tmp_path_factory.mktemp("planted"))
    for plant in PLANTS:
        with (folder / plant.file).open("a", encoding="utf-8") as file:
            file.write(f"\nimport {plant.imported}\n")
    run = lint(folder)
    assert run.returncode != 0, run.stdout
    _, _, details = run.stdout.partition("Broken contracts")
    names = {contract["name"]: contract["id"] for contract in contracts()}
    parts = re.split("^(" + "|".join(map(re.escape, names)) + ")$", details, flags=re.MULTILINE)
    return {names[name]: text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_the_tree_as_it_is_keeps_every_contract(tmp_path: Path) -> None:
    run = lint(copy(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(contracts())} kept, 0 broken" in run.stdout


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.contract}-{plant.shown.strip()}")
def test_a_planted_import_is_named_by_its_contract(broken: dict[str, str], plant: Plant) -> None:
    assert plant.shown in broken.get(plant.contract, "")


def test_every_contract_has_a_plant() -> None:
    assert {contract["id"] for contract in contracts()} == {plant.contract for plant in PLANTS}


IMPORT_NAMES = {
    "pyserial": "serial",
    "paho-mqtt": "paho",
    "influxdb-client": "influxdb_client",
    "tzdata": "",
    "numpy": "",
    "msgspec": "",
}
"""Distribution to package, where they differ; empty where the vocabulary may use it or nobody imports it."""


def test_the_fence_of_the_vocabulary_knows_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.split("[>=<\\[]", entry)[0] for entry in (*project["dependencies"], *extras["sim"], *extras["records"])
    }
    fenced = next(c for c in contracts() if c["id"] == "fence-vocabulary")["forbidden_modules"]
    assert {IMPORT_NAMES.get(name, name) for name in wanted} - {""} <= set(fenced)
