"""Check an output by itself, or against its source; and look into it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pagemill.errors import StorageError
from pagemill.ledger import Ledger
from pagemill.schema import RESERVED
from tasks.job import Job
from tasks.plan import plan_job


@dataclass(frozen=True)
class Verdict:
    """What a check found: a line for people, and a line for each problem."""

    headline: str
    documents: int
    rows: int
    problems: list[str] = field(default_factory=list)


def check_ledger(ledger: Ledger) -> Verdict:
    """One row per page: none missing, none twice, every part readable."""
    name = ledger.folder.removeprefix("recipe=")
    try:
        ledger.refresh()
    except StorageError as error:
        return Verdict(f"{name}: NOT BALANCED", 0, 0, [str(error)])
    documents = ledger.documents()
    rows = sum(document.rows for document in documents.values())
    problems = ledger.problems()
    verdict = f"NOT BALANCED, {len(problems)} problems" if problems else "balanced"
    headline = f"{name}: {len(documents)} documents, {rows} rows: {verdict}"
    return Verdict(headline, len(documents), rows, problems)


def check_source(job: Job) -> Verdict:
    """Every selected object of the source has rows, of the version that lies there now."""
    ledger = job.open_ledger()
    plan = plan_job(job, ledger)
    documents = ledger.documents()
    problems = [
        f"{uri}: no rows" if uri not in documents else f"{uri}: rows of an older version"
        for uri, etag in plan.selected.items()
        if uri not in documents or documents[uri].etag != etag
    ]
    verdict = f"{len(problems)} documents are missing" if problems else "all have rows"
    return Verdict(
        f"{job.source}: {len(plan.selected)} documents selected: {verdict}",
        len(plan.selected),
        sum(documents[uri].rows for uri in plan.selected if uri in documents),
        problems,
    )


def summary(ledger: Ledger) -> dict[str, Any]:
    """What a dataset holds: documents, rows by status and error, its last run."""
    ledger.refresh()
    documents = ledger.documents().values()
    by_status: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for document in documents:
        by_status.update(document.statuses)
        for group in document.open:
            errors[group.error_kind] += len(group.numbers)
    runs = ledger.runs()
    return {
        "recipe": ledger.folder.removeprefix("recipe="),
        "documents": len(documents),
        "rows": by_status.total(),
        "by_status": dict(by_status),
        "errors": dict(errors),
        "runs": len(runs),
        "last_run": f"{runs[-1]['run_id']}, {runs[-1]['finished']}" if runs else "none finished",
        "pages_per_second": runs[-1]["cost"]["pages_per_second"] if runs else None,
    }


def sample(ledger: Ledger, limit: int) -> list[dict[str, Any]]:
    """The first rows by uri and page: file, page, status and every output (or the error)."""
    ledger.refresh()
    rows: list[dict[str, Any]] = []
    for uri in sorted(ledger.documents()):
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
