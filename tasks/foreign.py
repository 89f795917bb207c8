"""What is no document: `failed` where its name promised one, else nobody's fault and `skipped`."""

from __future__ import annotations

from pathlib import PurePosixPath

from pagemill.errors import ErrorKind
from pagemill.settings import Select
from pagemill.status import Status

FOREIGN = (ErrorKind.NOT_A_DOCUMENT, ErrorKind.UNSUPPORTED)
SUFFIXES = (
    *(".pdf", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".jp2", ".j2k"),
    *(".avif", ".heic", ".heif", ".jfif", ".pbm", ".pgm", ".ppm", ".pnm"),
)
"""Names that promise a document."""


def failed_or_skipped(kind: str, uri: str, select: Select) -> Status:
    """The status of an object that could not be opened, as `select.foreign` asks."""
    if kind not in FOREIGN:
        return Status.FAILED
    unnamed = select.foreign == "by_name" and PurePosixPath(uri).suffix.lower() not in SUFFIXES
    return Status.SKIPPED if unnamed or select.foreign == "skipped" else Status.FAILED
