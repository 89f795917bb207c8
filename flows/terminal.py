"""What commands print: facts, a line each, and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from pagemill.printable import printable

CELL = 60
"""Characters of a cell of a table, at most."""
NARROW = 32
"""Columns up to this width are shown whole."""


def print_facts(facts: Mapping[str, Any]) -> None:
    """Name and value; what is empty or zero is left out, but for the counts that matter."""
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} {what}" for what, count in value.items())
        if value not in (None, "", 0) or name in ("rows", "new", "selected"):
            click.echo(f"{name.replace('_', ' ') + ':':24} {printable(value)}")
    click.echo()


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as wide as the terminal; long cells are cut, never wrapped."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    cells = [[_cut(printable(cell)) for cell in row] for row in rows]
    for name, *column in zip(header, *cells, strict=True):
        # Names and numbers are shown whole; what documents say gets the room that is left.
        # A column that may not wrap is one that rich takes nothing from, down to its last letter.
        table.add_column(name, no_wrap=max(map(len, [name, *column])) <= NARROW)
    for row in cells:  # Text, not str: a document's brackets are no markup
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _cut(cell: str) -> str:
    return cell if len(cell) <= CELL else f"{cell[: CELL - 1]}…"
