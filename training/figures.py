"""Charts that are set on the page itself, with labels that can be read.

said = chart(page, style, say, x, y, width, height)      # the caption without its capital
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from training.page import Box, Page, Setting
from training.style import Style
from training.words import Speaker

NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


def in_words(count: int, one: str = "one") -> str:
    return one if count == 1 else NUMBERS[count] if count < len(NUMBERS) else str(count)


def chart(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    """A bar, line, pie or Gantt chart with labels, in the box; the caption without "A"."""
    r = page.r
    drawn = r.choices([_bars, _curves, _pie, _gantt], [5, 3, 2.5, 1.5])[0]
    return drawn(page, style, say, x, y, width, height)


def _axes(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> tuple[float, float]:
    """Axes with values on the left, said from top to bottom; the origin."""
    r = page.r
    left = x + style.em * 3
    bottom = y + height - style.em * 1.6
    page.line((left, y), (left, bottom))
    page.rule(left, bottom, x + width)
    steps = r.randint(2, 5)
    top = r.choice([1, 5, 10, 100, 1000]) * r.randint(1, 9)
    grid = r.random() < 0.4
    for step in range(steps, -1, -1):
        level = bottom - (bottom - y) * 0.95 * step / steps
        page.write_line(
            f"{top * step / steps:g}",
            style.small,
            style,
            x,
            level - style.em * 0.5,
            "right",
            style.em * 2.6,
        )
        page.say("\n")
        if grid and step:
            page.rule(left, level, x + width, 70)
    return left, bottom


def _bars(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    r = page.r
    count, beside = r.randint(2, 8), r.choice([1, 1, 1, 2, 3])
    left, bottom = _axes(page, style, say, x, y, width, height)
    step = (x + width - left) / (count + 0.4)
    wide = step * r.uniform(0.45, 0.8) / beside
    tones, outlined = r.sample(range(60, 251, 38), beside), r.random() < 0.2
    for place in range(count * beside):
        start = left + step * (place // beside + 0.4) + wide * (place % beside)
        top = bottom - (bottom - y) * r.uniform(0.0, 0.95)
        tone = tones[place % beside]
        if outlined and beside == 1:
            page.frame(start, top, wide, bottom - top)
        else:
            cv2.rectangle(
                page.cover, (int(start), int(top)), (int(start + wide), int(bottom)), tone, -1
            )
    if beside > 1:
        _legend(page, style, say, tones, left + style.em, y)
    for place in range(count):
        start = left + step * (place + 0.2)
        page.write_line(
            r.choice([say.word().capitalize(), str(r.randint(1950, 2030))]),
            style.small,
            style,
            start,
            bottom + style.em * 0.3,
            "centre",
            step * 0.95,
        )
        page.say(" ")
    return f"a bar chart with {in_words(count)} bars"


def _legend(page: Page, style: Style, say: Speaker, tones: list[int], x: float, y: float) -> None:
    """Which tone is what, from the top left."""
    for number, tone in enumerate(tones):
        down = y + number * style.em * 1.2
        cv2.rectangle(
            page.cover,
            (int(x), int(down + style.em * 0.2)),
            (int(x + style.em * 1.4), int(down + style.em * 0.9)),
            tone,
            -1,
        )
        page.write_line(say.title(22), style.small, style, x + style.em * 2, down)
        page.say("\n")


def _curves(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    r = page.r
    count, points = r.randint(1, 4), r.randint(4, 14)
    left, bottom = _axes(page, style, say, x, y, width, height)
    for _ in range(count):
        level, tone = r.uniform(0.1, 0.6), r.randint(110, 255)
        heights = [min(0.97, max(0.03, level + r.uniform(-0.15, 0.35))) for _ in range(points)]
        line = [
            (left + (x + width - left) * i / (points - 1), bottom - (bottom - y) * h)
            for i, h in enumerate(heights)
        ]
        cv2.polylines(
            page.cover,
            [np.array(line, np.int32)],
            False,
            tone,
            max(1, int(page.scale * r.choice([1, 2]))),
            cv2.LINE_AA,
        )
        if r.random() < 0.4:
            for point in line:
                cv2.circle(
                    page.cover,
                    (int(point[0]), int(point[1])),
                    max(2, int(page.scale * 2.5)),
                    tone,
                    -1,
                )
    return f"a line chart with {'one line' if count == 1 else in_words(count) + ' lines'}"


def _pie(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    r = page.r
    count = r.randint(2, 6)
    told = r.random() < 0.5  # as surveys do: the answers in words, beside their slices
    radius = max(style.em * 0.5, min(width * (0.35 if told else 0.6), height) / 2 - style.em)
    centre = (int(x + width * (0.5 if told else 0.4)), int(y + height / 2))
    shares = [0.25 + r.random() for _ in range(count)]
    angle = r.uniform(0, 360)
    for share, tone in zip(shares, r.sample([30, 70, 110, 150, 190, 235], count), strict=True):
        end = angle + 360 * share / sum(shares)
        cv2.ellipse(page.cover, centre, (int(radius), int(radius)), 0, angle, end, tone, -1)
        middle = math.radians((angle + end) / 2)
        part = f"{100 * share / sum(shares):.0f}%"
        text = f"{say.line(24)}: {part}" if told else r.choice([part, say.word()[:7]])
        at = centre[0] + math.cos(middle) * radius * 1.2
        down = centre[1] + math.sin(middle) * radius * 1.15 - style.em * 0.5
        room = at - x if math.cos(middle) < 0 else x + width - at
        if told and room > style.em * 2:
            aligned = "right" if math.cos(middle) < 0 else "left"
            left = x if math.cos(middle) < 0 else at
            page.write_line(text, style.small, style, left, down, aligned, room)
        else:
            at -= style.em * (1.5 if math.cos(middle) < 0 else 0.3)
            page.write_line(text[:7], style.small, style, at, down)
        page.say(" ")
        angle = end
    cv2.circle(page.cover, centre, int(radius), 255, max(1, int(page.scale)), cv2.LINE_AA)
    return f"a pie chart with {in_words(count)} slices"


def _gantt(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    """Bars in a calendar: a row for each task or group, a column for each stretch of time."""
    r = page.r
    step = style.em * r.uniform(1.3, 3.2)
    rows = max(2, min(r.randint(3, 12), int(height / step) - 1))
    columns, stub = r.randint(2, 12), width * r.uniform(0.18, 0.42)
    step, wide = height / (rows + 1), (width - stub) / columns
    ruled, tones = r.random() < 0.6, [r.randint(50, 250) for _ in range(r.randint(1, 4))]
    span = r.choice(["Week ", "Hour ", "Day ", "Q", "Month ", "", say.word()[:5] + " "])
    page.write_line(say.title(20), style.bold, style, x, y + step * 0.3, width=stub)
    page.say(" ")
    left = x + stub
    for column in range(columns):
        place = left + column * wide
        text = f"{span}{column + 1}"
        page.write_line(text, style.small, style, place, y + step * 0.3, "centre", wide)
        page.say(" ")
    end = left  # of the bar before, where the next may begin
    for row in range(rows):
        top = y + step * (row + 1)
        page.say("\n")
        box = Box(x + style.em * 0.2, top + step * 0.1, stub - style.em * 0.4, top + step)
        how = Setting(leading=style.small.size * 1.1, longest=3)
        page.write(say.line(r.choice([10, 24, 50])), style.small, style, box, how)
        for _ in range(r.choice([1, 1, 1, 2, 3])):
            begin = end if r.random() < 0.3 else left + (width - stub) * r.uniform(0, 0.85)
            end = min(x + width, begin + wide * r.uniform(0.4, 0.5 * columns))
            corners = (int(begin), int(top + step * 0.15)), (int(end), int(top + step * 0.85))
            cv2.rectangle(page.cover, *corners, r.choice(tones), -1)
            end = end if end < x + width else left
    for row in range(rows + 2 if ruled else 0):
        page.rule(x, y + step * row, x + width, 160)
    for column in range(columns + 1 if ruled or r.random() < 0.5 else 0):
        page.line((left + column * wide, y), (left + column * wide, y + height), 160)
    return f"a Gantt chart with {in_words(rows)} rows"
