"""The `vitals` command in the test's own process: `vitals` is a fixture of tests/conftest.py."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from vitals import log
from vitals.cli import main


class Run(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Vitals = Callable[..., Run]


@pytest.fixture
def vitals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Run]]:
    """`vitals ARGUMENTS` in this process, in an empty folder. Logging stays as it is, signal handlers are put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    umask = os.umask(0o022)
    monkeypatch.setattr(log, "set_up", lambda _level: None)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VITALS_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, stdin: str = "", **more: str) -> Run:
        for name, value in {"COLUMNS": "120", "NO_COLOR": "1", **more}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["vitals", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Run(int(ended.value.code or 0), out, err)

    yield run
    os.umask(umask)
    for number, handler in handlers.items():
        signal.signal(number, handler)
