"""Sheets of two to nine charts with titles, as surveys and dashboards have them."""

from __future__ import annotations

from training.figures import chart
from training.page import Box, Page, Setting
from training.pictures import Pictures
from training.plots import side_by_side
from training.style import Style
from training.words import Speaker

# how many charts each row has
ROWS = (
    [2],
    [3],
    [1, 1],
    [2, 1],
    [1, 2],
    [2, 2],
    [2, 1, 1],
    [1, 2, 1],
    [3, 3],
    [2, 2, 2],
    [3, 3, 3],
)


def sheet(page: Page, style: Style, say: Speaker, pictures: Pictures, box: Box) -> str:
    """Draw them; the caption. With charts from elsewhere on it, nothing on the sheet is said."""
    r = page.r
    high, wide = (box.bottom - box.y) / style.em, box.width / style.em
    roomy = [rows for rows in ROWS if high > 8 * len(rows) and wide > 8 * max(rows)]
    rows = r.choice(roomy or [[1, 1]])
    captions: list[str] = []
    pasted = r.choice([0.0, 0.5, 1.0])
    lettered, titled, words = r.random() < 0.5, r.choice([0.0, 0.6, 1.0]), r.choice([2, 5, 12])
    down = (box.bottom - box.y) / len(rows)
    elsewhere = False
    for row, count in enumerate(rows):
        wide = box.width / count * r.choice([1, 1, 1, 0.6])
        for column in range(count):
            place = Box(
                box.x + wide * column, box.y + down * row, wide * 0.95, box.y + down * (row + 0.94)
            )
            if r.random() < titled and place.bottom - place.y > style.em * 8:
                place = _title(page, style, say, place, words, len(captions) if lettered else -1)
            high = place.bottom - place.y
            small = min(high, place.width) < style.em * 6
            if pictures.single and (small or r.random() < pasted):
                elsewhere = True
                number = pictures.any_plot(r, single=True)
                plot, said = pictures.plot(r, int(place.width), max(8, int(high)), number)
                page.paste(place.x, place.y, plot)
                captions.append(f"{said[0].lower()}{said[1:-1]}")
            else:
                captions.append(chart(page, style, say, place.x, place.y, place.width, high))
                page.separate("\n")
    if elsewhere:
        page.take_back(0)
    return side_by_side(captions)


def _title(page: Page, style: Style, say: Speaker, box: Box, words: int, number: int) -> Box:
    """A heading over a chart, up to three lines long; what is left of the box."""
    r = page.r
    text = " ".join(say.prose(words * 6).split()[:words])
    if number >= 0:
        text = f"{'ABCDEFGHI'[number]}{r.choice(['.', ')', ':'])} {text}"
    face = r.choice([style.bold, style.bold, style.body])
    how = Setting(r.choice(["left", "centre"]), longest=3, leading=style.em * 1.15)
    y, _ = page.write(text, face, style, box, how)
    page.separate("\n")
    return box._replace(y=min(y + style.em * 0.3, box.bottom - 4))
