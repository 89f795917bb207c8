"""What the training documents are made of: free texts, fonts and pictures out of named packages.

    python -m training.sources DATA          # 3 GB of disk, 13 minutes on 2 cores

Everything comes from Debian's and npm's package archives, through `apt-get download` (no root
needed) and `npm pack`. DATA then holds `text/<language>.txt` and `held/<language>.txt` (a
paragraph a line), `fonts/<kind>/<family>__<style>.ttf` and `pictures/`. Nothing that the
benchmark corpus is cut from is used: not Debian's installation guide, FAQ or Octave's manual.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.characters import CHARACTERS
from training.packages import (
    CUTOUTS,
    FONT_KINDS,
    FONTS,
    HELD_FONTS,
    OTHER_SCRIPTS,
    PHOTOS_OF_GAMES,
    PICTURES,
    TEXTS,
)
from training.prose import write_texts
from training.scripts import write_scripts


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
    """Photographs, drawings and cut-outs, small and grey; plots with their captions."""
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
    _write_cutouts(packages, data / "pictures" / "cutout")
    atlas = packages / "world-atlas@2" / "package" / "countries-110m.json"
    write_plots(data / "pictures" / "plot", atlas)


def _write_cutouts(packages: Path, place: Path, side: int = 300) -> None:
    """Photographed animals, plants and things without what is behind them, see-through."""
    from PIL import Image

    place.mkdir(parents=True, exist_ok=True)
    stamps = packages / "tuxpaint-stamps-default"
    files = [p for p in sorted(stamps.rglob("*.png")) if re.search(CUTOUTS, str(p))]
    for number, file in enumerate(file for file in files if "cartoon" not in str(file)):
        image = Image.open(file).convert("RGBA")
        if min(image.size) > 60:
            image.thumbnail((side, side))
            opacity = image.getchannel("A")
            grey = image.convert("RGB").convert("L", (1 / 3, 1 / 3, 1 / 3, 0))
            Image.merge("RGBA", (grey, grey, grey, opacity)).save(
                place / f"{number:04d}.webp", quality=75
            )


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
