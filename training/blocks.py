"""What a column holds: headings, paragraphs, lists, tables, forms, code, figures …

Every block is a function `block(page, style, say, box) -> y` that draws into the box from the
top, says what it drew in reading order, and returns the y below it, or None if nothing fitted.
Text that found no room at the end of a column is kept in `page.rest` for the next one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import cv2
import numpy as np

from training.characters import INDEX
from training.figures import Pictures, chart, diagram, in_words
from training.glyphs import Atlas
from training.page import Box, Page, Setting, Style
from training.words import Speaker

Block = Callable[[Page, Style, Speaker, Box], float | None]
PICTURES: list[Pictures] = []
"""The pictures that figures are cut from; set once, before the workers are forked."""


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
        below = f".{r.randint(1, 9)}"
        number = f"{style.section}{r.choice(['.', '', '', below, below + below])}"
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
        text = r.choice(
            [
                lambda: ", ".join(say.name() for _ in range(r.randint(1, 5))),
                say.date,
                lambda: say.line(60),
            ]
        )()
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
                value = r.choice([say.date, say.doi, say.date, say.number])().split("org/")[-1]
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


def abstract(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """A narrower paragraph in smaller type."""
    inset = style.em * page.r.uniform(1, 4)
    mark = page.mark()
    page.separate()
    inner = Box(box.x + inset, box.y, box.width - 2 * inset, box.bottom)
    y, _rest = page.write(
        say.prose(page.r.randint(150, 900)),
        style.small,
        style,
        inner,
        Setting("justified", leading=style.leading * 0.85),
    )
    if y == box.y:
        page.take_back(mark)
        return None
    page.counts["paragraph"] += 1
    return y + style.em


def _items(
    page: Page,
    style: Style,
    say: Speaker,
    box: Box,
    marks: list[str],
    said: list[str],
    longest: int = 140,
) -> float | None:
    r = page.r
    inset = style.em * r.uniform(0.2, 2.2)
    hang = max(style.em * 1.1, max(len(mark) for mark in marks) * style.em * 0.62)
    loose = r.choice([0, 0, 0.3, 0.8]) * style.em
    y, got = box.y, 0
    how = Setting("justified" if style.justified else "left")
    for mark, word in zip(marks, said, strict=True):
        if y + style.em * 1.05 > box.bottom:
            break
        back = page.mark()
        page.separate("\n" if got else "\n\n")
        if word == mark:
            page.write_line(mark, style.body, style, box.x + inset, y)
            page.say(" ")
        else:
            inner = page.mark()
            end = page.write_line(mark, style.body, style, box.x + inset, y)
            page.take_back(inner)
            xs = np.full(2, (box.x + inset + end) / 2, np.float32)
            page.say(word, xs[: len(word)], np.full(len(word), y + style.em * 0.5, np.float32))
        text = say.prose(r.randint(8, longest))
        below, _rest = page.write(
            text,
            style.body,
            style,
            Box(box.x + inset + hang, y, box.width - inset - hang, box.bottom),
            how,
        )
        if below == y:
            page.take_back(back)
            break
        y, got = below + loose, got + 1
    return y + style.gap if got else None


def bullets(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    count, sign = page.r.randint(2, 7), page.r.choice("•••••-–*o■")
    if not style.body.has[INDEX[ord(sign)]]:
        sign = "-"
    y = _items(page, style, say, box, [sign] * count, ["- "] * count)
    if y is not None:
        page.counts["list"] += 1
    return y


def numbered(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    r = page.r
    start, form = (
        r.choice([1, 1, 1, r.randint(2, 9)]),
        r.choice(["{}.", "{}.", "{})", "({})", "[{}]", "{}°"]),
    )
    marks = [form.format(start + number) for number in range(r.randint(2, 7))]
    y = _items(page, style, say, box, marks, marks)
    if y is not None:
        page.counts["list"] += 1
    return y


def entry(say: Speaker) -> str:
    """An entry of a bibliography."""
    r = say.r
    names = ", ".join(
        f"{say.word().capitalize()}, {r.choice('ABCDEFGHJKLMNPRST')}."
        for _ in range(r.randint(1, 4))
    )
    end = r.choice(["", "", say.number(), say.doi(), say.doi(), say.link()])
    return (
        f"{names} ({r.randint(1890, 2030)}). {say.title(60)}. {say.title(28)}, "
        f"{r.randint(1, 90)}({r.randint(1, 12)}), "
        f"{r.randint(1, 500)}–{r.randint(500, 999)}. {end}"
    ).strip()


def references(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """A bibliography: names, year, title, journal, pages."""
    r = page.r
    y, got = box.y, 0
    for number in range(r.randint(2, 9)):
        text = entry(say)
        text = f"[{number + 1}] {text}" if style.numbered else text
        if y + style.leading > box.bottom:
            break
        mark = page.mark()
        page.separate("\n" if got else "\n\n")
        below, _rest = page.write(
            text,
            style.body,
            style,
            box._replace(y=y),
            Setting("justified" if style.justified else "left"),
        )
        if below == y:
            page.take_back(mark)
            break
        y, got = below + style.gap * 0.4, got + 1
    return y + style.gap if got else None


def contents(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """A table of contents, with or without leaders."""
    r = page.r
    y, got, number = box.y, 0, r.randint(1, 60)
    dots = r.random() < 0.6
    face = r.choice([style.body, style.body, style.bold])
    leading = style.leading * r.choice([1, 1, 1.3, 1.8])
    quad = style.em * r.choice([0, 0.8, 1.2])
    for row in range(r.randint(4, 16)):
        if y + style.leading > box.bottom:
            break
        page.separate("\n" if got else "\n\n")
        x = box.x + r.choice([0, 0, 1.5]) * style.em
        if style.numbered:
            x = quad + page.write_line(f"{row + 1}{r.choice(['', '.', '.1'])}", face, style, x, y)
            x += 0 if quad else style.em * 0.3
            page.say(" ")
        room = max(style.em, box.x + box.width - style.em * 2.5 - x)
        end = page.write_line(say.title(r.choice([8, 36, 60])), face, style, x, y, width=room)
        page.say(" ")
        number += r.randint(0, 9)
        right = box.x + box.width
        if dots and right - end > style.em * 4:
            mark = page.mark()
            step = style.em * r.uniform(0.35, 0.8)
            x = end + style.em
            while x < right - style.em * 2.4:
                page.write_line(".", style.body, style, x, y)
                x += step
            page.take_back(mark)
        page.write_line(str(number), face, style, right - style.em * 2, y, "right", style.em * 2)
        y, got = y + leading, got + 1
    return y + style.gap if got else None


def _cells(
    page: Page, say: Speaker, rows: int, columns: int, widths: list[int], numeric: bool
) -> list[list[str]]:
    r = page.r
    table = [[say.title(max(4, widths[column])) for column in range(columns)]]
    kinds = [False] + [numeric or r.random() < 0.5 for _ in range(columns - 1)]
    form = r.choice(["{:.1f}", "{:,.0f}", "{:.2f}", "{:.0f}%", "${:,.0f}"])
    for _ in range(rows - 1):
        section = r.random() < 0.1
        row = []
        for column, number in enumerate(kinds):
            if section and column:
                row.append("")
            elif number:
                row.append(
                    form.format(r.uniform(0, 10 ** r.randint(1, 5)))
                    if r.random() < 0.8
                    else say.number()[: widths[column]]
                )
            else:
                row.append(
                    say.line(widths[column])
                    if r.random() < 0.75
                    else say.number()[: widths[column]]
                )
        table.append([cell.replace("|", "/").strip() for cell in row])
    return table


def table(
    page: Page,
    style: Style,
    say: Speaker,
    box: Box,
    rows: tuple[int, int] = (2, 9),
    columns: tuple[int, int] = (2, 5),
) -> float | None:
    """Rows and columns, with or without rules; cells of several lines; numbers aligned."""
    r = page.r
    nr, nc = r.randint(*rows), r.randint(*columns)
    face = style.body if r.random() < 0.6 else style.small
    first = r.choice([1, 1, 1.6, 2.5])
    units = [first] + [1.0] * (nc - 1)
    wide = box.width * r.choice([1, 1, 0.8, 0.6])
    edges = [box.x]
    for unit in units:
        edges.append(edges[-1] + wide * unit / sum(units))
    pad = face.size * 0.4
    fits = [
        max(3, int((b - a - 2 * pad) / (face.size * 0.5))) for a, b in itertools.pairwise(edges)
    ]
    tall = r.random() < 0.25
    cells = _cells(page, say, nr, nc, [f * (2 if tall else 1) for f in fits], r.random() < 0.4)
    step = max(face.size * 1.2, style.leading * r.uniform(0.85, 1.15)) + r.choice(
        [0, 0, face.size * 0.5]
    )
    if box.y + 2.5 * step > box.bottom:
        return None
    right = [False] + [r.random() < 0.5 for _ in range(nc - 1)]
    rules = r.choice(["grid", "rows", "head", "none", "head", "columns"])
    ink, y, got, top = r.randint(90, 255), box.y, 0, box.y
    levels = [y]
    page.separate()
    for number, row in enumerate(cells):
        high = step
        if y + step * (2 if tall else 1) > box.bottom:
            break
        if number == 1:
            page.say("\n|" + " --- |" * nc)
        page.say("\n| " if number else "| ")
        bold = style.bold if number == 0 or r.random() < 0.03 else face
        for column, cell in enumerate(row):
            at = Box(
                edges[column] + pad,
                y + (step - face.size) / 2,
                edges[column + 1] - edges[column] - 2 * pad,
                box.bottom,
            )
            if not cell:
                pass
            elif tall:
                below, _ = page.write(
                    cell,
                    bold,
                    style,
                    at,
                    Setting(
                        "right" if right[column] else "left", leading=face.size * 1.15, longest=3
                    ),
                )
                high = max(high, below - y + (step - face.size) / 2)
            else:
                page.write_line(
                    cell, bold, style, at.x, at.y, "right" if right[column] else "left", at.width
                )
            page.say(" |" if column == nc - 1 else " | ")
        y += high
        levels.append(y)
        got += 1
    if not got:
        return None
    if r.random() < 0.3:
        page.fill(box.x, top, wide, levels[1] - top, r.randint(15, 60))
    elif r.random() < 0.2:
        for a, b in zip(levels[1::2], levels[2::2], strict=False):
            page.fill(box.x, a, wide, b - a, 20)
    shown = {
        "grid": levels,
        "rows": levels,
        "head": [levels[0], levels[1], levels[-1]],
        "columns": [levels[1]],
        "none": [],
    }[rules]
    for level in shown[r.random() < 0.3 and rules == "head" :]:
        page.rule(box.x, level, box.x + wide, ink)
    if rules in ("grid", "columns"):
        for edge in edges if rules == "grid" else edges[1:-1]:
            page.line((edge, levels[0]), (edge, levels[-1]), ink)
    page.counts["table"] += 1
    page.shape = f"{in_words(got)} rows and {in_words(nc)} columns"
    return y + style.gap + style.em * 0.3


def big_table(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    y = box.y
    if page.r.random() < 0.6 and y + 3 * style.leading < box.bottom:
        page.separate()
        label = page.r.choice(["Table", "Tableau", "Tabelle", "Tabla"])
        sign = page.r.choice([". ", ": ", ".—", " "])
        caption = f"{label} {page.r.randint(1, 20)}{sign}{say.line(120)}"
        y, _ = page.write(caption, style.bold, style, box, Setting(longest=3))
        y += style.em * 0.5
    return table(page, style, say, box._replace(y=y), (6, 30), (3, 8))


def statistics(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """Figures by group as offices print them: a hanging caption, groups set in, a source below."""
    r = page.r
    face = style.library.at(style.family, "r", style.em * r.uniform(0.8, 0.95))
    step = face.size * r.uniform(1.05, 1.3)
    nc, y = r.randint(3, 8), box.y
    if y + 14 * step > box.bottom or box.width < face.size * (12 + 3 * nc):
        return None
    page.separate()
    label = f"{r.choice(['Table', 'Table', 'Tableau', 'Tabelle'])} {r.randint(1, 30)}."
    hang = page.write_line(label, style.bold, style, box.x, y) + style.em * r.uniform(0.4, 1.2)
    page.say(" ")
    beside = box._replace(x=hang, y=y, width=box.width - hang + box.x)
    y, _rest = page.write(say.line(260), style.bold, style, beside, Setting(longest=4))
    y += style.em * 0.6
    page.rule(box.x, y, box.x + box.width, 255, round(page.scale * r.choice([1, 2, 3])))
    y += step * 0.3
    stub = box.width * r.uniform(0.3, 0.45)
    wide = (box.width - stub) / (nc - 1)
    tall = r.randint(1, 3)
    heads = [say.title(26)] + [
        say.title(max(4, int(tall * wide / face.size))) for _ in range(nc - 1)
    ]
    page.separate()
    page.say("| ")
    low = y
    for column, text in enumerate(heads):
        inner = Box(box.x + (stub + wide * (column - 1) if column else 0), y, 0, box.bottom)
        inner = inner._replace(width=(wide if column else stub) - face.size * 0.4)
        how = Setting("right" if column else "left", leading=step, longest=tall)
        low = max(low, page.write(text, face, style, inner, how)[0])
        page.say(" |" if column == nc - 1 else " | ")
    page.say("\n|" + " --- |" * nc)
    page.rule(box.x, low + step * 0.2, box.x + box.width)
    y, rows = low + step * 0.6, 1
    form = [r.choice(["{:.1f}", "{:.1f}", "{:,.0f}", "{:,.0f}", "{:.2f}"]) for _ in range(nc)]
    most = [10 ** r.randint(1, 2) if "." in f[2:4] and "," not in f else 10**5 for f in form]
    missing = r.choice(["‡", "†", "–", "...", "#", "-"])
    missing = missing if face.has[INDEX[ord(missing[0])]] else "-"
    left = 0
    for _ in range(r.randint(8, 45)):
        if y + step * 3.5 > box.bottom:
            break
        group = left == 0
        inset = 0.0 if group else face.size * r.choice([0.5, 0.5, 0.5, 1.0])
        left = r.randint(2, 7) if group else left - 1
        y += step * 0.6 if group and rows > 1 else 0
        page.say("\n| ")
        page.write_line(say.title(40), face, style, box.x + inset, y, width=stub - inset)
        for column in range(1, nc):
            page.say(" | ")
            value = (
                missing if r.random() < 0.04 else form[column].format(r.uniform(0, most[column]))
            )
            if not group or r.random() < 0.15:
                x = box.x + stub + wide * (column - 1)
                page.write_line(value, face, style, x, y, "right", wide - face.size * 0.4)
        page.say(" |")
        y, rows = y + step, rows + 1
    page.rule(box.x, y + step * 0.2, box.x + box.width, 255, round(page.scale * 2))
    y += step * 0.5
    if r.random() < 0.7 and y + 2 * step < box.bottom:
        page.separate()
        note = f"{r.choice(['NOTE', 'Note', 'SOURCE', 'Source', '1', '*'])}: {say.prose(200)}"
        how = Setting(leading=step, longest=3)
        y, _rest = page.write(note, face, style, box._replace(y=y), how)
    page.counts["table"] += 1
    page.shape = f"{in_words(rows)} rows and {in_words(nc)} columns"
    return y + style.gap + style.em * 0.5


def pairs(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """Labels and values: "Date: 3 May 1962"."""
    r = page.r
    start = box.width * r.choice([0.2, 0.3, 0.4]) if r.random() < 0.6 else 0
    label_face = r.choice([style.bold, style.body])
    y, got = box.y, 0
    for _ in range(r.randint(2, 8)):
        if y + style.em * 1.05 > box.bottom:
            break
        page.separate("\n" if got else "\n\n")
        end = page.write_line(
            say.title(16) + r.choice([":", ":", " :", ""]),
            label_face,
            style,
            box.x,
            y,
            width=(start or box.width * 0.4) - style.em * 0.5,
        )
        value = r.choice([say.number, say.name, say.amount, say.date, lambda: say.line(30)])()
        page.say(" ")
        x = box.x + start if start else end + style.em * 0.5
        page.write_line(value, style.body, style, x, y, width=box.x + box.width - x)
        y, got = y + style.leading, got + 1
    if got:
        page.counts["short line"] += got
    return y + style.gap if got else None


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
        text = r.choice([lambda: say.line(r.randint(4, 60)), say.name, say.number])()
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
            r.choice(
                [
                    say.word,
                    say.word,
                    say.number,
                    lambda: r.choice(
                        [
                            "=",
                            "==",
                            "+",
                            "->",
                            "(",
                            ")",
                            "{",
                            "}",
                            ";",
                            "#",
                            "$",
                            "&&",
                            "|",
                            "\\",
                            "<",
                            ">",
                        ]
                    ),
                ]
            )()
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


def definitions(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """A term, and below it, set in, what it means."""
    r = page.r
    y, got = box.y, 0
    face = r.choice([style.bold, style.mono, style.italic])
    for _ in range(r.randint(2, 5)):
        if y + style.leading * 2 > box.bottom:
            break
        mark = page.mark()
        page.separate()
        page.write_line(say.line(30), face, style, box.x, y, width=box.width)
        page.say("\n")
        inset = style.em * 2.5
        below, _rest = page.write(
            say.prose(r.randint(30, 250)),
            style.body,
            style,
            Box(box.x + inset, y + style.leading, box.width - inset, box.bottom),
        )
        if below == y + style.leading:
            page.take_back(mark)
            break
        y, got = below + style.gap, got + 1
    return y if got else None


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


def form(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """Fields to fill in: labels, lines or boxes, some filled by typewriter or by hand, ticks."""
    r = page.r
    y, got = box.y, 0
    hand = style.library.at(
        style.library.pick(r, r.choice(["hand", "typewriter", "text"])),
        "r",
        style.em * r.uniform(1, 1.3),
    )
    boxed = r.random() < 0.5
    for _ in range(r.randint(2, 9)):
        high = style.em * r.uniform(1.7, 3)
        if y + high > box.bottom:
            break
        cells = r.choice([1, 1, 2, 3])
        wide = box.width / cells
        for cell in range(cells):
            page.separate("\n" if got or cell else "\n\n")
            x = box.x + cell * wide
            if boxed:
                page.frame(x, y, wide, high)
            if r.random() < 0.2:
                page.frame(x + style.em * 0.3, y + style.em * 0.4, style.em * 0.8, style.em * 0.8)
                if r.random() < 0.5:
                    page.line(
                        (x + style.em * 0.3, y + style.em * 0.4),
                        (x + style.em * 1.1, y + style.em * 1.2),
                        255,
                    )
                page.write_line(
                    say.line(20),
                    style.small,
                    style,
                    x + style.em * 1.5,
                    y + style.em * 0.4,
                    width=wide - style.em * 2,
                )
                continue
            top = y + (style.em * 0.15 if boxed else high - style.em * 1.15)
            end = page.write_line(
                say.title(18) + r.choice([":", "", " :"]),
                style.small,
                style,
                x + style.em * 0.3,
                top,
                width=wide * 0.5,
            )
            if not boxed:
                page.rule(
                    end + style.em * 0.3, y + high - style.em * 0.1, x + wide - style.em * 0.5, 150
                )
            if r.random() < 0.6:
                page.say(" ")
                value = r.choice([say.name, say.date, say.number, lambda: say.line(18)])()
                place = (
                    (end + style.em * 0.6, y + high - hand.size * 1.15)
                    if not boxed
                    else (x + style.em * 0.8, y + high - hand.size * 1.15)
                )
                page.write_line(
                    value,
                    hand,
                    style,
                    *place,
                    width=max(style.em * 2, x + wide - place[0] - style.em * 0.5),
                )
        y, got = y + high, got + 1
    if got:
        page.counts["field"] += got
    return y + style.gap + style.em * 0.5 if got else None


def items_with_prices(page: Page, style: Style, say: Speaker, box: Box) -> float | None:
    """The middle of a receipt or a menu: what, and how much."""
    r = page.r
    y, got = box.y, 0
    for _ in range(r.randint(3, 14)):
        if y + style.leading > box.bottom:
            break
        page.separate("\n" if got else "\n\n")
        amount = r.choice(["", "", f"{r.randint(1, 12)} x ", f"{r.randint(1, 9)} "])
        page.write_line(amount + say.title(22), style.body, style, box.x, y, width=box.width * 0.68)
        page.say(" ")
        value = say.amount() if r.random() < 0.3 else f"{r.uniform(0, 300):.2f}"
        page.write_line(
            value, style.body, style, box.x + box.width * 0.7, y, "right", box.width * 0.3
        )
        y, got = y + style.leading, got + 1
        if r.random() < 0.1:
            page.rule(box.x, y, box.x + box.width)
            y += style.em * 0.4
    return y + style.gap if got else None


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
