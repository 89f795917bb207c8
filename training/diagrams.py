"""Diagrams that are set on the page: boxes, layers, networks, trees, wheels, flows, timelines.

said = diagram(page, style, say, x, y, width, height)
"""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np

from training.page import Box, Page, Setting
from training.style import Style
from training.words import Speaker

Point = tuple[float, float]


def diagram(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    """One of many forms, in the box; the caption without its capital."""
    forms = [_grid, _layers, _network, _tree, _wheel, _flow, _timeline]
    box = Box(x, y, width, y + height)
    page.r.choices(forms, [5, 2, 1.5, 1.5, 2, 2, 2.5])[0](page, style, say, box)
    return "a diagram"


def _arrow(page: Page, start: Point, end: Point, headed: bool = True) -> None:
    r = page.r
    thick, ink = max(1, round(page.scale * r.choice([1, 1, 2]))), r.randint(130, 255)
    (a, b), (c, d) = start, end
    ends = (int(a), int(b)), (int(c), int(d))
    tip = min(0.4, 8 * page.scale / (math.hypot(c - a, d - b) + 1))
    if headed:
        cv2.arrowedLine(page.cover, *ends, ink, thick, cv2.LINE_AA, tipLength=tip)
    else:
        cv2.line(page.cover, *ends, ink, thick, cv2.LINE_AA)


def _ellipse(page: Page, centre: Point, wide: float, high: float, shade: int = 0) -> None:
    where = (int(centre[0]), int(centre[1])), (max(1, int(wide / 2)), max(1, int(high / 2)))
    cv2.ellipse(page.cover, *where, 0, 0, 360, 0, -1)
    cv2.ellipse(page.shade, *where, 0, 0, 360, shade, -1)
    cv2.ellipse(page.cover, *where, 0, 0, 360, 255, max(1, round(page.scale)), cv2.LINE_AA)


def _words(page: Page, style: Style, say: Speaker, box: Box, most: int = 1) -> None:
    """A few words in the middle of a box, in one line or two."""
    if page.length:
        page.say("\n")
    text = say.line(max(4, int(box.width / style.em * 1.7 * most)))
    if most == 1 or box.bottom - box.y < style.em * 2.6:
        middle = (box.y + box.bottom - style.em) / 2
        page.write_line(text, style.body, style, box.x, middle, "centre", box.width)
    else:
        top = box._replace(y=(box.y + box.bottom) / 2 - style.em * 1.2, bottom=box.bottom + 2)
        how = Setting("centre", leading=style.em * 1.2, longest=2)
        page.write(text, style.body, style, top, how)


def _box(page: Page, style: Style, say: Speaker, box: Box, shade: int = 0, most: int = 1) -> None:
    """A box with words, in front of what was drawn before."""
    high = box.bottom - box.y
    corners = (int(box.x), int(box.y)), (int(box.x + box.width), int(box.bottom))
    cv2.rectangle(page.cover, *corners, 0, -1)
    cv2.rectangle(page.shade, *corners, shade, -1)
    if not shade or page.r.random() < 0.6:
        page.frame(box.x, box.y, box.width, high)
    inside = box._replace(x=box.x + box.width * 0.03, width=box.width * 0.94)
    _words(page, style, say, inside, most)


def _tint(page: Page) -> int:
    return page.r.choice([0, 0, page.r.randint(15, 110)])


def _grid(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """Boxes or circles in rows, and arrows between any of them."""
    r = page.r
    columns, rows = r.choice(
        [(2, 1), *((c, d) for c in range(1, 5) for d in range(1, 5) if c * d > 1)]
    )
    across, down = box.width / columns, (box.bottom - box.y) / rows
    wide, high = across * r.uniform(0.5, 0.8), down * r.uniform(0.3, 0.65)
    round_ones, shade = r.random() < 0.35, _tint(page)
    centres = [
        (box.x + across * (column + 0.5), box.y + down * (row + 0.5))
        for row in range(rows)
        for column in range(columns)
    ]
    if len(centres) > 4:
        centres = [centre for centre in centres if r.random() < 0.85] or centres
    for _ in range(r.randint(1, len(centres) + 2)):
        _arrow(page, *(r.sample(centres, 2) if len(centres) > 1 else (centres[0], box[:2])))
    for cx, cy in centres:
        if round_ones:
            size = min(wide, high)
            _ellipse(page, (cx, cy), size, size, shade)
            if page.length:
                page.say("\n")
            number = str(r.randint(0, 9))
            page.write_line(
                number, style.body, style, cx - wide / 2, cy - style.em / 2, "centre", wide
            )
        else:
            place = Box(cx - wide / 2, cy - high / 2, wide, cy + high / 2)
            _box(page, style, say, place, shade if r.random() < 0.5 else 0, r.choice([1, 2]))


def _layers(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """Wide boxes above each other, as of a system's parts, some of them divided."""
    r = page.r
    count = r.randint(2, 6)
    down = (box.bottom - box.y) / count
    gap = r.choice([0, down * 0.2])
    for layer in range(count):
        y = box.y + layer * down
        parts = r.choice([1, 1, 2, 3, 4])
        wide = box.width / parts
        shade = _tint(page)
        if parts > 1 and r.random() < 0.5:
            page.frame(box.x, y, box.width, down - gap)
        for part in range(parts):
            edge = wide * 0.04 if parts > 1 else 0
            place = Box(
                box.x + part * wide + edge, y + edge, wide - 2 * edge, y + down - gap - edge
            )
            _box(page, style, say, place, shade, r.choice([1, 2]))
        if gap and layer and r.random() < 0.7:
            middle = box.x + box.width * r.choice([0.25, 0.5, 0.75])
            _arrow(page, (middle, y - gap), (middle, y))


def _network(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """Columns of circles, each joined to all of the next, with names below."""
    r = page.r
    counts = [r.randint(2, 6) for _ in range(r.randint(2, 5))]
    across, bottom = box.width / len(counts), box.bottom - style.em * 2
    size = min(across * 0.45, (bottom - box.y) / max(counts) * 0.7)
    columns = [
        [
            (box.x + across * (k + 0.5), box.y + (bottom - box.y) * (i + 0.5) / count)
            for i in range(count)
        ]
        for k, count in enumerate(counts)
    ]
    headed = r.random() < 0.4
    for left, right in pairwise(columns):
        for start in left:
            for end in right:
                if r.random() < 0.9:
                    _arrow(page, start, (end[0] - size * 0.5, end[1]), headed)
    for column in columns:
        shade = _tint(page)
        for centre in column:
            _ellipse(page, centre, size, size, shade)
    for k in range(len(counts)):
        place = Box(box.x + across * k, bottom + style.em * 0.4, across * 0.95, box.bottom)
        _words(page, style, say, place)


def _tree(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """A root, its branches and their branches, from above or from the left."""
    r = page.r
    levels = [1]
    while len(levels) < r.randint(2, 4) and levels[-1] < 5:
        levels.append(min(7, levels[-1] * r.randint(1, 3) + r.choice([0, 1])))
    lying = r.random() < 0.3
    across, down = box.width, box.bottom - box.y
    step = (across if lying else down) / len(levels)
    above: list[Box] = []
    for level, count in enumerate(levels):
        row: list[Box] = []
        each = (down if lying else across) / count
        for number in range(count):
            wide, high = (
                (step * 0.7, min(each * 0.8, style.em * 3))
                if lying
                else (each * 0.85, min(step * 0.6, style.em * 3))
            )
            x = box.x + (step * level if lying else each * (number + 0.075))
            y = box.y + (each * (number + 0.1) if lying else step * level)
            row.append(Box(x, y, wide, y + high))
            if above:
                to = above[number * len(above) // count]
                if lying:
                    ends = (to.x + to.width, (to.y + to.bottom) / 2), (x, y + high / 2)
                else:
                    ends = (to.x + to.width / 2, to.bottom), (x + wide / 2, y)
                _arrow(page, *ends, r.random() < 0.4)
        shade = _tint(page)
        for place in row:
            _box(page, style, say, place, shade, 2)
        above = row


def _wheel(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """Points around a centre or in a ring, with arrows and numbers; sometimes two of them."""
    r = page.r
    wheels = r.choice([1, 1, 2])
    for wheel in range(wheels):
        wide = box.width / wheels
        count = r.choice([2, 3, 4, 5, 6, 8, 8])
        centre = (box.x + wide * (wheel + 0.5), (box.y + box.bottom) / 2)
        radius = min(wide, box.bottom - box.y) * r.uniform(0.3, 0.42)
        start = r.choice([0, math.pi / 2, math.pi / count])
        ring = [
            (
                centre[0] + radius * math.cos(start + 2 * math.pi * k / count),
                centre[1] + radius * math.sin(start + 2 * math.pi * k / count),
            )
            for k in range(count)
        ]
        dot = radius * r.choice([0.1, 0.2, 0.45])
        circular, named = r.random() < 0.4, r.random() < 0.4
        for k, point in enumerate(ring):
            _arrow(page, ring[k - 1] if circular else centre, point)
        for k, point in enumerate(ring):
            _ellipse(page, point, dot, dot, r.choice([0, 90, 160]))
            if page.length:
                page.say("\n")
            away = 1.0 if dot > style.em * 1.5 else 0.6
            x, y = (c + (p - c) * away for c, p in zip(centre, point, strict=True))
            word = say.word() if named else str(k)
            room = style.em * 7
            page.write_line(
                word, style.bold, style, x - room / 2, y - style.em * 0.5, "centre", room
            )


def _flow(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """Steps from above to below; some of them questions in a diamond with a way out."""
    r = page.r
    count = r.randint(3, 6)
    down = (box.bottom - box.y) / count
    wide = box.width * r.uniform(0.3, 0.55)
    middle = box.x + wide * 0.6 + (box.width - wide * 1.2) * r.choice([0, 0.5])
    for step in range(count):
        y = box.y + step * down
        place = Box(middle - wide / 2, y, wide, y + down * 0.68)
        if step < count - 1:
            _arrow(page, (middle, place.bottom), (middle, y + down))
        if 0 < step < count - 1 and r.random() < 0.45:
            cy = (place.y + place.bottom) / 2
            corners = [
                (middle - wide / 2, cy),
                (middle, y),
                (middle + wide / 2, cy),
                (middle, place.bottom),
            ]
            outline = [np.array(corners, np.int32)]
            cv2.polylines(page.cover, outline, True, 230, max(1, round(page.scale)), cv2.LINE_AA)
            _words(page, style, say, place._replace(x=middle - wide * 0.3, width=wide * 0.6))
            right = box.x + box.width
            if right - middle - wide / 2 > style.em * 5:
                side = Box(
                    middle + wide * 0.72, y, min(wide, right - middle - wide * 0.72), place.bottom
                )
                _arrow(page, (middle + wide / 2, cy), (side.x, cy))
                _box(page, style, say, side, _tint(page))
        else:
            _box(page, style, say, place, _tint(page), 2)


def _timeline(page: Page, style: Style, say: Speaker, box: Box) -> None:
    """Weeks or hours along a line, or a plan: rows with a name and bars in columns."""
    r = page.r
    rows = r.randint(3, 8)
    down = (box.bottom - box.y) / (rows + 1)
    left = box.width * r.uniform(0.25, 0.4)
    planned, columns = r.random() < 0.5, r.randint(3, 6)
    wide = (box.width - left) / columns
    if planned:
        for column in range(columns):
            place = Box(box.x + left + wide * column, box.y, wide * 0.95, box.y + down * 0.8)
            _words(page, style, say, place)
    line = box.x + left + style.em
    if not planned:
        _arrow(page, (line, box.y), (line, box.bottom))
    for row in range(rows):
        y = box.y + down * (row + 1)
        place = Box(box.x, y, left * 0.95, y + down * 0.8)
        _box(page, style, say, place, _tint(page), r.choice([1, 2]))
        if planned:
            start = r.uniform(0, 0.6)
            x = box.x + left + (box.width - left) * start
            page.fill(
                x, y, (box.x + box.width - x) * r.uniform(0.2, 1), down * 0.7, r.randint(40, 200)
            )
            if r.random() < 0.5:
                page.rule(box.x, y - down * 0.1, box.x + box.width, 120)
        else:
            _ellipse(page, (line, y + down * 0.4), style.em, style.em, r.choice([0, 120]))
            rest = Box(
                line + style.em * 1.5, y, box.x + box.width - line - style.em * 2, y + down * 0.8
            )
            _box(page, style, say, rest, _tint(page), 2)
