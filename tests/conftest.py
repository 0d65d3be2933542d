"""Fixtures of real parts, and a summary that says loudly what was not run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.command import vitals as vitals  # a fixture for everybody
from tests.influx_making import NamedStores
from tests.parts import Influx, Mosquitto

# A busy machine is no counterexample: the properties are about values, not about milliseconds.
settings.register_profile("vitals", deadline=None)
settings.load_profile("vitals")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto without persistence."""
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="session")
def _influx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    server = Influx(tmp_path_factory.mktemp("influx"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def influx(_influx_server: Influx) -> Iterator[Influx]:
    """The real InfluxDB engine, one for all tests; each takes a database of its own."""
    yield _influx_server
    _influx_server.restore()


@pytest.fixture
def named_influx() -> Iterator[NamedStores]:
    """The InfluxDB that VITALS_INFLUX_URL names."""
    stores = NamedStores()
    yield stores
    stores.close()


def pytest_terminal_summary(terminalreporter) -> None:  # type: ignore[no-untyped-def]
    skipped = terminalreporter.stats.get("skipped", [])
    reasons: dict[str, int] = {}
    for report in skipped:
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count:4d}  {reason}")
