"""A shift: the plan of a run, made while nobody else works on the same."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from pagemill.lease import Lease
from pagemill.ledger import Ledger
from tasks.job import Job
from tasks.plan import Plan, plan_job


@contextlib.contextmanager
def shift(job: Job, ledger: Ledger, tell: Callable[[str], None]) -> Iterator[Plan]:
    """The plan of a job, with the lease of its recipe for as long as it takes.

    A job with nothing to do takes no lease, and writes nothing. One that had to wait is planned
    again, since the others have done some of its work.

    Raises
    ------
    Busy
        Another run works on the recipe, and `work.when_busy` is ``stop``.
    """
    plan = plan_job(job, ledger)
    if not plan.shards:
        yield plan
        return
    lease = Lease(ledger.storage, f"{ledger.folder}/leases", _part(job), _holder(job))
    with lease.held(job.settings.work.when_busy, tell) as waited:
        yield plan_job(job, ledger) if waited else plan


def _part(job: Job) -> str:
    share = job.settings.select.partition
    return share.replace("/", "-of-") if share else "all"


def _holder(job: Job) -> str:
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return f"run {job.run_id} on {socket.gethostname()} (process {os.getpid()}, since {now})"
