"""The main job: discover → plan → process shards → reconcile → report.

    from flows.ingest import ingest
    ingest("samples", "out")

The same flow runs from the command line, from the Prefect UI and on a schedule.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.prefect_api import wait_until_recorded
from flows.shards import process_shards
from flows.story import publish
from pagemill.errors import PagemillError, Stopped, Unbalanced
from pagemill.settings import DEFAULT_CONFIG, load_settings
from tasks.job import open_job
from tasks.reconcile import Balance, reconcile
from tasks.report import headline
from tasks.shift import shift
from tasks.worker import Worker

log = logging.getLogger("pagemill.run")


def _run_name() -> str:
    parameters = flow_run.parameters
    about = Path(str(parameters["source"] or parameters["out"])).name
    return f"{about or 'source'}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@flow(name="ingest", flow_run_name=_run_name)
def ingest(
    source: str | None,
    out: str,
    config: str = DEFAULT_CONFIG,
    overrides: dict[str, Any] | None = None,
) -> State[dict[str, Any]]:
    """Read every page of SOURCE that OUT does not hold yet.

    Args:
        source: A file, folder, glob or URL of PDFs and images. None reads the pages that
            select.redo names again, wherever their rows say that they lie.
        out: The folder or s3:// URL of the table.
        config: A YAML file, or the name of one in configs/.
        overrides: Settings laid over the config, such as {"limits.max_pages": 5}.

    Returns:
        The balance sheet as plain data. Fails, saying what to do, when a shard could not
        finish or the rows do not balance.
    """
    started = datetime.now(UTC)
    job = open_job(source, out, load_settings(config, overrides))
    worker = Worker(job)
    with shift(job, worker.ledger, log.info) as plan:
        work = process_shards(worker, plan)
        balance = reconcile(job, plan, worker.ledger, work, started)
        sheet = worker.ledger.write_run(balance.run_id, balance.as_dict())
    publish(balance, work, worker.ledger, sheet)
    wait_until_recorded(flow_run.id, len(plan.shards))
    _raise_for(balance, work.failures)
    return Completed(message=headline(balance), data=balance.as_dict())


def _raise_for(balance: Balance, failures: list[Exception]) -> None:
    causes = [error for error in failures if not isinstance(error, Stopped)]
    if causes:
        raise causes[0] if len(causes) == 1 else _together(causes)
    if not balance.balanced:
        shown = "; ".join(balance.missing[:3])
        raise Unbalanced(
            f"{balance.pages['rows']} rows for {balance.pages['expected']} pages, "
            f"{len(balance.missing)} documents do not add up: {shown}. Run again; if it stays, "
            "`pagemill check OUT` lists them all"
        )


def _together(causes: list[Exception]) -> Exception:
    first = causes[0]
    kind = type(first) if isinstance(first, PagemillError) else RuntimeError
    return kind(f"{first} (and {len(causes) - 1} more shards failed; run again to do the rest)")
