"""Tables: small ones in the text, large ones, statistics by group."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from training.characters import INDEX
from training.figures import in_words
from training.glyphs import Atlas
from training.page import Box, Page, Setting
from training.style import Style
from training.words import Speaker


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
    aligned = ["left"] + ["right" if r.random() < 0.5 else "left" for _ in range(nc - 1)]
    grid = _Grid(style, face, edges, wide, aligned, pad, step, tall)
    rules = r.choice(["grid", "rows", "head", "none", "head", "columns"])
    ink = r.randint(90, 255)
    levels = _write_rows(page, grid, cells, box)
    got = len(levels) - 1
    if not got:
        return None
    _rule(page, grid, levels, rules, ink)
    page.counts["table"] += 1
    page.shape = f"{in_words(got)} rows and {in_words(nc)} columns"
    return levels[-1] + style.gap + style.em * 0.3


@dataclass
class _Grid:
    """How a table is set.

    Attributes
    ----------
    edges : list of float
        The x of its lines, one more than columns.
    wide : float
        From the first to the last.
    aligned : list of str
        ``left`` or ``right``, by column.
    pad, step : float
        Beside a cell's text; from a row to the next.
    tall : bool
        Whether a cell may have several lines.
    """

    style: Style
    face: Atlas
    edges: list[float]
    wide: float
    aligned: list[str]
    pad: float
    step: float
    tall: bool


def _write_rows(page: Page, grid: _Grid, cells: list[list[str]], box: Box) -> list[float]:
    """The rows that there is room for; the y above the first, and below each."""
    y, levels = box.y, [box.y]
    page.separate()
    for number, row in enumerate(cells):
        if y + grid.step * (2 if grid.tall else 1) > box.bottom:
            break
        if number == 1:
            page.say("\n|" + " --- |" * len(row))
        page.say("\n| " if number else "| ")
        face = grid.style.bold if number == 0 or page.r.random() < 0.03 else grid.face
        high = grid.step
        for column, cell in enumerate(row):
            if cell:
                high = max(high, _write_cell(page, grid, column, cell, face, y, box.bottom))
            page.say(" |" if column == len(row) - 1 else " | ")
        y += high
        levels.append(y)
    return levels


def _write_cell(
    page: Page, grid: _Grid, column: int, text: str, face: Atlas, y: float, bottom: float
) -> float:
    """The height that the text takes."""
    size, above, align = grid.face.size, (grid.step - grid.face.size) / 2, grid.aligned[column]
    x, until = grid.edges[column : column + 2]
    at = Box(x + grid.pad, y + above, until - x - 2 * grid.pad, bottom)
    if not grid.tall:
        marked = text[-1].isdigit() and page.r.random() < 0.04
        room = at.width - (size * 0.6 if marked else 0)
        end = page.write_line(text, face, grid.style, at.x, at.y, align, room)
        if marked:  # the number of a note, above the line
            small = grid.style.library.at(grid.style.family, "r", size * 0.6)
            note = str(page.r.randint(1, 9))
            page.write_line(note, small, grid.style, end, at.y - size * 0.03)
        return grid.step
    how = Setting(align, leading=size * 1.15, longest=3)
    below, _ = page.write(text, face, grid.style, at, how)
    return below - y + above


def _rule(page: Page, grid: _Grid, levels: list[float], rules: str, ink: int) -> None:
    """Tints and rules."""
    r, x, wide = page.r, grid.edges[0], grid.wide
    if r.random() < 0.3:
        page.fill(x, levels[0], wide, levels[1] - levels[0], r.randint(15, 60))
    elif r.random() < 0.2:
        for a, b in zip(levels[1::2], levels[2::2], strict=False):
            page.fill(x, a, wide, b - a, 20)
    shown = {
        "grid": levels,
        "rows": levels,
        "head": [levels[0], levels[1], levels[-1]],
        "columns": [levels[1]],
        "none": [],
    }[rules]
    for level in shown[r.random() < 0.3 and rules == "head" :]:
        page.rule(x, level, x + wide, ink)
    if rules in ("grid", "columns"):
        for edge in grid.edges if rules == "grid" else grid.edges[1:-1]:
            page.line((edge, levels[0]), (edge, levels[-1]), ink)


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
    nc = r.randint(3, 8)
    if box.y + 14 * step > box.bottom or box.width < face.size * (12 + 3 * nc):
        return None
    y = _hanging_caption(page, style, say, box) + style.em * 0.6
    page.rule(box.x, y, box.x + box.width, 255, round(page.scale * r.choice([1, 2, 3])))
    stub = box.width * r.uniform(0.3, 0.45)
    columns = _Columns(style, face, step, box.x, stub, (box.width - stub) / (nc - 1), nc)
    y = _heads(page, columns, say, box._replace(y=y + step * 0.3))
    page.rule(box.x, y + step * 0.2, box.x + box.width)
    y, rows = _groups(page, columns, say, box._replace(y=y + step * 0.6))
    page.rule(box.x, y + step * 0.2, box.x + box.width, 255, round(page.scale * 2))
    y += step * 0.5
    if r.random() < 0.7 and y + 2 * step < box.bottom:
        page.separate()
        note = f"{r.choice(['NOTE', 'Note', 'SOURCE', 'Source', '1', '*'])}: {say.prose(200)}"
        how = Setting(leading=step, longest=3)
        y, _rest = page.write(note, face, style, box._replace(y=y), how)
    page.counts["table"] += 1
    page.shape = f"{in_words(rows + 1)} rows and {in_words(nc)} columns"
    return y + style.gap + style.em * 0.5


@dataclass
class _Columns:
    """How statistics are set: a stub with the names of the rows, then columns of one width."""

    style: Style
    face: Atlas
    step: float
    left: float
    stub: float
    wide: float
    count: int

    def x(self, column: int) -> float:
        return self.left + (self.stub + self.wide * (column - 1) if column else 0)


def _hanging_caption(page: Page, style: Style, say: Speaker, box: Box) -> float:
    r = page.r
    page.separate()
    label = f"{r.choice(['Table', 'Figure', 'Tableau', 'Tabelle'])} {r.randint(1, 30)}"
    label += r.choice([".", ".", ":", ".—", " –"])
    hang = page.write_line(label, style.bold, style, box.x, box.y) + style.em * r.uniform(0.4, 1.2)
    page.say(" ")
    beside = box._replace(x=hang, width=box.width - hang + box.x)
    return page.write(say.line(260), style.bold, style, beside, Setting(longest=4))[0]


def _heads(page: Page, columns: _Columns, say: Speaker, box: Box) -> float:
    """The heads of the columns, of up to three lines; the y below the longest."""
    face, low = columns.face, box.y
    tall = page.r.randint(1, 3)
    most = max(4, int(tall * columns.wide / face.size))
    heads = [say.title(26 if column == 0 else most) for column in range(columns.count)]
    page.separate()
    page.say("| ")
    for column, text in enumerate(heads):
        wide = (columns.wide if column else columns.stub) - face.size * 0.4
        inner = Box(columns.x(column), box.y, wide, box.bottom)
        how = Setting("right" if column else "left", leading=columns.step, longest=tall)
        low = max(low, page.write(text, face, columns.style, inner, how)[0])
        page.say(" |" if column == columns.count - 1 else " | ")
    page.say("\n|" + " --- |" * columns.count)
    return low


def _groups(page: Page, columns: _Columns, say: Speaker, box: Box) -> tuple[float, int]:
    """Rows in groups, each under a row that mostly has no figures; the y below, and how many."""
    r, y, rows = page.r, box.y, 0
    style, face, step, stub, count = (
        *(columns.style, columns.face, columns.step),
        *(columns.stub, columns.count),
    )
    form = [r.choice(["{:.1f}", "{:.1f}", "{:,.0f}", "{:,.0f}", "{:.2f}"]) for _ in range(count)]
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
        y += step * 0.6 if group and rows else 0
        page.say("\n| ")
        page.write_line(say.title(40), face, style, box.x + inset, y, width=stub - inset)
        for column in range(1, count):
            page.say(" | ")
            value = (
                missing if r.random() < 0.04 else form[column].format(r.uniform(0, most[column]))
            )
            if not group or r.random() < 0.15:
                x, wide = columns.x(column), columns.wide - face.size * 0.4
                page.write_line(value, face, style, x, y, "right", wide)
        page.say(" |")
        y, rows = y + step, rows + 1
    return y, rows
