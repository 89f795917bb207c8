"""`KINDS`: which documents there are, how often, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass

from training import blocks as b
from training import forms, lists, tables


@dataclass(frozen=True)
class Kind:
    """A kind of document."""

    noun: str
    share: float
    blocks: dict[b.Block, float]
    columns: tuple[int, ...] = (1,)
    face: str = "text"
    em: tuple[float, float] = (11.5, 18)
    titled: float = 0.5
    head: float = 0.3
    foot: float = 0.45
    notes: float = 0.0
    margin: float = 0.0
    """Chance of a narrow column of small print beside the text."""
    edge: tuple[float, float] = (0.04, 0.14)
    """White on the left and the right, as a share of the page's width."""
    wear: float = 0.35
    """Chance that the page was scanned."""


_PROSE = {b.paragraph: 10.0, b.heading: 2.0, lists.bullets: 0.8, lists.numbered: 0.6}
KINDS = (
    Kind(
        "text page",
        22,
        {
            **_PROSE,
            tables.table: 0.6,
            b.aside: 0.4,
            b.code: 0.4,
            lists.definitions: 0.3,
            b.figure: 0.5,
        },
        notes=0.2,
    ),
    Kind(
        "text page",
        8,
        {b.paragraph: 10, b.lines: 0.5, b.heading: 0.4},
        em=(12, 20),
        titled=0.15,
        head=0.6,
    ),
    Kind(
        "scientific page",
        9,
        {**_PROSE, lists.references: 1.2, tables.table: 0.6, b.figure: 0.8},
        em=(11, 14),
        titled=0.6,
        margin=0.5,
        head=0.4,
        foot=0.8,
        wear=0.15,
    ),
    Kind(
        "scientific page",
        9,
        {
            **_PROSE,
            b.paragraph: 13,
            lists.contents: 0.6,
            lists.references: 0.5,
            tables.table: 0.4,
            b.code: 0.3,
        },
        face="latex",
        em=(13, 17.5),
        edge=(0.13, 0.23),
        titled=0.25,
        head=0.15,
        foot=0.9,
        wear=0.08,
    ),
    Kind(
        "scientific page",
        6,
        {**_PROSE, lists.references: 1.2, tables.table: 0.4, b.figure: 0.4},
        face="latex",
        em=(12.5, 14.5),
        edge=(0.05, 0.08),
        head=0.0,
        foot=0.95,
        margin=1.0,
        wear=0.05,
    ),
    Kind(
        "page in columns",
        17,
        {**_PROSE, b.figure: 1.0, b.aside: 0.3, tables.table: 0.3, lists.references: 0.5},
        columns=(2, 2, 2, 3),
        em=(9.5, 14.5),
        titled=0.5,
        head=0.5,
        notes=0.15,
    ),
    Kind(
        "newspaper page",
        5,
        {b.paragraph: 9, b.heading: 2.2, b.figure: 1.2, b.lines: 0.3},
        columns=(3, 4, 2),
        em=(9.5, 12.5),
        titled=0.8,
        wear=0.5,
    ),
    Kind(
        "table",
        9,
        {tables.big_table: 6, b.paragraph: 2, b.heading: 1, tables.table: 1},
        em=(9, 14),
        titled=0.3,
        head=0.4,
        notes=0.3,
    ),
    Kind(
        "table",
        5,
        {tables.statistics: 6, b.paragraph: 4, tables.big_table: 1},
        em=(11.5, 15),
        titled=0.1,
        head=0.6,
        foot=0.7,
        notes=0.2,
        wear=0.1,
    ),
    Kind(
        "typewritten page",
        16,
        {
            b.paragraph: 8,
            b.heading: 1.2,
            b.lines: 1.2,
            forms.pairs: 0.7,
            lists.contents: 0.3,
            tables.table: 0.4,
            lists.numbered: 0.4,
        },
        face="typewriter",
        em=(9.5, 19),
        titled=0.3,
        head=0.25,
        foot=0.3,
        wear=0.85,
    ),
    Kind(
        "letter",
        5,
        {b.paragraph: 6, b.lines: 3, forms.pairs: 0.6},
        em=(12, 18),
        titled=0.15,
        wear=0.5,
    ),
    Kind(
        "form",
        5,
        {forms.form: 6, b.heading: 1.5, b.paragraph: 1, forms.pairs: 1.5, tables.table: 0.5},
        em=(10, 16),
        titled=0.8,
        wear=0.5,
    ),
    Kind(
        "invoice",
        3,
        {forms.pairs: 2, tables.table: 3, b.lines: 2, forms.items_with_prices: 1},
        em=(10.5, 16),
        titled=0.7,
    ),
    Kind(
        "receipt",
        2,
        {forms.items_with_prices: 5, forms.pairs: 2, b.lines: 2},
        face="dots",
        em=(11, 22),
        titled=0.5,
        wear=0.6,
    ),
    Kind("table of contents", 2.5, {lists.contents: 6, b.heading: 2, b.lines: 0.4}, titled=0.6),
    Kind(
        "table of contents",
        1.5,
        {lists.contents: 6, b.heading: 1},
        face="latex",
        edge=(0.1, 0.22),
        titled=0.9,
        wear=0.08,
    ),
    Kind(
        "bibliography",
        1.5,
        {lists.references: 6, b.heading: 1},
        em=(10.5, 14),
        titled=0.3,
        head=0.5,
        wear=0.15,
    ),
    Kind(
        "page of code", 3, {b.code: 5, b.paragraph: 3, b.heading: 1, lists.definitions: 2}, wear=0.1
    ),
    Kind(
        "slide",
        3,
        {lists.bullets: 4, b.heading: 1, b.figure: 2, b.lines: 1.5, b.paragraph: 1},
        em=(17, 34),
        titled=0.95,
        head=0.1,
        wear=0.1,
    ),
    Kind(
        "print-out",
        2,
        {forms.pairs: 2, b.lines: 2, tables.table: 2, b.paragraph: 2, b.code: 1},
        face="dots",
        em=(12, 20),
        wear=0.6,
    ),
    Kind(
        "manual page",
        4,
        {
            lists.definitions: 3,
            b.paragraph: 4,
            b.heading: 2,
            b.code: 2,
            lists.bullets: 1,
            b.aside: 1,
        },
        head=0.7,
        wear=0.1,
    ),
)
