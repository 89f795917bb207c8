"""A page's furniture: what stands around the text, above, below and beside it."""

from __future__ import annotations

from training import lists
from training.kinds import Kind
from training.page import Box, Page, Setting
from training.style import Style
from training.words import Speaker


def head(page: Page, style: Style, say: Speaker, kind: Kind, body: Box) -> Box:
    """What stands above the text, on every page; what is left of the body below it."""
    r = page.r
    if r.random() > kind.head:
        return body
    y = max(2.0, body.y - style.em * 1.2)
    face = r.choice([style.body, style.italic, style.small])
    shape = r.random()
    if shape < 0.4:
        page.write_line(say.title(40), face, style, body.x, y, width=body.width * 0.55)
        page.say(" ")
        page.write_line(
            r.choice([say.title(24), str(r.randint(1, 900)), say.date()]),
            face,
            style,
            body.x + body.width * 0.6,
            y,
            "right",
            body.width * 0.4,
        )
    elif shape < 0.5:
        page.write_line(f"- {r.randint(1, 400)} -", face, style, body.x, y, "centre", body.width)
    else:
        page.write_line(
            r.choice([say.title(50), say.line(50), str(r.randint(1, 900))]),
            face,
            style,
            body.x,
            y,
            r.choice(["left", "centre", "right"]),
            body.width,
        )
    if r.random() < 0.4:
        page.rule(body.x, y + style.em * 1.4, body.x + body.width, r.randint(100, 255))
    return body._replace(y=y + style.em * r.uniform(1.8, 3.5))


def foot(page: Page, style: Style, say: Speaker, mx: float, my: float) -> None:
    """The number of the page and what else stands below the text."""
    r = page.r
    number = r.randint(1, 999)
    y = page.down - my - style.em * r.uniform(0.2, 1.0)
    page.separate()
    if r.random() < 0.25:
        page.rule(mx, y - style.em * 0.5, page.across - mx, r.randint(100, 255))
    text = r.choice(
        [
            str(number),
            str(number),
            f"Page {number}",
            f"{number} / {number + 9}",
            f"- {number} -",
            f"{r.choice('ABC123456')}-{number % 30 + 1}",
            say.line(50),
            say.line(100),
        ]
    )
    face = r.choice([style.body, style.small])
    if r.random() < 0.15:  # how to cite the page, in two lines
        page.write(
            lists.entry(say),
            style.small,
            style,
            Box(mx, y - style.em * 0.3, (page.across - 2 * mx) * 0.93, page.down),
            Setting(leading=style.small.size * 1.2, longest=2),
        )
        page.say(" ")
        page.write_line(str(number), face, style, mx, y, "right", page.across - 2 * mx)
    elif len(text) > 20 and r.random() < 0.5:
        page.write_line(text, face, style, mx, y, width=(page.across - 2 * mx) * 0.8)
        page.say(" ")
        page.write_line(str(number), face, style, mx, y, "right", page.across - 2 * mx)
    else:
        page.write_line(
            text,
            face,
            style,
            mx,
            y,
            r.choice(["centre", "centre", "right", "left"]),
            page.across - 2 * mx,
        )


def margin(page: Page, style: Style, say: Speaker, body: Box) -> Box:
    """Small print in a narrow column on the left, read before the text; the body beside it."""
    r = page.r
    wide = body.width * r.uniform(0.2, 0.28)
    face = style.library.at(style.second, "r", style.em * 0.72)
    y = body.y + style.em * r.uniform(0, 6)
    for _ in range(r.randint(2, 6)):
        if y + style.em * 4 > body.bottom:
            break
        page.separate()
        for number in range(r.randint(1, 4)):
            if number:
                page.say("\n")
            text = say.one_of(
                lambda: say.title(18),
                say.number,
                say.date,
                lambda: say.prose(60),
                lambda: f"• {say.word()}",
            )
            y, _rest = page.write(
                text,
                face,
                style,
                Box(body.x, y, wide, body.bottom),
                Setting(leading=face.size * 1.2),
            )
        y += style.em
    gap = style.em * r.uniform(1, 2)
    return body._replace(x=body.x + wide + gap, width=body.width - wide - gap)
