"""The wheel holds the five packages with their data, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dashboards", "drivers", "ingest", "simulators", "vitals")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of a wheel built from a copy, so that the build leaves nothing in the tree."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    shutil.copytree(
        ROOT, source / "project", ignore=shutil.ignore_patterns(".*", "var", "__pycache__", "build", "*.egg-info")
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run = subprocess.run(
        [*command, "-w", str(wheels), str(source / "project")], capture_output=True, text=True, check=False
    )
    if run.returncode != 0 and "setuptools" in run.stderr and "No matching distribution" in run.stderr:
        pytest.skip("NOT RUN: no network to fetch setuptools for the build")
    assert run.returncode == 0, run.stderr
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_top_level_is_the_five_packages(names: list[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_inside(names: list[str], package: str) -> None:
    """Rules, templates, pages, scripts and scenarios as well as modules: whatever is in the folder."""
    files = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = {path.relative_to(ROOT).as_posix() for path in files if path.name != ".gitkeep"}
    assert sorted(wanted - set(names)) == []


def test_tests_and_benches_are_not_inside(names: list[str]) -> None:
    assert [name for name in names if name.startswith(("tests/", "bench/", "docs/"))] == []
