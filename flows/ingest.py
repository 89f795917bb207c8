"""The main job: discover → plan → process shards → reconcile → report.

    from flows.ingest import ingest
    ingest("samples", "out")

The same flow runs from the command line, from the Prefect UI and on a schedule.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows import progress
from flows.prefect_api import wait_until_recorded
from pagemill.errors import PagemillError, Stopped, Unbalanced
from pagemill.settings import DEFAULT_CONFIG, load_settings
from tasks.crew import Crew, muster
from tasks.job import open_job
from tasks.plan import Plan, Shard, plan_job
from tasks.process import Receipt
from tasks.reconcile import Balance, Work, reconcile
from tasks.report import headline, markdown, sheet_rows
from tasks.worker import Worker


def _run_name() -> str:
    parameters = flow_run.parameters
    return f"{Path(str(parameters['source'])).name or 'source'}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@flow(name="ingest", flow_run_name=_run_name)
def ingest(
    source: str,
    out: str,
    config: str = DEFAULT_CONFIG,
    overrides: dict[str, Any] | None = None,
) -> State[dict[str, Any]]:
    """Read every page of SOURCE that OUT does not hold yet.

    Args:
        source: A file, folder, glob or URL of PDFs and images.
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
    plan = plan_job(job, worker.ledger)
    work = _process(worker, plan)
    balance = reconcile(job, plan, worker.ledger, work, started)
    _report(worker, balance)
    wait_until_recorded(flow_run.id, len(plan.shards))
    _raise_for(balance, work.failures)
    return Completed(message=headline(balance), data=balance.as_dict())


@task(name="process shard", task_run_name="shard-{number}", cache_policy=NO_CACHE)
def process_shard_task(number: int, shard: Shard, crew: Crew) -> Receipt:
    """A shard on the next free worker, with a log line in the Prefect UI."""
    receipt = crew.process(shard)
    get_run_logger().info(
        "shard %d: %d documents, pages %s, %.1f s of model time",
        *(number, receipt.documents, receipt.pages, receipt.gpu_seconds),
    )
    return receipt


def _process(worker: Worker, plan: Plan) -> Work:
    """Run the shards on the workers that the settings ask for."""
    worker.ledger.tidy(worker.deciders)
    if not plan.shards:
        return Work()
    worker.ledger.prepare(worker.job.recipe)
    runner: ThreadPoolTaskRunner[Any]
    with (
        muster(worker.job, worker) as crew,
        progress.display(sum(1 for _ in plan.items), crew.totals),
        ThreadPoolTaskRunner(crew.slots) as runner,
    ):
        try:
            work = _collect([_submit(runner, shard, crew) for shard in plan.shards])
        except BaseException:
            crew.stop()  # leaving the runner waits for its threads
            raise
        return dataclasses.replace(work, reports=crew.reports())


def _submit(runner: ThreadPoolTaskRunner[Any], shard: Shard, crew: Crew) -> PrefectFuture[Receipt]:
    # `quote`: Prefect would otherwise search the values of the shard, file by file, for futures.
    parameters = {"number": shard.number, "shard": quote(shard), "crew": quote(crew)}
    return runner.submit(process_shard_task, parameters)


def _collect(futures: list[PrefectFuture[Receipt]]) -> Work:
    results = [future.result(raise_on_failure=False) for future in futures]
    return Work(
        receipts=[result for result in results if isinstance(result, Receipt)],
        failures=[result for result in results if isinstance(result, Exception)],
    )


def _report(worker: Worker, balance: Balance) -> None:
    """Write the balance sheet, last of all, and show it in the Prefect UI."""
    sheet = worker.ledger.write_run(balance.run_id, balance.as_dict())
    out = worker.ledger.storage.url
    create_table_artifact(
        table=[{"what": name, "count": value} for name, value in sheet_rows(balance)],
        key="pagemill-balance",
        description=headline(balance),
    )
    create_markdown_artifact(markdown(balance, f"{out}/{sheet}"), key="pagemill-report")
    pages = f"{out}/{worker.ledger.folder}/pages"
    create_link_artifact(
        link=pages if "://" in pages else f"file://{pages}",
        link_text=f"{worker.job.recipe.name}: {balance.pages['rows']} rows",
        key="pagemill-output",
    )


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
