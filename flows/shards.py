"""The shards of a run as Prefect tasks: a task for each shard, never for a page.

A task waits in a thread of this process for the next free worker of the crew; where the workers
are is `tasks.crew`'s business. A few more shards than there is room for are submitted at a time,
so that memory does not grow with the job.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import FIRST_COMPLETED, wait
from itertools import islice
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectConcurrentFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows import progress
from flows.story import Story
from tasks.crew import Crew, muster
from tasks.plan import Plan
from tasks.receipt import Receipt
from tasks.reconcile import Work
from tasks.report import pages_line
from tasks.room import LOOK_SECONDS
from tasks.shard import Shard
from tasks.worker import Worker

AHEAD = 2
"""Shards submitted beyond those that there is room for."""


@task(name="process shard", task_run_name="shard-{number}", cache_policy=NO_CACHE)
def process_shard_task(number: int, shard: Shard, crew: Crew) -> Receipt:
    """A shard on the next free worker, with a log line in the Prefect UI."""
    receipt = crew.process(shard)
    get_run_logger().info(
        "shard %d: %d documents committed; pages: %s; %.1f s of model time",
        *(number, receipt.committed, pages_line(receipt.pages), receipt.gpu_seconds),
    )
    return receipt


def process_shards(worker: Worker, plan: Plan) -> Work:
    """Run the shards of a plan on the workers that the settings ask for."""
    worker.ledger.tidy(worker.deciders)
    if not plan.shards:
        return Work()
    worker.ledger.prepare(worker.job.recipe)
    runner: ThreadPoolTaskRunner[Any]
    with (
        muster(worker.job, worker, plan.about_pages()) as crew,
        progress.display(plan.todo, crew.totals),
        ThreadPoolTaskRunner(crew.slots + AHEAD) as runner,
    ):
        story = Story(plan.todo)
        try:
            work = _run(runner, plan, crew, story)
        except BaseException:
            crew.stop()  # leaving the runner waits for its threads
            raise
        reports = crew.reports()
        story.tell(reports, last=True)
        return dataclasses.replace(work, reports=reports)


def _run(runner: ThreadPoolTaskRunner[Any], plan: Plan, crew: Crew, story: Story) -> Work:
    work = Work()
    shards, waiting = iter(plan.shards), set[PrefectConcurrentFuture[Receipt]]()
    while True:
        more = max(0, crew.appetite + AHEAD - len(waiting))
        waiting |= {_submit(runner, shard, crew) for shard in islice(shards, more)}
        if not waiting:
            return work
        ended, _ = wait(
            [future.wrapped_future for future in waiting], LOOK_SECONDS, FIRST_COMPLETED
        )
        done = {future for future in waiting if future.wrapped_future in ended}
        waiting -= done
        for future in done:
            _keep(work, future)
        if done:
            story.tell(crew.reports())


def _submit(
    runner: ThreadPoolTaskRunner[Any], shard: Shard, crew: Crew
) -> PrefectConcurrentFuture[Receipt]:
    # `quote`: Prefect would otherwise search the values of the shard, file by file, for futures.
    parameters = {"number": shard.number, "shard": quote(shard), "crew": quote(crew)}
    return runner.submit(process_shard_task, parameters)


def _keep(work: Work, future: PrefectConcurrentFuture[Receipt]) -> None:
    result = future.result(raise_on_failure=False)
    if isinstance(result, Receipt):
        work.receipts.append(result)
    elif isinstance(result, Exception):
        work.failures.append(result)
