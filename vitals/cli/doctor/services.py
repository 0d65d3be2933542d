"""What the running services say of themselves, on their health pages."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from dashboards import app
from vitals import settings as conf
from vitals.cli import wiring
from vitals.cli.doctor.finding import Finding, fault, ok, tried, warning
from vitals.telemetry.report import Fact
from vitals.telemetry.watch import Word

ANSWER_S: Final = 3.0
ANSWER_BYTES: Final = 100_000
OTHER: Final = "another program answers at "
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Told(msgspec.Struct, frozen=True):
    what: str
    do: str


class Answer(msgspec.Struct, frozen=True):
    """The body of `/health`."""

    part: str
    name: str
    health: Word
    reasons: list[Told]
    facts: dict[str, Fact]
    notices: list[Told] = []


def ask(settings: conf.Settings, part: str) -> Answer | str:
    """The answer, or why there is none."""
    url = address(settings, part)
    try:
        with _DIRECT.open(url, timeout=ANSWER_S) as response:
            body = response.read(ANSWER_BYTES)
    except urllib.error.HTTPError as refusal:  # 503 is an answer too
        body = refusal.read(ANSWER_BYTES)
    except http.client.HTTPException:  # what it says is no HTTP; a closed connection is that and an OSError
        return OTHER + url
    except OSError as error:
        return f"nothing answers at {url} ({getattr(error, 'reason', error)})"
    try:
        return msgspec.json.decode(body, type=Answer)
    except msgspec.MsgspecError:
        return OTHER + url


def address(settings: conf.Settings, part: str) -> str:
    host = _ANY.get(settings.health.host, settings.health.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{wiring.health_port(settings, part)}/health"


def ask_all(settings: conf.Settings, parts: tuple[str, ...]) -> dict[str, Answer | str]:
    """Of those parts that have a health page."""
    return {part: ask(settings, part) for part in parts if wiring.health_port(settings, part)}


def own(settings: conf.Settings, told: Mapping[str, Answer | str]) -> list[Answer]:
    """The answers of the parts these settings are for."""
    return [
        answer
        for part, answer in told.items()
        if isinstance(answer, Answer) and (answer.part, answer.name) == (part, name_of(settings, part))
    ]


def name_of(settings: conf.Settings, part: str) -> str:
    return settings.gateway.id if part == "gateway" else part


def checks(settings: conf.Settings, parts: tuple[str, ...], told: Mapping[str, Answer | str]) -> Iterator[Finding]:
    for part in parts:
        if part not in told:
            yield warning(
                part, f"it has no health page (health.{part}_port = 0)", expected="a port",
                do=f"Set health.{part}_port; without it a {part} that hangs is not noticed here.",
            )  # fmt: skip
        else:
            yield from _part(settings, part, told[part])


def _part(settings: conf.Settings, part: str, answer: Answer | str) -> Iterator[Finding]:
    name = name_of(settings, part)
    if isinstance(answer, str):
        start = f"Start it; if it ends again, read the last lines of its log. Not on this machine? Leave {part} out "
        start += "with --part."
        end = f"End that program, or set health.{part}_port to a free port and restart {part}."
        do = end if answer.startswith(OTHER) else start
        yield fault(part, answer, expected=f"a running `vitals {part}`", do=do)
        if part == "board":
            yield from tried("board port", lambda: _free(settings.board))
    elif (answer.part, answer.name) != (part, name):
        yield fault(
            part, f"{answer.part} {answer.name} answers on its port", expected=f"{part} {name}",
            do=f"Give each part on this machine its own health.{part}_port.",
        )  # fmt: skip
    elif answer.health == "ok":
        yield ok(part, "it runs, and says it is well")
    if isinstance(answer, Answer):
        for reason in answer.reasons if answer.health != "ok" else ():
            yield fault(part, reason.what, expected=f"{part} well", do=reason.do)
        for notice in answer.notices:
            yield warning(part, notice.what, expected="nothing of the kind", do=notice.do)


def _free(board: conf.Board) -> str:
    """Where no board answers, nothing else may have its port. Raises PortTaken."""
    app.listen(board.host, board.port).close()
    return f"{board.host}:{board.port} is free"
