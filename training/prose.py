"""Paragraphs of prose out of unpacked packages: HTML, manual pages, dictionaries, word lists."""

from __future__ import annotations

import gzip
import hashlib
import html
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from training.characters import drawable, keep

ENGLISH_MB, OTHER_MB = 15.0, 2.6
_TAG, _SPACE = re.compile(r"<[^>]+>"), re.compile(r"\s+")


def clean(markup: str) -> str:
    """Markup to plain text on one line."""
    text = html.unescape(_TAG.sub("", markup)).replace("¶", "")
    return _SPACE.sub(" ", text.replace("\u00a0", " ").replace("\u200b", "")).strip()


def cut(text: str, longest: int = 700) -> Iterator[str]:
    """A long paragraph in pieces that end with a sentence."""
    piece = ""
    for sentence in re.split(r"(?<=[.!?;:]) ", text):
        if piece and len(piece) + len(sentence) > longest:
            yield piece
            piece = ""
        piece = f"{piece} {sentence}".strip()
    yield piece


def is_prose(text: str) -> bool:
    """Long enough, mostly letters, and in characters that can be drawn."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return 25 <= len(text) <= 1200 and letters > 0.72 * len(text) and drawable(text)


def from_html(page: str) -> Iterator[str]:
    page = re.sub(r"(?s)<(script|style|pre|nav|head)[ >].*?</\1>", " ", page)
    block = r"(?s)<(p|li|dd|h[1-4]|td|title)\b[^>]*>(.*?)(?=</\1>|<p\b|<li\b|<ul|<ol|<div|<table)"
    for found in re.finditer(block, page):
        yield clean(found[2])


def from_plain(page: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n|\n%\n", page):
        yield _SPACE.sub(" ", paragraph).strip()


def from_manual(page: str) -> Iterator[str]:
    """Prose of a troff page."""
    page = re.sub(r"(?m)^[.'](PP|P|LP|TP|IP|SH|SS|RS|RE|sp|Pp)\b.*$", "\n", page)
    page = re.sub(r"(?s)\n\.(nf|EX|TS)\b.*?\n\.(fi|EE|TE)\b", "\n", page)
    page = re.sub(r"(?m)^\.(B|I|BR|IR|RB|BI|IB|RI|SM|SB)\b *", "", page)
    page = re.sub(r"\\f[A-Z(]|\\&|\\/|\\,|\\c|\\\||\\\^|\\s-?\d|\\:|\\%", "", page)
    for mark, sign in (
        ("\\-", "-"),
        ("\\(aq", "'"),
        ("\\(em", "—"),
        ("\\(en", "–"),
        ("\\(lq", "“"),
        ("\\(rq", "”"),
        ("\\(bu", "•"),
        ("\\ ", " "),
    ):
        page = page.replace(mark, sign)
    page = re.sub(r"(?m)^\..*$", "", page)
    for paragraph in from_plain(page):
        if "\\" not in paragraph and not paragraph.startswith('"'):
            yield paragraph


def from_pod(page: str) -> Iterator[str]:
    """Prose of Perl's documentation."""
    blocks = (block for block in page.split("\n\n") if block and not block.startswith((" ", "\t")))
    page = "\n\n".join(blocks)
    for _ in range(3):
        page = re.sub(r"[BICFSLX]<{1,2} ?([^<>]*?) ?>{1,2}", r"\1", page)
    yield from from_plain(re.sub(r"(?m)^=\w+ *\d*", "", page))


def from_gcide(page: str) -> Iterator[str]:
    page = re.sub(
        r"\[(1913 Webster|Webster[^\]]*|PJC|WordNet[^\]]*|Century[^\]]*)[^\]]*\]", "", page
    )
    yield from (re.sub(r"[{}]", "", text) for text in from_plain(page) if "\\" not in text)


def from_wordnet(page: str) -> Iterator[str]:
    yield from (line.split(" | ", 1)[1].strip() for line in page.splitlines() if " | " in line)


def from_words(page: str) -> Iterator[str]:
    """A list of words, as lines of twelve."""
    words = page.split()
    random.Random(2).shuffle(words)
    for start in range(0, min(len(words), 24_000), 12):
        yield " ".join(words[start : start + 12])


Reader = Callable[[str], Iterator[str]]
"""Prose paragraphs out of the text of a file."""
# language: (reader, files below an unpacked package's /usr/share)
ENGLISH: list[tuple[Reader, str]] = [
    (from_html, "doc/debian-handbook/html/en-US/*.html"),
    (from_html, "debian-reference/*.en.html"),
    (from_html, "developers-reference/*.html"),
    (from_html, "doc/debian-policy/**/*.html"),
    (from_html, "help/C/**/*.page"),
    (from_html, "doc/python3.11/html/**/*.html"),
    (from_html, "doc/postgresql-doc-15/html/*.html"),
    (from_html, "doc/git-doc/*.html"),
    (from_html, "doc/rust-doc/html/*book*/**/*.html"),
    (from_pod, "perl/**/*.pod"),
    (from_manual, "man/man[2-7]/*.gz"),
    (from_gcide, "dictd/gcide.dict.dz"),
    (from_wordnet, "wordnet/data.*"),
    (from_plain, "doc/jargon-text/*.gz"),
    (from_plain, "games/fortunes/*"),
]
_WORDS = {
    "fr": "french",
    "de": "ngerman",
    "es": "spanish",
    "it": "italian",
    "nl": "dutch",
    "pt": "portuguese",
    "pl": "polish",
    "sv": "swedish",
    "da": "danish",
}
LANGUAGES = ("fr", "de", "es", "it", "nl", "pt", "pl", "sv", "da", "cs", "ro")


def places(language: str) -> list[tuple[Reader, str]]:
    """Readers and file patterns of one language."""
    if language == "en":
        return list(ENGLISH)
    found: list[tuple[Reader, str]] = [
        (from_html, f"doc/debian-handbook/html/{language}*/*.html"),
        (from_html, f"debian-reference/*.{language}*.html"),
        (from_html, f"doc/developers-reference-{language}/**/*.html"),
        (from_html, f"developers-reference/{language}/*.html"),
        (from_html, f"help/{language}*/**/*.page"),
        (from_html, f"gimp/2.0/help/{language}*/*.html"),
        (from_plain, f"games/fortunes/{language}/*"),
        (from_manual, f"man/{language}*/man*/*.gz"),
    ]
    if language in _WORDS:
        found.append((from_words, f"dict/{_WORDS[language]}"))
    return found


def paragraphs(packages: Path, language: str) -> Iterator[str]:
    """Prose paragraphs, each once, sources taking turns until they are used up."""
    seen = set()
    for reader, pattern in places(language):
        for file in sorted(packages.glob(f"*/usr/share/{pattern}")):
            if file.suffix in (".dat", ".u8") or not file.is_file():
                continue
            opener = gzip.open if file.suffix in (".gz", ".dz") else open
            with opener(file, "rt", encoding="utf-8", errors="ignore") as handle:
                page = handle.read()
            for text in reader(page):
                for piece in cut(text):
                    key = hashlib.md5(re.sub(r"\W", "", piece.lower())[:80].encode()).digest()
                    if key not in seen and is_prose(piece):
                        seen.add(key)
                        yield keep(piece)


def write_texts(packages: Path, data: Path) -> None:
    """`text/` and, 1.6 % of the paragraphs, `held/`; a language has an upper limit in MB."""
    for folder in ("text", "held"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    for language in ("en", *LANGUAGES):
        found = list(paragraphs(packages, language))
        random.Random(0).shuffle(found)
        limit = int((ENGLISH_MB if language == "en" else OTHER_MB) * 1e6)
        lines: dict[str, list[str]] = defaultdict(list)
        size = 0
        for line in found:
            held = hashlib.md5(line.encode()).digest()[0] < 4
            lines["held" if held else "text"].append(line)
            size += len(line)
            if size > limit:
                break
        for folder, kept in lines.items():
            (data / folder / f"{language}.txt").write_text("\n".join(kept), encoding="utf-8")
        print(f"{language}: {size / 1e6:.1f} MB of {sum(map(len, found)) / 1e6:.1f}", flush=True)
