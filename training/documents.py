"""Documents as people have them: a kind, a style, columns of blocks, and wear.

    sample = make(r, world, "page", hard=0.4, wear=1.0)
    sample.image                # grey, both sides a multiple of 28
    sample.text, sample.xs, sample.ys
    sample.caption

Which kinds of documents there are says `KINDS`, in kinds.py.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pagemill.answers import OTHER_SCRIPT
from training import blocks as b
from training import front, furniture, tables
from training.characters import Array, indices
from training.degrade import finish
from training.diagrams import diagram
from training.figures import chart, in_words
from training.glyphs import Library
from training.kinds import KINDS, Kind
from training.page import Box, Page, Setting, fitting
from training.pictures import Pictures
from training.sheets import sheet
from training.style import Style
from training.turns import enough_to_tell, line_up_the_margin, turned
from training.words import Speaker, Texts

CELL = 28
"""Pixels of one image token; both sides of a picture are a multiple of it."""
MOST_CELLS = 1280
LONGEST = 5200
"""Characters on one page."""
TURNED = {"line": 0.03, "part": 0.09, "page": 0.09}
OTHER_SCRIPTS = {"part": 0.03, "page": 0.04}
"""Shares of the samples that are not to be read but to be named as what they are."""
PICTURES = {
    "photo": 26,
    "drawing": 12,
    "plot": 36,
    "sheet": 9,
    "chart": 9,
    "diagram": 14,
    "table": 4,
}
"""Which pictures there are beside text, and how often."""


class World(NamedTuple):
    """What documents are made of."""

    texts: Texts
    library: Library
    pictures: Pictures


@dataclass(frozen=True)
class Sample:
    image: Array
    text: str
    xs: Array
    ys: Array
    caption: str


def make(
    r: random.Random,
    world: World,
    kind: str,
    hard: float = 0.4,
    wear: float = 1.0,
    longest_line: int = 60,
) -> Sample:
    """One sample: `line`, `part`, `page`, `picture` or `blank`; `wear` scales the damage."""
    maker = {"line": _line, "part": _part, "page": _page, "picture": _picture, "blank": _blank}[
        kind
    ]
    say = Speaker(r, world.texts, hard)
    foreign = r.random() < OTHER_SCRIPTS.get(kind, 0) * wear
    if foreign := foreign and bool(world.library.families["other"]):
        world = world._replace(library=world.library.foreign)
    page, caption, worn = maker(r, world, say, longest_line)
    text, xs, ys = page.result()
    damage = (
        0.0
        if r.random() > wear
        else (0.32 + 0.68 * r.random() ** 1.6 if worn else r.choice([0, 0, r.uniform(0, 0.3)]))
    )
    image, xs, ys = finish(r, page, xs, ys, damage)
    said = ""
    if foreign and any(map(str.isalpha, text)):
        said = OTHER_SCRIPT
    elif enough_to_tell(text) and r.random() < TURNED.get(kind, 0) * wear:
        image, said = turned(r, image)
    if said:
        text, caption = said, f"{said} {caption}"
        xs = ys = np.full(len(said), np.nan, np.float32)
    return Sample(image, text, xs, ys, caption)


def _log_uniform(r: random.Random, low: float, high: float) -> float:
    return math.exp(r.uniform(math.log(low), math.log(high)))


def _scale(r: random.Random) -> float:
    """How much finer a page is drawn than it is read; 1 is the look of a screen."""
    return 1.0 if r.random() < 0.3 else r.uniform(1.25, 2.1)


def _face(r: random.Random) -> str:
    return r.choices(["text", "typewriter", "mono", "dots", "hand"], [76, 16, 3, 3, 2])[0]


def _line(r: random.Random, world: World, say: Speaker, longest: int) -> tuple[Page, str, bool]:
    em = _log_uniform(r, 8.5, 44) if r.random() < 0.5 else _log_uniform(r, 9.5, 22)
    scale = _scale(r)
    style = Style(r, world.library, em, scale, _face(r))
    text = say.line(r.randint(1, longest))
    room = 1100 * style.scale
    while len(text) > 1 and len(text) * style.body.size * 0.6 > room:
        text = text[: int(len(text) * 0.8)].strip() or "a"
    wide = float(style.body.advance[indices(fitting(text, style.body))].sum()) + len(text) * max(
        0, style.tracking + style.word_space
    )
    width = (
        min(40, max(1, math.ceil((wide / style.scale + em * r.uniform(0.4, 2.5)) / CELL))) * CELL
    )
    height = min(6, max(1, math.ceil(em * r.uniform(1.25, 2.6) / CELL))) * CELL
    page = Page(r, width, height, style.scale)
    x, y = (
        r.uniform(0.15, 0.85) * max(0, page.across - wide),
        r.uniform(0.1, 0.9) * max(0, page.down - style.em * 1.15),
    )
    page.write(text, style.body, style, Box(x, y, 1e9, 1e9))
    return page, "A line of text.", r.random() < 0.4


def _part(r: random.Random, world: World, say: Speaker, longest: int) -> tuple[Page, str, bool]:
    """A piece of a page: mostly one paragraph, or a few blocks of one kind of document."""
    em = _log_uniform(r, 9, 30) if r.random() < 0.5 else _log_uniform(r, 9.5, 18)
    across, down = r.randint(7, 34), r.randint(2, 17)
    down = max(2, min(down, 700 // across))
    kind = _kind(r)
    style = Style(r, world.library, em, _scale(r), kind.face)
    page = Page(r, across * CELL, down * CELL, style.scale)
    x, y = page.across * r.uniform(0.01, 0.1) + 2, page.down * r.uniform(0.01, 0.06) + 1
    box = Box(x, y, page.across - 2 * x, page.down - y * 0.5)
    if r.random() < 0.45:
        b.write_column(page, style, say, box, kind.blocks, 1800)
        page.rest = ""
    if not page.length:
        length = int(max(8, across * down * CELL * CELL / em / em * r.uniform(0.5, 1.6)))
        how = Setting("justified" if style.justified else "left", style.indent)
        page.write(
            say.prose(length),
            style.body,
            style,
            box._replace(bottom=box.bottom + style.em * 0.3),
            how,
        )
        page.counts["paragraph"] += 1
    return page, _describe(page, "piece of text", 1), r.random() < kind.wear


def _kind(r: random.Random) -> Kind:
    return r.choices(KINDS, [kind.share for kind in KINDS])[0]


def _page(r: random.Random, world: World, say: Speaker, longest: int) -> tuple[Page, str, bool]:
    kind = _kind(r)
    across, down = _page_cells(r, kind)
    low, high = kind.em
    style = Style(r, world.library, _log_uniform(r, low, high), _scale(r), kind.face)
    page = Page(r, across * CELL, down * CELL, style.scale)
    mx, my = page.across * r.uniform(*kind.edge), page.down * r.uniform(0.03, 0.09)
    body = Box(mx, my, page.across - 2 * mx, page.down - my)
    body = furniture.head(page, style, say, kind, body)
    foot = r.random() < kind.foot
    bottom = body.bottom - (style.em * 1.8 if foot else 0)
    notes_at = bottom - style.em * r.uniform(3, 6) if r.random() < kind.notes else bottom
    body = body._replace(bottom=notes_at)
    if r.random() < 0.2:  # the page is not full
        body = body._replace(bottom=body.y + (body.bottom - body.y) * r.uniform(0.1, 0.9))
    columns = r.choice(kind.columns)
    columns = columns if body.width / columns > style.em * 11 else 1
    if columns > 1:
        style.justified = r.random() < 0.8
    if kind.margin == 1:
        body = front.front_page(page, style, say, body)
    elif r.random() < kind.titled:
        top = b.title(page, style, say, body)
        body = body._replace(y=top or body.y)
    if columns == 1 and 0 < kind.margin < 1 and r.random() < kind.margin and page.length:
        body = furniture.margin(page, style, say, body)
    _columns(page, style, say, kind, body, columns)
    if notes_at < bottom:
        b.footnotes(page, style, say, Box(body.x, notes_at, body.width, bottom))
    if foot:
        furniture.foot(page, style, say, mx, my)
    if r.random() < 0.05:
        line_up_the_margin(page, style, say)
    return page, _describe(page, kind.noun, columns), r.random() < kind.wear


def _page_cells(r: random.Random, kind: Kind) -> tuple[int, int]:
    ratio = r.choice([1.294, 1.294, 1.414, 1.414, r.uniform(0.7, 1.6)])
    if kind.noun == "slide":
        ratio = r.choice([0.5625, 0.75])
    elif kind.noun == "receipt":
        ratio = r.uniform(1.3, 3.2)
    cells = (
        r.randint(400, MOST_CELLS)
        if r.random() < 0.2 or kind.noun == "receipt"
        else r.randint(1050, MOST_CELLS)
    )
    across = max(10, int(math.sqrt(cells / ratio)))
    return across, max(10, min(int(cells / across), 60))


def _columns(page: Page, style: Style, say: Speaker, kind: Kind, body: Box, columns: int) -> None:
    """The columns, one after the other; a wide figure or table may stand above or below them."""
    r = page.r
    if columns > 1 and r.random() < 0.25:
        top = r.choice([b.figure, tables.big_table])(
            page, style, say, body._replace(bottom=body.y + (body.bottom - body.y) * 0.4)
        )
        body = body._replace(y=top or body.y)
    gap = style.em * r.uniform(1.2, 2.6)
    wide = (body.width - gap * (columns - 1)) / columns
    ruled = columns > 1 and r.random() < 0.25
    begun = page.length
    for column in range(columns):
        box = Box(body.x + column * (wide + gap), body.y, wide, body.bottom)
        share = begun + (LONGEST - begun) * (column + 1) / columns
        b.write_column(page, style, say, box, kind.blocks, int(share))
        if ruled and column:
            page.line((box.x - gap / 2, body.y), (box.x - gap / 2, body.bottom), 160)
    page.rest = ""


def _picture(r: random.Random, world: World, say: Speaker, longest: int) -> tuple[Page, str, bool]:
    """A picture alone: one of `PICTURES`."""
    across = r.randint(7, 38)
    down = r.randint(max(4, across // 3), min(MOST_CELLS // across, across * 2, 38))
    kind = r.choices(list(PICTURES), list(PICTURES.values()))[0]
    number = None
    if kind == "plot" and world.pictures.kinds["plot"] and r.random() < 0.8:  # it has its own shape
        number = world.pictures.any_plot(r)
        high, wide = world.pictures.kinds["plot"][number].shape
        down = min(max(4, round(across * high / wide)), MOST_CELLS // across, 60)
    style = Style(r, world.library, _log_uniform(r, 9.5, 15 if kind == "sheet" else 20), _scale(r))
    page = Page(r, across * CELL, down * CELL, style.scale)
    if kind in ("photo", "drawing", "plot"):
        how: Any = {"plot": (number,), "drawing": (style.scale,)}.get(kind, ())
        grey, caption = getattr(world.pictures, kind)(r, page.across, page.down, *how)
        page.paste(0, 0, grey)
        return page, caption, r.random() < 0.1
    inset = page.across * r.uniform(0.02, 0.08)
    box = Box(inset, page.down * 0.04, page.across - 2 * inset, page.down * 0.96)
    if kind == "sheet":
        return page, sheet(page, style, say, world.pictures, box), r.random() < 0.1
    named = ""
    if r.random() < 0.55 and kind != "table":
        y, _ = page.write(say.title(34), style.bold, style, box, Setting("centre", longest=2))
        named = page.result()[0].replace("\n", " ")
        page.say("\n")
        box = box._replace(y=y + style.em * 0.5)
    if kind == "table":
        tables.table(page, style, say, box, (3, 9), (2, 6))
        return page, _describe(page, "table", 1), r.random() < 0.2
    drawn = (chart if kind == "chart" else diagram)(
        page, style, say, box.x, box.y, box.width, box.bottom - box.y - style.em
    )
    return (
        page,
        f"{drawn[0].upper()}{drawn[1:]}{f', titled “{named}”' if named else ''}.",
        r.random() < 0.1,
    )


def _blank(r: random.Random, world: World, say: Speaker, longest: int) -> tuple[Page, str, bool]:
    page = Page(r, r.randint(4, 34) * CELL, r.randint(4, 34) * CELL, 1.0)
    return page, "A blank page.", r.random() < 0.6


def _describe(page: Page, noun: str, columns: int) -> str:
    """The kind of document, then what is on it: "A text page with a title and two paragraphs."."""
    counts = page.counts
    said = [
        f"{'a' if number == 1 else in_words(number)} {name}{'s' if number > 1 else ''}"
        for name in (
            "title",
            "heading",
            "paragraph",
            "list",
            "field",
            "short line",
            "photograph",
            "drawing",
            "chart",
            "diagram",
        )
        if (number := counts[name])
    ]
    if counts["table"]:
        said.append(
            f"a table of {page.shape}"
            if counts["table"] == 1
            else f"{in_words(counts['table'])} tables"
        )
    start = f"{'An' if noun[0] in 'aeiou' else 'A'} {noun}"
    if columns > 1:
        start = f"{start.replace(' in columns', '')} in {in_words(columns)} columns"
    if not said:
        return f"{start}."
    return (
        f"{start} with {said[0] if len(said) == 1 else ', '.join(said[:-1]) + ' and ' + said[-1]}."
    )
