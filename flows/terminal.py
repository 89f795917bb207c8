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
    cells = [[printable(cell)[:CELL] for cell in row] for row in rows]
    for name, *column in zip(header, *cells, strict=True):
        # Names and numbers are shown whole; what documents say gets the room that is left.
        width = max(map(len, [name, *column]))
        least = width if width <= NARROW else None
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=least)
    for row in cells:  # Text, not str: a document's brackets are no markup
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
