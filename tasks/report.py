"""Report: the balance sheet, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.reconcile import Balance
from tasks.shard import Reason


def headline(balance: Balance) -> str:
    """The run in one line."""
    documents, pages = balance.documents, balance.pages
    todo = sum(documents[reason.value] for reason in Reason)
    if not documents["selected"] and balance.source is None:
        return "nothing to read again: no committed page is as asked"
    if not documents["selected"]:
        return "nothing selected: SOURCE has no objects in scope"
    if not todo:
        return f"nothing new: all {documents['selected']} documents are done ({pages['rows']} rows)"
    read = sum(pages["read"].values())
    verdict = "balanced" if balance.balanced else "NOT BALANCED"
    return (
        f"{todo} documents, {read} pages in {balance.seconds:.1f} s "
        f"({balance.cost['pages_per_second']} pages/s), {balance.failed} failed; "
        f"{pages['rows']} of {pages['expected']} rows: {verdict}"
    )


def sheet_rows(balance: Balance) -> list[tuple[str, Any]]:
    """The balance sheet as a table of two columns."""
    documents, pages, cost = balance.documents, balance.pages, balance.cost
    rows: list[tuple[str, Any]] = [
        ("documents selected", documents["selected"]),
        ("  done before this run", documents["done"]),
        *((f"  {reason.value}", documents[reason.value]) for reason in Reason),
        ("  copies of equal bytes", documents["copied"]),
        *((f"  now {what}", n) for what, n in documents["outcomes"].items() if what != "read"),
        *((f"outside: {why}", n) for why, n in documents["outside"].items()),
        *_some("deleted at the source, rows kept", documents["deleted"]),
        ("pages expected", pages["expected"]),
        ("rows", pages["rows"]),
        *((f"  {status}", n) for status, n in sorted(pages["by_status"].items())),
        *((f"error: {kind}", n) for kind, n in sorted(balance.errors.items())),
        ("prompt tokens", cost["prompt_tokens"]),
        ("completion tokens", cost["completion_tokens"]),
        ("pages per second", cost["pages_per_second"]),
        ("prompt tokens per second", cost["prompt_tokens_per_second"]),
        ("completion tokens per second", cost["completion_tokens_per_second"]),
        *_some("seconds to load the model", cost["engine_load_seconds"]),
        ("engine idle", percent(cost["engine_idle_share"])),
        ("engine not full", percent(cost["engine_hungry_share"])),
        *_some("requests queued for it, mean", cost["engine_queue"]),
        *_some("requests queued for it, at most", cost["engine_longest_queue"]),
        *_some("GB of GPU memory in use, at most", cost["gpu_memory_gb"]),
        ("seconds", balance.seconds),
        *_some("price", cost["price"]),
        *_some("price of 1,000 pages", cost["price_per_1000_pages"]),
    ]
    return rows


def markdown(balance: Balance, sheet: str) -> str:
    """The balance sheet for the Prefect UI."""
    lines = [f"**{headline(balance)}**", "", "| | |", "|---|---|"]
    lines += [f"| {name.strip()} | {value} |" for name, value in sheet_rows(balance)]
    lines += ["", f"Sheet: `{sheet}`"]
    if balance.failed_shards:
        lines += ["", "Shards that did not finish:", *(f"- {why}" for why in balance.failed_shards)]
    return "\n".join(lines)


def _some(what: str, number: float | None) -> list[tuple[str, Any]]:
    return [(what, number)] if number else []


def pages_line(pages: Mapping[str, int]) -> str:
    """Such as ``12 ok, 1 failed``."""
    return ", ".join(f"{number} {status}" for status, number in pages.items()) or "none"


def percent(share: float | None) -> str:
    """A share of time, where there was any."""
    return "model not needed" if share is None else f"{share:.1%}"
