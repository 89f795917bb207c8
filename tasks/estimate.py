"""Estimate what a plan will cost, before anything is spent."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import Any

from pagemill.document import Failure
from pagemill.ledger import Ledger
from pagemill.settings import Settings
from tasks.fetch import fetch
from tasks.plan import Item, Plan
from tasks.render import Opened, render

PROBED = 200
"""Documents opened to count pages; the others are taken to be like them."""


def estimate(plan: Plan, settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """Pages and seconds of a plan.

    Returns
    -------
    dict
        ``pages``, ``pages_are`` (counted, or estimated from how many documents), and
        ``seconds``: at the rate of the last run that read pages with this recipe; None where
        there was none.
    """
    total = sum(1 for _ in plan.items)
    probed = [_pages(item, settings) for item in islice(plan.items, PROBED)]
    pages = round(sum(probed) * total / len(probed)) if probed else 0
    rates = [run["cost"]["pages_per_second"] for run in ledger.runs() if _read(run)]
    exact = total <= len(probed)
    return {
        "pages": pages,
        "pages_are": "counted" if exact else f"estimated from {len(probed)} of {total} documents",
        "seconds": round(pages / rates[-1]) if rates and rates[-1] else None,
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
        return (
            min(opened.page_count, settings.limits.max_pages) if isinstance(opened, Opened) else 0
        )
