"""The gauges: what a worker has done, how fast, and how well its engine was fed.

They are on the progress line, in the Prefect UI and in the balance sheet.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pagemill.parts import Row

N = TypeVar("N", int, float)


@dataclass
class Meter:
    """Counts what is done; thread-safe."""

    documents: int = 0
    pages: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, row: Row) -> None:
        """Count a page that has become a row."""
        with self._lock:
            self.pages[str(row["status"])] += 1
            for name in ("prompt_tokens", "completion_tokens"):
                self.tokens[name] += row[name]

    def count_document(self) -> None:
        """Count a document whose rows are complete."""
        with self._lock:
            self.documents += 1


@dataclass(frozen=True)
class Report:
    """What a worker has done so far, as plain data.

    Attributes
    ----------
    worker : str
        Its name: where it is.
    loads : int
        Models loaded since it began: 1, or 0 where the model was resident already.
    documents : int
        Documents whose rows are complete.
    pages : dict
        Rows by status.
    prompt_tokens, completion_tokens : int
    idle, hungry : float or None
        Shares of the time that the engine held no request, and fewer than it could read at once,
        while there was work; see `tasks.feed`.
    queue, longest_queue : float or None
        Requests, with their pages drawn, that waited for the engine: on average, and at most.
    gpu_memory_gb : float or None
        The most that was seen in use on the worker's GPUs, whoever used it.
    loading : float or None
        Seconds since its model began to load, while it does.
    load_seconds : float
        That its models took to load, since it began.
    """

    worker: str
    loads: int = 0
    documents: int = 0
    pages: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    idle: float | None = None
    hungry: float | None = None
    queue: float | None = None
    longest_queue: int | None = None
    gpu_memory_gb: float | None = None
    loading: float | None = None
    load_seconds: float = 0.0

    def line(self, seconds: float) -> str:
        """Pages, failures and rates since so many seconds, and what is known of the engine."""
        pages, per_second = sum(self.pages.values()), 1 / max(seconds, 1e-9)
        words = [
            f"{pages} pages",
            f"{self.pages.get('failed', 0)} failed",
            f"{pages * per_second:.2f} pages/s",
        ]
        if self.idle is not None and self.hungry is not None:
            prompt, completion = self.prompt_tokens, self.completion_tokens
            words += [
                f"{prompt * per_second:,.0f} + {completion * per_second:,.0f} tokens/s",
                f"engine {self.idle:.0%} idle, {self.hungry:.0%} not full, {self.queue:.0f} queued",
            ]
        if self.gpu_memory_gb is not None:
            words.append(f"{self.gpu_memory_gb:.1f} GB on the GPU")
        if self.loading is not None:
            words.append(f"loading the model for {self.loading:.0f} s")
        return ", ".join(words)


def together(reports: Sequence[Report]) -> Report:
    """All workers as one: what is counted adds up, shares and queues are averages."""
    pages: Counter[str] = Counter()
    for report in reports:
        pages.update(report.pages)
    return Report(
        worker="all",
        loads=sum(report.loads for report in reports),
        documents=sum(report.documents for report in reports),
        pages=dict(pages),
        prompt_tokens=sum(report.prompt_tokens for report in reports),
        completion_tokens=sum(report.completion_tokens for report in reports),
        idle=_mean(report.idle for report in reports),
        hungry=_mean(report.hungry for report in reports),
        queue=_mean(report.queue for report in reports),
        longest_queue=_most(report.longest_queue for report in reports),
        gpu_memory_gb=_most(report.gpu_memory_gb for report in reports),
        loading=_most(report.loading for report in reports),
        load_seconds=max((report.load_seconds for report in reports), default=0.0),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _most(values: Iterable[N | None]) -> N | None:
    return max((value for value in values if value is not None), default=None)
