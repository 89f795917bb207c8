"""Discover: what the source holds, object by object.

    found = discover("s3://bucket/scans", settings, "s3://bucket/out")
    for source in found:
        ...
    found.outside    # Counter({'not selected': 3, 'below OUT': 12})

SOURCE is a file, a folder, a glob or any fsspec URL. What exists under exactly that name is
taken literally, whatever characters it has; only otherwise is it a glob, as in a shell (``*``
stays within a folder, ``**`` does not; a folder that matches is taken with all that is in it).

What is in scope of it, `tasks.selection` says.

Nothing disappears silently: what cannot be read comes with its `problem`, what is left out is
counted in `outside` by reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from glob import has_magic

from pagemill.document import SourceObject
from pagemill.folder import HIDDEN
from pagemill.settings import Settings, StorageOptions
from pagemill.urls import canonical, local_path, object_store, protocol, refuse_secrets
from tasks.list_local import list_local
from tasks.list_objects import list_objects
from tasks.list_other import list_other
from tasks.listing import Found, Glob
from tasks.selection import Selection

BELOW_OUT = "below OUT"


def discover(source: str, settings: Settings, out: str) -> Discovery:
    """List a source; see `Discovery`."""
    return Discovery(source, settings, out)


class Discovery:
    """The selected objects of a source: iterate over it (again, to list again).

    Attributes
    ----------
    outside : Counter of str
        Objects left out, by reason; complete when the iteration is.

    Raises
    ------
    UsageError
        At once: keys in the URL. While iterating: nothing under this name, unknown protocol.
    StorageError
        While iterating: the source as a whole cannot be listed.
    """

    def __init__(self, source: str, settings: Settings, out: str) -> None:
        refuse_secrets(source, settings.at_source)
        self.outside: Counter[str] = Counter()
        self._source, self._options = source, settings.at_source
        self._wanted, self._sample = Selection(settings.select), settings.select.sample
        self._is_ours = _Ours(source, out)
        self._glob = Glob(canonical(source).partition("://")[2]) if has_magic(source) else None

    def __iter__(self) -> Iterator[SourceObject]:
        self.outside.clear()
        objects = self._objects()
        return iter(self._wanted.sample(objects, self.outside)) if self._sample else objects

    @property
    def base(self) -> str:
        """The uri that the objects lie below."""
        return self._is_ours.base

    def would_list(self, source: SourceObject) -> bool:
        """Whether this object would be listed and in scope (samples aside), if it were there."""
        base = f"{self.base}/"
        if not source.uri.startswith(base) or self._is_ours(source.uri):
            return False
        if self._glob and not self._glob(source.uri.partition("://")[2]):
            return False
        return self._wanted.reason(source.uri[len(base) :], source) is None

    def _objects(self) -> Iterator[SourceObject]:
        for found in _listing(self._source, self._options):
            reason = found.outside or self._reason(found)
            if reason:
                self.outside[reason] += 1
            else:
                yield found.source

    def _reason(self, found: Found) -> str | None:
        if self._is_ours(found.source.uri):
            return BELOW_OUT
        return self._wanted.reason(found.path, found.source)


class _Ours:
    """Whether a uri is pagemill's own: below OUT, when that lies in SOURCE.

    When OUT is SOURCE itself or lies above it, only what pagemill writes there is meant.
    """

    def __init__(self, source: str, out: str) -> None:
        base = canonical(source).rstrip("/")
        # A glob's folder is what stands before its first magic character.
        base = base if not has_magic(base) else re.split(r"[*?[]", base)[0].rpartition("/")[0]
        self.base = base
        self._out = canonical(out).rstrip("/") + "/"
        if protocol(source) == "file" == protocol(out):
            self._out = _as_seen_from(base, self._out)
        self._is_inside = self._out.startswith(base + "/") and self._out != base + "/"

    def __call__(self, uri: str) -> bool:
        if not uri.startswith(self._out):
            return False
        return self._is_inside or uri[len(self._out) :].startswith(("recipe=", HIDDEN))


def _as_seen_from(base: str, out: str) -> str:
    """`out` spelt as a walk from `base` spells it, whatever symlinks lead to either."""
    folder = base.removeprefix("file://") or "/"
    real, real_out = os.path.realpath(folder), os.path.realpath(out.removeprefix("file://"))
    if os.path.commonpath([real, real_out]) != real:
        return f"file://{real_out}/"
    return f"file://{os.path.normpath(os.path.join(folder, os.path.relpath(real_out, real)))}/"


def _listing(source: str, options: StorageOptions) -> Iterator[Found]:
    if protocol(source) == "file":
        return list_local(local_path(source))
    if store := object_store(source, options):
        return list_objects(source, store)
    return list_other(source, options)
