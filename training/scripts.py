"""Faces of other scripts in disguise: asked for an `a`, they draw one of Cyrillic, Kana, Thai …

    write_scripts(Path("DATA/packages"), Path("DATA/fonts/other"))

A document set in one of them looks like a page in that script, whatever it is: a letter, a table,
a form. It says nothing, and nobody reads it: the model only has to see what script it is not.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import NamedTuple

from training.characters import CHARACTERS


class Script(NamedTuple):
    """Letters by how common they are, and the faces that have them."""

    letters: str
    faces: str
    """What the files' names begin with."""
    disguises: int = 1
    """Files for each face: a few letters stand for Latin's, and there are thousands."""
    capitals: str = ""
    full_width: bool = False


def _span(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


_KANA = "のにるたはをがしてとなでれいりあかさこっくすもきまらんうアスルトリンレドイシラムフコタ"
_KANJI = _span(0x4E00, 0x9FA0)
_GOTHIC_AND_MINCHO = r"ipam\.|ipagp\."
SCRIPTS = {
    "Cyrillic": Script(
        "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъёієїґђћљњ",
        r"DejaVu(Sans|Serif)(-Bold|Mono)?\.|Liberation(Sans|Serif|Mono)-(Regular|Bold)"
        r"|Free(Sans|Serif|Mono)\.|CharisSIL-R|LinLibertine_R\.|EBGaramond12-Regular|OldStandard-R"
        r"|OpenSans-Regular|Roboto-Regular|cmunrm|cmuntt|Cousine-R|Tinos-R",
        capitals="ОЕАИНТСРВЛКМДПУЯЫЬГЗБЧЙХЖШЮЦЩЭФЪЁІЄЇҐЂЋЉЊ",
    ),
    "Greek": Script(
        "αοιετνσυρηπκμλςάίόέγωήδθχύφβώξζψ",
        r"DejaVu(Sans|Serif)\.|Liberation(Sans|Serif)-Regular|Free(Sans|Serif)\.|OpenSans-Regular"
        r"|LinLibertine_R\.|CharisSIL-R|Roboto-Regular",
        capitals="ΑΟΙΕΤΝΣΥΡΗΠΚΜΛΆΊΌΈΓΩΉΔΘΧΎΦΒΏΞΖΨ",
    ),
    "Japanese": Script(_KANA + _KANJI, _GOTHIC_AND_MINCHO + r"|DotGothic16", 5, full_width=True),
    "Chinese": Script(_KANJI, r"wqy-microhei|uming|ipam\.", 5, full_width=True),
    "Korean": Script(_span(0xAC00, 0xD7A0), r"NanumGothic\.|NanumMyeongjo\.|NanumBarunGothic\.", 3),
    "Arabic": Script(_span(0xFE8D, 0xFEF4), r"DejaVuSans\.|Amiri-(Regular|Bold)\.|FreeSerif\.", 3),
    "Hebrew": Script(
        "יהולאתמרבשנדקפעחגצטזסךםןףץ",
        r"(FrankRuehl|David|Hadasim)CLM-(Med|Reg)|NachlieliCLM-L|DejaVuSans\.",
    ),
    "Devanagari": Script(
        _span(0x0905, 0x0939) + _span(0x093E, 0x094C), r"Lohit-Deva|FreeSans\.", 2
    ),
    "Thai": Script(
        _span(0x0E01, 0x0E2E) + "ะาเแโใไ", r"Garuda|ArundinaS(ans|erif)\.|FreeSerif\.", 2
    ),
    "Georgian": Script(_span(0x10D0, 0x10F0), r"DejaVuS(ans|erif)\."),
    "Armenian": Script(_span(0x0561, 0x0586), r"DejaVuS(ans|erif)\."),
}
_LATIN = "etaoinsrhldcumfpgwybvkxjqz"
_FULL_WIDTH = {
    ".": "。",
    ",": "、",
    "(": "（",
    ")": "）",
    "“": "「",
    "”": "」",
    ":": "：",
    "?": "？",
}


def disguise(script: Script, seed: int, has: set[int]) -> dict[int, int]:
    """Which character stands for which, as code points; digits and most signs are themselves."""
    r = random.Random(seed)
    common = [letter for letter in script.letters if ord(letter) in has]
    great = [letter for letter in script.capitals if ord(letter) in has]
    if not common:
        return {}
    if len(common) > 60:
        kana = [letter for letter in common if letter in _KANA]
        common = kana + r.sample([c for c in common if c not in _KANA], 60)
        r.shuffle(common)
    other = [c for c in CHARACTERS if c.isalpha() and c not in _LATIN + _LATIN.upper()]
    stands = {c: common[place % len(common)] for place, c in enumerate(_LATIN)}
    for place, c in enumerate(_LATIN.upper()):
        stands[c] = great[place % len(great)] if great else r.choice(common)
    stands |= {c: r.choice(great if great and c.isupper() else common) for c in other}
    if script.full_width:
        stands |= _FULL_WIDTH
    return {ord(c): ord(s) for c, s in stands.items() if ord(s) in has}


def write_scripts(packages: Path, place: Path) -> None:
    """`<script><face><number>__r.ttf`, 20 to 60 kB each."""
    from fontTools.ttLib import TTLibError

    place.mkdir(parents=True, exist_ok=True)
    files = [f for end in ("ttf", "otf", "ttc") for f in sorted(packages.rglob(f"*.{end}"))]
    for name, script in SCRIPTS.items():
        for file in {f.name: f for f in files if re.match(script.faces, f.name)}.values():
            for number in range(script.disguises):
                face = re.sub(r"[^A-Za-z0-9]", "", file.stem)
                try:
                    _write(file, script, number, place / f"{name}{face}{number}__r")
                except (TTLibError, KeyError, AssertionError) as error:
                    print("left out:", file.name, error)


def _write(file: Path, script: Script, seed: int, to: Path) -> None:
    from fontTools import subset
    from fontTools.ttLib import TTFont

    font = TTFont(file, fontNumber=0)
    names = font.getBestCmap()
    stands = disguise(script, seed, set(names))
    if not stands:
        return
    shown = {ord(c): stands.get(ord(c), ord(c)) for c in CHARACTERS}
    shown = {asked: names[drawn] for asked, drawn in shown.items() if drawn in names}
    options = subset.Options(hinting=False, layout_features=[], legacy_kern=False, name_IDs=[1, 2])
    options.drop_tables += ["GPOS", "GSUB", "FFTM", "kern", "DSIG", "STAT", "vhea", "vmtx"]
    options.glyph_names, options.drop_tables = False, [*options.drop_tables, "VORG"]
    cutter = subset.Subsetter(options)
    drawn = {stands.get(ord(c), ord(c)) for c in CHARACTERS}
    cutter.populate(unicodes=[code for code in drawn if code in names])
    for table in font["cmap"].tables:
        table.cmap = {c: n for c, n in table.cmap.items() if c < 0x10000}
    cutter.subset(font)
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap = dict(shown)
    if script.full_width:
        width, bearing = font["hmtx"][shown[32]]
        font["hmtx"][shown[32]] = (width // 12, bearing)
    font.save(to.with_suffix(".otf" if "CFF " in font else ".ttf"))
