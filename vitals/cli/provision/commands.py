"""The subcommands of `vitals provision`. They print what was done and where it lies, never a secret."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from vitals.clock import SystemClock, to_datetime
from vitals.errors import VitalsError

if TYPE_CHECKING:
    from vitals.cli.provision.folder import Provision

SOON_DAYS: Final = 60
"""`list` says so this long before something expires."""
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Credentials for the broker: a certificate authority, TLS, one credential a gateway, access rules.",
)
Folder = Annotated[Path, typer.Option("--folder", help="Where the authority and all credentials are kept.")]
DEFAULT: Final = Path("provision")
Name = Annotated[str, typer.Argument(help="A gateway's `gateway.id`; for rotate and revoke also ingest or board.")]


@app.command()
def init(
    site: Annotated[str, typer.Option(help="`site.id` of the settings.")] = "clinic",
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of the broker; the first one goes into the settings.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The broker's TLS port.")] = 8883,
    credentials: Annotated[
        Literal["password", "certificate"], typer.Option(help="What a client shows the broker, over TLS.")
    ] = "password",
    broker_folder: Annotated[
        str, typer.Option(help="Where the broker's files will lie on its machine. Default: here, in --folder.")
    ] = "",
    data_folder: Annotated[str, typer.Option(help="Where the broker keeps its state.")] = "/var/lib/mosquitto",
    folder: Folder = DEFAULT,
) -> None:
    """Make the authority, the broker's files, and credentials for ingest and board."""
    _tell(
        _provision(folder).init(
            site=site,
            hosts=host or ["localhost", "127.0.0.1"],
            port=port,
            credentials=credentials,
            broker_folder=broker_folder,
            data_folder=data_folder,
        )
    )


@app.command()
def gateway(name: Name, folder: Folder = DEFAULT) -> None:
    """Make a credential for a gateway."""
    _tell(_provision(folder).gateway(name))


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="Whose: a gateway, ingest, board, or broker for its certificate.")],
    host: Annotated[list[str] | None, typer.Option(help="With broker: its new names and addresses.")] = None,
    folder: Folder = DEFAULT,
) -> None:
    """Make a new credential in place of the old one, which ends when the broker is restarted."""
    _tell(_provision(folder).rotate(name, host or []))


@app.command()
def revoke(name: Name, folder: Folder = DEFAULT) -> None:
    """Withdraw a credential; it ends when the broker is restarted."""
    _tell(_provision(folder).revoke(name))


@app.command("list")
def list_(folder: Folder = DEFAULT) -> None:
    """Who may connect, and what expires when."""
    now = _now()
    for name, kind, issued, until in _provision(folder).expiries():
        since = f", since {issued:%Y-%m-%d}" if issued else ""
        print(f"{name}: {kind}{since}, {_until(until, now)}")


def _until(until: datetime | None, now: datetime) -> str:
    if until is None:
        return "does not expire"
    days = (until - now).days
    if days < 0:
        return f"EXPIRED on {until:%Y-%m-%d}"
    return f"expires on {until:%Y-%m-%d}" + (f", SOON: in {days} days" if days < SOON_DAYS else "")


def _now() -> datetime:
    return to_datetime(SystemClock().now())


def _tell(lines: list[str]) -> None:
    for line in lines:
        print(line)


def _provision(folder: Path) -> "Provision":
    try:
        from vitals.cli.provision.folder import Provision
    except ImportError as error:
        raise VitalsError(
            "Credentials need the optional part `provision`.", expected="the package cryptography", found=str(error),
            do="pip install 'exam-room-vitals[provision]'",
        ) from None  # fmt: skip
    return Provision(folder, _now)
