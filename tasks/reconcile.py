"""Reconcile: prove from the committed rows that every page is accounted for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from pagemill.committed import count_errors
from pagemill.ledger import Ledger
from pagemill.settings import Settings
from pagemill.status import Status
from tasks.gauges import Report, together
from tasks.job import Job
from tasks.plan import Plan
from tasks.receipt import Receipt

NAMED = 1000
"""Documents that a balance sheet names, at most; `pagemill check` names all."""


class Audit(NamedTuple):
    """Parts of a balance sheet; see `Balance`."""

    pages: dict[str, Any]
    outcomes: dict[str, int]
    errors: dict[str, int]
    missing: list[str]


@dataclass
class Balance:
    """A run's balance sheet: what was asked, what is there, what it cost.

    Attributes
    ----------
    run_id, recipe, source, out : str
    started, finished : str
        UTC, ISO 8601.
    seconds : float
        Wall time.
    documents : dict
        ``selected`` = ``done`` (before this run) + ``new`` + ``changed`` + ``retry``, and now
        = the sum of ``outcomes``: ``read``, ``skipped`` or ``failed`` as a whole, ``missing``.
        ``outside`` counts objects outside the selection by reason; ``copied`` of equal ones;
        ``deleted`` those with rows that are no longer at the source.
    pages : dict
        ``expected`` by the documents' page counts, ``rows`` in the table, rows of this run by
        status in ``read`` and of all selected documents in ``by_status``.
    cost : dict
        Of this run: tokens, seconds, rates, seconds that the model took to load (none where it
        was resident), shares of the time after that that the engine was idle and hungry and its
        queue (`tasks.feed`), the fullest worker's GPU memory; and, where `work.gpu_hour_price` is
        set, its price.
    failed_shards : list of str
        Why shards did not finish; their documents are for the next run.
    missing : list of str
        Selected documents without (all of) their rows: the first `NAMED` of them.
    errors : dict
        Failed and skipped rows of the selected documents by error kind.
    workers : list of dict
        A `Report` of each worker.
    """

    run_id: str
    recipe: str
    source: str | None
    out: str
    started: str
    finished: str
    seconds: float
    documents: dict[str, Any]
    pages: dict[str, Any]
    cost: dict[str, Any]
    failed_shards: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    workers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether every selected document has one row for each of its pages."""
        outcomes = Counter(self.documents["outcomes"])
        return (
            not self.missing
            and not outcomes["missing"]
            and outcomes.total() == self.documents["selected"]
            and self.pages["expected"] == self.pages["rows"]
        )

    @property
    def failed(self) -> int:
        """Rows ``failed`` of the selected documents."""
        return int(self.pages["by_status"].get("failed", 0))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "balanced": self.balanced}


@dataclass(frozen=True)
class Work:
    """What came of the shards of a run.

    Attributes
    ----------
    receipts : list of Receipt
        Of the shards that finished.
    failures : list of Exception
        Of those that did not.
    reports : list of Report
        What each worker says of itself.
    """

    receipts: list[Receipt] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


def reconcile(job: Job, plan: Plan, ledger: Ledger, work: Work, started: datetime) -> Balance:
    """Read the ledger afresh and draw up the balance sheet of a run."""
    ledger.refresh()
    found = audit(plan)
    finished = datetime.now(UTC)
    seconds = (finished - started).total_seconds()
    read: Counter[str] = Counter()
    for receipt in work.receipts:
        read.update(receipt.pages)
    return Balance(
        run_id=job.run_id,
        recipe=job.recipe.name,
        source=job.source,
        out=job.out,
        started=started.isoformat(timespec="seconds"),
        finished=finished.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        documents={
            **plan.summary(),
            "copied": sum(r.copied for r in work.receipts),
            "outcomes": found.outcomes,
        },
        pages={**found.pages, "read": dict(read)},
        cost=_cost(work, sum(read.values()), seconds, job.settings),
        failed_shards=[str(failure) for failure in work.failures],
        missing=found.missing,
        errors=found.errors,
        workers=[asdict(report) for report in work.reports],
    )


def audit(plan: Plan) -> Audit:
    """What the table holds of the selected documents, and what is missing there."""
    index = plan.ledger.index
    with index.lock:
        sums = ", ".join(f'coalesce(sum(d."{status}"), 0)' for status in Status)
        rows, *statuses = index.db.execute(
            f"""SELECT coalesce(sum(d.rows), 0), {sums}
            FROM selected s JOIN documents d ON d.uri = s.uri"""
        ).fetchone()
        # Not by a sum over the same join: a document in two parts is expected once.
        (expected,) = index.db.execute(
            """SELECT coalesce(sum(pages), 0) FROM
            (SELECT max(coalesce(nullif(d.page_count, 0), 1)) AS pages
            FROM selected s JOIN documents d ON d.uri = s.uri GROUP BY s.uri)"""
        ).fetchone()
        outcomes = index.db.execute(
            """SELECT CASE WHEN d.rows IS NULL THEN 'missing' WHEN d.failed = d.rows THEN 'failed'
            WHEN d.skipped = d.rows THEN 'skipped' ELSE 'read' END AS outcome,
            count(DISTINCT s.uri) FROM selected s LEFT JOIN documents d ON d.uri = s.uri
            GROUP BY outcome ORDER BY outcome"""
        ).fetchall()
        opened = index.db.execute(
            """SELECT d.open FROM documents d JOIN selected s ON s.uri = d.uri
            WHERE d.open IS NOT NULL"""
        )
        errors = count_errors(text for (text,) in opened)
    by_status = {str(s): n for s, n in zip(Status, statuses, strict=True) if n}
    pages = {"expected": expected, "rows": rows, "by_status": by_status}
    return Audit(pages, dict(outcomes), dict(errors), list(islice(missing(plan), NAMED)))


def missing(plan: Plan) -> Iterator[str]:
    """A line for each selected document whose rows are not there, not current or not one a page."""
    index = plan.ledger.index
    absent = """SELECT s.uri FROM selected s WHERE NOT EXISTS
        (SELECT 1 FROM documents d WHERE d.uri = s.uri) ORDER BY s.uri"""
    older = """SELECT s.uri FROM selected s JOIN documents d ON d.uri = s.uri
        WHERE s.reason = 'changed' AND d.version = s.seen ORDER BY s.uri"""
    selected = "SELECT 1 FROM selected WHERE uri = ?"
    with index.lock:
        for (uri,) in index.db.execute(absent):
            yield f"{uri}: no rows"
        for (uri,) in index.db.execute(older):
            yield f"{uri}: rows of an older version"
        for uri, fault in index.faults():
            if index.db.execute(selected, (uri,)).fetchone():
                yield f"{uri}: {fault}"


def price(seconds: float, workers: Iterable[str], settings: Settings) -> float | None:
    """What the GPUs of these workers cost, from beginning to end; None where no price is set."""
    if (rate := settings.work.gpu_hour_price) is None:
        return None
    # One that took the place of a lost one has its name, on Ray up to where it is.
    places = len({worker.partition("@")[0] for worker in workers}) or 1
    gpus = math.ceil(places * settings.gpus_per_worker / settings.work.workers_per_gpu)
    return seconds / 3600 * gpus * rate


def _cost(work: Work, pages: int, seconds: float, settings: Settings) -> dict[str, Any]:
    receipts = work.receipts
    paid = price(seconds, [report.worker for report in work.reports], settings)
    all_workers = together(work.reports)
    prompt = sum(r.prompt_tokens for r in receipts)
    completion = sum(r.completion_tokens for r in receipts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "gpu_seconds": round(sum(r.gpu_seconds for r in receipts), 3),
        "render_seconds": round(sum(r.render_seconds for r in receipts), 3),
        "pages_per_second": round(pages / seconds, 3) if seconds else None,
        "prompt_tokens_per_second": round(prompt / seconds, 1) if seconds else None,
        "completion_tokens_per_second": round(completion / seconds, 1) if seconds else None,
        "engine_load_seconds": round(all_workers.load_seconds, 1),
        "engine_idle_share": _rounded(all_workers.idle, 4),
        "engine_hungry_share": _rounded(all_workers.hungry, 4),
        "engine_queue": _rounded(all_workers.queue, 1),
        "engine_longest_queue": all_workers.longest_queue,
        "gpu_memory_gb": _rounded(all_workers.gpu_memory_gb, 2),
        "price": _rounded(paid, 4),
        "price_per_1000_pages": round(1000 * paid / pages, 4) if paid and pages else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
