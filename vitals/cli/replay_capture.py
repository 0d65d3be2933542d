"""`vitals replay CAPTURE`: a captured device stands up again, for a gateway to read over the real transport.

A serial device appears on a pseudo terminal, a Bluetooth device on simulated air.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from rich.progress import MofNCompleteColumn, Progress

from drivers.core.capture import Head, Recording, Sent, Tick, read_capture
from simulators.core.playback import CapturedDevice, Line, Playback
from simulators.links.pty import PtyLine
from vitals.cli.plain import toml_table, toml_text
from vitals.clock import Clock
from vitals.driver import BleSpec, Driver
from vitals.errors import VitalsError

SUFFIX: Final = ".jsonl"
TICK_S: Final = 0.01
LINGER_S: Final = 0.5
"""After the last byte: the host's last acknowledgement still finds a line."""
ADDRESS: Final = "C0:00:00:00:00:01"
"""For a capture from macOS, where a device has no Bluetooth address but a UUID."""
_MAC: Final = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")


class Survey(NamedTuple):
    """What a first reading of the whole file shows; it also finds every damaged line before a gateway does."""

    said: int
    """Chunks of the device."""
    lines: int
    """Lines of the script up to the last thing the device said; what the host wrote after it needs no waiting for."""
    reads: Mapping[str, bytes]
    """Bluetooth: values read at link-up, before the first that came by itself."""
    says: tuple[str, ...]
    writes: tuple[str, ...]
    conversation: bool


def is_capture(path: Path) -> bool:
    """WFDB records are named without an ending."""
    return path.suffix == SUFFIX


def open_capture(path: Path, drivers: Mapping[str, Driver]) -> tuple[Recording, Driver, Survey]:
    """Raises VitalsError for a file that is damaged, of no driver we have, or without a byte of the device."""
    recording = read_capture(path)
    driver = drivers.get(recording.head.driver)
    if driver is None:
        raise VitalsError(
            f"{path} was captured with a driver that is not here.", expected=f"one of: {', '.join(sorted(drivers))}",
            found=repr(recording.head.driver), do="Install the plug-in it came from.",
        )  # fmt: skip
    survey = _survey(recording, driver)
    if not survey.said:
        raise VitalsError(
            f"{path} holds nothing to replay.", expected="at least one chunk of the device",
            found="none: the link was up, and the device was silent", do="Take another capture.",
        )  # fmt: skip
    return recording, driver, survey


def _survey(recording: Recording, driver: Driver) -> Survey:
    ble = driver.spec if isinstance(driver.spec, BleSpec) else None
    reads: dict[str, bytes] = {}
    says: dict[str, None] = {}
    writes: dict[str, None] = {}
    lines = said = last = 0
    for number, line in _conversation(recording):
        if bool(line.channel) is not bool(ble):
            raise VitalsError(
                f"{recording.path}, line {number}, does not fit {driver.name}.",
                expected='"ch" on every line' if ble else 'no "ch": a serial line has no characteristics',
                found=f'"ch": {line.channel!r}' if line.channel else 'no "ch"', do="Take another capture.",
            )  # fmt: skip
        if ble and not says and not line.by_host and line.channel in ble.read and line.channel not in reads:
            reads[line.channel] = line.data
            said += 1
            continue
        if ble and not line.by_host and line.channel not in ble.subscribe:
            raise VitalsError(
                f"{recording.path}, line {number}, has a characteristic that {driver.name} does not subscribe to.",
                expected=f"one of: {', '.join(ble.subscribe)}", found=line.channel,
                do="Take another capture: this one is of another driver or another version of it.",
            )  # fmt: skip
        lines += 1
        (writes if line.by_host else says)[line.channel] = None
        if not line.by_host:
            said, last = said + 1, lines
    if ble and ble.subscribe[0] not in says:
        says[ble.subscribe[0]] = None  # without it no host takes the device for one of its driver
    return Survey(said, last, reads, tuple(says), tuple(writes), bool(writes))


def _conversation(recording: Recording) -> Iterator[tuple[int, Line]]:
    for number, step in recording.numbered():
        if isinstance(step, Sent):
            yield number, Line(step.at, step.send.data, step.send.channel, by_host=True)
        elif not isinstance(step, Tick):
            yield number, Line(step.received_at, step.data, step.channel)


def _script(recording: Recording, survey: Survey) -> Iterator[Line]:
    """The lines to play: without the values that are read, and up to the last thing the device said."""
    unread = dict(survey.reads)
    left = survey.lines
    for _, line in _conversation(recording):
        if not left:
            return
        if not line.by_host and unread.get(line.channel) == line.data:
            del unread[line.channel]
            continue
        left -= 1
        yield line


async def run(
    path: Path, drivers: Mapping[str, Driver], link: Path, air: Path, speed: float, clock: Clock, stop: asyncio.Event
) -> None:
    """Play the capture once, to its end or until `stop`. Says first what a gateway needs to read it.

    Raises VitalsError when it cannot be opened or was stopped before its end.
    """
    recording, driver, survey = open_capture(path, drivers)
    playback = Playback(lambda: _script(recording, survey), speed, conversation=survey.conversation)
    total = survey.said - len(survey.reads)
    async with _progress(path.name, total, playback):
        if isinstance(driver.spec, BleSpec):
            print(_settings(recording.head, speed, air=air), flush=True)
            await _on_air(recording.head, driver.spec, survey, playback, air, clock, stop)
        else:
            print(_settings(recording.head, speed, link=link), flush=True)
            await _on_line(playback, link, clock, stop)
    print(f"{playback.said} of {total} chunks sent, {len(survey.reads)} values to read")
    if not playback.done:
        wrote = f"; the host wrote {playback.unexpected.hex()}" if playback.unexpected else ""
        waiting = f", waiting for the host to write {playback.waiting_for.hex()}{wrote}" if playback.waiting_for else ""
        raise VitalsError(
            "The replay was stopped before its end.", expected=f"{total} chunks",
            found=f"{playback.said} sent{waiting}", do="Start it again to play the capture from its beginning.",
        )  # fmt: skip


async def _on_line(playback: Playback, link: Path, clock: Clock, stop: asyncio.Event) -> None:
    async with PtyLine(link) as line:
        playing = asyncio.create_task(_say_all(playback, line, clock))
        await _first(playing, stop)


async def _say_all(playback: Playback, line: PtyLine, clock: Clock) -> None:
    while not playback.done:
        await line.reader()
        playback.connected(clock.monotonic())
        while line.connected and not playback.done:
            playback.heard(line.read())
            for send in playback.due(clock.monotonic()):
                if playback.conversation:
                    line.write(send.data)  # never waits: a host that goes away begins the conversation anew
                else:
                    await line.write_all(send.data)
            await asyncio.sleep(TICK_S)
    await line.drain()
    await asyncio.sleep(LINGER_S)


async def _on_air(
    head: Head, spec: BleSpec, survey: Survey, playback: Playback, air: Path, clock: Clock, stop: asyncio.Event
) -> None:
    try:
        from simulators.links.air import on_air
    except ImportError as error:
        raise VitalsError(
            "The simulated air needs the optional part `sim`.", expected="the package bumble", found=str(error),
            do="pip install 'exam-room-vitals[sim]'",
        ) from None  # fmt: skip
    device = CapturedDevice(playback, spec.service, says=survey.says, reads=survey.reads, writes=survey.writes)
    async with on_air(air, {_address(head): device}, clock):
        await _first(asyncio.create_task(_finished(device)), stop)


async def _finished(device: CapturedDevice) -> None:
    while not device.finished:  # noqa: ASYNC110  the device is told by the stack, and tells nobody
        await asyncio.sleep(TICK_S)


async def _first(work: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Until the work is done or `stop` is set; a failure of the work is raised."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        work.cancel()
        stopping.cancel()
        await asyncio.gather(work, stopping, return_exceptions=True)


@asynccontextmanager
async def _progress(name: str, total: int, playback: Playback) -> AsyncIterator[None]:
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), transient=True) as bar:
        task = bar.add_task(name, total=total)

        async def follow() -> None:
            while True:
                bar.update(task, completed=playback.said)
                await asyncio.sleep(0.2)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


def _address(head: Head) -> str:
    return head.address.upper() if _MAC.fullmatch(head.address) else ADDRESS


def _settings(head: Head, speed: float, *, link: Path | None = None, air: Path | None = None) -> str:
    """What a gateway needs to read the replay, ready to paste."""
    radio = f'[gateway.ble]\nbackend = "air"\nair_socket = {toml_text(str(air))}\n\n' if air else ""
    place = f"port = {toml_text(str(link))}" if link else f'address = "{_address(head)}"'
    options = f"options = {toml_table(head.options)}\n" if head.options else ""
    return (
        f"Waiting for a gateway. Its settings for this device:\n\n{radio}"
        f'[[gateway.devices]]\nname = "replay"\ndriver = {toml_text(head.driver)}\nroom = "1"\n{place}\n'
        f"simulated = true\n"
        f'timebase = "{"arrival" if speed == 1 else "samples"}"\n{options}'
    )
