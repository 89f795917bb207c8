"""What commands print fits the terminal, and nothing that matters is cut."""

from __future__ import annotations

import re
import sys

import pytest

from flows.terminal import print_table

LONG = "what the page says, and says, and says, until there is no more room for it " * 2


@pytest.mark.parametrize("columns", [60, 80, 118, 300])
def test_narrow_columns_are_whole_and_long_ones_share_what_is_left(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has 80 columns
    header = ("file", "page", "status", "text", "caption")
    print_table(header, [("a.pdf", 12, "failed", LONG, LONG), ("b.pdf", 3, "ok", "short", "")])
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    head, _, first, second = (line for line in said.splitlines() if line.strip())
    assert head.split() == list(header)
    assert first.split()[:3] == ["a.pdf", "12", "failed"] and first.count("…") == 2
    assert second.split() == ["b.pdf", "3", "ok", "short"]
    assert max(map(len, said.splitlines())) <= columns
