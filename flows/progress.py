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

from tasks.gauges import Report

if TYPE_CHECKING:
    from rich.console import Console

Look = Callable[[], Report]
"""Gives what the workers have done so far, together."""
Display = Callable[[int, Look], AbstractContextManager[None]]

LINE_SECONDS = 30
"""Between two plain lines."""


def line(total: int, done: Report, seconds: float) -> str:
    """Where a run stands: documents, time left, the gauges."""
    left = _left(total, done.documents, seconds)
    return f"{done.documents}/{total} documents, {left} left, {done.line(seconds)}"


def _left(total: int, documents: int, seconds: float) -> str:
    if not documents:
        return "?"
    left = round(seconds / documents * (total - documents))
    hours, minutes = left // 3600, left // 60 % 60
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{left % 60:02}"


@contextlib.contextmanager
def log_lines(total: int, look: Look) -> Iterator[None]:
    """A log line now and then: for workers and for output that is not a terminal."""
    log, began = logging.getLogger("pagemill.progress"), time.monotonic()

    def tell() -> None:
        log.info("%s", line(total, look(), time.monotonic() - began))

    with _every(LINE_SECONDS, tell):
        yield
    tell()


def terminal(console: Console) -> Display:
    """A progress bar on this console."""

    @contextlib.contextmanager
    def bar(total: int, look: Look) -> Iterator[None]:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        began = time.monotonic()
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("starting", total=total)

            def update() -> None:
                done = look()
                words = line(total, done, time.monotonic() - began)
                shown.update(task, completed=done.documents, description=words)

            with _every(0.25, update):
                yield

    return bar


display: Display = log_lines
"""What the flow shows; `flows.command` replaces it in a terminal."""


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
