"""What every driver must do. A new device is tested by existing: a file in drivers/ and one in tests/vectors/.

Misbehaving devices are in test_mischief.py, likewise for every driver.
"""

import ast
import gc
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drivers
from drivers.core.registry import load_all
from tests import vectors
from tests.vectors import Step, Vector
from vitals.driver import BleSpec, Driver, Option, SerialSpec, Session, complete_options
from vitals.metrics import METRICS
from vitals.model import Chunk, Context, DeviceInfo, Event, Fault, Observation, SampleArray, Send, Validity

REGISTRY = load_all(plugins=())
DRIVERS = sorted(REGISTRY.values(), key=lambda driver: driver.name)
SERIAL = [driver for driver in DRIVERS if driver.transport == "serial"]
VECTORS = [vector for driver in DRIVERS if driver.name in vectors.stems() for vector in vectors.load(driver.name)]
SERIAL_VECTORS = [vector for vector in VECTORS if REGISTRY[vector.driver].transport == "serial"]
AT = 1_764_000_000_000_000_000
CAP = 64 * 1024
"""Bytes a session may hold between calls, all objects counted; frames are under 1 kB and 32 sessions add up."""


def named(items: Sequence[Any]) -> list[Any]:
    return [
        pytest.param(item, id=getattr(item, "driver", "") + ":" * hasattr(item, "driver") + item.name) for item in items
    ]


# -- running a session -------------------------------------------------------------------------------------------


def new_session(driver: Driver, options: Any = None) -> Session:
    return driver.new_session(complete_options(driver, options or {}))


def play(vector: Vector, steps: Sequence[Step] | None = None) -> list[Event]:
    session = new_session(REGISTRY[vector.driver], vector.options)
    events = session.start()
    now = AT
    for step in vector.steps if steps is None else steps:
        if step.close:
            events += session.close()
        elif step.tick_ms:
            now += step.tick_ms * 1_000_000
            events += session.tick(now)
        else:
            events += session.receive(Chunk(step.data, now, step.channel))
    return events


def canonical(events: Sequence[Event]) -> tuple[list[Any], dict[str, list[Any]]]:
    """(all but samples in order, samples by metric with arrays joined that continue each other)."""
    others = [plain(event) for event in events if not isinstance(event, SampleArray)]
    arrays: dict[str, list[Any]] = {}
    for event in events:
        if not isinstance(event, SampleArray):
            continue
        row = [event.first_index, event.rate, str(event.samples.dtype), event.scale, event.lead, event.lead_off]
        joined = arrays.setdefault(event.metric, [])
        last = joined[-1] if joined else None
        if last and last[1:-1] == row[1:] and last[0] + len(last[-1]) == event.first_index:
            last[-1].extend(event.samples.tolist())
        else:
            joined.append([*row, event.samples.tolist()])
    return others, arrays


def plain(event: Event) -> dict[str, Any]:
    if isinstance(event, Fault):
        return {"type": "fault", "code": event.code}
    if isinstance(event, Send):
        return {"type": "send", "hex": event.data.hex(), "channel": event.channel}
    if isinstance(event, DeviceInfo):
        fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "clock_read_at"}
        return {"type": "info", **fields}
    assert isinstance(event, Observation)
    context = {name: getattr(event.context, name) for name in Context.__struct_fields__}
    fields = {name: getattr(event, name) for name in _OBSERVATION}
    quantities = {
        metric: (
            q.value if q.value is None else pytest.approx(q.value, rel=1e-9),
            q.raw,
            q.raw_unit,
            q.validity,
            q.comparator,
        )
        for metric, q in event.quantities.items()
    }
    return {"type": "observation", **fields, **context, "quantities": quantities}


_OBSERVATION = ("kind", "t_device", "record_no", "method", "quality", "historical", "transient")


def expected(vector: Vector) -> tuple[list[Any], dict[str, list[Any]]]:
    """The same form, from the file."""
    others: list[Any] = []
    arrays: dict[str, list[Any]] = {}
    for raw in vector.events:
        if raw["type"] == "samples":
            row = [raw["first_index"], raw["rate"], raw["dtype"], raw.get("scale"), raw.get("lead", "")]
            arrays.setdefault(raw["metric"], []).append([*row, raw.get("lead_off", False), list(raw["samples"])])
        else:
            others.append(_EXPECTED[raw["type"]](raw))
    return others, arrays


def _close(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, rel=1e-9)


def _expected_observation(raw: Any) -> dict[str, Any]:
    defaults = {"t_device": "", "record_no": None, "method": "", "quality": (), "historical": False, "transient": False}
    context = dict.fromkeys(Context.__struct_fields__, "")
    quantities = {
        metric: (_close(q.get("value")), q["raw"], q["raw_unit"], q.get("validity", "valid"), q.get("comparator"))
        for metric, q in raw["quantities"].items()
    }
    given_fields = {**raw, "quality": tuple(raw.get("quality", ()))}
    return {**defaults, **context, **given_fields, "quantities": quantities}


def _expected_info(raw: Any) -> dict[str, Any]:
    defaults = {"features": (), "battery": None, "clock": ""}
    texts = dict.fromkeys(("manufacturer", "model", "serial", "firmware", "hardware", "software", "system_id"), "")
    return {**texts, **defaults, **raw, "features": tuple(raw.get("features", ()))}


_EXPECTED = {
    "observation": _expected_observation,
    "info": _expected_info,
    "fault": lambda raw: {"type": "fault", "code": raw["code"]},
    "send": lambda raw: {"type": "send", "hex": raw["hex"], "channel": raw.get("channel", "")},
}


def assert_same(found: tuple[list[Any], dict[str, list[Any]]], wanted: tuple[list[Any], dict[str, list[Any]]]) -> None:
    assert found[0] == wanted[0]
    assert found[1] == wanted[1]


# -- vectors -----------------------------------------------------------------------------------------------------


def test_vectors_fit_drivers() -> None:
    assert set(vectors.stems()) == set(REGISTRY), "one vector file of the driver's name, and none left over"
    for driver in DRIVERS:
        names = [vector.name for vector in VECTORS if vector.driver == driver.name]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("vector", named(VECTORS))
def test_vector_whole(vector: Vector) -> None:
    assert_same(canonical(play(vector)), expected(vector))


@pytest.mark.parametrize("vector", named(VECTORS))
def test_same_bytes_same_events(vector: Vector) -> None:
    assert canonical(play(vector)) == canonical(play(vector))


def bytewise(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        if step.close or step.tick_ms:
            yield step
        else:
            yield from (Step(bytes([byte]), step.channel) for byte in step.data)


@pytest.mark.parametrize("vector", named(SERIAL_VECTORS))
def test_vector_byte_by_byte(vector: Vector) -> None:
    assert_same(canonical(play(vector, list(bytewise(vector.steps)))), expected(vector))


@pytest.mark.parametrize("vector", named(SERIAL_VECTORS))
def test_vector_in_one_chunk(vector: Vector) -> None:
    """As the line delivers after a stall: everything up to the next tick at once."""
    merged: list[Step] = []
    for step in vector.steps:
        if merged and step.data and merged[-1].data:
            merged[-1] = Step(merged[-1].data + step.data)
        else:
            merged.append(step)
    assert_same(canonical(play(vector, merged)), expected(vector))


def readings(events: Sequence[Event]) -> tuple[list[Any], dict[str, list[Any]]]:
    return canonical([event for event in events if not isinstance(event, Fault)])


RUBBISH = [b"Booting v1.2\r\n", b"\x00" * 9, b"\xff\xfe\xfd", bytes(range(0x80, 0x90)), b"\n", b"\x00\xff" * 3]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=lambda rubbish: rubbish.hex()[:16])
@pytest.mark.parametrize("vector", named(SERIAL_VECTORS))
def test_vector_with_rubbish_around(vector: Vector, rubbish: bytes) -> None:
    around = [Step(rubbish), *(step for step in vector.steps if not step.close), Step(rubbish), Step(close=True)]
    events = play(vector, around)
    found, wanted = readings(events), readings(play(vector))
    assert_same(found, wanted)
    assert any(isinstance(event, Fault) for event in events), "rubbish is never a silence"


@pytest.mark.parametrize("vector", named(SERIAL_VECTORS))
def test_vector_after_half_a_frame(vector: Vector) -> None:
    """The port was opened in the middle of a frame."""
    first = next(step.data for step in vector.steps if step.data)
    for cut in range(1, min(8, len(first))):
        events = play(vector, [Step(first[:cut]), *vector.steps])
        assert_same(readings(events), readings(play(vector)))


def flips(vector: Vector) -> Iterator[tuple[int, int, bytes]]:
    data = vector.steps[0].data
    for begin, end in vector.checked:
        for at in range(begin, end):
            for bit in range(8):
                yield at, bit, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.parametrize("vector", named([vector for vector in VECTORS if vector.checked]))
def test_flipped_bit_is_a_fault(vector: Vector) -> None:
    channel = vector.steps[0].channel
    for at, bit, data in flips(vector):
        events = play(vector, [Step(data, channel), Step(close=True)])
        assert any(isinstance(event, Fault) for event in events), f"byte {at}, bit {bit}: no fault"
        assert not any(isinstance(event, Observation | SampleArray) for event in events), f"byte {at}, bit {bit}"


@pytest.mark.parametrize("driver", named(SERIAL))
def test_serial_drivers_have_checked_vectors(driver: Driver) -> None:
    """Every frame has something that is checked, if only start, length and tail."""
    assert any(vector.checked for vector in VECTORS if vector.driver == driver.name)


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_every_metric_and_fault_has_a_vector(driver: Driver) -> None:
    metrics: set[str] = set()
    faults: set[str] = set()
    for vector in VECTORS:
        if vector.driver != driver.name:
            continue
        for event in play(vector):
            if isinstance(event, Observation):
                metrics |= set(event.quantities)
            elif isinstance(event, SampleArray):
                metrics.add(event.metric)
            elif isinstance(event, Fault):
                faults.add(event.code)
    assert metrics == set(driver.metrics)
    assert faults == set(driver.faults)


@pytest.mark.parametrize("vector", named(VECTORS))
def test_events_keep_the_model(vector: Vector) -> None:
    for event in play(vector):
        if isinstance(event, Observation):
            assert event.received_at >= AT
            assert event.raw, "the raw frame stays with the reading"
            for metric, quantity in event.quantities.items():
                assert metric in METRICS
                assert (quantity.value is not None) == (
                    quantity.validity is Validity.VALID or quantity.comparator is not None
                )
                assert quantity.raw
        elif isinstance(event, SampleArray):
            assert METRICS[event.metric].pace == "wave"
            assert event.samples.ndim == 1
            assert len(event.samples) > 0
            assert event.samples.dtype in (np.dtype(np.int16), np.dtype(np.int32))
            assert event.rate > 0
        elif isinstance(event, Fault):
            assert event.detail
            assert len(event.raw) <= 1024
            assert event.at >= AT


# -- any bytes ---------------------------------------------------------------------------------------------------

_LEAVES = (type, ModuleType, FunctionType, BuiltinFunctionType)


def held(root: object) -> int:
    """Bytes of everything reachable from a session that belongs to it: classes, modules and functions do not."""
    seen: set[int] = set()
    todo = [root]
    total = 0
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, _LEAVES):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        if not hasattr(item, "groupindex"):  # compiled patterns are shared
            todo.extend(gc.get_referents(item))
    return total


def channels(driver: Driver) -> list[str]:
    if not isinstance(driver.spec, BleSpec):
        return [""]
    return [*driver.spec.subscribe, *driver.spec.read, "ffff"]


_CUT = st.integers(0, 60)


def fragments(driver: Driver) -> st.SearchStrategy[bytes]:
    """Random bytes, and pieces of real frames, which come much deeper into a parser."""
    real = [step.data for vector in VECTORS if vector.driver == driver.name for step in vector.steps if step.data]
    piece = st.sampled_from(real).flatmap(
        lambda data: st.tuples(st.integers(0, len(data)), st.integers(0, len(data))).map(
            lambda cut: data[min(cut) : max(cut)]
        )
    )
    return st.one_of(st.binary(max_size=80), st.sampled_from(real), piece)


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_any_bytes_never_raise(driver: Driver) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.sampled_from(channels(driver)), fragments(driver), st.integers(0, 900)), max_size=25))
    def run(pieces: list[tuple[str, bytes, int]]) -> None:
        session = new_session(driver)
        events = session.start()
        now = AT
        for channel, data, pause_ms in pieces:
            events += session.receive(Chunk(data, now, channel))
            now += pause_ms * 1_000_000
            events += session.tick(now)
            assert held(session) < CAP
        events += session.close()
        for event in events:
            assert isinstance(event, Event)
            if isinstance(event, Fault):
                assert event.code in driver.faults
            if isinstance(event, Observation):
                assert set(event.quantities) <= set(driver.metrics)

    run()


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_memory_stays_under_the_cap(driver: Driver) -> None:
    """A megabyte of noise, of zeros, of ones, and of the beginnings of every vector, without a tick."""
    generator = np.random.default_rng(20261124)
    noise = generator.integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()
    real = b"".join(step.data[:9] for vector in VECTORS if vector.driver == driver.name for step in vector.steps)
    for stream in (noise, b"\x00" * (1 << 20), b"\xff" * (1 << 20), real * ((1 << 20) // max(1, len(real)))):
        session = new_session(driver)
        session.start()
        for at in range(0, len(stream), 4096):
            for channel in channels(driver):
                session.receive(Chunk(stream[at : at + 4096], AT, channel))
        assert held(session) < CAP
        session.close()


@pytest.mark.parametrize("driver", named(SERIAL))
def test_frames_are_found_behind_any_noise(driver: Driver) -> None:
    """Whatever came before, some later frame of a run is read: no state is a dead end."""
    vector = next(vector for vector in VECTORS if vector.driver == driver.name and vector.checked)
    generator = np.random.default_rng(7)
    for size in range(0, 600, 7):
        noise = generator.integers(0, 256, size, dtype=np.uint8).tobytes()
        events = play(vector, [Step(noise), Step(vector.steps[0].data * 20)])
        assert any(isinstance(event, Observation | SampleArray) for event in events), f"after {size} bytes of noise"


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_empty_session(driver: Driver) -> None:
    session = new_session(driver)
    assert all(isinstance(event, Send) for event in session.start())
    session.receive(Chunk(b"", AT, channels(driver)[0]))
    session.tick(AT)
    assert not any(isinstance(event, Observation | SampleArray) for event in session.close())


# -- what a driver says about itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_metadata(driver: Driver) -> None:
    assert driver.title
    assert driver.name == driver.name.lower()
    assert driver.evidence in {"strong", "good", "medium", "thin"}
    assert isinstance(driver.spec, BleSpec if driver.transport == "ble" else SerialSpec)
    assert set(driver.metrics) <= set(METRICS)
    assert len(set(driver.metrics)) == len(driver.metrics) > 0
    assert all(code == code.lower() and text for code, text in driver.faults.items())
    for option in driver.options:
        assert option.doc
        assert option.default is None or type(option.default) is option.type


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_uuids_are_short_and_lower(driver: Driver) -> None:
    if isinstance(driver.spec, BleSpec):
        for uuid in (driver.spec.service, *driver.spec.subscribe, *driver.spec.read):
            assert uuid == uuid.lower()
            assert len(uuid) in (4, 36)


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_options_are_checked(driver: Driver) -> None:
    with pytest.raises(ValueError, match="unknown option"):
        complete_options(driver, {"no_such_option": 1})
    with_defaults = {option.name: option.default for option in driver.options if option.default is not None}
    assert complete_options(driver, {}) == with_defaults


FORBIDDEN = {"asyncio", "time", "logging", "serial", "bleak", "bumble", "socket", "threading", "random", "datetime"}
OURS = {"drivers.core.framing", "drivers.core.gatt"}
"""Pure machinery of ours a device file may use: add to it only what is sans-IO."""


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_import_fence(driver: Driver) -> None:
    """A device file is a function of bytes: the vocabulary, its framing, numpy, and pure parts of the library."""
    path = Path(drivers.__path__[0]) / f"{driver.name}.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            assert node.level == 0
        for name in names:
            assert name.split(".")[0] not in FORBIDDEN, f"{path.name} imports {name}"
            assert not name.startswith("drivers") or name in OURS, f"{path.name} imports {name}"


@pytest.mark.parametrize("driver", named(DRIVERS))
def test_docstring_is_the_protocol_sheet(driver: Driver) -> None:
    sheet = importlib.import_module(f"drivers.{driver.name}").__doc__ or ""
    assert "How it is known:" in sheet
    assert "endian" in sheet or "ASCII" in sheet
    assert len(sheet.splitlines()) > 15


# -- the registry ------------------------------------------------------------------------------------------------


def test_registry_finds_every_file() -> None:
    files = {module.name for module in pkgutil.iter_modules(drivers.__path__) if not module.ispkg}
    assert set(REGISTRY) == {name for name in files if not name.startswith("_")}
    assert REGISTRY.failures == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "has no DRIVER"),
        ("DRIVER = 5", "found int"),
        ("raise RuntimeError('half written')", "RuntimeError: half written"),
        ("from drivers.bp_gatt import DRIVER", "the name must be the file's"),
    ],
)
def test_broken_file_is_reported(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    name = f"broken_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(drivers, "__path__", [*drivers.__path__, str(tmp_path)])
    registry = load_all([])
    monkeypatch.delitem(sys.modules, f"drivers.{name}", raising=False)
    assert set(registry) == set(REGISTRY)
    (failure,) = registry.failures
    assert failure.source == f"drivers/{name}.py"
    assert reason in failure.reason


def plugin(value: str) -> EntryPoint:
    return EntryPoint("plugin", value, "vitals.drivers")


def test_plugin_that_fails_is_reported_and_kills_nobody() -> None:
    registry = load_all([plugin("no_such_module_at_all:DRIVER"), plugin("vitals.metrics:METRICS")])
    assert set(registry) == set(REGISTRY)
    missing, wrong = registry.failures
    assert "no_such_module_at_all" in missing.reason
    assert "plugin" in missing.source
    assert "expected a vitals.driver.Driver, found dict" in wrong.reason


def test_plugin_cannot_take_a_name() -> None:
    registry = load_all([plugin("drivers.bp_gatt:DRIVER")])
    assert registry["bp_gatt"] is REGISTRY["bp_gatt"]
    assert "taken by drivers/bp_gatt.py" in registry.failures[0].reason


FOREIGN = Driver("foreign", "A device of somebody else", "serial", SerialSpec(), ("temp",), {}, lambda options: None)  # type: ignore[arg-type, return-value]


def test_plugin_adds_a_device() -> None:
    assert load_all([plugin(f"{__name__}:FOREIGN")])["foreign"] is FOREIGN


def test_option_types() -> None:
    driver = REGISTRY["ekg_openview"]
    assert complete_options(driver, {"rate_hz": 250})["rate_hz"] == 250.0
    with pytest.raises(ValueError, match="expected float"):
        complete_options(driver, {"rate_hz": "fast"})
    with pytest.raises(ValueError, match="above 0"):
        driver.new_session({"rate_hz": 0.0})
    assert Option("x", str, "doc").default is None


def test_joining_is_strict() -> None:
    """The comparison of this file joins only arrays that continue each other."""

    def array(first: int, *, off: bool = False) -> SampleArray:
        return SampleArray("ekg", first, 125.0, np.array([1, 2], np.int16), AT, lead_off=off)

    for parts, count in (((array(0), array(2)), 1), ((array(0), array(3)), 2), ((array(0), array(2, off=True)), 2)):
        assert len(canonical(parts)[1]["ekg"]) == count
