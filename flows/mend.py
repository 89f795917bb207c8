"""Commands that mend: read pages again, copy an output in large files."""

from __future__ import annotations

from typing import Any

import click

from flows.command import options, run_flow, settings
from flows.look import show_plan
from pagemill.errors import ErrorKind, UsageError
from pagemill.status import Status


@click.command()
@click.argument("out")
@click.argument("source", required=False)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice([status.value for status in Status]),
    help="Pages of this status. Repeatable.",
)
@click.option(
    "--error-kind",
    multiple=True,
    type=click.Choice([kind.value for kind in ErrorKind]),
    metavar="KIND",
    help="Pages that failed of this kind, such as time_out. Repeatable.",
)
@click.option(
    "--confidence-below",
    type=click.FloatRange(0, 1, min_open=True),
    help="Pages with an output whose tokens had a lower mean probability, such as 0.8.",
)
@click.option("--before", metavar="TIME", help="Pages read before this time (UTC, 2026-01-31).")
@click.option("--dry-run", is_flag=True, help="Show what would be read, and its price.")
@options
def retry(
    out: str,
    source: str | None,
    status: tuple[str, ...],
    error_kind: tuple[str, ...],
    confidence_below: float | None,
    before: str | None,
    dry_run: bool,
    config: str,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Read committed pages of OUT again, and put the new rows in their place.

    Just those of which all that is asked is true, such as

    \b
      pagemill retry out/ --status failed
      pagemill retry out/ --error-kind time_out --set limits.seconds_per_page=120
      pagemill retry out/ --confidence-below 0.8 --before 2026-01-31

    The rows say where their documents lie. A document that has changed since is read as a
    whole; one that cannot be read any more keeps its rows. With SOURCE, only what it lists. The
    config must be the one of the recipe: `pagemill status OUT` names it.
    """
    from pagemill.config import load_settings, parse_overrides

    asked: dict[str, Any] = {
        "status": list(status),
        "error_kind": list(error_kind),
        "confidence_below": confidence_below,
        "before": before,
    }
    redo = {f"select.redo.{name}": value for name, value in asked.items() if value}
    if not redo:
        raise UsageError("say which pages: --status, --error-kind, --confidence-below or --before")
    changes = {**parse_overrides(overrides), **redo, "select.new": False}
    if dry_run:
        return show_plan(source, out, load_settings(config, changes), True, as_json)
    return run_flow(source, out, config, changes, as_json)


@click.command()
@click.argument("out")
@click.argument("new")
@click.option(
    "--parts",
    default=64,
    show_default=True,
    type=click.IntRange(min=2),
    help="Parts that become one file.",
)
@options
def merge(
    out: str, new: str, parts: int, config: str, overrides: tuple[str, ...], as_json: bool
) -> int:
    """Copy OUT to NEW in large files, for readers. OUT is not changed.

    A part is small because it is written often; who reads the table as a whole is quicker on
    a few large files. NEW is another folder or s3:// URL, not in OUT. Run it again after each
    run: only files with new or changed rows are written, each in one step.
    """
    import json

    from pagemill.storage import Storage
    from tasks.merge import merge as merge_to

    storage = settings(config, overrides).storage
    lines = list(merge_to(Storage(out, storage), Storage(new, storage), parts))
    click.echo(json.dumps(lines, indent=2) if as_json else "\n".join(lines))
    return 0
