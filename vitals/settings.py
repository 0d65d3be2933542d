"""All settings: one TOML file, overridden by environment variables, checked whole before anything starts.

`VITALS_BROKER__PORT=1884` overrides `port` of `[broker]`. Secrets are never in the file itself: a `*_file` setting
names a file, or the environment gives it. Relative paths are relative to the settings file.
"""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from vitals.errors import SettingsError
from vitals.log import Log
from vitals.topics import NAME

ENV_PREFIX: Final = "VITALS_"
_log = Log("settings")
_THIS_HOST: Final = ("127.0.0.1", "localhost", "::1")
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=f"^{NAME.pattern}$")]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
PortOrNone: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""0: it is not listened at all."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file: a misspelt key is an error, never silently ignored."""


class Site(_Section, frozen=True, kw_only=True):
    id: Name = "clinic"
    name: str = "Exam rooms"
    timezone: str = "UTC"
    """IANA name. Device clocks have no zone: their wall times are read in this one."""


class Broker(_Section, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Port = 1883
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    """PEM file of the authority that signed the broker's certificate; empty means no TLS (loopback only)."""
    cert_file: str = ""
    """PEM file of our own certificate, where the broker asks for one instead of a password."""
    key_file: str = ""
    window: Annotated[int, msgspec.Meta(ge=2, le=65535)] = 1000
    """Unacknowledged messages the broker lets a client have. Ingest's batches are at most half of it."""
    allow_plain: bool = False
    """Permit a connection without TLS to another host than this one."""


class Device(_Section, frozen=True, kw_only=True):
    name: Name
    driver: str
    room: Name
    port: str = ""
    """Serial path or URL (`/dev/ttyUSB0`, `socket://host:port`)."""
    address: str = ""
    """Bluetooth address."""
    baudrate: int | None = None
    simulated: bool = False
    """Mark readings as simulated. Found out by itself on a pseudo terminal and on simulated air; can only add."""
    historical: bool = False
    """All that comes is a replay of old data: stored, never live, never alarms."""
    timebase: Literal["arrival", "samples"] = "arrival"
    """`samples`: time runs with the sample index from the first arrival (a replay faster than real time)."""
    site: str = ""
    """Body site of a fixed probe, such as axillary."""
    options: dict[str, str | int | float | bool] = {}


class Ble(_Section, frozen=True, kw_only=True):
    backend: Literal["system", "air"] = "system"
    air_socket: str = ""
    """Unix socket of the simulated air, when `backend` is `air`."""


class Gateway(_Section, frozen=True, kw_only=True):
    id: Name = "gateway-1"
    outbox: str = "var/outbox.db"
    outbox_max_mb: Annotated[int, msgspec.Meta(ge=16, le=1_000_000)] = 1000
    """Disk budget in millions of bytes. Beyond it the oldest strips are dropped and counted, never spot readings."""
    store_id: str = ""
    """Receipts from any other store are ignored and reported. Empty: pin the first one seen."""
    capture_dir: str = ""
    ble: Ble = Ble()
    devices: list[Device] = []


class Store(_Section, frozen=True, kw_only=True):
    kind: Literal["sqlite", "influx"] = "sqlite"
    path: str = "var/store.db"
    """The file of kind `sqlite`."""
    url: str = ""
    """The rest is of kind `influx`: where its HTTP interface is."""
    bucket: str = ""
    """Its name; on InfluxDB 1 `DATABASE` or `DATABASE/POLICY`."""
    org: str = ""
    token_file: str = ""
    ca_file: str = ""
    """PEM file of the authority that signed its certificate; empty: those the system knows."""
    gzip: bool = False
    allow_plain: bool = False
    """Permit `http` to another host than this one."""


class Quota(_Section, frozen=True, kw_only=True):
    """What one gateway, and one device of it, may send to ingest. See `ingest/quota.py`."""

    gateway_rows_per_s: Annotated[float, msgspec.Meta(gt=0)] = 4000.0
    device_rows_per_s: Annotated[float, msgspec.Meta(gt=0)] = 3000.0
    burst_s: Annotated[float, msgspec.Meta(ge=1)] = 10.0
    """So many seconds' worth may come at once."""


class Ingest(_Section, frozen=True, kw_only=True):
    profile: Literal["clinic", "demo", "data-only"] = "clinic"
    rules_file: str = ""
    """A site's own rules, laid over the shipped ones."""
    simulated_alarms: bool = False
    quota: Quota = Quota()
    state: str = "var/state.db"
    """What ingest must remember of the readings it gave to a store of kind `influx`."""
    store: Store = Store()


class Room(_Section, frozen=True, kw_only=True):
    id: Name
    title: str = ""
    demo_patient: str = ""
    """Display name of a simulated visit; only for simulated rooms."""
    demo_age_years: int | None = None
    demo_sex: Literal["female", "male"] | None = None


class Board(_Section, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Port = 8090
    temperature_unit: Literal["Cel", "[degF]"] = "[degF]"
    rooms: list[Room] = []


class Health(_Section, frozen=True, kw_only=True):
    """Where each part answers `/health` and `/metrics`. Nothing of a patient is in either."""

    host: str = "127.0.0.1"
    gateway_port: PortOrNone = 8091
    ingest_port: PortOrNone = 8092
    board_port: PortOrNone = 8093


class SimulatedDevice(_Section, frozen=True, kw_only=True):
    kind: str
    """Stem of the simulator, such as `bp_gatt`; the driver of that name reads it."""
    room: Name
    link: str = ""
    """Path at which the pseudo terminal appears."""
    address: str = ""
    """Its address on the simulated air."""
    options: dict[str, str | int | float | bool] = {}


class Simulate(_Section, frozen=True, kw_only=True):
    seed: int = 1
    air_socket: str = ""
    devices: list[SimulatedDevice] = []


class Settings(_Section, frozen=True, kw_only=True):
    """The whole file."""

    site: Site = Site()
    broker: Broker = Broker()
    gateway: Gateway = Gateway()
    ingest: Ingest = Ingest()
    board: Board = Board()
    health: Health = Health()
    simulate: Simulate = Simulate()


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read, override, validate and cross-check. Raises SettingsError naming the key, what was expected and found."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"There is no settings file {path}.", expected="a TOML file", found="nothing",
            do="Give its path with --config, or start from docs/settings.md.",
        ) from None  # fmt: skip
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(
            f"The settings file {path} cannot be read.", expected="valid TOML", found=str(error),
            do="Mend the line it names.",
        ) from None  # fmt: skip
    _override(tree, environ)
    try:
        settings = msgspec.convert(tree, Settings, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(path, error, tree) from None
    _cross_check(settings, path)
    return _absolute(settings, path.parent.resolve())


def _override(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Lay VITALS_SECTION__KEY variables over the file. Others of the prefix (VITALS_SHARED) have no `__`."""
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        *tables, key = name[len(ENV_PREFIX) :].lower().split("__")
        node = tree
        for table in tables:
            node = node.setdefault(table, {})
            if not isinstance(node, dict):
                raise SettingsError(
                    f"The environment variable {name} names no table.", expected="VITALS_SECTION__KEY",
                    found=name, do="See docs/settings.md for the sections.",
                )  # fmt: skip
        node[key] = _scalar(text)


def _scalar(text: str) -> str | int | float | bool:
    """An environment value typed as TOML would: 1884 is a number, true a boolean, all else text."""
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


def _explain(path: Path, error: msgspec.ValidationError, tree: dict[str, Any]) -> SettingsError:
    text = str(error)
    problem, _, where = text.partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    found = problem
    if problem.startswith("Object contains unknown field"):
        wrong = problem.rpartition("field ")[2].strip("`")
        found = f"the unknown key {wrong!r}"
        return SettingsError(
            f"{path}: [{key or 'top level'}] has a key nobody reads.",
            expected="one of: " + ", ".join(_known_keys(key)), found=found,
            do=f"Correct or remove {wrong!r}.",
        )  # fmt: skip
    return SettingsError(
        f"{path}: the value of {key or 'the file'} is wrong.", expected=problem, found=repr(_at(tree, key)),
        do=f"Correct {key or 'the file'}; docs/settings.md lists every key.",
    )  # fmt: skip


def _at(tree: Any, key: str) -> Any:
    for step in key.replace("[", ".[").split("."):
        if step.startswith("["):
            return tree
        tree = tree.get(step, {}) if isinstance(tree, dict) else tree
    return tree


def _known_keys(key: str) -> list[str]:
    """The keys of the table at `key` (`gateway.devices[...]`), by walking the types."""
    kind: Any = Settings
    for step in re.sub(r"\[[^]]*]", "", key).split("."):
        if not step:
            continue
        kind = kind.__annotations__.get(step, Settings)
        kind = getattr(kind, "__args__", (kind,))[0]
    return sorted(getattr(kind, "__struct_fields__", ()))


def _cross_check(settings: Settings, path: Path) -> None:
    """What types alone cannot say."""
    try:
        ZoneInfo(settings.site.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise SettingsError(
            f"{path}: site.timezone is not a known zone.", expected="an IANA name such as America/Chicago",
            found=repr(settings.site.timezone), do="Correct site.timezone.",
        ) from None  # fmt: skip
    _unique(path, "gateway.devices name", [d.name for d in settings.gateway.devices])
    _unique(path, "gateway.devices port", [d.port for d in settings.gateway.devices if d.port])
    _unique(path, "gateway.devices address", [d.address.upper() for d in settings.gateway.devices if d.address])
    _unique(path, "board.rooms id", [r.id for r in settings.board.rooms])
    _check_store(settings.ingest.store, path)
    broker = settings.broker
    if not broker.ca_file and not broker.allow_plain and broker.host not in _THIS_HOST:
        raise SettingsError(
            f"{path}: broker.host is another machine and broker.ca_file is empty.", expected="TLS (broker.ca_file)",
            found=f"host {broker.host!r} without TLS",
            do="Name the CA file, or set broker.allow_plain = true on a network you trust.",
        )  # fmt: skip
    if bool(broker.cert_file) != bool(broker.key_file) or (broker.cert_file and not broker.ca_file):
        raise SettingsError(
            f"{path}: broker.cert_file is only of use with broker.key_file and broker.ca_file.",
            expected="all three, or a username and a password", found=f"cert_file {broker.cert_file!r}, "
            f"key_file {broker.key_file!r}, ca_file {broker.ca_file!r}",
            do="Name the files that `vitals provision` made.",
        )  # fmt: skip


def _check_store(store: Store, path: Path) -> None:
    if store.kind != "influx":
        return
    for key, example in (("url", "http://127.0.0.1:8086"), ("bucket", "vitals")):
        if not getattr(store, key):
            raise SettingsError(
                f"{path}: ingest.store.kind is `influx` without a {key}.",
                expected=f'ingest.store.{key}, such as "{example}"', found="nothing",
                do=f"Set ingest.store.{key}; docs/settings.md has an example.",
            )  # fmt: skip
    scheme, host = _parts(store.url)
    if scheme not in ("http", "https") or not host:
        raise SettingsError(
            f"{path}: ingest.store.url is no address.", expected="http://HOST:PORT or https://HOST:PORT",
            found=repr(store.url), do="Correct ingest.store.url.",
        )  # fmt: skip
    if scheme == "http" and host not in _THIS_HOST and not store.allow_plain:
        raise SettingsError(
            f"{path}: ingest.store.url is another machine without TLS.", expected="https://...",
            found=repr(store.url),
            do="Give InfluxDB a certificate, or set ingest.store.allow_plain = true on a network you trust.",
        )  # fmt: skip


def _parts(url: str) -> tuple[str, str]:
    """Scheme and host; empty where it is no URL. A login in it is not taken: it would be a secret in the file."""
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return "", ""
    return (parts.scheme, parts.hostname or "") if good else ("", "")


def _unique(path: Path, what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise SettingsError(
            f"{path}: {what} must be unique.", expected="each once", found=f"twice: {', '.join(twice)}",
            do="Rename one of them.",
        )  # fmt: skip


_PATHS: Final = frozenset(
    {
        "outbox", "capture_dir", "path", "state", "rules_file", "air_socket",
        "ca_file", "cert_file", "key_file", "password_file", "token_file",
        "port", "link",
    }
)  # fmt: skip

S = TypeVar("S", bound=msgspec.Struct)


def _absolute(section: S, base: Path) -> S:
    """Every path setting made absolute against the file's folder, so services may start anywhere."""
    changes: dict[str, Any] = {}
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if name in _PATHS and isinstance(value, str) and value and "://" not in value:
            changes[name] = str(base / value)
        elif isinstance(value, msgspec.Struct):
            changes[name] = _absolute(value, base)
        elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
            changes[name] = [_absolute(item, base) for item in value]
    return msgspec.structs.replace(section, **changes) if changes else section


def secret(file: str, env: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """A secret from the file a setting names, else from the environment, else None. Never logged."""
    if not file:
        found = environ.get(env)
        return found if found is None else found.strip()
    warn_if_open(file)
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise SettingsError(
            f"The secret file {file} cannot be read.", expected="text in UTF-8", found="other bytes",
            do="Write the secret to it as plain text.",
        ) from None  # fmt: skip
    except OSError as error:
        raise SettingsError(
            f"The secret file {file} cannot be read.", expected="a readable file with the secret in it",
            found=str(error), do="Create it, or correct the setting that names it.",
        ) from None  # fmt: skip


OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


def warn_if_open(file: str) -> bool:
    """Say so when every user of this machine may read a secret. No error: Docker mounts its secrets that way."""
    try:
        mode = Path(file).stat().st_mode
    except OSError:
        return False  # whoever reads it will say more
    if os.name != "posix" or not mode & OTHERS:
        return False
    _log.warning(
        "secret open to every user of this machine", file=file, mode=f"{stat.S_IMODE(mode):04o}", do="chmod 600"
    )
    return True
