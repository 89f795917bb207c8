"""The main job: discover → plan → process shards → reconcile → report.

    from flows.ingest import ingest
    ingest("samples", "out")

The same flow runs from the command line, from the Prefect UI and on a schedule.
"""

from __future__ import annotations

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
from pagemill.errors import EngineError, PagemillError, Stopped, Unbalanced
from pagemill.settings import DEFAULT_CONFIG, load_settings
from tasks.job import open_job
from tasks.plan import Plan, Shard, plan_job
from tasks.process import Receipt, process_shard
from tasks.reconcile import Balance, reconcile
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
    receipts, failures = _process(worker, plan)
    failed_shards = [str(failure) for failure in failures]
    balance = reconcile(job, plan, worker, receipts, failed_shards, started)
    _report(worker, balance)
    wait_until_recorded(flow_run.id, len(plan.shards))
    _raise_for(balance, failures)
    return Completed(message=headline(balance), data=balance.as_dict())


@task(name="process shard", task_run_name="shard-{number}", cache_policy=NO_CACHE)
def process_shard_task(number: int, shard: Shard, worker: Worker) -> Receipt:
    """`process_shard`, with a log line in the Prefect UI."""
    receipt = process_shard(worker, shard)
    get_run_logger().info(
        "shard %d: %d documents, pages %s, %.1f s of model time",
        *(number, receipt.documents, receipt.pages, receipt.gpu_seconds),
    )
    return receipt


def _process(worker: Worker, plan: Plan) -> tuple[list[Receipt], list[Exception]]:
    """Run the shards; gives the receipts of those that finished and the errors of the others."""
    worker.ledger.tidy(worker.deciders)
    if not plan.shards:
        return [], []
    worker.ledger.prepare(worker.job.recipe)
    in_flight = worker.job.settings.work.shards_in_flight
    runner: ThreadPoolTaskRunner[Any]
    with progress.display(plan, worker.meter), ThreadPoolTaskRunner(in_flight) as runner:
        try:
            return _collect(worker, [_submit(runner, shard, worker) for shard in plan.shards])
        except BaseException:
            worker.stop.set()  # leaving the runner waits for its threads
            raise


def _submit(
    runner: ThreadPoolTaskRunner[Any], shard: Shard, worker: Worker
) -> PrefectFuture[Receipt]:
    # `quote`: Prefect would otherwise search the values of the shard, file by file, for futures.
    parameters = {"number": shard.number, "shard": quote(shard), "worker": quote(worker)}
    return runner.submit(process_shard_task, parameters)


def _collect(
    worker: Worker, futures: list[PrefectFuture[Receipt]]
) -> tuple[list[Receipt], list[Exception]]:
    receipts: list[Receipt] = []
    failures: list[Exception] = []
    for future in futures:
        result = future.result(raise_on_failure=False)
        if isinstance(result, Receipt):
            receipts.append(result)
        elif isinstance(result, Exception):
            failures.append(result)
            if isinstance(result, EngineError):
                worker.stop.set()  # no other shard can do without the model
    return receipts, failures


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
