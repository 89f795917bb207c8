"""Plots of values, drawn with matplotlib: bars, lines, points, shares and distributions.

Each function draws on `axes` and returns what it is; `r` and `g` are its chances.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from textwrap import fill
from typing import Any

import numpy as np

from training.figures import NUMBERS

# fmt: off
WORDS = [
    "time", "distance", "age", "price", "depth", "energy", "weight", "speed", "year", "month",
    "sample", "group", "count", "share", "rate", "error", "temperature", "pressure", "income",
    "score", "region", "model", "control", "treated", "north", "south", "total", "series", "mean",
    "signal", "phase", "frequency", "amplitude", "index", "density", "population", "budget",
    "revenue", "students", "course", "before", "after", "online", "hours", "reviewers", "method",
]
ANSWERS = [
    ["strongly disagree", "disagree", "neutral", "agree", "strongly agree"],
    ["never", "rarely", "sometimes", "often", "always"],
    ["much worse", "worse", "the same", "better", "much better"],
    ["no", "partly", "yes"],
    ["none of it", "a part of it", "most of it", "all of it"],
]
# fmt: on
Plot = Callable[[Any, random.Random, Any], str]


def phrase(r: random.Random, least: int = 1, most: int = 4) -> str:
    return " ".join(r.choices(WORDS, k=r.randint(least, most))).capitalize()


def label(r: random.Random) -> str:
    """A short name, as of a row: a word, a number, a letter with an index."""
    word = r.choice(WORDS)
    shape = r.random()
    if shape < 0.5:
        return word[: r.choice([4, 6, 12])]
    if shape < 0.65:
        return f"{r.choice('ABCDEFGHXYZ')}{r.randint(1, 30)}"
    if shape < 0.85:
        return rf"${r.choice(['x', 'w', 'alpha', 'phi', 'sigma', 'beta'])}_{{{r.randint(1, 12)}}}$"
    return f"{word[:3]}-{r.randint(1, 9)} ({r.uniform(-20, 20):.{r.randint(1, 4)}f})"


def tone(r: random.Random) -> str:
    return r.choice([f"C{r.randrange(9)}", f"C{r.randrange(9)}", str(round(r.uniform(0, 0.85), 2))])


def bars(axes: Any, r: random.Random, g: Any) -> str:
    n = r.randint(2, 12)
    names = [label(r).capitalize() for _ in range(n)]
    groups = r.choice([1, 1, 1, 2, 2, 3])
    stacked, lying = r.random() < 0.35, r.random() < 0.3
    heights = g.uniform(0 if r.random() < 0.2 else 1, 10, (groups, n)) * r.choice([1, 1, 10, 1000])
    if r.random() < 0.2:
        heights = np.sort(heights)[:, ::-1]
    draw, along = (axes.barh, "left") if lying else (axes.bar, "bottom")
    wide = r.uniform(0.5, 0.95) / (1 if stacked else groups)
    edge = {"edgecolor": "k", "linewidth": 0.5} if r.random() < 0.25 else {}
    hatch = r.random() < 0.1
    for k in range(groups):
        how: dict[str, Any] = {"color": tone(r), "label": phrase(r, 1, 3), **edge}
        if hatch:
            how["hatch"] = r.choice(["//", "xx", "..", "\\\\"])
        if groups == 1 and r.random() < 0.25:
            how["xerr" if lying else "yerr"] = heights[k] * g.uniform(0.02, 0.3, n)
        start = {along: heights[:k].sum(0)} if stacked else {}
        drawn = draw(np.arange(n) + (0 if stacked else k * wide), heights[k], wide, **start, **how)
        if n < 8 and r.random() < 0.2:
            axes.bar_label(drawn, fmt=r.choice(["%.1f", "%d", "%d%%"]), fontsize=5)
    if groups > 1 and r.random() < 0.85:
        axes.legend(fontsize=r.uniform(5, 7), loc="best")
    (axes.set_yticks if lying else axes.set_xticks)(range(n), names)
    if not lying:
        axes.tick_params(axis="x", rotation=r.choice([0, 0, 45, 90]))
    return "a bar chart"


def opinions(axes: Any, r: random.Random, g: Any) -> str:
    """Shares of answers to long statements, as bars of 100 % or about a middle."""
    answers, n = r.choice(ANSWERS), r.randint(2, 8)
    shares = g.dirichlet(np.full(len(answers), r.uniform(0.6, 3)), n) * 100
    start = np.zeros(n)
    if r.random() < 0.4:  # agreement to the right of zero
        middle = len(answers) // 2
        start = -shares[:, :middle].sum(1) - shares[:, middle] / 2
        axes.axvline(0, color="k", lw=0.6)
    from matplotlib import colormaps

    colours = colormaps[r.choice(["RdBu", "coolwarm", "Blues", "viridis", "Greys", "PiYG"])]
    for k, answer in enumerate(answers):
        axes.barh(
            range(n),
            shares[:, k],
            r.choice([0.6, 0.8]),
            start,
            color=colours((k + 0.5) / len(answers)),
            label=answer.capitalize(),
        )
        for i in range(n):
            if shares[i, k] > 8 and n < 7:
                where = (start[i] + shares[i, k] / 2, i)
                axes.annotate(f"{shares[i, k]:.0f}%", where, ha="center", va="center", fontsize=5)
        start = start + shares[:, k]
    wide = r.choice([16, 24, 34])
    axes.set_yticks(range(n), [fill(phrase(r, 3, 9), wide) + r.choice(["", "?"]) for _ in range(n)])
    place = r.choice(["upper center", "lower center"])
    axes.legend(fontsize=5, ncols=len(answers), loc=place, bbox_to_anchor=(0.4, 1.12))
    return "a stacked bar chart"


def lines(axes: Any, r: random.Random, g: Any) -> str:
    n = r.randint(1, 5)
    x = np.linspace(0, r.choice([1, 10, 100]), r.choice([5, 8, 30, 200]))
    band = r.random() < 0.15
    for k in range(n):
        form = r.random()
        if form < 0.45:
            y = g.normal(0, 1, len(x)).cumsum()
        elif form < 0.7:
            y = np.sin(x / x[-1] * r.uniform(3, 20) + k)
        else:  # falling, as losses, or rising to a limit
            y = np.exp(-x / x[-1] * r.uniform(1, 8)) * r.choice([-1, 1]) + g.normal(0, 0.03, len(x))
        mark = r.choice(["-", "-", "--", ".-", "o-", "s:", "^-"])
        axes.plot(x, y, mark, lw=r.uniform(0.7, 2.2), ms=3, label=r.choice(WORDS), color=tone(r))
        if band:
            axes.fill_between(x, y - 0.3, y + 0.3, alpha=0.25)
    if n > 1 and r.random() < 0.7:
        axes.legend(fontsize=6)
    if r.random() < 0.12:
        axes.axvline(x[len(x) // 2], color="0.4", ls=":")
    return "a line chart with " + ("one line" if n == 1 else f"{NUMBERS[n]} lines")


def areas(axes: Any, r: random.Random, g: Any) -> str:
    n, x = r.randint(2, 6), np.arange(r.choice([6, 12, 40]))
    heights = np.abs(g.normal(1, 0.3, (n, len(x))).cumsum(1) + g.uniform(2, 9, (n, 1)))
    axes.stackplot(x, heights, labels=r.choices(WORDS, k=n), alpha=r.uniform(0.6, 1))
    if r.random() < 0.7:
        axes.legend(fontsize=6, loc="upper left")
    return "an area chart"


def points(axes: Any, r: random.Random, g: Any) -> str:
    groups = r.randint(1, 4)
    shaded = r.random() < 0.2
    for _ in range(groups):
        n = r.choice([12, 40, 150, 600])
        xy = g.normal(r.uniform(-2, 2), r.uniform(0.3, 1.2), (2, n))
        if r.random() < 0.35:
            xy[1] = xy[0] * r.uniform(-1.5, 1.5) + g.normal(0, 0.4, n)
        how = {"c": xy[0] - xy[1], "cmap": "viridis"} if shaded else {"color": tone(r)}
        axes.scatter(
            *xy,
            s=r.uniform(2, 30),
            alpha=r.uniform(0.3, 1),
            marker=r.choice("ooo.x^s+"),
            label=r.choice(WORDS),
            **how,
        )
        if n == 12 and r.random() < 0.6:
            for x, y in xy.T:
                axes.annotate(r.choice(WORDS), (x, y), fontsize=5)
    if r.random() < 0.2:
        axes.axline((0, 0), slope=r.uniform(-1, 1), color="k", lw=0.8, ls=r.choice(["-", "--"]))
    if groups > 1 and r.random() < 0.6:
        axes.legend(fontsize=6)
    return "a scatter plot"


def pie(axes: Any, r: random.Random, g: Any) -> str:
    """Slices with words beside them, which are answers as long as people give."""
    n = r.randint(2, 7)
    sizes = g.uniform(1, 5, n) ** r.choice([1, 2])
    long = r.random() < 0.45
    names = [
        f"{fill(phrase(r, 3, 7), r.choice([12, 18]))}: {share:.0f}%" if long else r.choice(WORDS)
        for share in sizes / sizes.sum() * 100
    ]
    ring = {"width": r.uniform(0.3, 0.6)} if r.random() < 0.2 else {}
    edge = {"edgecolor": "w"} if r.random() < 0.3 else {}
    legend = not long and r.random() < 0.25
    axes.pie(
        sizes,
        labels=None if legend else names,
        autopct=None if long else r.choice([None, "%1.0f%%", "%1.1f%%"]),
        textprops={"fontsize": r.uniform(5, 7)},
        startangle=r.uniform(0, 360),
        radius=r.uniform(0.7, 1.1),
        wedgeprops={**ring, **edge},
        explode=[r.choice([0, 0, 0.08]) for _ in range(n)] if r.random() < 0.2 else None,
    )
    if legend:
        axes.legend(names, fontsize=6, loc="center left", bbox_to_anchor=(0.95, 0.5))
    return f"a pie chart with {NUMBERS[n]} slices"


def histogram(axes: Any, r: random.Random, g: Any) -> str:
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        values = g.gamma(r.uniform(1, 5), 1, 800) + r.uniform(0, 4)
        how = {"histtype": r.choice(["bar", "bar", "step", "stepfilled"])}
        bins = r.randint(8, 40)
        axes.hist(values, bins, color=tone(r), alpha=r.choice([1, 0.6]), label=label(r), **how)
    if r.random() < 0.25:
        axes.axvline(float(values.mean()), color="k", ls="--", lw=0.9)
    return "a histogram"


def boxes(axes: Any, r: random.Random, g: Any) -> str:
    n = r.randint(2, 9)
    values = [g.normal(r.uniform(0, 3), r.uniform(0.4, 1.2), 60) for _ in range(n)]
    if violins := r.random() < 0.3:
        axes.violinplot(values, showmedians=True)
    else:
        axes.boxplot(values, patch_artist=r.random() < 0.4, notch=r.random() < 0.15)
    if r.random() < 0.6:
        axes.set_xticks(range(1, n + 1), [label(r) for _ in range(n)], rotation=r.choice([0, 90]))
    return "a violin plot" if violins else "a box plot"
