"""All checks of one machine, in the order in which a person would mend them."""

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from vitals import settings as conf
from vitals.cli import live_check, scanning, wiring
from vitals.cli.doctor import bus, machine, outbox, refused, services
from vitals.cli.doctor.finding import Finding, fault, ok, tried
from vitals.cli.doctor.services import Answer
from vitals.errors import VitalsError

LISTEN_S: Final = 0.5


def examine(path: Path, wanted: tuple[str, ...] = ()) -> Iterator[Finding]:
    """`wanted`: the parts that should run on this machine; none: those the settings are for."""
    try:
        settings = wiring.settings_at(path)
        summary = "; ".join(wiring.check(settings))
    except VitalsError as error:
        yield fault("settings", f"{error.problem} {error.found}", expected=error.expected, do=error.do)
        return
    yield ok("settings", summary)
    parts = wanted or parts_of(settings)
    told = services.ask_all(settings, parts)
    yield from machine.files(settings, path)
    yield from machine.disk(settings, parts)
    yield from machine.clock(settings, told)
    if "gateway" in parts:
        yield from _devices(settings, told)
    yield from bus.checks(settings, told)
    if set(parts) & {"ingest", "board"}:
        yield from tried("store", lambda: live_check.store(settings))
    if "ingest" in parts:
        yield from refused.checks(settings)
    if "gateway" in parts:
        yield from outbox.checks(settings, wiring.CLOCK.now())
    yield from services.checks(settings, parts, told)


def parts_of(settings: conf.Settings) -> tuple[str, ...]:
    """A provisioned settings file is one client's; any other is all parts', the gateway's where it has devices."""
    user = settings.broker.username
    if user in ("ingest", "board"):
        return (user,)
    if user and user == settings.gateway.id:
        return ("gateway",)
    return wiring.PARTS if settings.gateway.devices else ("ingest", "board")


def _devices(settings: conf.Settings, told: Mapping[str, Answer | str]) -> Iterator[Finding]:
    for device in settings.gateway.devices:
        if device.port:
            yield from tried(f"device {device.name}", partial(live_check.line, device))
    if any(device.address for device in settings.gateway.devices) and not isinstance(told.get("gateway"), Answer):
        yield from tried("Bluetooth", lambda: _radio(settings))


def _radio(settings: conf.Settings) -> str:
    """Tried only where no gateway is running: a running one says by itself what its radio lacks."""
    backend = wiring.make_backend(settings.gateway.ble)
    scanning.require_radio(asyncio.run(scanning.scan(settings, {}, backend, LISTEN_S)), settings)
    return "the adapter listens"
