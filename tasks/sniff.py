"""What a file is, judged by its first bytes; names and extensions are not asked."""

from __future__ import annotations

import re

from pagemill.document import Failure, Kind
from pagemill.errors import ErrorKind

HEAD_BYTES = 4096
"""How much of a file `sniff` should see. Real PDFs begin with up to a kilobyte of junk."""

_IMAGES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|II\*\0|MM\0\*|II\+\0|MM\0\+|GIF8[79]a|RIFF....WEBP"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"  # JPEG 2000: boxed, bare
    rb"|....ftyp(?:avif|avis|heic|heix|heim|heis|hevc|hevx|mif1|msf1)"
    rb"|BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"  # BMP, by the size of its second header
    rb"|P[1-6](?:\s+(?:#[^\n]*\n\s*)*)\d",
    re.DOTALL,
)
_OTHERS: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (name, re.compile(pattern, re.DOTALL | re.IGNORECASE))
    for name, pattern in (
        ("an EPUB book", rb"PK\x03\x04.{26}mimetypeapplication/epub"),
        ("an OpenDocument file", rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis"),
        (
            "an Office document (docx, xlsx, pptx)",
            rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|_rels/|docProps/|word/|xl/|ppt/)",
        ),
        ("a ZIP archive", rb"PK(?:\x03\x04|\x05\x06|\x07\x08)"),
        ("an old Office document or mail (OLE)", rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("gzip data", rb"\x1f\x8b"),
        ("bzip2 data", rb"BZh[1-9]"),
        ("xz data", rb"\xfd7zXZ\0"),
        ("Zstandard data", rb"\x28\xb5\x2f\xfd"),
        ("a 7z archive", rb"7z\xbc\xaf\x27\x1c"),
        ("a RAR archive", rb"Rar!\x1a\x07"),
        ("a tar archive", rb".{257}ustar"),
        ("Parquet", rb"PAR1"),
        ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("RTF", rb"\{\\rtf"),
        ("DjVu", rb"AT&TFORM"),
        ("a Photoshop file", rb"8BPS"),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("audio or video", rb"RIFF|....ftyp|ID3|OggS|\x1aE\xdf\xa3"),
        ("a program", rb"\x7fELF|MZ.\0"),
        ("SVG", rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.{0,1000})?<svg[\s>]"),
        ("HTML", rb"(?:\xef\xbb\xbf)?\s*(?:<!--.{0,1000})?<(?:!doctype html|html|head|body)[\s>]"),
        ("XML", rb"(?:\xef\xbb\xbf)?\s*<\?xml"),
    )
)
_HEADLESS_PDF = re.compile(rb"(?:^|\s)\d+ \d+ obj\b")


def sniff(head: bytes) -> Kind | Failure:
    """Judge a file by its head.

    Parameters
    ----------
    head : bytes
        The first `HEAD_BYTES` of the file.

    Returns
    -------
    Kind or Failure
        ``unsupported`` for a known format that is not read, ``not_a_document`` for anything else.
    """
    if not head:
        return Failure(ErrorKind.EMPTY, "the object has no bytes")
    if _IMAGES.match(head):
        return Kind.IMAGE
    if head.startswith(b"%PDF-"):
        return Kind.PDF
    for name, pattern in _OTHERS:
        if pattern.match(head):
            return Failure(ErrorKind.UNSUPPORTED, f"this is {name}, which is not read")
    if b"%PDF-" in head or _HEADLESS_PDF.search(head):
        return Kind.PDF
    if _is_text(head):
        return Failure(ErrorKind.UNSUPPORTED, "this is plain text, which is not read")
    return Failure(ErrorKind.NOT_A_DOCUMENT, "the content is neither a PDF nor a known image")


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # a character that the end of the head cuts
    return True
