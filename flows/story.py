"""What a run tells in the Prefect UI: progress, shards, the balance sheet, where the rows are.

None of it is a record: a UI that cannot be reached costs a warning, never the run.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from pagemill.errors import Stopped
from pagemill.ledger import Ledger
from tasks.gauges import Report
from tasks.receipt import Receipt
from tasks.reconcile import Balance, Work
from tasks.report import markdown, pages_line, percent

log = logging.getLogger("pagemill.story")

EVERY_SECONDS = 2.0
"""Between two updates: shards may be quicker."""
ROWS = 500
"""Rows of a table, at most: the browser shows all of them."""


class Story:
    """The progress of a run, an artifact for each worker.

    Parameters
    ----------
    documents : int
        Of the run.
    """

    def __init__(self, documents: int) -> None:
        self._documents = documents
        self._ids: dict[str, UUID] = {}
        self._began, self._told = time.monotonic(), 0.0

    def tell(self, reports: Sequence[Report], last: bool = False) -> None:
        """Say how far each worker is: its share of the run's documents."""
        if not last and time.monotonic() - self._told < EVERY_SECONDS:
            return
        self._told = time.monotonic()
        for report in reports:
            _tell(partial(self._update, report))

    def _update(self, report: Report) -> None:
        share = min(100.0, 100 * report.documents / max(self._documents, 1))
        words = (
            f"{report.worker}: {report.documents} of the run's {self._documents} documents, "
            f"{report.line(time.monotonic() - self._began)}"
        )
        known = self._ids.get(report.worker)
        if known is None:
            key = f"pagemill-progress-{slug(report.worker)}"
            made = create_progress_artifact(share, key, words)
            assert isinstance(made, UUID)
            self._ids[report.worker] = made
        else:
            update_progress_artifact(known, share, words)


def publish(balance: Balance, work: Work, ledger: Ledger, sheet: str) -> None:
    """The balance sheet, the shards and a link to the rows."""
    out = ledger.storage.url
    pages = f"{out}/{ledger.folder}/pages"
    link = pages if "://" in pages else f"file://{pages}"
    text = f"{balance.recipe}: {balance.pages['rows']} rows"
    for tell in (
        lambda: create_markdown_artifact(
            markdown(balance, f"{out}/{sheet}"), "pagemill-report", "The balance sheet"
        ),
        lambda: create_table_artifact(shard_rows(work), "pagemill-shards", _shards_line(work)),
        lambda: create_link_artifact(link, text, "pagemill-output", "The rows, as Parquet"),
    ):
        _tell(tell)


def publish_estimate(facts: dict[str, Any]) -> str:
    """What a dry run found, as a table; gives it in one line."""
    seconds, price = facts.get("seconds"), facts.get("price")
    line = (
        f"dry run: {facts['shards']} shards, {facts.get('pages', 0)} pages of "
        f"{facts['selected']} documents, "
        + (f"about {timedelta(seconds=seconds)}" if seconds else "time unknown (no run yet)")
        + (f", price about {price}" if price else "")
    )
    rows = [{"what": name.replace("_", " "), "value": str(v)} for name, v in facts.items()]
    _tell(lambda: create_table_artifact(rows, "pagemill-estimate", line))
    return line


def shard_rows(work: Work) -> list[dict[str, Any]]:
    """A row for each shard that failed, then for each that finished, `ROWS` at most."""
    failed: list[dict[str, Any]] = [
        {**dict.fromkeys(_SHARD, ""), "shard": "failed", "what": str(error)}
        for error in work.failures
        if not isinstance(error, Stopped)
    ]
    done: list[dict[str, Any]] = [
        dict(zip(_SHARD, _facts(receipt), strict=True))
        for receipt in sorted(work.receipts, key=lambda receipt: receipt.shard)
    ]
    return [*failed, *done][:ROWS]


_SHARD = (
    *("shard", "documents", "pages", "seconds", "pages/s", "prompt tokens/s", "output tokens/s"),
    *("model seconds", "engine idle", "engine not full", "what"),
)


def _facts(receipt: Receipt) -> tuple[Any, ...]:
    """As `_SHARD` names them. Shards in flight share the engine: their rates add up."""
    per_second = 1 / max(receipt.seconds, 1e-9)
    return (
        receipt.shard,
        receipt.documents,
        pages_line(receipt.pages),
        round(receipt.seconds, 1),
        round(sum(receipt.pages.values()) * per_second, 2),
        round(receipt.prompt_tokens * per_second),
        round(receipt.completion_tokens * per_second),
        round(receipt.gpu_seconds, 1),
        percent(receipt.idle),
        percent(receipt.hungry),
        "committed",
    )


def _shards_line(work: Work) -> str:
    more = len(work.receipts) + len(work.failures) - ROWS
    shown = f" (the first {ROWS} are shown)" if more > 0 else ""
    return f"{len(work.receipts)} shards finished, {len(work.failures)} did not{shown}"


def slug(name: str) -> str:
    """A name as part of an artifact's key: lower-case letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "worker"


def _tell(tell: Callable[[], Any]) -> None:
    try:
        tell()
    except Exception as error:
        log.warning("the Prefect UI was not told: %s: %s", type(error).__name__, error)
