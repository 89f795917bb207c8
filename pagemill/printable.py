"""Text that somebody else chose, made harmless for a terminal or a log line."""

from __future__ import annotations

import unicodedata
from typing import Any

_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def printable(value: Any) -> str:
    """`value` on one line, without escapes, bidi controls and other invisible characters."""
    line = "" if value is None else " ".join(str(value).split())
    return "".join("\ufffd" if unicodedata.category(c) in _HARMFUL else c for c in line)
