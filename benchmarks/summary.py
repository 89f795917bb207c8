"""The first table of benchmarks/README.md, made of results.jsonl.

    python benchmarks/summary.py    writes it; do so after each `--append`

A row is what was promised, and the latest line of results that speaks of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from benchmarks.common import HERE, RESULTS
from benchmarks.promises import ROWS, Line, Row

README = HERE / "README.md"


def make_table(lines: Sequence[Line]) -> str:
    """Markdown."""
    told = [
        "| | target | measured | met | on | `python benchmarks/` |",
        "|---|---|---|---|---|---|",
    ]
    for promise, rows in ROWS.items():
        told.append(f"| **{promise}** | | | | | |")
        told += [f"| {' | '.join(_cells(row, lines))} |" for row in rows]
    return "\n".join(told)


def headlines(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    """What, measured and target of the few rows that the project's README shows."""
    chosen = [row for rows in ROWS.values() for row in rows if row.headline]
    cells = [_cells(row, lines) for row in chosen]
    return [(what, measured, target) for what, target, measured, *_ in cells]


def _cells(row: Row, lines: Sequence[Line]) -> tuple[str, ...]:
    found = [pick(lines) for pick in row.picks]
    if not all(found):
        return row.what, row.target, "not measured", "", "", f"`{row.command}`"
    measured, met = row.tell(*found)
    verdict = {True: "yes", False: "**no**", None: ""}[met]
    newest = found[-1][-1] if isinstance(found[-1], list) else found[-1]
    return row.what, row.target, measured, verdict, _where(newest["machine"]), f"`{row.command}`"


def _where(machine: dict[str, Any]) -> str:
    if gpu := machine.get("gpu"):
        return str(gpu).removeprefix("NVIDIA ")
    return f"{machine['cores']} cores, load {machine.get('load_before', machine['load']):.0f}"


def read_results() -> list[Line]:
    """All lines, oldest first."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def with_table(text: str) -> str:
    """The README with the table of the present results."""
    table = f"<!-- table: results -->\n{make_table(read_results())}\n<!-- /table -->"
    return re.sub("<!-- table: results -->.*?<!-- /table -->", lambda _: table, text, flags=re.S)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
