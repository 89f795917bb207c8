"""The typography of a document: faces, spacing, habits."""

from __future__ import annotations

import random
import re

from training.glyphs import Atlas, Library, snap

_WORD = re.compile(r"\S+")
_MARK = re.compile(
    r"(?<=[^\W\d_]{3})[1-9]\d?(?![\w%€/-]|[.,]\d)"  # the number of a note or of an address
    r"|(?<=[a-z]{2}[.,])[1-9]\d?(?= |$)"
    r"|(?<=\d)(?:st|nd|rd|th|er|ème)\b"
)
Run = tuple[int, int, Atlas, float]
"""A piece of a text in another face: from, until, which, how much higher."""


class Style:
    """The typography of one document."""

    def __init__(
        self, r: random.Random, library: Library, em: float, scale: float, kind: str = "text"
    ) -> None:
        self.r, self.library = r, library
        self.em = snap(em * scale)
        self.kind = "text" if kind == "latex" else kind
        self.scale = scale if kind == "exact" else self.em / em
        latex = kind == "latex"
        kind = "text" if latex else kind
        self.family = library.pick(r, "latex" if latex else kind)
        self.second = self.family if r.random() < 0.7 else library.pick(r, "text")
        style = r.choices(["r", "i", "b"], [88, 6, 6])[0] if kind == "text" else "r"
        self.body = library.at(self.family, style, self.em)
        self.bold = library.at(self.family, "b", self.em)
        self.italic = library.at(self.family, "i", self.em)
        self.small = library.at(self.family, "r", self.em * 0.82)
        self.mono = library.at(
            library.pick(r, r.choice(["mono", "typewriter"])), "r", self.em * 0.92
        )
        spacing = r.choice([1.12, 1.18, 1.2, 1.2, 1.25, 1.3, 1.4, 1.5, r.uniform(1.1, 1.9)])
        self.leading = self.em * (
            r.choice([1.15, 1.5, 2.0, 1.7]) if kind == "typewriter" else spacing
        )
        self.ink = int(r.choice([256, 256, 256, r.uniform(150, 256)]))
        self.justified = kind == "text" and r.random() < 0.5
        self.hyphens = (self.justified and r.random() < 0.7) or r.random() < 0.1
        self.indent = self.em * r.choice([0, 0, 0, 1.5, 2]) * (2.5 if kind == "typewriter" else 1)
        self.gap = self.em * (
            r.choice([0.0, 0.0, 0.3, 0.5]) if self.indent else r.choice([0.5, 0.7, 0.9, 1.2])
        )
        self.tracking = (
            r.choice([0, 0, 0, 0, r.uniform(-0.02, 0.08)]) * self.em if kind == "text" else 0.0
        )
        self.word_space = (
            r.choice([0, 0, 0, r.uniform(-0.05, 0.2)]) * self.em if kind == "text" else 0.0
        )
        self.ligatures = r.random() < 0.3
        self.jitter = r.choice([0, 0.3, 0.6, 1.0, 1.4]) if kind == "typewriter" else 0.0
        self.mistyped = r.choice([0, 0, 0.002, 0.008]) if self.jitter else 0.0
        self.emphasis = r.choice([0, 0, 0.02, 0.05])
        self.mixed = r.choice([0, 0, 0.01, 0.03, 0.06]) if kind == "text" else 0.0
        """Share of the words at which another face begins: bold, italic or of fixed pitch."""
        self.raised = kind == "text" and r.random() < 0.6
        """Whether the number at the end of a word is a mark above the line."""
        self.numbered = r.random() < 0.3
        self.section = 0
        self.heading_size = (
            (r.uniform(1.4, 2.3), r.uniform(1.05, 1.4)) if kind == "text" else (1.0, 1.0)
        )
        self.heading_style = "b" if r.random() < 0.75 else "r"
        self.centred_headings = r.random() < 0.25
        if latex:
            self.body = library.at(self.family, "r", self.em)
            self.justified = self.hyphens = self.ligatures = True
            self.leading = self.em * r.choice([1.2, 1.2, 1.25, 1.4])
            self.tracking = self.word_space = 0.0
            self.ink, self.numbered = 256, r.random() < 0.6
        self.lines = max(1, round(self.scale * r.choice([0.8, 0.8, 1.2])))

    def runs(self, text: str) -> list[Run]:
        """Pieces of a text set in another face."""
        found, r = [], self.r
        if self.mixed:
            words = [match.span() for match in _WORD.finditer(text)]
            at = int(r.expovariate(self.mixed))
            while at < len(words):
                last = min(len(words) - 1, at + r.choice([0, 0, 0, 1, 2, 4]))
                face = r.choice([self.mono, self.mono, self.bold, self.italic, self.italic])
                found.append((words[at][0], words[last][1], face, 0.0))
                at = last + 1 + int(r.expovariate(self.mixed))
        if self.raised:
            high = self.library.at(self.family, "r", self.em * 0.7)
            found += [(*match.span(), high, 0.33 * self.em) for match in _MARK.finditer(text)]
        return found

    def heading(self, level: int) -> Atlas:
        family = self.second if self.kind == "text" else self.family
        return self.library.at(family, self.heading_style, self.em * self.heading_size[level - 1])
