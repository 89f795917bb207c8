"""An open document: its pages become rows in whatever order, and it knows when it is whole.

The rows of a long one are staged by ranges, so that a crash does not cost all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from loaders.memory import trim
from pagemill.committed import OPEN, OpenPages
from pagemill.document import Failure, PageFailure
from pagemill.ledger import DocumentRows, Ledger
from pagemill.parts import Row
from pagemill.settings import Settings
from tasks.rows import RowMaker, beyond_limit, out_of_range
from tasks.shard import Item
from tasks.trust import Trust


def staged_rows(
    ledger: Ledger, maker: RowMaker, item: Item, deciders: Mapping[str, str]
) -> dict[int, Row]:
    """The rows that an earlier run has staged of a document, by page: not those to try again."""
    if item.pages is not None or maker.sha256 is None:
        return {}
    found = [row for row in ledger.staged(maker.sha256).values() if not _is_due(row, deciders)]
    return {row["page_number"]: row for row in maker.adopt(found)}


def _is_due(row: Row, deciders: Mapping[str, str]) -> bool:
    pages = OpenPages(row["error_kind"], row["decided_by"], row["tries"], (row["page_number"],))
    return row["status"] in OPEN and pages.is_due(deciders)


def pages_to_draw(item: Item, settings: Settings) -> Collection[int] | None:
    """Those to read again, or those selected; None for all, however many there are."""
    if item.pages is None and settings.select.pages:
        return settings.select.page_range(settings.limits.max_pages)
    return item.pages


@dataclass
class OpenDocument:
    """A document whose pages are being read.

    Attributes
    ----------
    rows : dict of int to Row
        By page number; at first those that were staged before. A range that is staged is kept as
        Parquet instead, which takes a tenth of the room or less.
    reading : set of int
        Pages that the engine has.
    drawn : bool
        Whether no further page will come.
    """

    item: Item
    maker: RowMaker
    page_count: int
    ledger: Ledger
    settings: Settings
    rows: dict[int, Row]
    trust: Trust
    reading: set[int] = field(default_factory=set)
    drawn: bool = False

    def __post_init__(self) -> None:
        self._staged = set(self.rows)
        self._packed: list[bytes] = []

    @property
    def is_whole(self) -> bool:
        """Whether every page has its row."""
        return self.drawn and not self.reading

    def result(self) -> DocumentRows:
        """Its rows, in order, to be committed."""
        packed = [row for each in self._packed for row in self.ledger.unpack(each)]
        rows = sorted([*packed, *self.rows.values()], key=itemgetter("page_number"))
        return DocumentRows(self.item.source.uri, rows, self.item.seen, self.item.pages)

    def add(self, row: Row) -> None:
        """Take a page's row; a range of a long document is staged with its last one."""
        number, size = row["page_number"], self.settings.work.part_pages
        self.rows[number] = row
        sha256 = self.maker.sha256
        if self.page_count <= size or self.item.pages is not None or sha256 is None:
            return
        first = (number - 1) // size * size + 1
        pages = range(first, min(first + size, self.page_count + 1))
        if all(n in self.rows for n in pages) and not self._staged.issuperset(pages):
            rows = [self.rows[n] for n in pages]
            self._packed.append(self.ledger.stage(sha256, pages[0], pages[-1], rows))
            self._staged.update(pages)
            for n in pages:
                del self.rows[n]
            trim()

    def unwanted(self) -> list[Row]:
        """Rows for the pages that are not to be read: beyond the limit, or not selected."""
        select, limit, count = self.settings.select, self.settings.limits.max_pages, self.page_count
        wanted = self.item.pages or range(1, count + 1)
        chosen = self.item.pages or select.page_range(count)
        beyond = [n for n in wanted if n > limit]
        outside = [n for n in wanted if n <= limit and n not in chosen]
        rows = self.maker.skipped_pages(beyond, count, beyond_limit(limit, count))
        return rows + self.maker.skipped_pages(outside, count, out_of_range(select.pages or ""))

    def unread(self, late: Failure) -> list[Row]:
        """Rows for the pages that there is no time for: those to be read again keep theirs."""
        item, maker, count = self.item, self.maker, self.page_count
        known = self.rows.keys() | self._staged | self.reading
        unread = {n for n in item.pages or range(1, count + 1) if n <= count} - known
        if item.pages is not None:
            there = self.ledger.rows(item.source.uri)
            return [maker.tried(row) for row in there if row["page_number"] in unread]
        return [maker.failed_page(PageFailure(number, late), count) for number in sorted(unread)]
