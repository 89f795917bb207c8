"""Check an output by itself, or against its source; and look into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pagemill.ledger import Ledger
from pagemill.schema import RESERVED
from pagemill.status import Status
from tasks.job import Job
from tasks.plan import plan_job
from tasks.reconcile import audit, missing
from tasks.repair import unreadable


@dataclass(frozen=True)
class Verdict:
    """What a check found: a line for people, and a line for each problem."""

    headline: str
    documents: int
    rows: int
    problems: list[str] = field(default_factory=list)


def check_ledger(ledger: Ledger) -> Verdict:
    """One row per page: none missing, none twice, every part readable."""
    problems = [why for _, why in unreadable(ledger)]
    if not problems:
        ledger.refresh()
    documents, rows = ledger.index.total("rows")
    problems += ledger.problems()
    verdict = f"NOT BALANCED, {len(problems)} problems" if problems else "balanced"
    headline = f"{ledger.recipe}: {documents} documents, {rows} rows: {verdict}"
    return Verdict(headline, documents, rows, problems)


def check_source(job: Job) -> Verdict:
    """Every selected object of the source has rows, of the version that lies there now."""
    ledger = job.open_ledger()
    plan = plan_job(job, ledger)
    problems = list(missing(plan))
    rows = audit(plan).pages["rows"]
    verdict = f"{len(problems)} documents are missing" if problems else "all have rows"
    if plan.deleted:
        verdict += f"; {plan.deleted} more with rows are no longer there"
    headline = f"{job.source}: {plan.selected} documents selected for {ledger.recipe}: {verdict}"
    return Verdict(headline, plan.selected, rows, problems)


def summary(ledger: Ledger) -> dict[str, Any]:
    """What a dataset holds: documents, rows by status and error, its last run."""
    ledger.refresh()
    documents, *statuses = ledger.index.total(*Status)
    by_status = {str(s): n for s, n in zip(Status, statuses, strict=True) if n}
    runs = ledger.runs()
    return {
        "recipe": ledger.recipe,
        "documents": documents,
        "rows": sum(statuses),
        "by_status": by_status,
        "errors": dict(ledger.index.errors()),
        "runs": len(runs),
        "last_run": f"{runs[-1]['run_id']}, {runs[-1]['finished']}" if runs else "none finished",
        "pages_per_second": runs[-1]["cost"]["pages_per_second"] if runs else None,
    }


def sample(ledger: Ledger, limit: int) -> list[dict[str, Any]]:
    """The first rows by uri and page: file, page, status and every output (or the error)."""
    ledger.refresh()
    rows: list[dict[str, Any]] = []
    for uri in ledger.documents():
        if len(rows) >= limit:
            break
        rows += islice(map(_brief, ledger.rows(uri)), limit - len(rows))
    return rows


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    outputs = {name: value for name, value in row.items() if name not in RESERVED}
    if row["error_message"]:
        why = f"[{row['error_kind'] or row['status']}] {row['error_message']}"
        outputs[next(iter(outputs))] = why
    name = row["source_uri"].rsplit("/", 1)[-1]
    return {"file": name, "page": row["page_number"], "status": row["status"], **outputs}
