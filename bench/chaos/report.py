"""A run as tables of plain text."""

from collections import Counter
from statistics import median

from bench.chaos.run import Result

SHOWN = 10
"""Keys printed of each kind of wrong; the count says how many there are."""


def report(result: Result) -> str:
    return "\n".join([*_faults(result), "", *_counts(result), "", *_parts(result), "", *_verdict(result)])


def _faults(result: Result) -> list[str]:
    times = Counter(fault.kind for fault in result.faults)
    lines = [f"{'fault':10} {'times':>5} {'recovery: median':>17} {'worst':>8}"]
    for kind in sorted(times):
        took = [r.seconds for r in result.recoveries if r.fault.kind == kind]
        shown = f"{median(took):15.1f} s {max(took):6.1f} s" if took else f"{'-':>17} {'-':>8}"
        lines.append(f"{kind:10} {times[kind]:5d} {shown}")
    lines.append(f"{'all':10} {len(result.faults):5d}")
    if result.left_out:
        lines.append("NOT RUN on this machine or store: " + ", ".join(result.left_out))
    return lines


def _counts(result: Result) -> list[str]:
    v = result.verdict
    drained = "never" if result.drained_s is None else f"{result.drained_s:.1f} s after the devices fell silent"
    return [
        f"committed by an outbox {v.committed}, stored {v.stored}, ingest's own events {v.own}",
        f"lost {len(v.lost)}, doubled {len(v.doubled)}, changed {len(v.changed)}, out of order {len(v.disordered)}, "
        f"stored by nobody {len(v.strangers)}, without evaluation {len(v.unevaluated)}",
        f"given up by restoring a backup {v.forgone}",
        f"alerts raised {result.alerts[0]}, raised twice {result.alerts[1]}",
        "said by the bench: " + ", ".join(f"{what} {count}" for what, count in result.said.items()),
        "deepest outbox: "
        + ", ".join(f"{name} {rows}" for name, rows in result.deepest.items())
        + f"; empty {drained}",
    ]


def _parts(result: Result) -> list[str]:
    lines = [f"{'part':10} {'peak memory':>12}"]
    lines += [f"{name:10} {mb:9.0f} MB" for name, mb in sorted(result.peaks_mb.items())]
    lines += [f"{name} ended by itself, exit codes {codes}" for name, codes in result.revived.items()]
    lines += [f"{name} did not end on SIGTERM, {times} times" for name, times in result.slow_stops.items()]
    return lines


def _verdict(result: Result) -> list[str]:
    lines = []
    for what, keys in result.verdict.wrong.items():
        lines.append(f"{what.upper()}: {len(keys)}")
        lines += [f"  {key}" for key in keys[:SHOWN]]
    lines += [f"WRONG: {problem}" for problem in result.problems]
    return lines or ["nothing lost, nothing doubled, nothing changed"]
