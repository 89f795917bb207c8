"""Errors of loading, and how an exception becomes one line."""

from __future__ import annotations


class LoadError(RuntimeError):
    """A model cannot be loaded. One line: which, why and what to do."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message without line breaks, cut to `limit` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
