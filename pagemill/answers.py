"""What a model may say of a page instead of reading it.

`models/pagereader-19m` is trained to; the prompt of any other model can ask for it.
"""

from __future__ import annotations

import re

from pagemill.errors import ErrorKind

TURNED = "This page is turned by {} degrees clockwise."
"""By how much the page, as it is shown, has been turned from upright: 90, 180 or 270."""
OTHER_SCRIPT = "This page is in a script that is not read here."

_TURNED = re.compile(
    r"\W*this page is turned by (90|180|270) degrees clockwise\W*(?:\s[^\n]{0,400})?", re.IGNORECASE
)


def turned(answer: str) -> int:
    """Degrees clockwise that the page has been turned, as the answer says; 0 where it does not.

    The answer is the sentence alone or, as a caption, on one line with a description after it.
    """
    found = _TURNED.fullmatch(answer.strip())
    return int(found[1]) if found else 0


def says_only(answer: str) -> tuple[ErrorKind, str] | None:
    """Why an answer is none: it says that the page cannot be read as it is, and nothing else."""
    only = answer.strip().rstrip(".").lower()
    if only == OTHER_SCRIPT.rstrip(".").lower():
        return ErrorKind.OTHER_SCRIPT, "the model says that it does not read this page's script"
    if only in {TURNED.format(degrees).rstrip(".").lower() for degrees in (90, 180, 270)}:
        return (
            ErrorKind.MODEL_FAILED,
            "the model says that the page is turned, and does not read it",
        )
    return None
