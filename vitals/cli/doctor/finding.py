"""What a check found."""

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import msgspec

from vitals.errors import VitalsError

Verdict: TypeAlias = Literal["ok", "warning", "fault"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the report. A warning needs a person soon, a fault now."""

    verdict: Verdict
    check: str
    found: str
    expected: str = ""
    do: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(verdict="ok", check=check, found=found)


def warning(check: str, found: str, *, expected: str, do: str) -> Finding:
    return Finding(verdict="warning", check=check, found=found, expected=expected, do=do)


def fault(check: str, found: str, *, expected: str, do: str) -> Finding:
    return Finding(verdict="fault", check=check, found=found, expected=expected, do=do)


def tried(check: str, attempt: Callable[[], str]) -> Iterator[Finding]:
    """What works, in words, or the error it ends with."""
    try:
        yield ok(check, attempt())
    except VitalsError as error:
        yield fault(check, f"{error.problem} {error.found}", expected=error.expected, do=error.do)


def line(finding: Finding) -> str:
    """`fault    broker: no MQTT broker at ...; expected: ...; do: ...`"""
    parts = [f"{finding.verdict:<8} {finding.check}: {finding.found}"]
    parts += [f"{word}: {text}" for word, text in (("expected", finding.expected), ("do", finding.do)) if text]
    return "; ".join(parts).replace("\n", " ")
