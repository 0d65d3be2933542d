"""The gateway's outbox, read beside a running gateway: what waits, what was refused, what was set aside."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from drivers.core.telemetry import OLD_S
from vitals import settings as conf
from vitals.cli.doctor.finding import Finding, fault, ok, warning
from vitals.clock import NS, Instant

BUSY_S: Final = 5.0
MAX_REASONS: Final = 5


def checks(settings: conf.Settings, now: Instant) -> Iterator[Finding]:
    file = Path(settings.gateway.outbox)
    if not file.exists():
        yield ok("outbox", f"{file} is not there yet; the gateway will make it")
        return
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=BUSY_S)) as db:
            yield _waiting(db, now)
            yield _refused(db)
    except sqlite3.Error as error:
        yield fault(
            "outbox", f"{file} cannot be read: {error}", expected="an outbox of this version",
            do="Run this command as the gateway's user. If that is so, restart the gateway: it sets a damaged file "
            "aside and saves what can be read.",
        )  # fmt: skip
    for damaged in sorted(file.parent.glob(f"{file.name}.damaged-*")):
        if not damaged.name.endswith(("-wal", "-shm", "-journal")):
            yield warning(
                "outbox", f"a damaged outbox was set aside: {damaged}", expected="none",
                do="Check the disk. What could be read was taken over; delete the file when nobody needs it.",
            )  # fmt: skip


def _waiting(db: sqlite3.Connection, now: Instant) -> Finding:
    rows, oldest = db.execute("SELECT count(*), min(created) FROM row").fetchone()
    if not rows:
        return ok("outbox", "nothing waits")
    age_s = max(0.0, (now - oldest) / NS)
    found = f"{rows} rows wait for a receipt, the oldest for {_spoken(age_s)}"
    if age_s <= OLD_S:
        return ok("outbox", found)
    do = "Find out why: the lines about broker, ingest and store say it. Nothing is lost while there is room."
    return warning("outbox", found, expected=f"less than {OLD_S // 60} min", do=do)


def _refused(db: sqlite3.Connection) -> Finding:
    reasons = db.execute(
        "SELECT reason, count(*) FROM refused GROUP BY reason ORDER BY count(*) DESC, reason"
    ).fetchall()
    if not reasons:
        return ok("refused readings", "none")
    total = sum(count for _, count in reasons)
    listed = ", ".join(f"{reason} ({count})" for reason, count in reasons[:MAX_REASONS])
    return warning(
        "refused readings", f"{total}, which are in no store: {listed}", expected="none",
        do="Report the reasons; they are a fault of a device or of this program. Until then read them off the device: "
        "they stay in the table `refused` of the outbox.",
    )  # fmt: skip


def _spoken(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
