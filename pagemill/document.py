"""Source objects, documents and pages: what flows through everything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from pagemill.errors import ErrorKind

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class SourceObject:
    """One object of the source, as its listing shows it.

    Attributes
    ----------
    uri : str
        With its protocol: ``file:///data/a.pdf``, ``s3://bucket/a.pdf``.
    etag : str
        The storage's version mark. Two listings with equal etags have equal bytes.
    size : int
        Bytes.
    modified : datetime or None
        In UTC.
    problem : str or None
        Why the listing already knows that it cannot be read (a folder without permission, a
        socket); such an object becomes one row ``unreadable``.
    """

    uri: str
    etag: str
    size: int
    modified: datetime | None = None
    problem: str | None = None


class Kind(StrEnum):
    """What the bytes are, judged by content."""

    PDF = "pdf"
    IMAGE = "image"


@dataclass(frozen=True)
class Failure:
    """Why a page, or a whole document, is not there.

    Attributes
    ----------
    kind : ErrorKind
    message : str
        One line for the reader of the row.
    decided_by : str or None
        ``name=value`` of the limit or renderer that decided it, where one did.
    """

    kind: ErrorKind
    message: str
    decided_by: str | None = None


@dataclass(frozen=True)
class PageFacts:
    """What is kept of a page when its picture is let go; see `PageImage`.

    Attributes
    ----------
    number, width, height : int
    seconds : float
    layer, damage : str or None
    """

    number: int
    width: int
    height: int
    seconds: float
    layer: str | None
    damage: str | None


@dataclass(frozen=True)
class PageImage:
    """A page as the model will see it.

    Attributes
    ----------
    number : int
        From 1.
    image : PIL.Image.Image
        RGB, at the recipe's target size.
    blank : bool
        Nothing on it.
    seconds : float
        Time to draw it.
    layer : str or None
        The PDF's own text of this page, where asked for and present.
    layer_fit : (float, float) or None
        Where it is to be judged: the share of ink that it covers, of its boxes with ink in them.
    damage : str or None
        Why the picture is not all of the page.
    """

    number: int
    image: Image
    blank: bool
    seconds: float
    layer: str | None = None
    layer_fit: tuple[float, float] | None = None
    damage: str | None = None

    @property
    def facts(self) -> PageFacts:
        """All but the picture."""
        size = self.image.size
        return PageFacts(self.number, *size, self.seconds, self.layer, self.damage)


@dataclass(frozen=True)
class PageFailure:
    """A page that could not be drawn."""

    number: int
    failure: Failure
    seconds: float = 0.0
