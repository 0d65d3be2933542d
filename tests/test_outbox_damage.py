"""A damaged outbox: kept for a person, replaced, and what can be read of it taken over. Real files, really damaged."""

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.ingest_making import event, observation, strip
from vitals.clock import ManualClock
from vitals.errors import OutboxError
from vitals.messages import Outcome, encode
from vitals.outbox import Outbox, Row

PAGE = 4096
COUNT = 2000
NOW = ManualClock()  # 2025-11-24T16:00:00Z


def fill(path: Path, *, close: bool = True) -> tuple[list[Row], Outbox]:
    """An outbox of some 2 MB with a pinned store and 20 refused rows."""
    outbox = Outbox(path, clock=NOW)
    outbox.remember("store_id", "s1")
    rows = []
    makers = {"strip": strip, "obs": observation, "event": event}
    for number in range(COUNT):
        leaf = ("strip", "obs", "strip", "event")[number % 4]
        epoch, seq = outbox.stamp()
        message = msgspec.structs.replace(makers[leaf](), epoch=epoch, seq=seq)
        rows.append(Row(epoch, seq, f"v/up/g/1/d/{leaf}", encode(message), number))
    outbox.put(rows)
    outbox.settle([Outcome(row.epoch, row.seq, "refused", "why") for row in rows[-20:]])
    if close:
        outbox.close()
    return rows[:-20], outbox


def overwrite(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(random.Random(7).randbytes(length))


def header(path: Path) -> None:
    overwrite(path, 0, 100)


def first_page(path: Path) -> None:
    overwrite(path, 0, PAGE)


def middle_pages(path: Path) -> None:
    pages = path.stat().st_size // PAGE
    for page in (pages // 4, pages // 2, pages // 2 + 7):
        overwrite(path, page * PAGE, PAGE)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 6 // 10 // PAGE * PAGE)


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 1000)


@pytest.mark.parametrize(
    ("damage", "least"),
    [(header, 1980), (first_page, 1980), (middle_pages, 1900), (truncated, 900), (torn, 700)],
)
def test_a_damaged_outbox_is_set_aside_and_read_as_far_as_it_can_be(
    tmp_path: Path, damage: Callable[[Path], None], least: int
) -> None:
    path = tmp_path / "o.db"
    rows, before = fill(path)
    damage(path)
    wreck = path.read_bytes()
    outbox = Outbox(path, clock=NOW)
    found = outbox.after(0, 10_000)
    assert set(found) <= set(rows), "nothing is made up"
    assert len(found) >= least
    assert len(found) < len(rows) or damage in (header, first_page)
    (aside,) = tmp_path.glob("*.damaged-*Z")
    assert aside.name == "o.db.damaged-20251124T160000Z"
    assert aside.read_bytes() == wreck, "untouched"
    waiting, refused = outbox.counts()
    assert outbox.set_aside == (
        f"a damaged outbox was set aside as {aside.name};"
        f" {waiting} waiting and {refused} refused rows were recovered from it"
    )
    # Service goes on: new rows collide with none, also not with those that were lost or long stored.
    assert outbox.epoch != before.epoch
    new = Row(*outbox.stamp(), "v/up/g/1/d/obs", b"new", 0)
    outbox.put([new])
    assert outbox.after(0, 10_000) == [*found, new]
    outbox.close()
    again = Outbox(path, clock=NOW)
    assert (again.set_aside, again.after(0, 10_000)) == ("", [*found, new])
    again.close()


def test_around_damaged_pages_only_their_rows_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    rows, _ = fill(path)
    middle_pages(path)
    outbox = Outbox(path, clock=NOW)
    kept = {row.seq for row in outbox.after(0, 10_000)}
    missing = [row.seq for row in rows if row.seq not in kept]
    assert 3 <= len(missing) <= 3 * 40, "a page holds at most 40 rows"
    assert outbox.counts()[1] == 20
    assert outbox.recall("store_id") == "s1", "no other store's receipts are trusted now"
    outbox.close()


def test_a_row_whose_payload_was_overwritten_is_not_taken(tmp_path: Path) -> None:
    """SQLite has no checksum: it reads such a row without complaint."""
    path = tmp_path / "o.db"
    rows, _ = fill(path)
    db = sqlite3.connect(path)
    db.execute("UPDATE row SET payload = ? WHERE seq = ?", (bytes(300), rows[3].seq))
    db.execute("UPDATE row SET payload = ? WHERE seq = ?", (rows[8].payload, rows[4].seq))  # another row's
    db.execute("UPDATE row SET topic = CAST(x'ff' AS TEXT) WHERE seq = ?", (rows[5].seq,))
    db.execute("UPDATE row SET created = 'noon' WHERE seq = ?", (rows[6].seq,))
    db.execute("UPDATE row SET payload = ? WHERE seq = ?", (rows[7].payload[:-9], rows[7].seq))
    db.commit()
    db.close()
    overwrite(path, path.stat().st_size // 2 // PAGE * PAGE, PAGE)
    outbox = Outbox(path, clock=NOW)
    assert outbox.after(0, 4) == [rows[0], rows[1], rows[2], rows[8]]
    outbox.close()


def test_a_row_of_a_newer_version_is_taken_over_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    fill(path)
    newer = b'{"v":9,"epoch":"later","seq":5000,"something":"else"}'
    db = sqlite3.connect(path)
    db.execute("INSERT INTO row VALUES (5000, 'later', 'v/up/g/1/d/obs', ?, 0)", (newer,))
    db.commit()
    db.close()
    overwrite(path, path.stat().st_size // 2 // PAGE * PAGE, PAGE)
    outbox = Outbox(path, clock=NOW)
    assert outbox.after(4999, 1) == [Row("later", 5000, "v/up/g/1/d/obs", newer, 0)]
    outbox.close()


def test_rows_in_the_log_beside_the_file_are_read_too(tmp_path: Path) -> None:
    """After a crash the newest rows stand in the write-ahead log only; it goes with the file it belongs to."""
    live, path = tmp_path / "live.db", tmp_path / "o.db"
    Outbox(path).close()
    _, outbox = fill(live, close=False)
    outbox._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    epoch, seq = outbox.stamp()
    newest = Row(epoch, seq, "v/up/g/1/d/obs", encode(observation(epoch=epoch, seq=seq)), 1)
    outbox.put([newest])
    for suffix in ("", "-wal"):
        Path(f"{path}{suffix}").write_bytes(Path(f"{live}{suffix}").read_bytes())
    outbox.close()
    middle_pages(path)
    outbox = Outbox(path, clock=NOW)
    assert "set aside" in outbox.set_aside
    assert outbox.after(seq - 1, 5) == [newest]
    outbox.close()


def test_damage_found_while_running_is_mended_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    rows, outbox = fill(path, close=False)
    outbox._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    middle_pages(path)
    outbox._db.execute("PRAGMA cache_size = 0")
    outbox._db.execute("PRAGMA shrink_memory")
    with pytest.raises(sqlite3.DatabaseError, match="malformed") as told:
        outbox.after(0, 10_000)
    outbox.renew(told.value)
    assert 1900 <= len(outbox.after(0, 10_000)) < len(rows)
    outbox.put([Row(*outbox.stamp(), "a/obs", b"", 0)])
    outbox.close()


def fill_and_die(path: Path) -> Row:
    """As `fill`, with one more row that stands in the log only."""
    fill(path)
    newest = Row("later", 9000, "v/up/g/1/d/obs", encode(observation(epoch="later", seq=9000)), 1)
    child = os.fork()
    if child == 0:
        try:
            Outbox(path, clock=NOW).put([newest])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return newest


def die_while_opening(path: Path, rename: int) -> None:
    """In a process of its own, killed before its so many'th renaming; 0: after its first rows were copied."""
    child = os.fork()
    if child == 0:
        real, copy, calls = Path.rename, Outbox._change, iter(range(1, 100))

        def renamed(old: Path, new: Path) -> Path:
            return os._exit(9) if next(calls) == rename else real(old, new)

        def copied(outbox: Outbox, *arguments: Any) -> None:
            copy(outbox, *arguments)
            outbox._db.execute("COMMIT")
            os._exit(9)

        Path.rename = renamed  # type: ignore[method-assign, assignment]
        if rename == 0:
            Outbox._change = copied  # type: ignore[method-assign]
        try:
            Outbox(path, clock=NOW)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("rename", [0, 1, 2, 3])
def test_a_salvage_that_is_cut_short_loses_no_row(tmp_path: Path, rename: int) -> None:
    """The power goes a second time; the next start goes on from there."""
    path, sound = tmp_path / "o.db", tmp_path / "sound.db"
    newest = fill_and_die(path)
    middle_pages(path)
    for suffix in ("", "-wal", ".lock"):
        Path(f"{sound}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    undisturbed = Outbox(sound, clock=NOW)
    expected = undisturbed.after(0, 10_000)
    undisturbed.close()
    assert expected[-1] == newest
    die_while_opening(path, rename)
    outbox = Outbox(path, clock=NOW)
    assert outbox.after(0, 10_000) == expected
    assert outbox.counts() == (len(expected), 20)
    assert outbox.recall("store_id") == "s1"
    assert "set aside as o.db.damaged-" in outbox.set_aside
    outbox.close()
    left = [p.name for p in tmp_path.glob("o.db*") if ".damaged-" not in p.name]
    assert sorted(left) == ["o.db", "o.db.lock"]


def test_a_replacement_that_the_disk_refused_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, outbox = fill(tmp_path / "o.db", close=False)
    damage = sqlite3.DatabaseError("database disk image is malformed")
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def full(*_args: Any) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(sqlite3.OperationalError, match="No space"):
            outbox.renew(damage)
    with pytest.raises(sqlite3.Error) as told:
        outbox.after(0, 1)
    assert outbox.broken_by(told.value), "else it would stay closed for ever"
    outbox.renew(told.value)
    assert outbox.after(0, 10_000) == rows
    assert not outbox.broken_by(sqlite3.OperationalError("database or disk is full"))
    outbox.close()


def test_the_first_page_is_the_same_after_space_was_given_back(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    rows, outbox = fill(path, close=False)
    big = [Row(*outbox.stamp(), "a/b/strip", bytes(60_000), 0) for _ in range(400)]
    outbox.put(big)
    outbox.settle([Outcome(row.epoch, row.seq, "stored") for row in (*rows[100:], *big)])
    assert outbox.give_back()
    outbox.close()
    first_page(path)
    outbox = Outbox(path, clock=NOW)
    assert outbox.after(0, 10_000) == rows[:100]
    outbox.close()


def test_two_damages_in_one_second_keep_both_files(tmp_path: Path) -> None:
    for _ in range(2):
        fill(tmp_path / "o.db")
        truncated(tmp_path / "o.db")
        Outbox(tmp_path / "o.db", clock=NOW).close()
        (tmp_path / "o.db").unlink()
    assert sorted(p.name for p in tmp_path.glob("*.damaged*")) == [
        "o.db.damaged-20251124T160000Z", "o.db.damaged-20251124T160000Z-2",
    ]  # fmt: skip


def test_an_outbox_of_another_version_is_no_damage(tmp_path: Path) -> None:
    fill(tmp_path / "o.db")
    db = sqlite3.connect(tmp_path / "o.db")
    db.execute("PRAGMA user_version = 9")
    db.close()
    for _ in range(2):
        with pytest.raises(OutboxError, match="another kind or version"):
            Outbox(tmp_path / "o.db")
    assert list(tmp_path.glob("*.damaged*")) == []


def test_a_file_that_never_was_an_outbox_is_left_alone_however_often_one_tries(tmp_path: Path) -> None:
    diary = tmp_path / "diary.txt"
    diary.write_text("Dear diary,\n" * 500, encoding="utf-8")
    for _ in range(2):
        with pytest.raises(OutboxError, match="cannot be used"):
            Outbox(diary)
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]
