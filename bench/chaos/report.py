"""Runs as tables of plain text, and as Markdown for a page. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from bench.chaos.footprint import JUDGED_MIN, Footprint
from bench.chaos.run import Result

TRIED: Final = 3
"""Times after which bad luck (a part that was down already) is no explanation."""
SHOWN: Final = 10
"""Keys printed of each kind of wrong; the count says how many there are."""
_WRONG: Final = ("lost", "doubled", "changed", "disordered", "strangers", "unevaluated")


def report(result: Result) -> str:
    parts = [kinds([result]), _counts(result), _parts(result), taken(result.footprint), _verdict(result)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def never_took_effect(results: Sequence[Result]) -> list[str]:
    """Kinds that were planned `TRIED` times or more and in no run did anything: of these the runs say nothing."""
    planned = Counter(fault.kind for result in results for fault in result.faults)
    effective = {fault.kind for result in results for fault in result.took_effect}
    return sorted(kind for kind, times in planned.items() if times >= TRIED and kind not in effective)


def kinds(results: Sequence[Result]) -> list[str]:
    """How often each kind of fault was planned and did something, and how long until readings arrived again."""
    planned = Counter(fault.kind for result in results for fault in result.faults)
    if not planned:
        return ["no faults"]
    effective = Counter(fault.kind for result in results for fault in result.took_effect)
    rows: list[Sequence[object]] = [("fault", "planned", "took effect", "recovery, median", "worst")]
    for kind in sorted(planned):
        took = [
            r.seconds for result in results for r in result.recoveries if r.done.proof and r.done.fault.kind == kind
        ]
        seconds = (f"{median(took):.1f} s", f"{max(took):.1f} s") if took else ("-", "-")
        rows.append((kind, planned[kind], effective[kind], *seconds))
    rows.append(("**all**", planned.total(), effective.total(), "", ""))
    left_out = sorted({f"{kind} ({result.store})" for result in results for kind in result.left_out})
    return [*table(rows), *(["", "Not possible here: " + ", ".join(left_out) + "."] if left_out else [])]


def runs(results: Sequence[Result]) -> list[str]:
    """One line a run: what was committed, and what of it is wrong."""
    names = ("lost", "doubled", "changed", "out of order", "of nobody", "not judged")
    rows: list[Sequence[object]] = [
        ("store", "seed", "minutes", "faults", "kinds", "committed", "stored", *names, "given up by a restore", "run")
    ]
    for r in results:
        v, hit = r.verdict, r.took_effect
        wrong = (len(getattr(v, name)) for name in _WRONG)
        counts = (len(hit), len({fault.kind for fault in hit}), v.committed, v.stored)
        rows.append((r.store, r.seed, f"{r.minutes:g}", *counts, *wrong, v.forgone, "good" if r.good else "RED"))
    return table(rows)


def taken(footprint: Footprint | None) -> list[str]:
    """Memory and disk of a run; nothing for one that was too short."""
    if footprint is None:
        return []
    rows: list[Sequence[object]] = [
        ("MB", "first quarter", "last quarter", "most", "a minute", "for 1,000 rows, kB", "flat")
    ]
    for t in footprint.tracks:
        said = "by design" if t.grows else {None: "not judged", True: "flat", False: "NOT FLAT"}[t.flat]
        per_row = f"{footprint.of_1000_rows(t):.0f}" if t.grows else ""
        rows.append((t.name, f"{t.first:.1f}", f"{t.last:.1f}", f"{t.most:.1f}", f"{t.a_minute:+.3f}", per_row, said))
    about = f"{footprint.minutes:.0f} minutes, {footprint.rows:,} rows stored meanwhile."
    short = f" Flat is judged from {JUDGED_MIN:g} minutes on." if footprint.minutes < JUDGED_MIN else ""
    return [*table(rows), "", about + short]


def table(rows: Iterable[Sequence[object]]) -> list[str]:
    """Markdown, with columns that line up for who reads it as text."""
    cells = [[str(cell) for cell in row] for row in rows]
    wide = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in wide) + "|", *lines[1:]]


def _counts(result: Result) -> list[str]:
    v = result.verdict
    drained = "never" if result.drained_s is None else f"{result.drained_s:.1f} s after the devices fell silent"
    return [
        f"committed by an outbox {v.committed}, stored {v.stored}, ingest's own events {v.own}",
        f"lost {len(v.lost)}, doubled {len(v.doubled)}, changed {len(v.changed)}, out of order {len(v.disordered)}, "
        f"stored by nobody {len(v.strangers)}, without evaluation {len(v.unevaluated)}",
        f"given up by restoring a backup {v.forgone}",
        f"alerts raised {result.alerts[0]}, come again to stay {result.alerts[1]}, "
        f"delivered again with their end {result.alerts[2]}",
        "said by the bench: " + ", ".join(f"{what} {count}" for what, count in result.said.items()),
        "deepest outbox: "
        + ", ".join(f"{name} {rows}" for name, rows in result.deepest.items())
        + f"; empty {drained}",
    ]


def _parts(result: Result) -> list[str]:
    stops = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(result.slowest_stops_s.items()))
    lines = [f"slowest end on SIGTERM: {stops}"] if stops else []
    return lines + [f"{name} ended by itself, exit codes {codes}" for name, codes in result.revived.items()]


def _verdict(result: Result) -> list[str]:
    lines = []
    for what, keys in result.verdict.wrong.items():
        lines.append(f"{what.upper()}: {len(keys)}")
        lines += [f"  {key}" for key in keys[:SHOWN]]
    lines += [f"WRONG: {problem}" for problem in result.problems]
    return lines or ["nothing lost, nothing doubled, nothing changed"]
