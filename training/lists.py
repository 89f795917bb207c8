"""Lists: points, numbers, terms, bibliographies, tables of contents."""

from __future__ import annotations

import numpy as np

from training.characters import INDEX
from training.page import Box, Page, Setting
from training.style import Style
from training.words import Speaker


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
