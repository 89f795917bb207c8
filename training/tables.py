"""Tables: small ones in the text, large ones, statistics by group."""

from __future__ import annotations

import itertools

from training.characters import INDEX
from training.figures import in_words
from training.page import Box, Page, Setting, Style
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
