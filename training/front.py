"""The front page of an article: who wrote it and where, what stands beside it, the sign."""

from __future__ import annotations

import cv2

from training.blocks import heading
from training.characters import INDEX
from training.glyphs import Atlas
from training.page import Box, Page, Setting
from training.style import Style
from training.words import Speaker


def front_page(page: Page, style: Style, say: Speaker, body: Box) -> Box:
    """A journal's page: its sign, the title over the text only, then the margin; the text's box.

    The sign is a picture: its words are not said. Later pages have the sign alone.
    """
    r = page.r
    if r.random() < 0.8:
        body = body._replace(y=sign(page, style, say, body) + style.em * r.uniform(0.5, 5))
    if r.random() < 0.3:
        return body
    left = body.width * r.uniform(0.22, 0.3)
    over = body._replace(x=body.x + left, width=body.width - left)
    y = heading(page, style, say, over, 1) or over.y
    y = authors(page, style, say, over._replace(y=y + style.em * 0.3))
    start = y + style.em * r.uniform(-3 if page.length else 0, 3)
    gap = style.em * r.uniform(0.8, 1.6)
    particulars(page, style, say, Box(body.x, start, left - gap, body.bottom))
    return over._replace(y=y + style.em * r.uniform(0.5, 2.5))


def authors(page: Page, style: Style, say: Speaker, box: Box) -> float:
    """Names with the numbers of their places, and the places below; the y below them."""
    r = page.r
    places = r.randint(1, 3)
    names = [f"{say.name()}{r.randint(1, places)}" for _ in range(r.randint(1, 5))]
    style.raised = True
    face = r.choice([style.bold, style.bold, style.body])
    joined = ", ".join(names) if r.random() < 0.6 else " and ".join(names)
    page.separate()
    y, _rest = page.write(joined, face, style, box)
    page.separate()
    held = " ".join(f"{n} {say.title(40)}, {say.word().title()}" for n in range(1, places + 1))
    how = Setting(leading=style.small.size * 1.25)
    return page.write(held, style.small, style, box._replace(y=y + style.em * 0.5), how)[0]


def particulars(page: Page, style: Style, say: Speaker, box: Box) -> float:
    """Small print beside an article: where it is, its dates, its licence; the y below it."""
    r = page.r
    face, bold = (style.library.at(style.family, s, style.em * r.uniform(0.75, 0.85)) for s in "rb")
    leading, y = face.size * r.uniform(1.15, 1.35), box.y
    for _ in range(r.randint(3, 6)):
        if y + leading * 7 > box.bottom:
            break
        page.separate()
        part = r.random()
        label = r.choice([say.word().capitalize(), say.title(14)])
        if part < 0.45:
            for number in range(r.randint(1, 3)):
                if number:
                    page.say("\n")
                    label = say.word().capitalize()
                end = page.write_line(f"{label}:", bold, style, box.x, y, width=box.width * 0.6)
                page.say(" ")
                value = say.one_of(say.date, say.doi, say.date, say.number).split("org/")[-1]
                x = end + face.size * 0.35
                page.write_line(value, face, style, x, y, width=box.x + box.width - x)
                y += leading
        elif part < 0.75:
            page.write_line(label, bold, style, box.x, y, width=box.width)
            y += leading * r.uniform(1, 1.3)
            sign = r.choice("•■•■-")
            for _item in range(r.randint(2, 5)):
                page.say("\n")
                y = _linked(page, style, say, Box(box.x, y, box.width, 0), face, sign)
        else:
            page.write_line(label, bold, style, box.x, y, width=box.width)
            page.say("\n")
            how = Setting("justified", leading=leading)
            text = say.prose(r.randint(60, 220))
            y, _rest = page.write(text, face, style, box._replace(y=y + leading), how)
        y += style.em * r.uniform(0.4, 0.9)
    return y


def _linked(page: Page, style: Style, say: Speaker, box: Box, face: Atlas, sign: str) -> float:
    """A point with a link, and the arrow that says so behind it, which is not said."""
    r = page.r
    size = face.size
    mark = page.mark()
    page.write_line(sign if face.has[INDEX[ord(sign)]] else "-", face, style, box.x + size, box.y)
    page.take_back(mark)
    page.say("- ")
    end = page.write_line(say.word().capitalize(), face, style, box.x + size * 2.4, box.y)
    if r.random() < 0.6:
        x, y, side = end + size * 0.35, box.y + size * 0.25, size * 0.5
        page.frame(x, y, side, side)
        page.line((x + side * 0.4, y + side * 0.6), (x + side * 1.2, y - side * 0.2))
    return box.y + size * r.choice([1.25, 1.45])


def sign(page: Page, style: Style, say: Speaker, box: Box) -> float:
    """A publisher's sign: a mark and large letters, as one picture, of which nothing is said."""
    r = page.r
    start = page.mark()
    large = style.library.at(style.library.pick(r), "b", style.em * r.uniform(2.2, 4.5))
    under = style.library.at(style.second, "b", style.em * r.uniform(0.7, 1))
    y = max(2.0, box.y * r.uniform(0.15, 0.8))
    word = say.word()[: r.randint(3, 8)].upper()
    cut = r.randint(0, len(word) - 1)
    x = box.x
    if cut:
        x = page.write_line(word[:cut], large, style, x, y)
    radius = large.size * 0.42
    centre = (int(x + radius * 1.1), int(y + large.size * 0.48))
    for share in (1.0, 0.7, 0.4)[: r.randint(1, 3)]:
        thick = r.choice([-1, max(1, round(page.scale * 2))])
        cv2.circle(page.cover, centre, max(2, int(radius * share)), r.randint(90, 255), thick)
    page.write_line(word[cut:], large, style, x + radius * 2.2, y)
    y += large.size * 1.05
    if r.random() < 0.7:
        words = " ".join(say.word().capitalize() for _ in range(r.randint(2, 6)))
        page.write_line(words, under, style, box.x, y)
        y += under.size * 1.2
    page.take_back(start)
    return y + style.em * 0.5
