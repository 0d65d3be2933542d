"""The broker: whether we reach it, may do there what we must, and until when its certificates are good."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from vitals import settings as conf
from vitals import tls
from vitals.broker import Broker, Message
from vitals.cli import live_check, wiring
from vitals.cli.doctor.finding import Finding, fault, ok, tried, warning
from vitals.cli.doctor.services import Answer, own
from vitals.clock import NS
from vitals.errors import VitalsError
from vitals.messages import IngestStatus
from vitals.telemetry.report import NO_BROKER
from vitals.topics import Topics

SOON_DAYS: Final = 30
HEAR_S: Final = 2.0
"""A retained message and an acknowledgement come at once; this is for a slow line."""
TLS_S: Final = 5.0
_RENEW: Final = "`vitals provision rotate NAME`, copy the files, reload the broker: docs/security.md."


def checks(settings: conf.Settings, told: Mapping[str, Answer | str]) -> Iterator[Finding]:
    """A credential is for one program at a time: trying it would push a connected service off. So that one is asked."""
    place = f"{settings.broker.host}:{settings.broker.port}"
    answers = own(settings, told)
    connected = [answer for answer in answers if answer.facts.get("broker_connected")]
    if connected:
        yield ok("broker", f"{', '.join(answer.part for answer in connected)} connected to {place}")
        for answer in connected:
            if (online := answer.facts.get("ingest_online")) is not None:
                yield _ingest("online" if online else "offline")
    elif answers:
        yield from (
            fault("broker", f"{answer.part}: {reason.what}", expected=f"a connection to {place}", do=reason.do)
            for answer in answers
            for reason in answer.reasons
            if reason.what.startswith(NO_BROKER)
        )
    else:
        yield from _try(settings, place)
    yield from _certificates(settings.broker)


def _try(settings: conf.Settings, place: str) -> Iterator[Finding]:
    topics = Topics(settings.site.id)
    try:
        broker = wiring.make_broker(settings, "check", subscriptions=[(topics.ingest_status, 1)])
    except VitalsError as error:  # a secret or a certificate that cannot be read
        yield fault("broker", f"{error.problem} {error.found}", expected=error.expected, do=error.do)
        return
    broker.start()
    try:
        for found in tried("broker", lambda: _connected(broker, place)):
            yield found
            if found.verdict != "ok":
                return
        if topic := _own_topic(settings, topics):
            broker.publish(topic, b"", qos=1)
        heard = _hear(broker)
        yield _rights(settings, broker)
        if settings.broker.username != "ingest":  # it may not read its own status, and needs not
            yield _ingest(_status(heard))
    finally:
        broker.stop()


def _connected(broker: Broker, place: str) -> str:
    broker.require(live_check.BROKER_S)
    return f"{place} accepts us"


def _own_topic(settings: conf.Settings, topics: Topics) -> str:
    """One that this credential may write and that nobody reads."""
    user = settings.broker.username
    if user in ("ingest", "board"):
        return ""
    return f"{topics.root}/up/{settings.gateway.id}/doctor" if settings.gateway.devices or user else ""


def _hear(broker: Broker) -> list[Message]:
    """What comes within the time, at least until the acknowledgement of what was published is in."""
    heard: list[Message] = []
    for _ in range(round(HEAR_S / 0.1)):
        heard += broker.take(10, 0.1)
        if broker.denied or (heard and broker.settled):
            break
    return heard


def _rights(settings: conf.Settings, broker: Broker) -> Finding:
    if not broker.denied:
        return ok("broker rights", "nothing was refused")
    return fault(
        "broker rights", "the broker's access rules refuse what this part must do",
        expected=f"gateway.id {settings.gateway.id!r} and broker.username {settings.broker.username!r} of one client",
        do="Correct gateway.id, or make it a credential: `vitals provision gateway`, and reload the broker.",
    )  # fmt: skip


def _status(heard: list[Message]) -> str:
    for message in heard:
        try:
            return "online" if msgspec.json.decode(message.payload, type=IngestStatus).online else "offline"
        except msgspec.MsgspecError:
            continue
    return "unknown"


def _ingest(state: str) -> Finding:
    if state == "online":
        return ok("ingest online", "it says so")
    found = "it said goodbye, or died" if state == "offline" else "the broker has no word of it"
    return fault(
        "ingest online", found, expected="an ingest that is connected to the same broker and site",
        do="Start `vitals ingest`; if it runs, compare its [broker] and site.id with these. Readings wait in the "
        "outbox.",
    )  # fmt: skip


# -- certificates --------------------------------------------------------------------------------------------


def _certificates(where: conf.Broker) -> Iterator[Finding]:
    try:
        context = tls.context(where)
    except VitalsError:
        return  # the connection said it
    if context is None:
        return
    dated = {"the authority (broker.ca_file)": [str(one.get("notAfter", "")) for one in context.get_ca_certs()]}
    try:
        with (
            socket.create_connection((where.host, where.port), TLS_S) as plain,
            context.wrap_socket(plain, server_hostname=where.host) as secured,
        ):
            dated["the broker's certificate"] = _end(secured.getpeercert())
    except OSError:
        pass  # the connection said it
    if where.cert_file:
        ours = "our certificate (broker.cert_file)"
        try:
            dated[ours] = _ours(where)
        except ssl.SSLCertVerificationError as error:
            found = f"{ours} is not accepted: {error.verify_message}"
            yield fault("certificate", found, expected="one of this authority that is valid now", do=_RENEW)
    for what, ends in dated.items():
        for end in ends:
            yield _dated(what, end)


def _end(certificate: Mapping[str, object] | None) -> list[str]:
    return [str(certificate["notAfter"])] if certificate else []


def _ours(where: conf.Broker) -> list[str]:
    """The end of our own certificate. Python reads the dates only of a peer: so we shake hands with ourselves.

    Raises ssl.SSLCertVerificationError where no broker would accept it.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode, server.verify_mode = False, ssl.CERT_NONE, ssl.CERT_REQUIRED
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server.load_verify_locations(where.ca_file)
        for context in (server, client):
            context.load_cert_chain(where.cert_file, where.key_file)
        ends = [server.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a)]
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLCertVerificationError:
        raise
    except OSError:
        return []  # no pair: the connection said it
    return _end(ends[0].getpeercert())


def _dated(what: str, end: str) -> Finding:
    days = (ssl.cert_time_to_seconds(end) - wiring.CLOCK.now() / NS) / 86_400
    if days > SOON_DAYS:
        return ok("certificate", f"{what} is good for {days:.0f} days, until {end}")
    if days < 0:
        return fault("certificate", f"{what} ended on {end}", expected="one that is valid now", do=_RENEW)
    return warning("certificate", f"{what} ends in {days:.0f} days, on {end}", expected=f"{SOON_DAYS} days", do=_RENEW)
