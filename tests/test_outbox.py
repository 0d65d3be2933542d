"""The outbox keeps what it took: across restarts, kills, backups and foreign files."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from vitals.errors import OutboxError
from vitals.messages import Outcome
from vitals.outbox import Outbox, Row


def put(outbox: Outbox, count: int) -> list[Row]:
    rows = [Row(*outbox.stamp(), f"t/{n}", b"payload %d" % n, 7) for n in range(count)]
    outbox.put(rows)
    return rows


def test_rows_survive_reopening_and_keep_their_first_epoch(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "o.db")
    rows = put(first, 3)
    first.close()
    second = Outbox(tmp_path / "o.db")
    assert second.after(0, 10) == rows
    assert second.epoch != rows[0].epoch
    (more,) = put(second, 1)
    assert more.seq > rows[-1].seq
    second.close()


def test_seq_never_starts_over_even_when_the_outbox_was_empty(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "o.db")
    rows = put(first, 5)
    first.settle([Outcome(r.epoch, r.seq, "stored") for r in rows])
    first.close()
    second = Outbox(tmp_path / "o.db")
    (row,) = put(second, 1)
    second.close()
    assert row.seq == 6


def test_only_a_receipt_removes_a_row(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    a, b, c, d = put(outbox, 4)
    outbox.settle(
        [
            Outcome(a.epoch, a.seq, "stored"),
            Outcome(b.epoch, b.seq, "duplicate"),
            Outcome(c.epoch, c.seq, "refused", "unknown metric 'x'"),
            Outcome(d.epoch, d.seq, "hold"),
            Outcome("another epoch", d.seq, "stored"),
        ]
    )
    assert outbox.after(0, 10) == [d]
    assert outbox.counts() == (1, 1)
    outbox.close()
    db = sqlite3.connect(tmp_path / "o.db")
    assert db.execute("SELECT seq, payload, reason FROM refused").fetchall() == [
        (c.seq, c.payload, "unknown metric 'x'")
    ]
    db.close()


def test_a_restored_backup_is_not_taken_for_new_rows(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    old = put(outbox, 2)
    outbox.close()
    shutil.copy(tmp_path / "o.db", tmp_path / "backup.db")
    live = Outbox(tmp_path / "o.db")
    new = put(live, 2)
    live.close()
    restored = Outbox(tmp_path / "backup.db")
    again = put(restored, 2)
    assert {r.seq for r in again} == {r.seq for r in new}, "the backup hands out the same numbers"
    assert not {(r.epoch, r.seq) for r in again} & {(r.epoch, r.seq) for r in new + old}
    restored.close()


def test_a_second_gateway_on_the_same_outbox_is_told_so(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    with pytest.raises(OutboxError, match="in use") as told:
        Outbox(tmp_path / "o.db")
    assert "Stop the other gateway" in str(told.value)
    outbox.close()


@pytest.mark.parametrize("content", [b"this is no database at all, " * 40, b"SQLite format 3\0" + bytes(4000)])
def test_a_file_that_is_no_outbox_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "o.db"
    file.write_bytes(content)
    with pytest.raises(OutboxError, match="cannot be used") as told:
        Outbox(file)
    assert "Move the file away" in str(told.value)
    assert file.read_bytes() == content


def test_another_database_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "o.db")
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    db.close()
    with pytest.raises(OutboxError):
        Outbox(tmp_path / "o.db")


def test_a_place_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the folder's place", encoding="utf-8")
    with pytest.raises(OutboxError, match="cannot be used") as told:
        Outbox(tmp_path / "file" / "o.db")
    assert "folder can be written" in str(told.value)


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """No kill shows it, only a power cut: in WAL mode nothing below FULL (2) syncs at a commit."""
    outbox = Outbox(tmp_path / "o.db")
    assert outbox._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert outbox._db.execute("PRAGMA synchronous").fetchone() == (2,)
    outbox.close()


WRITER = """
import sys
from pathlib import Path
from vitals.outbox import Outbox, Row
outbox = Outbox(Path(sys.argv[1]))
while True:
    row = Row(*outbox.stamp(), "t", bytes(2000), 0)
    outbox.put([row])
    print(row.seq, flush=True)
"""


def test_every_row_put_before_a_kill_is_there_afterwards(tmp_path: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "o.db")], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        last = [writer.stdout.readline() for _ in range(40)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        last = (writer.stdout.read().split() or [last])[-1]
        writer.wait()
        writer.stdout.close()
        outbox = Outbox(tmp_path / "o.db")
        seqs = [row.seq for row in outbox.after(0, 1_000_000)]
        outbox.close()
        assert seqs == list(range(1, len(seqs) + 1))
        assert seqs[-1] >= int(last)


def test_a_settlement_that_fails_leaves_the_outbox_usable(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db")
    (row,) = put(outbox, 1)
    with pytest.raises(OverflowError):
        outbox.settle([Outcome(row.epoch, row.seq, "stored"), Outcome("e", 2**63, "stored")])
    assert outbox.after(0, 9) == [row], "all or nothing"
    put(outbox, 1)
    assert outbox.counts() == (2, 0)
    outbox.close()


def test_a_number_no_column_can_hold_is_refused_while_decoding() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'["e",9223372036854775808,"stored",""]', type=Outcome)
