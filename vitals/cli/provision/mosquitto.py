"""The files mosquitto reads: configuration, access rules, password hashes. Text only, no disk."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

from vitals.messages import MAX_PAYLOAD
from vitals.topics import Topics

Role: TypeAlias = Literal["gateway", "ingest", "board"]
Credentials: TypeAlias = Literal["password", "certificate"]

ITERATIONS: Final = 1000
"""Of PBKDF2. The passwords are random and of 256 bits, so nothing is gained by making a guess slower; the broker
answers connects in the thread that carries the readings, so something is lost."""
SALT: Final = 12
"""Bytes, as mosquitto_passwd makes them."""
WINDOW: Final = 1000
"""`broker.window` of the settings: messages a client may leave unacknowledged."""
MAX_QUEUED: Final = 4_000
MAX_QUEUED_BYTES: Final = 67_108_864
"""What waits in the broker for one client. Beyond it new messages are dropped; an outbox sends its own again. The count
is not 0 (no limit), since bytes alone bound no QoS 0 in mosquitto, and since it bounds how long a reading waits behind
another gateway's flood. mosquitto also writes what is queued to the disk at each autosave: a long queue slows it."""
MAX_MESSAGE: Final = MAX_PAYLOAD + 65_536
"""Bytes of a packet: the payload our readers accept, its topic and properties. Who sends a larger one is cut off
before the broker has read it."""
MAX_CONNECTIONS: Final = 1000
"""Also counts those that have not said who they are yet, so far above the number of gateways."""


def password_line(user: str, password: str, salt: bytes) -> str:
    """A line of the password file: `$7$`, PBKDF2 with HMAC-SHA512 (mosquitto 2.0 and newer)."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"{user}:$7${ITERATIONS}${b64encode(salt).decode()}${b64encode(digest).decode()}"


def rights(role: Role, name: str, topics: Topics) -> list[tuple[str, str]]:
    """(`read`, `write` or `readwrite`, topic filter) of a client: what its code does, and nothing else."""
    root = topics.root
    if role == "gateway":
        return [
            ("write", f"{root}/up/{name}/#"),
            ("read", f"{root}/down/{name}/#"),
            ("read", topics.ingest_status),
        ]
    if role == "ingest":
        leaves = (topics.up_all(leaf) for leaf in ("obs", "strip", "event", "birth", "status"))
        return [
            *(("read", topic) for topic in (*leaves, topics.gateway_status("+"))),
            ("read", topics.assoc("+")),
            ("write", topics.flagged("+")),
            ("readwrite", topics.alert("+", "+")),
            ("write", topics.ingest_status),
            ("write", topics.stored("+")),
        ]
    heard = [topics.gateway_status("+"), *(topics.up_all(leaf) for leaf in ("status", "birth", "wave", "live"))]
    made = [topics.flagged("+"), topics.alert("+", "+"), topics.ingest_status]
    return [*(("read", topic) for topic in (*heard, *made)), ("write", topics.assoc("+"))]


def access_rules(clients: Mapping[str, Role], topics: Topics) -> str:
    """The ACL file. Who is not in it may do nothing."""
    blocks = ["# Written by `vitals provision`; changes made here are lost.\n"]
    for name, role in sorted(clients.items()):
        lines = [f"user {name}", *(f"topic {access} {topic}" for access, topic in rights(role, name, topics))]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def passwords(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in sorted(lines))


def configuration(*, port: int, folder: str, data_folder: str, credentials: Credentials) -> str:
    """mosquitto.conf: one TLS listener, nobody anonymous, every queue bounded. `folder`: where these files lie for
    the broker; `data_folder`: where it keeps what it must remember."""
    certificates = [
        f"cafile {folder}/ca.crt",
        f"crlfile {folder}/revoked.pem",
        "require_certificate true",
        "use_identity_as_username true",
    ]
    lines = [
        "# Written by `vitals provision`; changes made here are lost.",
        "per_listener_settings false",
        "allow_anonymous false",
        f"acl_file {folder}/acl",
        *([f"password_file {folder}/passwords"] if credentials == "password" else []),
        "",
        f"listener {port}",
        "protocol mqtt",
        "tls_version tlsv1.2",
        f"certfile {folder}/server.crt",
        f"keyfile {folder}/server.key",
        *(certificates if credentials == "certificate" else []),
        "# A client cannot take the place of another one by calling itself by its client id.",
        "use_username_as_clientid true",
        f"max_connections {MAX_CONNECTIONS}",
        "",
        "persistence true",
        f"persistence_location {data_folder}/",
        "autosave_interval 1",
        f"max_inflight_messages {WINDOW}",
        f"max_queued_messages {MAX_QUEUED}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"max_packet_size {MAX_MESSAGE}",
        "",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
    ]
    return "\n".join(lines) + "\n"
