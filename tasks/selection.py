"""Selection: which objects of a source are in scope, and why the others are not.

    wanted = Selection(settings.select)
    wanted.reason("2024/a.pdf", source)      # None, or "not selected", "too large", ...

The globs are matched against the path below SOURCE, and against the bare file name, and ``*``
crosses ``/``, so ``*.pdf`` means every PDF. Shares and samples go by a hash of the uri: the same
documents on every host and in every run.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import translate

from pagemill.document import SourceObject
from pagemill.settings import Select

NOT_SELECTED = "not selected"
NOT_SAMPLED = "not in the sample"
OTHER_TIME = "not modified in the time asked for"
TOO_SMALL = "smaller than asked for"
TOO_LARGE = "larger than asked for"
OTHER_SHARE = "another partition's"


class Selection:
    """The filters of ``select:`` on objects of the source."""

    def __init__(self, select: Select) -> None:
        self._select = select
        self._include, self._exclude = _union(select.include), _union(select.exclude)
        self._number, self._count = select.share()

    def reason(self, path: str, source: SourceObject) -> str | None:
        """Why an object is out of scope; None for one that is in it.

        Parameters
        ----------
        path : str
            Below SOURCE; a folder's (that cannot be read) ends with a slash.
        source : SourceObject
        """
        if not self._is_named(path):
            return NOT_SELECTED
        if self._count > 1 and _hash(source.uri) % self._count != self._number - 1:
            return OTHER_SHARE
        # What could not be listed may be of any age and size.
        return None if source.problem else self._reason_of_facts(source)

    def sample(self, objects: Iterable[SourceObject], outside: Counter[str]) -> list[SourceObject]:
        """`select.sample` of them, by uri; the others are counted in `outside`."""
        count = 0

        def counted() -> Iterable[SourceObject]:
            nonlocal count
            for source in objects:
                count += 1
                yield source

        chosen = heapq.nsmallest(
            self._select.sample or 0, counted(), key=lambda source: _hash(f"sample {source.uri}")
        )
        outside[NOT_SAMPLED] += count - len(chosen)
        return sorted(chosen, key=lambda source: source.uri)

    def _is_named(self, path: str) -> bool:
        name = path.rstrip("/").rpartition("/")[2]
        if any(self._exclude.match(each) for each in (path, path.rstrip("/"), name)):
            return False
        if path.endswith("/"):
            return True  # a folder that cannot be read may hold what is wanted
        return any(self._include.match(each) for each in (path, name))

    def _reason_of_facts(self, source: SourceObject) -> str | None:
        select, modified, size = self._select, source.modified, source.size
        if modified and (
            (select.modified_since and modified < select.modified_since)
            or (select.modified_until and modified >= select.modified_until)
        ):
            return OTHER_TIME
        if select.min_bytes is not None and 0 <= size < select.min_bytes:
            return TOO_SMALL
        if select.max_bytes is not None and size > select.max_bytes:
            return TOO_LARGE
        return None


def _union(globs: list[str]) -> re.Pattern[str]:
    # "**/*.pdf" is a habit from shells; here it must not ask for a slash.
    globs = [*globs, *(g.removeprefix("**/") for g in globs)]
    return re.compile("|".join(map(translate, globs)) or r"(?!)")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
