"""The command line. Heavy imports wait until a command needs them: `--help` is instant."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import click

from pagemill import __version__
from pagemill.errors import EXIT_CODES, PagemillError, UsageError
from pagemill.printable import printable

if TYPE_CHECKING:
    from pagemill.ledger import Ledger
    from pagemill.settings import Settings

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {n:>3}  {what}" for n, what in EXIT_CODES.items())


class _Main(click.Group):
    """Commands return their exit code; errors become one line on stderr and theirs."""

    def invoke(self, ctx: click.Context) -> None:
        try:
            code = super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business
        except (Exception, KeyboardInterrupt) as error:
            if ctx.obj:  # --debug
                raise
            code, message = _explain(error)
            click.echo(f"pagemill: {message}", err=True)
        ctx.exit(code or 0)


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, PagemillError):
        return error.exit_code, printable(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped: what is committed stays; the same command goes on from there"
    return 1, printable(f"unexpected {type(error).__name__}: {error} (--debug shows where)")


@click.group(cls=_Main, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pagemill")
def main() -> None:
    """PDFs and images in, one balanced Parquet table of text and captions out.

    SOURCE is a file, a folder, a glob or a URL (s3://bucket/prefix). OUT is a folder or an
    s3:// URL. Every page of SOURCE becomes one row; run again and only what is missing is done.

    \b
      pagemill run scans/ out/             read everything that is new
      pagemill plan s3://b/in s3://b/out   what would be done, and why not the rest
      pagemill show out/                   a look at the rows
    """


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.find_root().obj = value
    _set_up_logging(value)


def _options(command: Callable[..., int]) -> Callable[..., int]:
    """The options that all commands share."""
    for option in (
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set_debug,
            help="Show tracebacks and all logs.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
        click.option(
            *("--set", "overrides"),
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a setting, such as limits.max_pages=5. Repeatable.",
        ),
        click.option(
            *("-c", "--config"),
            default="local",
            show_default=True,
            help="A YAML file, or the name of one in configs/.",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("source")
@click.argument("out")
@_options
def run(source: str, out: str, config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Read every page of SOURCE that OUT does not hold yet.

    The rows land in OUT/recipe=<model>-<fingerprint>/pages/*.parquet. Stop it whenever you
    like (Ctrl-C): what is committed stays, and the same command goes on where it stopped.
    """
    from flows.prefect_api import prefect_api, quiet
    from pagemill.settings import parse_overrides
    from pagemill.storage import Storage

    # A mistake is told before anything is started.
    Storage(out, _settings(config, overrides).storage)
    quiet()
    signal.signal(signal.SIGTERM, _interrupt)
    _show_progress()
    with prefect_api():
        from flows.ingest import ingest

        balance = ingest(source, out, config, parse_overrides(overrides))
    return _print_balance(cast("dict[str, Any]", balance), as_json)


@main.command()
@click.argument("source")
@click.argument("out")
@click.option("--count/--no-count", default=True, help="Open new documents to count their pages.")
@_options
def plan(
    source: str, out: str, count: bool, config: str, overrides: tuple[str, ...], as_json: bool
) -> int:
    """Show what `run` would do, and why not the rest. Nothing is written.

    Pages are counted by opening up to 200 of the new documents; beyond that they are
    estimated. The time is estimated from the last run of the same recipe.
    """
    from flows.terminal import print_facts, print_table
    from tasks.estimate import estimate
    from tasks.job import open_job
    from tasks.plan import plan_job

    job = open_job(source, out, _settings(config, overrides))
    ledger = job.open_ledger()
    planned = plan_job(job, ledger)
    facts = {"recipe": job.recipe.name, **planned.summary()}
    if count and planned.shards:
        facts |= estimate(planned, job.settings, ledger)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    if count and planned.shards:
        seconds = facts.pop("seconds")
        unknown = "unknown: no run of this recipe yet"
        facts |= {"pages": f"{facts['pages']}, {facts.pop('pages_are')}"}
        facts |= {"time": unknown if seconds is None else f"about {timedelta(seconds=seconds)}"}
    print_facts(facts)
    if not planned.shards:
        click.echo("nothing new: nothing to do")
    rows = [(i.source.uri, i.reason, _which(i.pages)) for i in islice(planned.items, 20)]
    if rows:
        print_table(("document", "why", "pages"), rows)
    more = sum(1 for _ in planned.items) - len(rows)
    if more > 0:
        click.echo(f"… and {more} more documents")
    return 0


@main.command()
@click.argument("out")
@_options
def status(out: str, config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show what OUT holds: documents and rows by recipe and status, and its last run."""
    from flows.terminal import print_facts
    from tasks.check import summary

    facts = [summary(ledger) for ledger in _ledgers(out, config, overrides)]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    for recipe in facts:
        print_facts(recipe)
    return 0


@main.command()
@click.argument("out")
@click.option("--source", help="Also prove that every object of SOURCE has rows here.")
@_options
def check(
    out: str, source: str | None, config: str, overrides: tuple[str, ...], as_json: bool
) -> int:
    """Prove that OUT holds one row per page: none missing, none twice, nothing unreadable.

    Exit code 1 if it does not; the documents concerned are listed.
    """
    from tasks.check import check_ledger, check_source
    from tasks.job import open_job

    results = [check_ledger(ledger) for ledger in _ledgers(out, config, overrides)]
    if source is not None:
        results.append(check_source(open_job(source, out, _settings(config, overrides))))
    problems = [problem for result in results for problem in result.problems]
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
        return 1 if problems else 0
    for result in results:
        click.echo(result.headline)
    for problem in problems:
        click.echo(f"  {printable(problem)}")
    return 1 if problems else 0


@main.command()
@click.argument("out")
@click.option("--limit", default=50, show_default=True, help="Rows to show, at most.")
@_options
def show(out: str, limit: int, config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show rows of OUT: file, page, status, first words of every output; and where they lie."""
    from flows.terminal import print_table
    from tasks.check import sample

    for ledger in _ledgers(out, config, overrides):
        rows = sample(ledger, limit)
        if as_json:
            click.echo(json.dumps(rows, indent=2, default=str, ensure_ascii=False))
            continue
        if rows:
            print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
        click.echo(f"Parquet: {ledger.storage.url}/{ledger.folder}/pages/*.parquet")
    return 0


@main.command()
@_options
def doctor(config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show what works on this machine, and what to install for what does not.

    Exit code 1 if something that the config needs is missing or broken.
    """
    from flows.doctor import BROKEN, MISSING, examine
    from flows.terminal import print_table

    findings = examine(_settings(config, overrides))
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        print_table(("what", "state", "seen", "remedy"), findings)
    return 1 if any(finding.state in (MISSING, BROKEN) for finding in findings) else 0


# -- helpers -------------------------------------------------------------------------------


def _settings(config: str, overrides: tuple[str, ...]) -> Settings:
    from pagemill.settings import load_settings, parse_overrides

    return load_settings(config, parse_overrides(overrides))


def _ledgers(out: str, config: str, overrides: tuple[str, ...]) -> list[Ledger]:
    """The datasets of OUT, one for each recipe."""
    from pagemill.ledger import open_ledgers
    from pagemill.storage import Storage

    ledgers = open_ledgers(Storage(out, _settings(config, overrides).storage))
    if not ledgers:
        raise UsageError(f"{out}: no pagemill output here: check the path, or run `pagemill run`")
    return ledgers


def _print_balance(balance: dict[str, Any], as_json: bool) -> int:
    from flows.terminal import print_facts
    from tasks.reconcile import Balance
    from tasks.report import headline, sheet_rows

    balance.pop("balanced")
    sheet = Balance(**balance)
    if as_json:
        click.echo(json.dumps(sheet.as_dict(), indent=2))
    else:
        print_facts(dict(sheet_rows(sheet)))
        click.echo(headline(sheet))
        click.echo(f"rows: {sheet.out.rstrip('/')}/recipe={sheet.recipe}/pages/*.parquet")
    return 3 if sheet.pages["read"].get("failed") else 0


def _which(pages: tuple[int, ...] | None) -> str:
    if pages is None:
        return "all"
    return ", ".join(map(str, pages[:8])) + (" …" if len(pages) > 8 else "")


def _show_progress() -> None:
    from rich.console import Console

    from flows import progress

    console = Console(stderr=True)
    if console.is_terminal:
        progress.display = progress.terminal(console)


def _set_up_logging(debug: bool) -> None:
    if not debug:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries; we say what came of them
    log = logging.getLogger("pagemill")
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False  # Prefect's handlers on the root logger would print it again
    log.handlers = [logging.StreamHandler()]
    log.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
