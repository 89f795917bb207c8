"""Reconcile: prove from the committed rows that every page is accounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pagemill.ledger import Ledger
from tasks.job import Job
from tasks.plan import Plan
from tasks.process import Receipt
from tasks.worker import Report


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
        ``selected`` = ``done`` (before this run) + ``new`` + ``changed`` + ``retry``; ``outside``
        counts objects outside the selection by reason; ``copied`` of equal ones.
    pages : dict
        ``expected`` by the documents' page counts, ``rows`` in the table, rows of this run by
        status in ``read`` and of all selected documents in ``by_status``.
    cost : dict
        Of this run: tokens, seconds, pages/s, share of time that the engine was idle.
    failed_shards : list of str
        Why shards did not finish; their documents are for the next run.
    missing : list of str
        Selected documents without (all of) their rows.
    errors : dict
        Failed and skipped rows of the selected documents by error kind.
    workers : list of dict
        A `Report` of each worker: its name, models loaded, documents, pages, share idle.
    """

    run_id: str
    recipe: str
    source: str
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
        return not self.missing and self.pages["expected"] == self.pages["rows"]

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
    pages, errors, missing = _audit(plan, ledger)
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
        documents={**plan.summary(), "copied": sum(r.copied for r in work.receipts)},
        pages={**pages, "read": dict(read)},
        cost=_cost(work, sum(read.values()), seconds),
        failed_shards=[str(failure) for failure in work.failures],
        missing=missing,
        errors=errors,
        workers=[asdict(report) for report in work.reports],
    )


def _audit(plan: Plan, ledger: Ledger) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """Expected and present pages, errors by kind and what is missing, of the selected documents."""
    documents = ledger.documents()
    expected = rows = 0
    by_status: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    missing = [problem for problem in ledger.problems() if problem.split(": ")[0] in plan.selected]
    for uri in plan.selected:
        document = documents.get(uri)
        if document is None:
            missing.append(f"{uri}: no rows")
            continue
        expected += document.page_count or 1
        rows += document.rows
        by_status.update(document.statuses)
        for group in document.open:
            errors[group.error_kind] += len(group.numbers)
    pages = {"expected": expected, "rows": rows, "by_status": dict(by_status)}
    return pages, dict(errors), missing


def _cost(work: Work, pages: int, seconds: float) -> dict[str, Any]:
    receipts = work.receipts
    idle = [report.idle for report in work.reports if report.idle is not None]
    return {
        "prompt_tokens": sum(r.prompt_tokens for r in receipts),
        "completion_tokens": sum(r.completion_tokens for r in receipts),
        "gpu_seconds": round(sum(r.gpu_seconds for r in receipts), 3),
        "render_seconds": round(sum(r.render_seconds for r in receipts), 3),
        "pages_per_second": round(pages / seconds, 3) if seconds else None,
        "engine_idle_share": round(sum(idle) / len(idle), 4) if idle else None,
    }
