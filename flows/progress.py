"""Progress of a run: a bar in a terminal, plain lines elsewhere.

The flow calls `display`; the command line puts the display of its choice there.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pagemill.schema import Status
from tasks.plan import Plan
from tasks.worker import Meter

if TYPE_CHECKING:
    from rich.console import Console

Display = Callable[[Plan, Meter], AbstractContextManager[None]]

LINE_SECONDS = 30
"""Between two plain lines."""


def line(total: int, meter: Meter) -> str:
    """Where a run stands: documents, pages, pages/s, failures, time left."""
    pages = sum(meter.pages.values())
    seconds = time.monotonic() - meter.started
    return (
        f"{meter.documents}/{total} documents, {pages} pages, {pages / max(seconds, 1e-9):.2f} "
        f"pages/s, {meter.pages[Status.FAILED]} failed, {_left(total, meter, seconds)} left"
    )


def _left(total: int, meter: Meter, seconds: float) -> str:
    if not meter.documents:
        return "?"
    left = round(seconds / meter.documents * (total - meter.documents))
    hours, minutes = left // 3600, left // 60 % 60
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{left % 60:02}"


@contextlib.contextmanager
def log_lines(plan: Plan, meter: Meter) -> Iterator[None]:
    """A log line now and then: for workers and for output that is not a terminal."""
    log = logging.getLogger("pagemill.progress")
    total = sum(1 for _ in plan.items)
    with _every(LINE_SECONDS, lambda: log.info("%s", line(total, meter))):
        yield
    log.info("%s", line(total, meter))


def terminal(console: Console) -> Display:
    """A progress bar on this console."""

    @contextlib.contextmanager
    def bar(plan: Plan, meter: Meter) -> Iterator[None]:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        total = sum(1 for _ in plan.items)
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("starting", total=total)

            def update() -> None:
                shown.update(task, completed=meter.documents, description=line(total, meter))

            with _every(0.25, update):
                yield

    return bar


display: Display = log_lines
"""What the flow shows; `flows.cli` replaces it."""


@contextlib.contextmanager
def _every(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            do()

    thread = threading.Thread(target=loop, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
