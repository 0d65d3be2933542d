"""`vitals devices`: which drivers there are, and which plug-ins did not load."""

from typing import Any

from drivers.core.registry import Registry
from simulators.core import registry as simulators


def describe(drivers: Registry) -> dict[str, Any]:
    """What `--json` prints: `drivers` by name, `failures` with source and reason."""
    simulated = simulators.load_all()
    rows = [
        {
            "name": driver.name,
            "title": driver.title,
            "transport": driver.transport,
            "metrics": list(driver.metrics),
            "options": [option.name for option in driver.options],
            "faults": len(driver.faults),
            "evidence": driver.evidence,
            "simulator": driver.name in simulated,
        }
        for driver in sorted(drivers.values(), key=lambda driver: driver.name)
    ]
    return {"drivers": rows, "failures": [failure._asdict() for failure in drivers.failures]}


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    blocks = [_driver(row) for row in found["drivers"]]
    blocks += [f"NOT LOADED: {row['source']}\n  {row['reason']}" for row in found["failures"]]
    return "\n".join(blocks)


def _driver(row: dict[str, Any]) -> str:
    simulator = "simulator" if row["simulator"] else "no simulator"
    facts = (row["transport"], f"{row['faults']} faults", f"evidence {row['evidence'] or 'not stated'}", simulator)
    options = f"\n  options: {', '.join(row['options'])}" if row["options"] else ""
    return f"{row['name']}: {row['title']}\n  {', '.join(facts)}\n  metrics: {', '.join(row['metrics'])}{options}"
