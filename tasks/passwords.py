"""Passwords of PDFs: looked up where the settings say, kept in memory, given to nobody else.

    passwords = Passwords(settings)
    passwords.of("s3://bucket/contracts/a.pdf")

What the settings hold, and with them rows, plans, logs and the orchestrator, is where a password
is, not what it is. A password travels to the render child through its pipe, never as an argument.
"""

from __future__ import annotations

import hashlib
import json
import os
from fnmatch import fnmatchcase
from pathlib import Path

from pagemill.errors import UsageError
from pagemill.settings import Settings


class Passwords:
    """The passwords that the settings name.

    Raises
    ------
    UsageError
        A variable is not set or a file cannot be read; the message names it.
    """

    def __init__(self, settings: Settings) -> None:
        self._found = {glob: _look_up(glob, place) for glob, place in settings.passwords.items()}

    def __repr__(self) -> str:
        return f"Passwords({len(self._found)} globs)"

    def of(self, uri: str) -> list[str]:
        """What to try on this document, in the order of the settings."""
        found = [p for glob, some in self._found.items() if fnmatchcase(uri, glob) for p in some]
        return list(dict.fromkeys(found))


def password_mark(settings: Settings) -> str:
    """Which passwords a failure was decided without: changes with the settings, tells nothing."""
    if not settings.passwords:
        return "none"
    places = json.dumps(settings.passwords, sort_keys=True)
    return hashlib.sha256(places.encode()).hexdigest()[:8]


def _look_up(glob: str, place: str) -> list[str]:
    where, _, name = place.partition(":")
    try:
        text = os.environ[name] if where == "env" else Path(name).read_text(encoding="utf-8")
    except KeyError:
        raise UsageError(f"passwords: {glob!r}: the variable {name} is not set") from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"passwords: {glob!r}: {name} cannot be read: {why}") from None
    passwords = [line for line in text.splitlines() if line]
    if not passwords:
        raise UsageError(f"passwords: {glob!r}: {name} is empty")
    return passwords
