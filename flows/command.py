"""What commands share: their options, the settings and datasets they are about, a run."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

from flows.interrupt import heed_signals
from pagemill.errors import Stopped, UsageError

if TYPE_CHECKING:
    from pagemill.ledger import Ledger
    from pagemill.settings import Settings


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.find_root().obj = value
    _set_up_logging(value)


def options(command: Callable[..., int]) -> Callable[..., int]:
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


def settings(config: str, overrides: tuple[str, ...]) -> Settings:
    """The settings that the options ask for."""
    from pagemill.config import load_settings, parse_overrides

    return load_settings(config, parse_overrides(overrides))


def ledgers(out: str, config: str, overrides: tuple[str, ...]) -> list[Ledger]:
    """The datasets of OUT, one for each recipe."""
    from pagemill.ledger import open_ledgers
    from pagemill.storage import Storage

    found = open_ledgers(Storage(out, settings(config, overrides).storage))
    if not found:
        raise UsageError(f"{out}: no pagemill output here: check the path, or run `pagemill run`")
    return found


def run_flow(
    source: str | None, out: str, config: str, overrides: dict[str, Any], as_json: bool
) -> int:
    """Run a flow, `retry_failed` where there is no source, and print its balance; the exit code."""
    from flows.prefect_api import prefect_api, quiet
    from pagemill.config import load_settings
    from pagemill.storage import Storage
    from pagemill.urls import canonical, local_path, protocol
    from tasks.list_local import list_local

    # A mistake is told before anything is started.
    Storage(out, load_settings(config, overrides).storage)
    if source is not None and protocol(canonical(source)) == "file":
        list_local(local_path(source))
    quiet()
    heed_signals()
    _show_progress()
    with prefect_api():
        from flows.ingest import ingest, retry_failed

        balance: Any
        if source is None:
            balance = retry_failed(out, config, status=[], overrides=overrides)
        else:
            balance = ingest(source, out, config, overrides=overrides)
    return _print_balance(cast("dict[str, Any]", balance), as_json)


def leave(code: int) -> None:
    """End this process at once where Python would wait for what nobody needs any more.

    That is a model that is still being loaded, since frameworks cannot be told to stop, and the
    shards of a run that was stopped twice, since nobody has waited for them.
    """
    residency = sys.modules.get("loaders.resident")
    is_loading = residency is not None and residency.is_loading()
    if not is_loading and not (code == Stopped.exit_code and _is_working()):
        return
    for child in multiprocessing.active_children():  # such as vLLM's engine process
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_working() -> bool:
    others = set(threading.enumerate()) - {threading.main_thread()}
    return any(not thread.daemon for thread in others)


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
