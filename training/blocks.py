"""What a column holds: headings, paragraphs, code, notes, figures …, and how it is filled.

Every block is a function `block(page, style, say, box) -> y` that draws into the box from the
top, says what it drew in reading order, and returns the y below it, or None if nothing fitted.
Text that found no room at the end of a column is kept in `page.rest` for the next one.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import cv2

from training.diagrams import diagram
from training.figures import chart
from training.glyphs import Atlas
from training.page import Box, Page, Setting
from training.pictures import Pictures
from training.style import Style
from training.words import Speaker

Block = Callable[[Page, Style, Speaker, Box], float | None]
PICTURES: list[Pictures] = []
"""The pictures that figures are cut from; set once, before the workers are forked."""
OPERATORS = ["=", "==", "+", "->", "(", ")", "{", "}", ";", "#", "$", "&&", "|", "\\", "<", ">"]
"""Of programs."""


def heading(page: Page, style: Style, say: Speaker, box: Box, level: int = 2) -> float | None:
    r = page.r
    face = style.heading(level)
    y = box.y + (face.size * 0.4 if page.length else 0)
    if y + face.size * 1.3 + style.leading > box.bottom:
        return None
    text, wide = say.title(r.choice([8, 18, 30, 46, 70])), ""
    if style.kind == "typewriter" and r.random() < 0.2:
        text = " ".join(text[:16].upper()).replace("   ", "  ")
        text = " ".join(text.split())
    if style.numbered and level == 2:
        style.section += 1
        part = f".{r.randint(1, 9)}"
        number = f"{style.section}{r.choice(['.', '', '', part, part + part])}"
        if style.kind == "typewriter" or style.centred_headings or r.random() < 0.4:
            text = f"{number} {text}"
        else:
            wide = number
    mark = page.mark()
    page.separate()
    page.say("#" * level + " ")
    if wide:  # a quad between the number and the words
        end = page.write_line(wide, face, style, box.x, y) + face.size * r.uniform(0.6, 1.2)
        page.say(" ")
        box = box._replace(x=end, width=box.width - end + box.x)
    how = Setting(
        "centre" if style.centred_headings else "left",
        longest=3,
        underline=style.kind == "typewriter" and r.random() < 0.5,
    )
    below, rest = page.write(text, face, style, box._replace(y=y), how)
    if rest == text or below == y:
        page.take_back(mark)
        return None
    page.counts["title" if level == 1 else "heading"] += 1
    return below + face.size * r.uniform(0.1, 0.5)


def title(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """A title, perhaps with authors and a date below it."""
    y = heading(page, style, say, box, 1)
    r = page.r
    if y is None or r.random() < 0.5:
        return y
    how = Setting("centre" if style.centred_headings else "left")
    for _ in range(r.randint(1, 3)):
        text = say.one_of(
            lambda: ", ".join(say.name() for _ in range(r.randint(1, 5))),
            say.date,
            lambda: say.line(60),
        )
        if y + style.leading > box.bottom:
            break
        page.separate("\n" if _ else "\n\n")
        y, _rest = page.write(
            text,
            r.choice([style.body, style.body, style.italic, style.small]),
            style,
            box._replace(y=y),
            how,
        )
    return y + style.em * r.uniform(0.3, 1.5)


def paragraph(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    r = page.r
    length = r.choice(
        [r.randint(30, 160), r.randint(120, 500), r.randint(300, 900), r.randint(500, 1300)]
    )
    text = page.rest or say.prose(length)
    going_on = bool(page.rest)
    if r.random() < 0.04 and not going_on:
        text = f"{say.line(20).rstrip('.:')}{r.choice(['.', ':', ' –', '.—'])} {text}"
    mark = page.mark()
    page.separate(" " if going_on and not page.joined else "" if going_on else "\n\n")
    how = Setting("justified" if style.justified else "left", 0 if going_on else style.indent)
    face = style.body if r.random() > style.emphasis else r.choice([style.bold, style.italic])
    y, rest = page.write(text, face, style, box, how)
    if y == box.y:
        page.take_back(mark)
        return None
    page.rest = rest.strip() if len(rest.strip()) > 1 else ""
    page.joined = (
        bool(rest) and not text[: len(text) - len(rest)].endswith(" ") and not rest.startswith(" ")
    )
    if not going_on:
        page.counts["paragraph"] += 1
    return y + style.gap


def lines(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """Short lines that stay lines: verse, addresses, menus."""
    r = page.r
    align = r.choice(["left", "left", "left", "centre", "right"])
    inset = r.choice([0, 0, 0.1, 0.5]) * box.width
    face = r.choice([style.body, style.body, style.italic, style.bold])
    y, got = box.y, 0
    for _ in range(r.randint(2, 9)):
        if y + style.em * 1.05 > box.bottom:
            break
        page.separate("\n" if got else "\n\n")
        text = say.one_of(lambda: say.line(r.randint(4, 60)), say.name, say.number)
        page.write_line(text, face, style, box.x + inset, y, align, box.width - inset)
        y, got = y + style.leading, got + 1
    if got:
        page.counts["short line"] += got
    return y + style.gap if got else None


def code(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """Lines of a program or a terminal, in a fixed pitch."""
    r = page.r
    face: Atlas = style.mono
    step = face.size * 1.25
    count = min(r.randint(2, 14), int((box.bottom - box.y) / step) - 1)
    if count < 2:
        return None
    if r.random() < 0.5:
        page.fill(box.x, box.y - step * 0.2, box.width, step * (count + 0.4), r.randint(10, 40))
    page.separate()
    for number in range(count):
        depth = r.choice([0, 0, 1, 1, 2])
        words = [
            say.one_of(say.word, say.word, say.number, lambda: r.choice(OPERATORS))
            for _ in range(r.randint(1, 7))
        ]
        text = r.choice(["", "", "$ ", "# ", "> ", "-- "]) + r.choice([" ", " ", "_", "."]).join(
            words
        )
        text = " ".join((text + r.choice(["", "", "();", ":", ";", " {", ")"])).split())
        if number:
            page.say("\n")
        page.write_line(
            text,
            face,
            style,
            box.x + face.size * (0.5 + depth * 1.2),
            box.y + number * step,
            width=box.width - face.size * (1 + depth * 1.2),
        )
    return box.y + count * step + style.em * 0.6


def aside(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """A framed or tinted note with a heading, perhaps an icon beside it."""
    r = page.r
    pad = style.em * 0.8
    icon = style.em * 4 if r.random() < 0.4 and box.width > style.em * 20 else 0
    inner = Box(box.x + pad + icon, box.y + pad, box.width - 2 * pad - icon, box.bottom - pad)
    if inner.y + 3 * style.leading > inner.bottom or inner.width < style.em * 8:
        return None
    page.separate()
    y = inner.y
    if r.random() < 0.6:
        page.write_line(say.title(18), style.bold, style, inner.x, y, width=inner.width)
        page.say("\n")
        y += style.leading * 1.2
    face = style.library.at(style.second, "r", style.em * r.choice([0.85, 1]))
    before = y
    y, _rest = page.write(say.prose(r.randint(40, 400)), face, style, inner._replace(y=y))
    if y == before:
        page.say("")
    if icon:
        centre = (box.x + pad + icon * 0.4, (box.y + y) / 2)
        cv2.circle(
            page.cover,
            (int(centre[0]), int(centre[1])),
            int(icon * 0.25),
            200,
            max(1, int(page.scale)),
        )
    if r.random() < 0.7:
        page.frame(box.x, box.y, box.width, y - box.y + pad)
    else:
        page.fill(box.x, box.y, box.width, y - box.y + pad, r.randint(15, 60))
    return y + pad + style.em


def figure(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """A picture, a plot, a chart or a diagram, mostly with a caption below it."""
    r = page.r
    if box.width < style.em * 9 or box.bottom - box.y < style.em * 9:
        return None
    high = min(box.bottom - box.y - style.em * 3, r.uniform(0.3, 0.8) * box.width, style.em * 20)
    wide = box.width * r.choice([1, 1, r.uniform(0.5, 0.95)])
    x, y = box.x + (box.width - wide) * r.choice([0, 0.5]), box.y + style.em * 0.3
    kind = r.choices(["photo", "drawing", "chart", "diagram"], [4, 1, 3, 2])[0]
    if kind in ("photo", "drawing") and PICTURES:
        picture, _ = getattr(PICTURES[0], kind)(r, max(8, int(wide)), max(8, int(high)))
        page.paste(x, y, picture)
        page.counts["photograph" if kind == "photo" else "drawing"] += 1
    else:
        page.separate()
        (chart if kind == "chart" else diagram)(page, style, say, x, y, wide, high)
        page.counts["chart" if kind == "chart" else "diagram"] += 1
    y += high + style.em * 0.5
    if r.random() < 0.7 and y + style.leading < box.bottom:
        page.separate()
        label = r.choice(["Figure", "Fig.", "Abbildung", "Figura", "Photo"])
        text = (
            f"{label} {r.randint(1, 30)}{r.choice([': ', '. ', ' – '])}{say.line(100)}"
            if r.random() < 0.8
            else say.line(100)
        )
        y, _ = page.write(
            text,
            r.choice([style.small, style.italic]),
            style,
            box._replace(y=y),
            Setting(r.choice(["left", "centre"])),
        )
    return y + style.gap + style.em * 0.3


def footnotes(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """Small notes below a short rule, at the foot of the page."""
    r = page.r
    page.rule(box.x, box.y, box.x + box.width * r.choice([0.2, 0.35, 1]))
    y, start = box.y + style.em * 0.4, r.randint(1, 40)
    for number in range(r.randint(1, 3)):
        if y + style.small.size > box.bottom:
            break
        page.separate("\n" if number else "\n\n")
        sign = r.choice([str(start + number), "*", f"({start + number})"])
        y, _ = page.write(
            f"{sign} {say.prose(r.randint(20, 160))}",
            style.small,
            style,
            box._replace(y=y),
            Setting(leading=style.small.size * 1.2),
        )
    return y


def write_column(
    page: Page, style: Style, say: Speaker, box: Box, weights: dict[Block, float], longest: int
) -> float:
    """Fill a box with blocks drawn by weight, until it or the page's share of text is full."""
    r: random.Random = page.r
    y, failures = box.y, 0
    while page.length < longest and y + style.leading < box.bottom and failures < 3:
        block = paragraph if page.rest else r.choices(list(weights), list(weights.values()))[0]
        below = block(page, style, say, box._replace(y=y))
        failures += below is None
        y = below if below is not None else y
        if page.rest:
            break
    return y
