"""Estimate what a plan will cost, before anything is spent."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import Any

from pagemill.document import Failure
from pagemill.ledger import Ledger
from pagemill.settings import Settings
from tasks.fetch import fetch
from tasks.plan import Plan
from tasks.reconcile import price
from tasks.render import Opened, render
from tasks.shard import Item

PROBED = 200
"""Documents opened to count pages; the others are taken to be like them."""


def estimate(plan: Plan, settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """Pages, time and price of a plan.

    Returns
    -------
    dict
        ``pages``, ``pages_are`` (counted, or estimated from how many documents), and at the rate
        of the last run that read pages with this recipe, None where there was none: ``seconds``
        from beginning to end, ``gpu_hours`` that the model is at work, and ``price``: of GPUs
        that are paid from beginning to end, at `work.gpu_hour_price`.
    """
    probed = [_pages(item, settings) for item in islice(plan.items, PROBED)]
    pages = round(sum(probed) * plan.todo / len(probed)) if probed else 0
    last = next((run for run in reversed(ledger.runs()) if _read(run)), None)
    rate = last["cost"]["pages_per_second"] if last else None
    seconds = pages / rate if rate else None
    busy = pages * last["cost"]["gpu_seconds"] / _read(last) if last else None
    workers = [worker["worker"] for worker in last.get("workers", ())] if last else []
    paid = None if seconds is None else price(seconds, workers, settings)
    exact = plan.todo <= len(probed)
    return {
        "pages": pages,
        "pages_are": "counted"
        if exact
        else f"estimated from {len(probed)} of {plan.todo} documents",
        "seconds": None if seconds is None else round(seconds),
        "gpu_hours": None if busy is None else round(busy / 3600, 3),
        "price": None if paid is None else round(paid, 2),
    }


def _read(run: dict[str, Any]) -> int:
    """Pages that a run read, from its balance sheet."""
    return sum(run["pages"]["read"].values())


def _pages(item: Item, settings: Settings) -> int:
    """Pages of one object that the model may have to read; 0 for one that cannot be opened."""
    if item.pages is not None:
        return len(item.pages)
    fetched = fetch(item.source, settings)
    if isinstance(fetched, Failure):
        return 0
    with fetched, contextlib.closing(render(fetched.file, settings, only=())) as events:
        opened = next(events)
        if not isinstance(opened, Opened):
            return 0
        last = min(opened.page_count, settings.limits.max_pages)
        return len(settings.select.page_range(last))
