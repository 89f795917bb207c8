"""The flows: read what is new, complete or redo what is there, try again what failed.

    from flows.ingest import ingest
    ingest("samples", "out")

All three are the same job, discover → plan → process shards → reconcile → report, on another
selection. They run from the command line, from a form in the Prefect UI and on a schedule.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import BaseModel

from flows.form import Config, How, Overrides, Url, settings_of
from flows.interrupt import spare_locks
from flows.prefect_api import wait_until_recorded
from flows.shards import process_shards
from flows.story import publish, publish_estimate
from pagemill.config import DEFAULT_CONFIG
from pagemill.errors import ErrorKind, PagemillError, Stopped, Unbalanced
from pagemill.settings import Select, Settings
from tasks.estimate import estimate
from tasks.job import open_job
from tasks.plan import plan_job
from tasks.reconcile import NAMED, Balance, reconcile
from tasks.report import headline
from tasks.shift import shift
from tasks.worker import Worker

log = logging.getLogger("pagemill.run")

Tried = Literal["failed", "partial", "fallback", "skipped"]
_AS_CONFIGURED = How()
_EVERYTHING = Select()
_FAILED: list[Tried] = ["failed"]
_ANY: list[ErrorKind] = []
_NOTHING: Overrides = {}


def _run_name() -> str:
    """Such as ``scans 2026-11-22 02:30:05``; the flow's name stands before it in the UI."""
    about = flow_run.parameters.get("source") or flow_run.parameters["out"]
    return f"{Path(str(about)).name or 'pages'} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="ingest", flow_run_name=_run_name)
def ingest(
    source: Url,
    out: Url,
    config: Config = DEFAULT_CONFIG,
    how: How = _AS_CONFIGURED,
    overrides: Overrides = _NOTHING,
) -> State[dict[str, Any]]:
    """Read every page of SOURCE that OUT does not hold yet, and prove that none is missing.

    Run it as often as you like: only what is new, has changed or failed for a passing reason is
    read. Stop it whenever you like: what is committed stays.

    Args:
        source: A folder, glob or URL of PDFs and images, such as s3://bucket/scans.
        out: Where the table grows: an s3:// URL, or a folder that every worker sees.
        config: The model and what it is asked, one of the files in configs/.
        how: Model, runner and workers, where they are not to be as the config says.
        overrides: Any other setting by its dotted name, such as {"limits.max_pages": 5}.

    Returns:
        The balance sheet as plain data. Fails, saying what to do, when a shard could not
        finish or the rows do not balance.
    """
    return _run(source, out, settings_of(config, overrides, how))


@flow(name="backfill", flow_run_name=_run_name)
def backfill(
    source: Url,
    out: Url,
    config: Config = DEFAULT_CONFIG,
    dry_run: bool = True,
    select: Select = _EVERYTHING,
    how: How = _AS_CONFIGURED,
    overrides: Overrides = _NOTHING,
) -> State[dict[str, Any]]:
    """Read a part of SOURCE, or read pages again: by date, size, page, status or recipe.

    Another model or prompt makes another recipe, whose rows grow beside the old ones; readers of
    those are not disturbed. No page ever has two rows in one recipe. A dry run comes first: it
    writes nothing, loads no model, and shows documents, pages, time and cost.

    Args:
        source: A folder, glob or URL of PDFs and images, such as s3://bucket/scans.
        out: Where the table grows: an s3:// URL, or a folder that every worker sees.
        config: The model and what it is asked, one of the files in configs/.
        dry_run: Only show what would be done. Switch it off to do it.
        select: Which documents and pages, as this form shows it (not as the config says).
        how: Model, runner and workers, where they are not to be as the config says.
        overrides: Any other setting by its dotted name, such as {"limits.max_pages": 5}.

    Returns:
        The balance sheet; of a dry run, the estimate.
    """
    chosen = {f"select.{name}": getattr(select, name) for name in select.model_fields_set}
    settings = settings_of(config, {**_plain(chosen), **overrides}, how)
    return _estimate(source, out, settings) if dry_run else _run(source, out, settings)


@flow(name="retry-failed", flow_run_name=_run_name)
def retry_failed(
    out: Url,
    config: Config = DEFAULT_CONFIG,
    status: list[Tried] = _FAILED,
    error_kind: list[ErrorKind] = _ANY,
    dry_run: bool = False,
    how: How = _AS_CONFIGURED,
    overrides: Overrides = _NOTHING,
) -> State[dict[str, Any]]:
    """Try again the pages that failed, and nothing else; their new rows take the old ones' place.

    Runs retry passing failures three times by themselves. This is for afterwards: a limit was
    raised, an access right was given, a model was mended. The rows say where their documents lie.

    Args:
        out: Where the table is: an s3:// URL, or a folder that every worker sees.
        config: As it was read with before.
        status: Rows to try again; partial ones were cut off or miss an output.
        error_kind: Only these errors; none named means all.
        dry_run: Only show what would be done.
        how: Runner and workers, where they are not to be as the config says.
        overrides: What is to be different, such as {"limits.seconds_per_page": 120}.

    Returns:
        The balance sheet; of a dry run, the estimate.
    """
    asked = {"status": list(status), "error_kind": [str(kind) for kind in error_kind]}
    chosen = {f"select.redo.{name}": value for name, value in asked.items() if value}
    settings = settings_of(config, {"select.new": False, **chosen, **overrides}, how)
    return _estimate(None, out, settings) if dry_run else _run(None, out, settings)


def _run(source: str | None, out: str, settings: Settings) -> State[dict[str, Any]]:
    started = datetime.now(UTC)
    spare_locks()
    if not logging.getLogger("pagemill").level:  # our lines are for the UI, too
        logging.getLogger("pagemill").setLevel(logging.INFO)
    job = open_job(source, out, settings)
    worker = Worker(job)
    with shift(job, worker.ledger, log.info) as plan:
        work = process_shards(worker, plan)
        balance = reconcile(job, plan, worker.ledger, work, started)
        sheet = worker.ledger.write_run(balance.run_id, balance.as_dict())
    publish(balance, work, worker.ledger, sheet)
    wait_until_recorded(flow_run.id, len(plan.shards))
    _raise_for(balance, work.failures)
    return Completed(message=headline(balance), data=balance.as_dict())


def _estimate(source: str | None, out: str, settings: Settings) -> State[dict[str, Any]]:
    job = open_job(source, out, settings)
    ledger = job.open_ledger()
    plan = plan_job(job, ledger)
    facts = {"recipe": job.recipe.name, **plan.summary()}
    if plan.shards:
        facts |= estimate(plan, settings, ledger)
    line = publish_estimate(facts)
    return Completed(message=line, data=facts)


def _plain(chosen: dict[str, Any]) -> dict[str, Any]:
    return {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in chosen.items()}


def _raise_for(balance: Balance, failures: list[Exception]) -> None:
    causes = [error for error in failures if not isinstance(error, Stopped)]
    if causes:
        raise causes[0] if len(causes) == 1 else _together(causes)
    if not balance.balanced:
        shown = "; ".join(balance.missing[:3])
        more = " or more" if len(balance.missing) == NAMED else ""
        raise Unbalanced(
            f"{balance.pages['rows']} rows for {balance.pages['expected']} pages, "
            f"{len(balance.missing)}{more} documents do not add up: {shown}. Run again; if it "
            "stays, `pagemill check OUT --source SOURCE` lists them all"
        )


def _together(causes: list[Exception]) -> Exception:
    first = causes[0]
    kind = type(first) if isinstance(first, PagemillError) else RuntimeError
    return kind(f"{first} (and {len(causes) - 1} more shards failed; run again to do the rest)")
