"""What a listing of any storage gives, and the globs that a SOURCE may be."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import NamedTuple

from pagemill.document import SourceObject
from pagemill.errors import UsageError

SYMLINKED_FOLDER = "symlinked folder"
FOLDER_MARKER = "folder marker"
GONE = "gone meanwhile"


class Found(NamedTuple):
    """An object, or something that is outside for a reason.

    Attributes
    ----------
    path : str
        Below SOURCE; ends with a slash for a folder (that cannot be read).
    source : SourceObject
    outside : str or None
        Why the listing itself leaves it out.
    """

    path: str
    source: SourceObject
    outside: str | None = None


def nothing_at(source: str) -> UsageError:
    return UsageError(f"nothing at {source}: check the path")


class Glob:
    """A shell's glob, which also takes what is in a folder that matches."""

    def __init__(self, pattern: str) -> None:
        from fsspec.utils import glob_translate

        self._parts = pattern.rstrip("/").split("/")
        self.fixed = re.split(r"[*?[]", pattern)[0]
        self.folder = self.fixed.rpartition("/")[0]
        try:
            whole = re.sub(r"\\[zZ]$", "", glob_translate("/".join(self._parts)))
            self._matches = re.compile(whole + r"(?:/.*)?", re.DOTALL).fullmatch
        except (ValueError, re.error) as error:
            raise UsageError(f"{pattern}: not a glob: {error}") from None

    def __call__(self, path: str) -> bool:
        return self._matches(path) is not None

    def may_hold(self, folder: str) -> bool:
        """Whether something below this folder could match: else it need not be looked into."""
        for part, name in zip(self._parts, folder.split("/"), strict=False):
            if part == "**":
                return True
            if not re.match(translate(part), name):
                return False
        return True
