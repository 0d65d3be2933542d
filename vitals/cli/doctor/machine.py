"""This machine: its clock, its disk, and the files with secrets."""

import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from drivers.core.telemetry import CLOCK_OFF_S
from vitals import settings as conf
from vitals.cli.doctor.finding import Finding, fault, ok, warning
from vitals.cli.doctor.services import Answer, own

MB: Final = 1_000_000
LOW_MB: Final = 64
"""Less free than this: the next hour may not fit, nor may SQLite's log."""
STORE_MB: Final = 1_000
"""Room for the store to grow while somebody is found who can make more."""
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns while the kernel's clock is not synchronised."""
_TIMEX_BYTES: Final = 512
"""More than any struct timex; all zero, so that nothing is set."""


def files(settings: conf.Settings, path: Path) -> Iterator[Finding]:
    if path.exists() and path.stat().st_mode & stat.S_IWOTH:
        yield fault(
            "settings file", f"every user of this machine may change {path}", expected="its owner only",
            do=f"chmod o-w {path}",
        )  # fmt: skip
    broker, store = settings.broker, settings.ingest.store
    for file in dict.fromkeys((broker.password_file, broker.key_file, store.token_file)):
        if file:
            yield _secret(Path(file))
    if broker.username and not broker.password_file and "VITALS_BROKER_PASSWORD" not in os.environ:
        yield warning(
            "secret", "a broker.username without a password", expected="broker.password_file",
            do="Name the file, or set VITALS_BROKER_PASSWORD in the environment of the service and of this command.",
        )  # fmt: skip


def _secret(file: Path) -> Finding:
    try:
        mode = file.stat().st_mode
        with file.open("rb"):
            pass
    except OSError as error:
        do = "Create it, correct the setting that names it, or run this command as the service's user."
        return fault("secret", f"{file} cannot be read: {error.strerror}", expected="a readable file", do=do)
    if mode & conf.OTHERS:
        found = f"every user of this machine may read {file} (mode {stat.S_IMODE(mode):04o})"
        return warning("secret", found, expected="mode 0600, owned by the service's user", do=f"chmod 600 {file}")
    return ok("secret", f"{file} is readable by its owner only")


def disk(settings: conf.Settings, parts: tuple[str, ...]) -> Iterator[Finding]:
    if "gateway" in parts:
        outbox = Path(settings.gateway.outbox)
        size = outbox.stat().st_size if outbox.exists() else 0
        rest_mb = max(0, settings.gateway.outbox_max_mb - size // MB)
        yield _room("outbox", outbox, rest_mb, "Make room, or lower gateway.outbox_max_mb.")
    if "ingest" in parts:
        store = settings.ingest.store
        file = Path(store.path if store.kind == "sqlite" else settings.ingest.state)
        yield _room("store", file, STORE_MB, "Make room, or move the store to a larger disk.")


def _room(what: str, file: Path, wanted_mb: int, do: str) -> Finding:
    folder = next(parent for parent in file.parents if parent.is_dir())
    check, free_mb = f"disk of the {what}", shutil.disk_usage(folder).free // MB
    if not os.access(folder, os.W_OK | os.X_OK):
        do = f"Give {folder} to the service's user, or run this command as that user."
        return fault(check, f"{folder} may not be written", expected="a folder of the service's user", do=do)
    found = f"{free_mb} MB free in {folder}"
    if free_mb < LOW_MB:
        return fault(check, found, expected=f"{max(LOW_MB, wanted_mb)} MB", do=do)
    if free_mb < wanted_mb:
        return warning(check, found, expected=f"{wanted_mb} MB", do=do)
    return ok(check, found)


def clock(settings: conf.Settings, told: Mapping[str, Answer | str]) -> Iterator[Finding]:
    state = unsynchronised()
    if state is None:
        yield warning(
            "clock", "this system does not say whether its clock is synchronised", expected="NTP",
            do="Look at the system's time settings.",
        )  # fmt: skip
    elif state:
        yield warning(
            "clock", "it is not synchronised", expected="NTP running (systemd-timesyncd, chrony or ntpd)",
            do="timedatectl set-ntp true",
        )  # fmt: skip
    else:
        yield ok("clock", "synchronised")
    for answer in own(settings, told):
        off_s = answer.facts.get("clock_off_s")
        if not isinstance(off_s, int | float):
            continue
        found = f"it differs from ingest's by {off_s:.3f} s, as the last receipts say"
        if abs(off_s) > CLOCK_OFF_S:
            do = "Turn NTP on here and where ingest runs; until then readings belong to no visit."
            yield fault("clock", found, expected=f"at most {CLOCK_OFF_S} s", do=do)
        else:
            yield ok("clock", found)


def unsynchronised() -> bool | None:
    """None where the system does not say. adjtimex(2) is what timedatectl asks too; reading needs no rights."""
    if sys.platform != "linux":
        return None
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state == _TIME_ERROR)
