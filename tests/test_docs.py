"""Documents that cannot rot: what the code has is on the page, and what the page shows works."""

import re
from pathlib import Path

import pytest
import typer.main

from drivers.core import losses
from drivers.core.link import LossReason
from drivers.core.registry import load_all
from simulators.core import scenario
from simulators.core.mischief import IN_THE_DEVICE, ON_THE_WAY
from simulators.core.physiology import EFFECTS
from simulators.core.registry import load_all as load_simulators
from vitals import errors
from vitals.cli import app
from vitals.metrics import METRICS, UNITS_MDC, Metric
from vitals.settings import load

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DRIVERS = load_all()
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by the `code` in their first cell."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def limits(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:g} to {pair[1]:g}"


def shown(metric: Metric) -> list[str]:
    """The row of docs/metrics.md that this metric must have."""
    return [
        metric.title,
        f"`{metric.unit}`",
        ", ".join(metric.loinc),
        str(metric.mdc_code or ""),
        metric.refid,
        str(metric.decimals),
        limits(metric.hard),
        limits(metric.soft),
        metric.pace,
        "" if metric.pace == "wave" else f"{metric.live_s} s",
        f"{metric.gone_s} s" if metric.gone_s else "",
    ]


@pytest.mark.parametrize("key", METRICS)
def test_a_metric_is_documented_as_it_is(key: str) -> None:
    assert rows(page("docs/metrics.md")).get(key) == shown(METRICS[key])


def test_no_metric_is_documented_that_is_none() -> None:
    table = page("docs/metrics.md").partition("## Units")[0]
    assert set(rows(table)) == set(METRICS)


def test_the_units_are_documented_as_they_are() -> None:
    table = page("docs/metrics.md").partition("## Units")[2]
    assert {unit: int(cells[0]) for unit, cells in rows(table).items()} == UNITS_MDC


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_documented_with_every_option(command: str) -> None:
    text = page("docs/commands.md")
    assert f"`vitals {command}" in text + page("README.md")
    section = re.split(r"^## ", text.partition(f"## `vitals {command}")[2], maxsplit=1, flags=re.MULTILINE)[0]
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    options = [name for p in parameters for name in (*p.opts, *p.secondary_opts) if name.startswith("--")]
    assert [name for name in options if f"`{name}`" not in section] == []


def test_every_exit_code_is_documented() -> None:
    text = page("docs/commands.md")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VitalsError)]
    assert [kind.__name__ for kind in kinds if f"| {kind.exit_code} | `{kind.__name__}` |" not in text] == []


@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_and_its_faults_are_documented(name: str) -> None:
    text = page("docs/faults.md")
    section = re.split(r"^## ", text.partition(f"## `{name}`")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert section, f"docs/faults.md needs a section that begins with: ## `{name}`"
    assert set(rows(section)) == set(DRIVERS[name].faults), f"docs/faults.md, `{name}`: one row for each fault"
    assert f"`{name}`" in page("README.md"), f"README.md, table of devices: add a row with `{name}`"


def test_every_driver_loads() -> None:
    assert DRIVERS.failures == []


def test_the_faults_of_any_device_are_documented() -> None:
    expected = {f"link_{reason}" for reason in LossReason} | {
        "samples_lost", "off_pace", "clock_stepped", losses.CODE, losses.NUMBERS,
    }  # fmt: skip
    section = page("docs/faults.md").partition("## Any device")[2].partition("\n## ")[0]
    assert set(rows(section)) == expected


def test_the_example_of_the_settings_page_is_in_order(tmp_path: Path) -> None:
    example = re.findall(r"```toml\n(.*?)```", page("docs/settings.md"), flags=re.DOTALL)[0]
    (tmp_path / "clinic.toml").write_text(example, encoding="utf-8")
    settings = load(tmp_path / "clinic.toml", {})
    assert {device.driver for device in settings.gateway.devices} <= set(DRIVERS)
    assert {device.room for device in settings.gateway.devices} == {room.id for room in settings.board.rooms}


PAGES = sorted(p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *DOCS.rglob("*.md")))


@pytest.mark.parametrize("name", PAGES)
def test_links_within_the_project_lead_somewhere(name: str) -> None:
    found = re.findall(r"\]\(([^)#\s]+)", page(name))
    local = [link for link in found if "://" not in link and not link.startswith("mailto:")]
    here = (ROOT / name).parent
    assert [link for link in local if not (here / link).exists() and not link.endswith(".png")] == []


@pytest.mark.parametrize("name", PAGES)
def test_constants_that_a_page_names_are_in_that_file(name: str) -> None:
    """A row such as `| `MAX_PENDING` | `drivers/core/gateway.py` |` must be true."""
    named = re.findall(r"^\| `([A-Z][A-Z_]+)` \| ([^|]*) \| `([\w/]+\.py)` \|", page(name), flags=re.MULTILINE)
    for constant, value, file in named:
        text = page(file)
        stated = re.search(rf"^{constant}\b[^=\n]*= (.+?)\s*(?:#.*)?$", text, flags=re.MULTILINE)
        assert stated, f"{file} has no {constant}"
        assert stated[1].replace("_", "") == value.strip().replace(",", ""), f"{constant} in {file}"


def test_scenarios_and_mischief_are_documented() -> None:
    text = page("docs/scenarios.md")
    assert [name for name in scenario.names() if f"## `{name}`" not in text or f"scenario-{name}.png" not in text] == []
    assert [kind for kind in EFFECTS if f"`{kind}`" not in text] == []
    table = rows(text)
    assert [trick for trick in ON_THE_WAY if f"{trick}=R" not in table] == []
    assert [trick for trick in IN_THE_DEVICE if trick not in table] == []


@pytest.mark.parametrize("name", load_simulators())
def test_what_can_go_wrong_in_a_device_is_documented(name: str) -> None:
    row = rows(page("docs/scenarios.md")).get(name)
    where = f"docs/scenarios.md, the last table: a row for `{name}` with what its SIMULATOR declares in `tricks`"
    assert row, where
    assert set(re.findall(r"`(\w+)`", row[0])) == set(load_simulators()[name].tricks), where


def test_the_example_of_the_scenarios_page_is_in_order(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", page("docs/scenarios.md"), flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(example, encoding="utf-8")
    scenario.load(str(tmp_path / "mine.toml"))
