"""Log lines: key=value, one line an event, quoted where a machine would stumble."""

import logging

import pytest

from vitals import log


@pytest.fixture(autouse=True)
def restore():  # type: ignore[no-untyped-def]
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_is_key_value_and_quoted_where_needed(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info")
    log.Log("gateway").warning("link lost", device="cuff-1", detail="a=b\nc", empty="")
    (line,) = lines(capsys)
    assert line.startswith("ts=")
    assert line.endswith('level=warning part=gateway event="link lost" device=cuff-1 detail="a=b\\nc" empty=""')


@pytest.mark.parametrize(("value", "printed"), [
    ('a "b" c', r'"a \"b\" c"'),
    ("x\rlevel=info", r'"x\rlevel=info"'),
    ("\x1b[2J", r"\x1b[2J"),
    ("\u2028", r"\u2028"),
    ("\udc80", r"\udc80"),
    ("SpO₂", "SpO₂"),
])  # fmt: skip
def test_a_value_cannot_begin_a_line_or_steer_a_terminal(
    capsys: pytest.CaptureFixture[str], value: str, printed: str
) -> None:
    """Topics and reasons are other people's words."""
    log.set_up("info")
    log.Log("x").info("event", topic=value)
    (line,) = lines(capsys)
    assert line.partition("topic=")[2] == printed


def test_the_least_severe_level_counts(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("error")
    log.Log("x").info("quiet")
    log.Log("x").warning("quiet")
    log.Log("x").error("loud")
    assert [line.rpartition("event=")[2] for line in lines(capsys)] == ["loud"]


def test_a_bug_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("info")
    try:
        raise KeyError("x")
    except KeyError:
        log.Log("x").exception("failed")
    assert "KeyError" in "\n".join(lines(capsys))
