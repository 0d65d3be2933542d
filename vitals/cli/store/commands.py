"""The subcommands of `vitals store`: their arguments. They run beside ingest, or without it."""

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer

from vitals.settings import load

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The store: write it out, check it, drop what is old, see what was refused. Beside a running ingest.",
)
Config = Annotated[
    Path, typer.Option("--config", "-c", envvar="VITALS_CONFIG", help="The settings file (docs/settings.md).")
]
DEFAULT: Final = Path("vitals.toml")
Kinds: TypeAlias = Annotated[
    list[str] | None, typer.Option("--kind", help="Only this kind; may be repeated.", metavar="KIND")
]
Format: TypeAlias = Literal["csv", "parquet", "line"]


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    form: Annotated[Format, typer.Option("--format", help="csv, parquet, or line (InfluxDB).")] = "csv",
    kind: Kinds = None,
    since: Annotated[str, typer.Option(help="From this date or moment on, such as 2026-11-24.")] = "",
    until: Annotated[str, typer.Option(help="Before this date or moment.")] = "",
    room: Annotated[str, typer.Option(help="Only this room.")] = "",
    samples: Annotated[bool, typer.Option("--samples", help="One line for each sample, not for each strip.")] = False,
    config: Config = DEFAULT,
) -> None:
    """Write the store into files."""
    from vitals.cli.store import running

    running.run_export(load(config), out, form, kind or [], since, until, room, samples=samples)


@app.command()
def verify(config: Config = DEFAULT) -> None:
    """Read every row, and compare it with its digest, its columns, and (InfluxDB) the ledger."""
    from vitals.cli.store import running

    running.run_verify(load(config))


@app.command()
def prune(
    older_than: Annotated[str, typer.Option("--older-than", help="An age: 400d, 60w or 7y (years of 365 days).")],
    kind: Kinds = None,
    unevaluated: Annotated[
        bool, typer.Option("--unevaluated", help="Also readings that have no evaluation; else nothing is deleted.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = DEFAULT,
) -> None:
    """Delete old rows for good; what was deleted is not taken again."""
    from vitals.cli.store import running

    running.run_prune(load(config), older_than, kind or [], dry_run=dry_run, yes=yes, unevaluated=unevaluated)


@app.command()
def refused(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the payload.")] = False,
    config: Config = DEFAULT,
) -> None:
    """Show what ingest refused for good, and why. Patient data with --json."""
    from vitals.cli.store import running

    running.run_refused(load(config), limit, as_json=as_json)
