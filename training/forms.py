"""What is filled in: fields, labels with values, items with prices."""

from __future__ import annotations

from training.glyphs import Atlas
from training.page import Box, Page
from training.style import Style
from training.words import Speaker


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
            place = Box(box.x + cell * wide, y, wide, y + high)
            if boxed:
                page.frame(place.x, y, wide, high)
            if r.random() < 0.2:
                _tick(page, style, say, place)
            else:
                _field(page, style, say, place, hand, boxed)
        y, got = y + high, got + 1
    if got:
        page.counts["field"] += got
    return y + style.gap + style.em * 0.5 if got else None


def _tick(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """A box to tick, and what it says."""
    em, x, y = style.em, box.x, box.y
    page.frame(x + em * 0.3, y + em * 0.4, em * 0.8, em * 0.8)
    if page.r.random() < 0.5:
        page.line((x + em * 0.3, y + em * 0.4), (x + em * 1.1, y + em * 1.2), 255)
    room = box.width - em * 2
    page.write_line(say.line(20), style.small, style, x + em * 1.5, y + em * 0.4, width=room)


def _field(page: Page, style: Style, say: Speaker, box: Box, hand: Atlas, boxed: bool) -> None:
    """A label, and perhaps what somebody has filled in: beside it, or in the box below it."""
    r, em, right = page.r, style.em, box.x + box.width - style.em * 0.5
    y = box.y + em * 0.15 if boxed else box.bottom - em * 1.15
    label = say.title(18) + r.choice([":", "", " :"])
    end = page.write_line(label, style.small, style, box.x + em * 0.3, y, width=box.width * 0.5)
    if not boxed:
        page.rule(end + em * 0.3, box.bottom - em * 0.1, right, 150)
    if r.random() < 0.6:
        page.say(" ")
        value = say.one_of(say.name, say.date, say.number, lambda: say.line(18))
        x, y = box.x + em * 0.8 if boxed else end + em * 0.6, box.bottom - hand.size * 1.15
        page.write_line(value, hand, style, x, y, width=max(em * 2, right - x))


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
        value = say.one_of(say.number, say.name, say.amount, say.date, lambda: say.line(30))
        page.say(" ")
        x = box.x + start if start else end + style.em * 0.5
        page.write_line(value, style.body, style, x, y, width=box.x + box.width - x)
        y, got = y + style.leading, got + 1
    if got:
        page.counts["short line"] += got
    return y + style.gap if got else None


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
