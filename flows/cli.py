"""The command line. Heavy imports wait until a command needs them: `--help` is instant."""

from __future__ import annotations

import io
import json
import os
import sys

import click

from flows import look, mend
from flows.command import leave, options, run_flow, settings
from pagemill import __version__
from pagemill.errors import EXIT_CODES, PagemillError, Stopped, UsageError
from pagemill.printable import printable

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {n:>3}  {what}" for n, what in EXIT_CODES.items())


class _Main(click.Group):
    """Commands return their exit code; errors become one line on stderr and theirs."""

    def invoke(self, ctx: click.Context) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot say is escaped
                stream.reconfigure(errors="backslashreplace")
        try:
            _stand_somewhere()
            code = super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business
        except (Exception, KeyboardInterrupt) as error:
            if ctx.obj:  # --debug
                raise
            code, message = _explain(error)
            click.echo(f"pagemill: {message}", err=True)
        leave(code or 0)
        ctx.exit(code or 0)


def _stand_somewhere() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working directory is gone: change to another one") from None


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, PagemillError):
        return error.exit_code, printable(error)
    if isinstance(error, KeyboardInterrupt):
        return (
            Stopped.exit_code,
            "stopped: what is committed stays; the same command goes on from there",
        )
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


@main.command()
@click.argument("source")
@click.argument("out")
@options
def run(source: str, out: str, config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Read every page of SOURCE that OUT does not hold yet.

    The rows land in OUT/recipe=<model>-<fingerprint>/pages/*.parquet. Stop it whenever you
    like (Ctrl-C): what is committed stays, and the same command goes on where it stopped.

    What is in scope is set under select: in the config, or by --set:

    \b
      --set select.modified_since=2026-01-31    only what was modified since
      --set 'select.include=["*.pdf"]'          only such names
      --set select.pages=1-3                    only these pages of each document
      --set select.sample=100                   a hundred documents, always the same ones
      --set select.partition=2/8                the second of eight shares, on eight hosts
      --set select.not_made_by=RECIPE           only what that recipe of OUT does not hold
      --set 'select.redo.status=["partial"]'    also read such pages again
    """
    from pagemill.config import parse_overrides

    return run_flow(source, out, config, parse_overrides(overrides), as_json)


@main.command()
@options
def doctor(config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show what works on this machine, and what to install for what does not.

    Exit code 1 if something that the config needs is missing or broken.
    """
    from flows.doctor import BROKEN, MISSING, examine
    from flows.terminal import print_table

    findings = examine(settings(config, overrides))
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        print_table(("what", "state", "seen", "remedy"), findings)
    return 1 if any(finding.state in (MISSING, BROKEN) for finding in findings) else 0


@main.group()
def prefect() -> None:
    """For a lasting Prefect server: what a deployment of pagemill needs there.

    The deployments themselves are in prefect.yaml: `prefect deploy --all`.
    """


@prefect.command()
@click.option(
    "--within",
    default=300,
    show_default=True,
    type=click.IntRange(min=60),
    help="Seconds without a heartbeat after which a run is held dead.",
)
def automations(within: int) -> int:
    """Mark runs as crashed whose process or host is gone.

    Creates (or updates) one automation on the server of PREFECT_API_URL. Without it such a run
    stays "Running" for ever, and the next one of its deployment waits for it.
    """
    from flows.automations import NAME, set_up
    from flows.prefect_api import quiet

    quiet()
    click.echo(f"{set_up(within)}: {NAME} (no heartbeat for {within} s)")
    return 0


for command in (look.plan, look.status, look.check, look.show, mend.retry, mend.merge):
    main.add_command(command)
