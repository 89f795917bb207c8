"""What the training documents are made of: free texts, fonts and pictures out of named packages.

    python -m training.sources DATA          # 3 GB of disk, 7 minutes on 2 cores

Everything comes from Debian's and npm's package archives, through `apt-get download` (no root
needed) and `npm pack`. DATA then holds `text/<language>.txt` and `held/<language>.txt` (a
paragraph a line), `fonts/<kind>/<family>__<style>.ttf` and `pictures/`. Nothing that the
benchmark corpus is cut from is used: not Debian's installation guide, FAQ or Octave's manual.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import io
import random
import re
import shutil
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.characters import CHARACTERS, drawable, keep
from training.scripts import write_scripts

# package: licence. The packages' own copyright files say more.
TEXTS = {
    "debian-handbook": "GPL-2+ / CC-BY-SA-3.0",
    "debian-reference-en": "GPL-2+",
    "debian-reference-de": "GPL-2+",
    "debian-reference-es": "GPL-2+",
    "debian-reference-fr": "GPL-2+",
    "debian-reference-it": "GPL-2+",
    "debian-reference-pt": "GPL-2+",
    "developers-reference": "GPL-2+",
    "developers-reference-de": "GPL-2+",
    "developers-reference-fr": "GPL-2+",
    "developers-reference-it": "GPL-2+",
    "debian-policy": "GPL-2+",
    "gnome-user-docs": "CC-BY-SA-3.0",
    "gimp-help-de": "GFDL-1.2+",
    "gimp-help-es": "GFDL-1.2+",
    "gimp-help-fr": "GFDL-1.2+",
    "gimp-help-it": "GFDL-1.2+",
    "gimp-help-nl": "GFDL-1.2+",
    "gimp-help-pt": "GFDL-1.2+",
    "gimp-help-sv": "GFDL-1.2+",
    "manpages-de": "GPL-3+ and others",
    "manpages-es": "GPL-3+ and others",
    "manpages-fr": "GPL-3+ and others",
    "manpages-it": "GPL-3+ and others",
    "manpages-nl": "GPL-3+ and others",
    "manpages-pl": "GPL-3+ and others",
    "manpages-pt-br": "GPL-3+ and others",
    "manpages-sv": "GPL-3+ and others",
    "manpages-da": "GPL-3+ and others",
    "manpages-cs": "GPL-3+ and others",
    "manpages-ro": "GPL-3+ and others",
    "manpages-dev": "GPL-2+ and others",
    "python3.11-doc": "PSF-2",
    "git-doc": "GPL-2",
    "postgresql-doc-15": "PostgreSQL",
    "rust-doc": "MIT / Apache-2.0",
    "perl-doc": "Artistic / GPL-1+",
    "dict-gcide": "GPL-3+",
    "wordnet-base": "WordNet",
    "jargon-text": "public domain",
    "fortunes": "public domain and others",
    "fortunes-de": "GPL-2+",
    "fortunes-es": "public domain",
    "fortunes-it": "GPL-2+",
    "fortunes-pl": "GPL-2+",
    "wfrench": "GPL-2+",
    "wngerman": "GPL-2+",
    "wspanish": "GPL-2+",
    "witalian": "GPL-2+",
    "wdutch": "BSD / CC-BY-3.0",
    "wportuguese": "GPL-2+",
    "wpolish": "GPL-2+",
    "wswedish": "GPL-2+",
    "wdanish": "GPL-2+",
}

FONTS = {
    "fonts-liberation2": "OFL-1.1",
    "fonts-dejavu-core": "Bitstream Vera",
    "fonts-dejavu-extra": "Bitstream Vera",
    "fonts-freefont-ttf": "GPL-3+ with exception",
    "fonts-texgyre": "GUST",
    "fonts-urw-base35": "AGPL-3 with exception",
    "fonts-crosextra-carlito": "OFL-1.1",
    "fonts-crosextra-caladea": "Apache-2.0",
    "fonts-lato": "OFL-1.1",
    "fonts-roboto-unhinted": "Apache-2.0",
    "fonts-roboto-slab": "Apache-2.0",
    "fonts-sil-charis": "OFL-1.1",
    "fonts-linuxlibertine": "GPL-2+ with exception / OFL-1.1",
    "fonts-ebgaramond": "OFL-1.1",
    "fonts-inter": "OFL-1.1",
    "fonts-cantarell": "OFL-1.1",
    "fonts-lmodern": "GUST",
    "fonts-cmu": "OFL-1.1",
    "fonts-stix": "OFL-1.1",
    "fonts-oldstandard": "OFL-1.1",
    "fonts-quattrocento": "OFL-1.1",
    "fonts-comic-neue": "OFL-1.1",
    "fonts-open-sans": "Apache-2.0",
    "fonts-vollkorn": "OFL-1.1",
    "fonts-adf-baskervald": "GPL-2+ with exception",
    "fonts-adf-romande": "GPL-2+ with exception",
    "fonts-adf-accanthis": "GPL-2+ with exception",
    "fonts-adf-gillius": "GPL-2+ with exception",
    "fonts-adf-switzera": "GPL-2+ with exception",
    "fonts-clear-sans": "Apache-2.0",
    "fonts-junicode": "OFL-1.1",
    "fonts-goudybookletter": "OFL-1.1",
    "fonts-lindenhill": "OFL-1.1",
    "fonts-cabin": "OFL-1.1",
    "fonts-karla": "OFL-1.1",
    "fonts-noto-core": "OFL-1.1",
    "fonts-tuffy": "public domain",
    "fonts-dosis": "OFL-1.1",
    "fonts-jura": "OFL-1.1",
    "fonts-b612": "OFL-1.1",
    "fonts-averia-serif-gwf": "OFL-1.1",
    "fonts-havana": "OFL-1.1",
    "@fontsource/libre-baskerville": "OFL-1.1",
    "@fontsource/pt-serif": "OFL-1.1",
    "@fontsource/merriweather": "OFL-1.1",
    "@fontsource/source-serif-4": "OFL-1.1",
    "@fontsource/source-sans-3": "OFL-1.1",
    "@fontsource/zilla-slab": "OFL-1.1",
    "@fontsource/ibm-plex-sans": "OFL-1.1",
    "@fontsource/ibm-plex-serif": "OFL-1.1",
    "@fontsource/im-fell-english": "OFL-1.1",
    "fonts-hack": "MIT",
    "fonts-inconsolata": "OFL-1.1",
    "fonts-firacode": "OFL-1.1",
    "fonts-anonymous-pro": "OFL-1.1",
    "@fontsource/roboto-mono": "Apache-2.0",
    "fonts-gnutypewriter": "OFL-1.1",
    "fonts-courier-prime": "OFL-1.1",
    "@fontsource/special-elite": "Apache-2.0",
    "@fontsource/cutive-mono": "OFL-1.1",
    "@fontsource/ibm-plex-mono": "OFL-1.1",
    "fonts-3270": "BSD-3-Clause",
    "@fontsource/vt323": "OFL-1.1",
    "@fontsource/kalam": "OFL-1.1",
    "@fontsource/caveat": "OFL-1.1",
    "@fontsource/homemade-apple": "Apache-2.0",
    "@fontsource/nothing-you-could-do": "OFL-1.1",
    "fonts-go": "BSD-3-Clause",
    "fonts-mononoki": "OFL-1.1",
    "fonts-croscore": "Apache-2.0",
    "fonts-arundina": "Bitstream Vera",
}
OTHER_SCRIPTS = {
    "fonts-ipafont-gothic": "IPA",
    "fonts-ipafont-mincho": "IPA",
    "fonts-dotgothic16": "OFL-1.1",
    "fonts-wqy-microhei": "Apache-2.0 / GPL-3+ with exception",
    "fonts-arphic-uming": "Arphic Public License",
    "fonts-nanum": "OFL-1.1",
    "fonts-hosny-amiri": "OFL-1.1",
    "culmus": "GPL-2 with exception",
    "fonts-lohit-deva": "OFL-1.1",
}
"""Beside those above, many of which have Cyrillic and Greek."""
FONT_KINDS = {
    "typewriter": "GNUTypewriter|CourierPrime|SpecialElite|CutiveMono|IBMPlexMono|FreeMono|Cousine"
    "|LiberationMono|NimbusMono|LatinModernMono(?!Caps)|CMUTypewriter|TeXGyreCursor",
    "mono": "DejaVuSansMono|Hack|Inconsolata|FiraCode|AnonymousPro|RobotoMono|mononoki|GoMono",
    "dots": "IBM3270$|VT323",
    "hand": "Kalam|Caveat|HomemadeApple|NothingYou|Kristi|DancingScript|Dkg|femkeklaver|Breip|Z003",
    "": "StandardSymbols|D050000L|Alfabeta|Ellhnikh|.PA?PHON|APIPHON|BABEL|EMERITA|Elegante"
    "|Monoisome|.*Math|Unifont(JP|Sample)|OpenSans.|RomandeADFScript|.*Keyboard|.*Unslanted|.*Dunhill"
    "|CMUSerifUpright|LatinModernMonoCaps|Noto(Sans|Serif).|DejaVuMath",
    "text": "",
}
"""By the beginning of the family's name; the first that fits. Those of kind "" are left out."""
HELD_FONTS = ("Caladea", "OpenSans", "Vollkorn")
"""Families that no training document uses."""

PICTURES = {
    "mate-backgrounds": "CC-BY-SA-4.0 and others",
    "ukui-wallpapers": "GPL-3+ / CC-BY-SA",
    "plasma-workspace-wallpapers": "LGPL-3 / CC-BY-SA-4.0",
    "lomiri-wallpapers-16.04": "CC-BY-SA-3.0",
    "lomiri-wallpapers-20.04": "CC-BY-SA-4.0",
    "opencv-doc": "BSD-3-Clause",
    "openclipart-png": "public domain",
    "tuxpaint-stamps-default": "GPL-2+ and public domain",
    "gcompris-qt-data": "CC-BY-SA-3.0 and others",
    "openuniverse-common": "GPL-2+",
    "world-atlas@2": "public domain",
}
PHOTOS_OF_GAMES = "categorization|details|erase|explore_(farm|monu|world)"
"""Resource files of gcompris that hold photographs."""

ENGLISH_MB, OTHER_MB = 15.0, 2.6
_TAG, _SPACE = re.compile(r"<[^>]+>"), re.compile(r"\s+")


def download(packages: list[str], folder: Path) -> None:
    """Fetch packages and unpack them; what is there already is not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        place = folder / package.replace("/", "+")
        if place.exists():
            continue
        fetch = folder / "fetch"
        shutil.rmtree(fetch, ignore_errors=True)
        fetch.mkdir()
        if "@" in package:  # of npm
            subprocess.run(["npm", "pack", "--silent", package], cwd=fetch, check=True)
            with tarfile.open(next(fetch.glob("*.tgz"))) as archive:
                archive.extractall(fetch / "root", filter="data")
        else:
            subprocess.run(["apt-get", "download", "-q", package], cwd=fetch, check=True)
            deb = next(fetch.glob("*.deb"))
            subprocess.run(["dpkg", "-x", str(deb), str(fetch / "root")], check=True)
        (fetch / "root").rename(place)
        shutil.rmtree(fetch)


# -- texts --------------------------------------------------------------------------------


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


# -- fonts --------------------------------------------------------------------------------


def write_fonts(packages: Path, data: Path) -> None:
    """Regular, bold and italic faces, cut down to `CHARACTERS`, by kind."""
    from fontTools import subset
    from fontTools.ttLib import TTFont, TTLibError

    faces = sorted(p for end in ("ttf", "otf", "woff") for p in packages.rglob(f"*.{end}"))
    taken = set()
    for face in faces:
        if face.suffix == ".woff" and not re.search(r"-latin-(4|7)00-(normal|italic)", face.name):
            continue
        try:
            font = TTFont(face, lazy=True)
            covered = set(font.getBestCmap() or ())
            family = font["name"].getBestFamilyName() or face.stem
            os2 = font["OS/2"]
        except (TTLibError, KeyError, AssertionError):
            continue
        needed = {ord(c) for c in CHARACTERS[:95] if c != "&"}  # one typewriter has no ampersand
        if not needed | {ord(c) for c in "éüñçà"} <= covered or "fvar" in font:
            continue
        bold, italic = os2.usWeightClass >= 600, bool(os2.fsSelection & 1)
        if not (380 <= os2.usWeightClass <= 500 or 600 <= os2.usWeightClass <= 720):
            continue
        style = ("b" if bold else "") + ("i" if italic else "") or "r"
        family = re.sub(r"[^A-Za-z0-9]", "", family)
        kind = next(k for k, names in FONT_KINDS.items() if re.match(names, family))
        if not kind or (family, style) in taken:
            continue
        taken.add((family, style))
        options = subset.Options(
            hinting=False, layout_features=[], legacy_kern=False, name_IDs=[1, 2]
        )
        options.drop_tables += ["GPOS", "GSUB", "FFTM", "kern", "DSIG", "STAT"]
        cutter = subset.Subsetter(options)
        cutter.populate(unicodes=[ord(c) for c in CHARACTERS])
        try:
            cutter.subset(font)
            font.flavor = None
            place = data / "fonts" / ("held" if family in HELD_FONTS else kind)
            place.mkdir(parents=True, exist_ok=True)
            ending = "otf" if "CFF " in font else "ttf"
            font.save(place / f"{family}__{style}.{ending}")
        except Exception as error:  # one broken font of hundreds
            print("left out:", face.name, error)
    print(len(taken), "faces")


# -- pictures -----------------------------------------------------------------------------


def write_pictures(packages: Path, data: Path, side: int = 420) -> None:
    """Photographs and drawings as small grey JPEGs, plots with their captions."""
    from PIL import Image

    from training.plots import write_plots

    for kind, pictures in (("photo", _photos(packages)), ("drawing", _drawings(packages))):
        place = data / "pictures" / kind
        place.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            try:
                image: Image.Image = Image.open(picture)
                image.load()
                if image.mode in ("RGBA", "LA", "P"):
                    layer = image.convert("RGBA")
                    image = Image.new("RGB", layer.size, "white")
                    image.paste(layer, mask=layer.getchannel("A"))
                grey = image.convert("RGB").convert("L", (1 / 3, 1 / 3, 1 / 3, 0))
            except (OSError, ValueError):
                continue
            if kind == "photo" and (min(grey.size) < 120 or _is_flat(grey)):
                continue
            grey.thumbnail((side, side))
            grey.save(place / f"{number:04d}.jpg", quality=72)
    atlas = packages / "world-atlas@2" / "package" / "countries-110m.json"
    write_plots(data / "pictures" / "plot", atlas)


def _is_flat(grey: Any) -> bool:
    """Whether a fifth of the picture has one tone: a screenshot or a diagram."""
    tones = grey.histogram()
    three = max(sum(tones[tone : tone + 3]) for tone in range(20, 254))
    return bool(three > 0.2 * grey.width * grey.height)


def _photos(packages: Path) -> Iterator[Path | io.BytesIO]:
    """Wallpapers, each once; examples of computer vision; what games show; moons and planets."""
    once = {}
    for name in (name for name in PICTURES if re.search("wallpaper|backgrounds", name)):
        for file in sorted((packages / name).rglob("*.jp*g")):
            if file.stat().st_size > 40_000:
                here = file.parent.name in ("images", "images_dark")
                once[str(file.parent) if here else file.name] = file
    yield from once.values()
    examples = [p for p in (packages / "opencv-doc").rglob("*.jpg") if p.stat().st_size > 15_000]
    yield from sorted(p for p in examples if "/html/" not in str(p))
    yield from random.Random(1).sample(sorted(p for p in examples if "/html/" in str(p)), 120)
    for file in sorted(packages.glob("gcompris-qt-data/**/*.rcc")):
        if re.match(PHOTOS_OF_GAMES, file.name):
            yield from _pictures_inside(file.read_bytes())
    yield from sorted((packages / "openuniverse-common").rglob("*.jpg"))


def _pictures_inside(archive: bytes) -> Iterator[io.BytesIO]:
    """WebP and JPEG pictures that lie uncompressed in an archive."""
    for found in re.finditer(rb"RIFF(....)WEBPVP8|\xff\xd8\xff[\xe0\xe1\xdb]", archive, re.DOTALL):
        length = int.from_bytes(found[1] or b"", "little")
        end = found.start() + 8 + length if length else archive.find(b"\xff\xd9", found.end()) + 2
        yield io.BytesIO(archive[found.start() : end])


def _drawings(packages: Path) -> list[Path]:
    stamps = packages / "tuxpaint-stamps-default"
    cliparts = sorted((packages / "openclipart-png").rglob("*.png"))
    cartoons = [p for p in stamps.rglob("*.png") if "cartoon" in str(p) or "symbols" in str(p)]
    drawings = random.Random(1).sample(cliparts, min(240, len(cliparts)))
    return drawings + sorted(cartoons)[:60]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    packages = data / "packages"
    download([*TEXTS, *FONTS, *OTHER_SCRIPTS, *PICTURES], packages)
    write_texts(packages, data)
    write_fonts(packages, data)
    write_scripts(packages, data / "fonts" / "other")
    write_pictures(packages, data)


if __name__ == "__main__":
    main()
