"""What the pages say: paragraphs of many languages, and text that nobody could guess.

    texts = Texts(Path("DATA/text"))
    say = Speaker(r, texts, hard=0.4)       # one language for one document
    say.prose(300); say.title(40); say.number(); say.name()

Part of the text is random on purpose: a model that can guess the next word learns to write
without looking.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np

from training.characters import ASCII, LATIN_1, keep

SHARES = {
    "en": 50,
    "fr": 14,
    "de": 9,
    "es": 7,
    "it": 5,
    "nl": 4,
    "pt": 5,
    "pl": 2,
    "sv": 1.5,
    "da": 1,
    "cs": 1,
    "ro": 1,
}
MONTHS = {
    "en": "January February March April May June July August September October November December",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre "
    "diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre "
    "dicembre",
}
REPEATING = 0.14
"""Share of the documents that say the same again and again, as blind text does."""
SIGNS = ASCII[1:] + "–—‘’“”…•€£§©°«»±×" + LATIN_1
QUOTES = {"de": "„“", "fr": "«»", "es": "«»", "it": "«»", "pl": "„”", "cs": "„“", "ro": "„”"}


class Language:
    """Paragraphs of one language; lines are found by offset, so that a fork shares them."""

    def __init__(self, file: Path) -> None:
        self.buffer = file.read_bytes()
        ends = np.flatnonzero(np.frombuffer(self.buffer, np.uint8) == 10)
        self.starts = np.concatenate([[0], ends + 1])
        self.ends = np.concatenate([ends, [len(self.buffer)]])
        r = random.Random(5)
        words = {
            word for _ in range(8_000) for word in self.line(r.randrange(len(self.starts))).split()
        }
        self.words = sorted(word for word in words if len(word) < 18)
        self.letters = [word for word in self.words if word.isalpha()] or ["word"]

    def line(self, number: int) -> str:
        return self.buffer[self.starts[number] : self.ends[number]].decode()


class Texts:
    """All languages of a folder `<language>.txt`."""

    def __init__(self, folder: Path) -> None:
        self.languages = {file.stem: Language(file) for file in sorted(folder.glob("*.txt"))}
        self.names = list(self.languages)
        self.shares = [SHARES.get(name, 1.0) for name in self.names]

    def pick(self, r: random.Random) -> str:
        return r.choices(self.names, self.shares)[0]


class Speaker:
    """Text for one document: `hard` is the share that no language model could guess."""

    def __init__(self, r: random.Random, texts: Texts, hard: float = 0.4) -> None:
        self.r, self.hard = r, hard
        self.language = texts.pick(r)
        self.texts = texts.languages[self.language]
        self.refrain = (
            self._sentences(r.choice([1, 1, 2, 2, 3, 5, 9])) if r.random() < REPEATING else []
        )
        self.curly = r.random() < 0.4
        self.dash = r.random() < 0.3

    def prose(self, length: int, hard: float | None = None) -> str:
        """About `length` characters of running text."""
        r = self.r
        hard = self.hard if hard is None else hard
        chance = r.random()
        if self.refrain and length > 120:
            text = self._again(length)
        elif chance > hard:
            text = self._paragraphs(length)
        elif chance > hard * 0.5:
            text = self._mixed(length, strange=0.05, words=1, numbers=0.08)
        elif chance > hard * 0.25:
            text = self._mixed(length, strange=1, words=0.3, numbers=0.3)
        else:
            text = self._mixed(length, strange=0.1, words=0.4, numbers=1)
        if r.random() < 0.02:
            text = text.upper()
        return self._typeset(text) or "0"

    def line(self, longest: int) -> str:
        """At most `longest` characters, cut between words."""
        text = self.prose(longest)
        if len(text) <= longest:
            return text
        end = text.rfind(" ", 0, longest + 1)
        return text[: end if end > longest // 3 else longest].strip() or "0"

    def title(self, longest: int = 46) -> str:
        text = self.line(self.r.randint(4, longest)).rstrip(".,;:")
        chance = self.r.random()
        if chance < 0.15:
            text = keep(text.upper())
        elif chance < 0.35:
            text = keep(text.title())
        return text or "A"

    def one_of(self, *ways: Callable[[], str]) -> str:
        """What one of the ways says, each as likely."""
        return self.r.choice(ways)()

    def word(self) -> str:
        return self.r.choice(self.texts.letters)

    def name(self) -> str:
        r = self.r
        parts = [self.word().capitalize() for _ in range(r.randint(1, 2))]
        if r.random() < 0.35:
            parts.insert(0, r.choice(string.ascii_uppercase) + ".")
        parts.append(self.word().upper() if r.random() < 0.15 else self.word().capitalize())
        return keep(" ".join(parts))

    def number(self) -> str:
        """A number, a sum, a date, a time, a code, an address: what tables and forms hold."""
        r = self.r
        return keep(r.choice(_NUMBERS)(self, r))

    def amount(self) -> str:
        r = self.r
        value = f"{r.uniform(0, 10 ** r.randint(1, 5)):,.2f}"
        if r.random() < 0.4:
            value = value.translate(str.maketrans(",.", r.choice([".,", " ,"])))
        return r.choice([value, value, f"{value} €", f"${value}", f"{value} EUR", f"£{value}"])

    def date(self) -> str:
        r = self.r
        months = MONTHS.get(self.language, MONTHS["en"]).split()
        day, month, year = r.randint(1, 31), r.randint(1, 12), r.randint(1890, 2035)
        return r.choice(
            [
                f"{day} {months[month - 1]} {year}",
                f"{months[month - 1]} {day}, {year}",
                f"{day:02d}.{month:02d}.{year}",
                f"{month}/{day}/{year % 100:02d}",
                f"{year}-{month:02d}-{day:02d}",
                f"le {day} {months[month - 1]} {year}",
            ]
        )

    def mail(self) -> str:
        """The address of a person."""
        name = f"{self.word()}{self.r.choice(['.', '_', ''])}{self.word()}"
        return f"{name}@{self.word()}{self.r.choice(['.com', '.org', '.net', '.fr'])}".lower()

    def link(self) -> str:
        """The address of a page."""
        start = self.r.choice(["https://", "http://", "www."])
        path = self.r.choice(["", f"/{self.word()}", f"/{self.word()}.html"])
        return f"{start}{self.word()}{self.r.choice(['.com', '.org', '.de'])}{path}".lower()

    def doi(self) -> str:
        """The address of an article."""
        r = self.r
        start = r.choice(["https://doi.org/10.", "doi:10.", "10.", "https://doi.org/10."])
        name = r.choice([f"{self.word()[:6]}.{r.randrange(10**5):05d}", str(r.randrange(10**7))])
        return f"{start}{r.randint(1000, 30000)}/{name}".lower()

    def ordinal(self) -> str:
        """3rd, 20th."""
        number = self.r.choice((*range(1, 11), *range(20, 40)))
        return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"

    def strange(self) -> str:
        """A string without meaning."""
        r = self.r
        length = min(1 + int(r.expovariate(0.25)), 14)
        alphabet = r.choices(
            [
                string.ascii_lowercase,
                string.ascii_uppercase,
                string.digits,
                string.ascii_letters + string.digits,
                string.ascii_letters + SIGNS,
            ],
            [3, 1.5, 1.5, 2.5, 1.5],
        )[0]
        return "".join(r.choices(alphabet, k=length))

    def _paragraphs(self, length: int) -> str:
        r, texts = self.r, self.texts
        text = texts.line(r.randrange(len(texts.starts)))
        if r.random() < 0.25 and len(text) > 60:
            text = text[text.find(" ", r.randrange(len(text) - 30)) + 1 :]
        while len(text) < length:
            text += " " + texts.line(r.randrange(len(texts.starts)))
        if len(text) > length * 1.3 + 10:
            end = text.rfind(" ", 0, int(length * 1.15) + 5)
            text = text[: end if end > 3 else length]
        if r.random() < 0.2:  # a few words that do not belong: reciting fails
            words = text.split(" ")
            for place in range(len(words)):
                if r.random() < 0.08:
                    words[place] = self.one_of(self.word, self.number, self.strange)
            text = " ".join(words)
        return text

    def _sentences(self, count: int) -> list[str]:
        r, texts = self.r, self.texts
        found: list[str] = []
        while len(found) < count:
            line = texts.line(r.randrange(len(texts.starts)))[:1500]
            found += re.split(r"(?<=[.!?;:]) ", line)[: r.randint(1, 4)]
        return found[:count]

    def _again(self, length: int) -> str:
        """The document's refrain over and over, now and then with another word or order."""
        r, said, size = self.r, [], 0
        at = 0 if r.random() < 0.7 else r.randrange(len(self.refrain))
        while size < length:
            sentence = self.refrain[at % len(self.refrain)]
            if r.random() < 0.08:
                words = sentence.split(" ")
                words[r.randrange(len(words))] = self.one_of(self.word, self.number)
                sentence = " ".join(words)
            said.append(sentence)
            size += len(sentence) + 1
            at += 1 if r.random() < 0.95 else r.randint(2, 5)
        return " ".join(said)

    def _mixed(self, length: int, strange: float, words: float, numbers: float) -> str:
        r, said, size = self.r, [], 0
        while size < length:
            word = r.choices(
                [self.strange, self._loose_word, self.number], [strange, words, numbers]
            )[0]()
            said.append(word)
            size += len(word) + 1
        return " ".join(said)

    def _loose_word(self) -> str:
        word, chance = self.r.choice(self.texts.words), self.r.random()
        if chance < 0.06:
            return word.upper()
        if chance < 0.2:
            return word.capitalize()
        return word + self.r.choice(".,;:!?") if chance < 0.28 else word

    def _typeset(self, text: str) -> str:
        if self.curly:
            quotes = QUOTES.get(self.language, "“”")
            text = re.sub(r'"([^"]*)"', rf"{quotes[0]}\1{quotes[1]}", text).replace("'", "’")
        if self.dash:
            text = text.replace(" -- ", " — ").replace(" - ", " – ")
        return keep(text)


_NUMBERS = (
    lambda s, r: str(r.randrange(10 ** r.randint(1, 7))),
    lambda s, r: f"{r.randrange(10 ** r.randint(4, 8)):,}",
    lambda s, r: f"{r.uniform(0, 10 ** r.randint(0, 5)):.{r.randint(1, 3)}f}",
    lambda s, r: s.amount(),
    lambda s, r: s.date(),
    lambda s, r: s.date(),
    lambda s, r: f"{r.randint(0, 23)}:{r.randint(0, 59):02d}" + r.choice(["", " AM", " pm", " h"]),
    lambda s, r: f"{r.randint(0, 100)}" + r.choice(["%", ".5%", " %", ",25 %"]),
    lambda s, r: f"({r.randint(200, 999)}) {r.randint(200, 999)}-{r.randint(0, 9999):04d}",
    lambda s, r: (
        "".join(r.choices(string.ascii_uppercase, k=r.randint(1, 4)))
        + r.choice(["-", "", "/", " "])
        + str(r.randrange(10 ** r.randint(2, 6)))
    ),
    lambda s, r: s.mail(),
    lambda s, r: s.link(),
    lambda s, r: s.doi(),
    lambda s, r: "".join(r.choices("0123456789abcdef", k=r.randint(4, 12))),
    lambda s, r: f"{r.randint(1, 400)}–{r.randint(400, 990)}",
    lambda s, r: f"n° {r.randint(1, 99)}",
    lambda s, r: s.ordinal(),
)
