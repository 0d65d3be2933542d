"""The folder of credentials: what lies where, and the acts on it. Nothing secret is ever printed or logged.

```
provision/
  provision.json      who has a credential, since when, until when; no secret
  ca/                 ca.key, ca.crt: the authority. It never leaves this folder
  broker/             mosquitto.conf, acl, passwords, ca.crt, server.crt, server.key, revoked.pem: goes to the broker
  ingest/ board/ <gateway>/   ca.crt, settings.toml, password (or client.crt, client.key): goes to that machine
```
Keys and passwords are made with mode 0600 and never replaced but by `rotate`.
"""

import os
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from vitals.cli.provision import mosquitto
from vitals.cli.provision.authority import Authority, Issued, Revoked
from vitals.cli.provision.mosquitto import Credentials, Role
from vitals.errors import VitalsError
from vitals.topics import NAME, Topics

SERVICES: Final[tuple[Role, ...]] = ("ingest", "board")
RESERVED: Final = frozenset({*SERVICES, "broker", "ca"})
"""Names that are folders of their own, or users of the broker with other rights."""
HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?|::1?")
PASSWORD_BYTES: Final = 32


class Client(msgspec.Struct, frozen=True):
    """Somebody who may connect. `expires` is None for a password; `serial` (hex) is that of a certificate."""

    role: Role
    issued: datetime
    expires: datetime | None = None
    serial: str = ""
    password: str = ""
    """The line of the password file: a salted hash."""


class Withdrawn(msgspec.Struct, frozen=True):
    """A certificate that is not to be accepted any more."""

    serial: str
    at: datetime


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """provision.json."""

    v: int
    site: str
    hosts: list[str]
    port: int
    credentials: Credentials
    broker_folder: str
    data_folder: str
    broker_expires: datetime
    clients: dict[str, Client] = {}
    withdrawn: list[Withdrawn] = []


class Expiry(NamedTuple):
    """A line of `vitals provision list`. `until` None: it does not expire."""

    name: str
    kind: str
    issued: datetime | None
    until: datetime | None


class Provision:
    """The acts. `now` gives an aware datetime."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._now = now

    # -- acts ------------------------------------------------------------------------------------------------

    def init(
        self, *, site: str, hosts: Sequence[str], port: int, credentials: Credentials, broker_folder: str,
        data_folder: str,
    ) -> list[str]:  # fmt: skip
        """The authority, the broker's files, and credentials for ingest and board. Says what was done."""
        _require_names(site, hosts)
        broker_folder = broker_folder or str((self._folder / "broker").absolute())
        if self._manifest.exists():
            return self._again(site, list(hosts), port, credentials)
        now = self._now()
        for folder in (self._folder, self._folder / "ca", self._folder / "broker"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = Authority.create(site, now)
        server = authority.server(hosts, now)
        _write_new(self._folder / "ca" / "ca.key", authority.key)
        _write_new(self._folder / "ca" / "ca.crt", authority.certificate)
        self._put_server(server)
        made = Site(1, site, list(hosts), port, credentials, broker_folder, data_folder, server.expires)
        for role in SERVICES:
            made = self._give(made, authority, role, role)
        self._finish(made, authority)
        return [f"authority, broker, {' and '.join(SERVICES)} in {self._folder}"]

    def gateway(self, name: str) -> list[str]:
        """A credential for a gateway. One that has one keeps it."""
        site, authority = self._open()
        if not NAME.fullmatch(name) or name in RESERVED:
            raise VitalsError(
                "A gateway cannot be called so.",
                expected=f"a to z, 0 to 9, _ and -, at most 32 characters, none of {', '.join(sorted(RESERVED))}",
                found=repr(name), do="Choose another `gateway.id`.",
            )  # fmt: skip
        if name in site.clients:
            return [
                f"{name} has a credential already; nothing changed (`vitals provision rotate {name}` makes a new one)"
            ]
        self._finish(self._give(site, authority, name, "gateway"), authority)
        return [f"{name}: copy {self._folder / name} to the gateway", RELOAD]

    def rotate(self, name: str, hosts: Sequence[str] = ()) -> list[str]:
        """A new credential in place of the old one, which ends with the broker's restart. `broker`: a new server
        certificate, for other hosts if any are given; a reload takes it."""
        site, authority = self._open()
        if name == "broker":
            hosts = list(hosts) or site.hosts
            _require_names(site.site, hosts)
            server = authority.server(hosts, self._now())
            self._put_server(server, replace=True)
            self._finish(msgspec.structs.replace(site, hosts=hosts, broker_expires=server.expires), authority)
            return [f"the broker has a new certificate until {server.expires:%Y-%m-%d}", RELOAD]
        client = self._known(site, name)
        site = self._give(_without(site, name, self._now()), authority, name, client.role, replace=True)
        self._finish(site, authority)
        return [RESTART, f"{name}: copy {self._folder / name} to its machine and restart it there"]

    def revoke(self, name: str) -> list[str]:
        """The credential ends with the broker's restart, and its rights with it."""
        site, authority = self._open()
        self._known(site, name)
        for file in ("password", "client.key", "client.crt"):
            (self._folder / name / file).unlink(missing_ok=True)
        self._finish(_without(site, name, self._now()), authority)
        return [f"{name} is revoked", RESTART]

    def expiries(self) -> list[Expiry]:
        """Everything that can expire, and everybody who may connect."""
        site, authority = self._open()
        found = [
            Expiry("authority", "certificate", None, authority.expires),
            Expiry("broker", "certificate", None, site.broker_expires),
        ]
        kind = site.credentials
        return found + [Expiry(name, kind, c.issued, c.expires) for name, c in sorted(site.clients.items())]

    # -- parts -----------------------------------------------------------------------------------------------

    @property
    def _manifest(self) -> Path:
        return self._folder / "provision.json"

    def _open(self) -> tuple[Site, Authority]:
        try:
            site = msgspec.json.decode(self._manifest.read_bytes(), type=Site)
            ca = self._folder / "ca"
            return site, Authority.load((ca / "ca.key").read_bytes(), (ca / "ca.crt").read_bytes())
        except FileNotFoundError as error:
            raise VitalsError(
                f"{self._folder} is no folder of credentials.", expected="provision.json and ca/ca.key in it",
                found=f"no {error.filename}", do="Give --folder, or begin with `vitals provision init`.",
            ) from None  # fmt: skip
        except (msgspec.MsgspecError, ValueError, OSError) as error:
            raise VitalsError(
                f"The folder of credentials {self._folder} cannot be used.", expected="files as they were written",
                found=str(error), do="Restore the folder from its backup.",
            ) from None  # fmt: skip

    def _known(self, site: Site, name: str) -> Client:
        client = site.clients.get(name)
        if client is None:
            raise VitalsError(
                f"{name!r} has no credential.", expected="one of: " + ", ".join(sorted(site.clients)),
                found=repr(name), do="See `vitals provision list`.",
            )  # fmt: skip
        return client

    def _again(self, site: str, hosts: list[str], port: int, credentials: Credentials) -> list[str]:
        """`init` a second time changes nothing; asked for something else, it says what does."""
        found, _ = self._open()
        if (found.site, found.port, found.credentials, found.hosts) == (site, port, credentials, hosts):
            return [f"{self._folder} is there already; nothing changed"]
        raise VitalsError(
            f"{self._folder} is there already, for something else.",
            expected=f"site {found.site}, port {found.port}, {found.credentials}, hosts {', '.join(found.hosts)}",
            found=f"site {site}, port {port}, {credentials}, hosts {', '.join(hosts)}",
            do="For other hosts: `vitals provision rotate broker --host ...`. For the rest: another --folder.",
        )

    def _give(self, site: Site, authority: Authority, name: str, role: Role, *, replace: bool = False) -> Site:
        """A new credential into the client's folder, and its public half into the site."""
        folder = self._folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        now = self._now()
        if site.credentials == "password":
            password = secrets.token_urlsafe(PASSWORD_BYTES)
            _write(folder / "password", password.encode() + b"\n", replace=replace)
            line = mosquitto.password_line(name, password, secrets.token_bytes(mosquitto.SALT))
            client = Client(role, now, password=line)
        else:
            issued = authority.client(name, now)
            _write(folder / "client.key", issued.key, replace=replace)
            _write(folder / "client.crt", issued.certificate, replace=replace)
            client = Client(role, now, issued.expires, f"{issued.serial:x}")
        _write(folder / "ca.crt", authority.certificate, replace=True)
        if not (folder / "settings.toml").exists():  # it may have grown devices meanwhile
            _write_new(folder / "settings.toml", snippet(site, name, role).encode())
        return msgspec.structs.replace(site, clients={**site.clients, name: client})

    def _put_server(self, server: Issued, *, replace: bool = False) -> None:
        broker = self._folder / "broker"
        _write(broker / "server.key", server.key, replace=replace)
        _write(broker / "server.crt", server.certificate, replace=replace)

    def _finish(self, site: Site, authority: Authority) -> None:
        """The broker's files, all made anew from the site; the manifest last, so that an act cut short is repeated."""
        broker = self._folder / "broker"
        clients = {name: client.role for name, client in site.clients.items()}
        lines = [client.password for client in site.clients.values() if client.password]
        conf = mosquitto.configuration(
            port=site.port, folder=site.broker_folder, data_folder=site.data_folder, credentials=site.credentials
        )
        revoked = [Revoked(int(gone.serial, 16), gone.at) for gone in site.withdrawn]
        for name, data in {
            "mosquitto.conf": conf.encode(),
            "acl": mosquitto.access_rules(clients, Topics(site.site)).encode(),
            "passwords": mosquitto.passwords(lines).encode(),
            "ca.crt": authority.certificate,
            "revoked.pem": authority.revocation_list(revoked, self._now()),
        }.items():
            _write(broker / name, data, replace=True)
        _write(self._manifest, msgspec.json.format(msgspec.json.encode(site), indent=2) + b"\n", replace=True)


RELOAD: Final = "copy the broker's folder to the broker and reload it (SIGHUP): until then nothing has changed there"
RESTART: Final = (
    "copy the broker's folder to the broker and restart it: until then nothing has changed there (a reload is not "
    "enough: who is connected may stay so)"
)
"""On SIGHUP mosquitto checks passwords of those who are connected, but neither certificates nor the list of revoked
ones; and whom it puts out then may not leave its last will, so everybody would go on taking it for online. While it is
being stopped the old rights still hold, and the will is published."""


def snippet(site: Site, name: str, role: Role) -> str:
    """The part of the settings file that lets this client in; paths are beside the file."""
    credential = {
        "password": f'username = "{name}"\npassword_file = "password"\n',
        "certificate": 'cert_file = "client.crt"\nkey_file = "client.key"\n',
    }[site.credentials]
    own = f'\n[gateway]\nid = "{name}"\n' if role == "gateway" else ""
    return (
        f"# Settings of {name} for the broker; the rest is described in docs/settings.md.\n"
        f'[site]\nid = "{site.site}"\n\n'
        f'[broker]\nhost = "{site.hosts[0]}"\nport = {site.port}\nca_file = "ca.crt"\n{credential}{own}'
    )


def _without(site: Site, name: str, now: datetime) -> Site:
    """The site without that client; a certificate is remembered as withdrawn."""
    clients = {**site.clients}
    gone = clients.pop(name)
    withdrawn = [*site.withdrawn, Withdrawn(gone.serial, now)] if gone.serial else site.withdrawn
    return msgspec.structs.replace(site, clients=clients, withdrawn=withdrawn)


def _require_names(site: str, hosts: Sequence[str]) -> None:
    if not NAME.fullmatch(site):
        raise VitalsError(
            "The site cannot be called so.", expected="a to z, 0 to 9, _ and -, at most 32 characters",
            found=repr(site), do="Use the `site.id` of the settings.",
        )  # fmt: skip
    wrong = [host for host in hosts if not HOST.fullmatch(host)]
    if wrong or not hosts:
        raise VitalsError(
            "The broker's host is no host name or address.", expected="--host broker.lan --host 192.168.1.20",
            found=", ".join(map(repr, wrong)) or "no host",
            do="Give every name and address by which a gateway, ingest or the board calls the broker.",
        )  # fmt: skip


def _write(path: Path, data: bytes, *, replace: bool) -> None:
    if not replace:
        return _write_new(path, data)
    # Whole or not at all, also when the power goes: the new file is complete before it takes the old one's name.
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    _write_new(new, data)
    new.replace(path)
    return None


def _write_new(path: Path, data: bytes) -> None:
    """Mode 0600 from the first byte. Raises VitalsError rather than overwrite a file."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise VitalsError(
            f"{path} is there already.", expected="no such file", found="one that may be in use",
            do="Move it away if it is not needed; nothing is overwritten.",
        ) from None  # fmt: skip
    except OSError as error:
        raise VitalsError(
            f"{path} cannot be written.", expected="a folder that may be written", found=str(error),
            do="Give another --folder, or the permission.",
        ) from None  # fmt: skip
    with os.fdopen(file, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
