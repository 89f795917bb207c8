"""Pixels: what size a page gets, how any image becomes that page, and whether ink is on it.

    image = open_image(file, max_pixels=250_000_000)
    page = draw_frame(image, index=0, bounds=settings.render)

Used inside the render child; nothing here trusts the file.
"""

from __future__ import annotations

import math
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from itertools import pairwise
from typing import BinaryIO, NamedTuple, Protocol

from PIL import AvifImagePlugin, Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

MAX_RATIO = 100
"""Models refuse pages with sides of 200:1; narrower ones are padded with white to this."""

_INK_LEVELS = 32
_NOISE = 1 / 16
_SKEW_PIXELS = 600
_SKEW_NOISE = 0.3
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_SRGB = ImageCms.createProfile("sRGB")
# Explicit, since Pillow's own list has EPS, which runs Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF", "HEIF")


class DrawError(Exception):
    """A file or page that cannot become pixels.

    Attributes
    ----------
    kind : str
        An `ErrorKind` value.
    limit : str or None
        Which of `Limits` decided it.
    """

    def __init__(self, kind: str, message: str, limit: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.limit = kind, limit


class Bounds(Protocol):
    """What `settings.render` and the child's job both say about a page's size."""

    @property
    def max_pixels(self) -> int: ...
    @property
    def max_dpi(self) -> int: ...
    @property
    def multiple_of(self) -> int: ...


class Fit(NamedTuple):
    """A page's size, and that of the picture on it; smaller where white is added around it."""

    page: tuple[int, int]
    picture: tuple[int, int]


def load_decoders() -> None:
    """Import what decodes, without threads: a render child may start none."""
    Image.preinit()
    for plugin in ("Tiff", "WebP", "Jpeg2K"):
        import_module(f"PIL.{plugin}ImagePlugin")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        pi_heif = import_module("pi_heif")
        pi_heif.register_heif_opener(
            decode_threads=0, thumbnails=False, depth_images=False, aux_images=False
        )


def target_size(width_pt: float, height_pt: float, render: Bounds) -> tuple[int, int]:
    """Pixels of a PDF page as the model gets it.

    Parameters
    ----------
    width_pt, height_pt : float
        The page as it is shown (turned), in points. Zero and nonsense count as one point.
    render : Bounds
        ``settings.render``.

    Returns
    -------
    (int, int)
        Multiples of ``multiple_of``, at most ``max_pixels`` in all and 100:1, at most ``max_dpi``
        (a page below one multiple is padded with white to it).
    """
    return fit_page(width_pt, height_pt, render).page


def fit_page(width_pt: float, height_pt: float, bounds: Bounds) -> Fit:
    """The target size of a PDF page, and of the drawing on it. See `target_size`."""
    return _fit(width_pt, height_pt, bounds.max_dpi / 72, bounds, nearest=False)


def fit_image(width: float, height: float, bounds: Bounds) -> Fit:
    """The same for an image, which is never enlarged by more than rounding to a multiple."""
    return _fit(width, height, 1.0, bounds, nearest=True)


def _fit(width: float, height: float, enlarge: float, bounds: Bounds, nearest: bool) -> Fit:
    sides = [side if math.isfinite(side) and side > 1 else 1.0 for side in (width, height)]
    padded = [max(side, max(sides) / MAX_RATIO) for side in sides]
    scale = min(enlarge, math.sqrt(bounds.max_pixels / (padded[0] * padded[1])))
    step = bounds.multiple_of
    page = [_multiple(side * scale, step, nearest) for side in padded]
    if page[0] * page[1] > bounds.max_pixels:
        page = [_multiple(side * scale, step, nearest=False) for side in padded]
    short, long = min(page), max(page)
    long = min(long, MAX_RATIO * short, max(short, _multiple(bounds.max_pixels / short, step)))
    page = [min(side, long) for side in page]
    scale = min(scale, max(page) / max(sides))
    picture = [
        pixels if pad == side and side * scale >= step else min(pixels, max(1, round(side * scale)))
        for pixels, side, pad in zip(page, sides, padded, strict=True)
    ]
    return Fit((page[0], page[1]), (picture[0], picture[1]))


def _multiple(side: float, step: int, nearest: bool = False) -> int:
    return max(step, int(side / step + (0.5 if nearest else 0)) * step)


def is_blank(image: Image.Image, blank_ink: float) -> bool:
    """Whether the share of pixels that differ from the background is below `blank_ink`.

    The background is the commonest luminance; ink differs from it by more than 32 levels.
    """
    few = image.resize((-(-image.width // 4), -(-image.height // 4)), Image.Resampling.NEAREST)
    # A sixteenth of the pixels, a tenth of the time: what has enough ink there has enough.
    return _ink(few) < 16 * blank_ink and _ink(image) < blank_ink


def _ink(image: Image.Image) -> float:
    counts = image.convert("L").histogram()
    background = counts.index(max(counts))
    ink = sum(counts) - sum(counts[max(0, background - _INK_LEVELS) : background + _INK_LEVELS + 1])
    return ink / sum(counts)


def deskew(image: Image.Image) -> Image.Image:
    """The picture turned by up to 5 degrees so that its lines are level; itself where they are.

    Lines are level where the ink of the rows differs most (the projection profile method,
    Postl 1986).
    """
    grey = ImageOps.invert(image.convert("L"))
    grey.thumbnail((_SKEW_PIXELS, _SKEW_PIXELS))
    angle = 0.0
    for step in (1.0, 0.25):
        near = [angle + step * n for n in range(-5, 6)]
        angle = max(near, key=lambda turn: (_unevenness(grey, turn), -abs(turn)))
    if abs(angle) < _SKEW_NOISE:
        return image
    return image.convert("RGB").rotate(angle, Image.Resampling.BICUBIC, fillcolor="white")


def _unevenness(grey: Image.Image, angle: float) -> float:
    turned = grey.rotate(angle, Image.Resampling.BILINEAR)
    rows = turned.resize((1, grey.height), Image.Resampling.BOX).tobytes()
    return sum((above - below) ** 2 for above, below in pairwise(rows))


def on_white(picture: Image.Image, page: tuple[int, int]) -> Image.Image:
    """The picture in the middle of a white page of that size."""
    if picture.size == page:
        return picture
    canvas = Image.new("RGB", page, "white")
    left, top = (page[0] - picture.width) // 2, (page[1] - picture.height) // 2
    canvas.paste(picture, (left, top))
    return canvas


def open_image(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read an image's header, not its pixels.

    Raises
    ------
    DrawError
        ``corrupt``, ``unsupported`` or ``too_large``.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    image = _identify(file)
    _check_pixels(image, max_pixels)
    return image


def count_frames(image: Image.Image, animations: bool) -> int:
    """Its pages: every frame of a TIFF; of an animation the first one, or every one as well."""
    if image.format != "TIFF" and not animations:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except (OSError, ValueError, TypeError, KeyError, EOFError, SyntaxError) as error:
        raise DrawError("corrupt", f"its frames cannot be counted: {error}") from error


def _identify(file: BinaryIO) -> Image.Image:
    for name in _FORMATS:
        if name in Image.OPEN:
            try:
                file.seek(0)
                return Image.open(file, formats=(name,))
            except UnidentifiedImageError:
                continue
            except Image.DecompressionBombError as error:
                message = "the image declares far too many pixels"
                raise DrawError("too_large", message, "max_image_pixels") from error
            except (OSError, ValueError, TypeError, KeyError, SyntaxError) as error:
                raise DrawError("corrupt", f"damaged {name} image: {error}") from error
    file.seek(4)
    if file.read(4) == b"ftyp" and "HEIF" not in Image.OPEN:
        raise DrawError("unsupported", "HEIC image: install pi-heif, or convert it")
    raise DrawError("corrupt", "no decoder takes this image")


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        message = f"the image declares {width} x {height} pixels"
        raise DrawError("too_large", message, "max_image_pixels")
    if width < 1 or height < 1:
        raise DrawError("corrupt", f"the image declares {width} x {height} pixels")


def draw_frame(image: Image.Image, index: int, bounds: Bounds, max_pixels: int) -> Image.Image:
    """Frame `index` (from 0) as an RGB page: upright, 8 bit, on white, at the target size.

    Raises
    ------
    DrawError
        ``too_large``; damage raises whatever Pillow raises.
    """
    if index:
        image.seek(index)
    _check_pixels(image, max_pixels)
    fit = fit_image(*_square(image), bounds)
    if image.format == "JPEG":
        image.draft(image.mode, fit.picture)  # decodes at 1/2, 1/4 or 1/8 where that is enough
    image.load()
    picture = _to_rgb(_resize(_plain(image), fit.picture), image.info.get("icc_profile"))
    turn = _orientation(image)
    if turn in _TURNS:
        picture = picture.transpose(_TURNS[turn])
    return on_white(picture, fit.page[::-1] if turn in _SIDEWAYS else fit.page)


def allow_truncated(allow: bool) -> None:
    """Whether a cut-off image is drawn as far as it goes: a switch of all of Pillow."""
    ImageFile.LOAD_TRUNCATED_IMAGES = allow


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation. A TIFF's is applied by Pillow itself; broken EXIF means upright."""
    if image.format == "TIFF":
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata from anywhere; the picture matters more
        return 1


def _square(image: Image.Image) -> tuple[float, float]:
    """The size with square pixels: a fax has 204 x 98 dots to the inch."""
    width, height = image.size
    try:
        across, down = (float(dots) for dots in image.info["dpi"])
        stretch = across / down
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return width, height
    if image.format != "TIFF" or not 0.2 < stretch < 5 or 0.98 < stretch < 1.02:
        return width, height
    return (width, height * stretch) if stretch > 1 else (width / stretch, height)


def _plain(image: Image.Image) -> Image.Image:
    """In a mode that can be resized without loss: L, LA, RGB, RGBA, CMYK or LAB."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _to_8_bit(image)
    if image.has_transparency_data:
        return image if mode in ("LA", "RGBA") else image.convert("RGBA")
    if mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Rescale deep grey to 8 bit; Pillow's own conversion cuts off all above 255."""
    grey = image.convert("F")
    low, high = (float(end) for end in grey.getextrema())  # type: ignore[arg-type]
    white = _white(high, whole=image.mode != "F")
    if low >= 0 and high - low < white * _NOISE:
        low, high = 0.0, white  # an even page: stretched, its noise would look like ink
    scale = 255 / (high - low) if high > low else 1.0
    offset = -low * scale
    return grey.point(lambda level: level * scale + offset).convert("L")


def _white(highest: float, whole: bool) -> float:
    """The value of white, given the highest found: the depth that the values were made with."""
    depths = (255, 1023, 4095, 16383, 65535) if whole else (1, 255, 65535)
    return float(next((depth for depth in depths if depth >= highest), highest))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in ("LA", "RGBA"):
        rgba = image.convert("RGBA")
        page = Image.new("RGB", rgba.size, "white")
        page.paste(rgba, mask=rgba.getchannel("A"))
        return _to_srgb(page, profile)
    if image.mode in ("RGB", "CMYK", "LAB"):
        return _to_srgb(image, profile)
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours as they were meant; a broken profile counts as none."""
    lab = image.mode == "LAB"
    if lab or (profile and not (image.mode == "RGB" and b"sRGB" in profile)):
        try:
            source = ImageCms.createProfile("LAB") if lab else BytesIO(profile or b"")
            made = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
            return made or image
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image if image.mode == "RGB" else (image.getchannel(0) if lab else image).convert("RGB")
