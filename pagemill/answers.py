"""What a model may say of a page instead of reading it.

`models/pagereader-19m` is trained to; the prompt of any other model can ask for it.
"""

from __future__ import annotations

import re

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


def other_script(answer: str) -> bool:
    """Whether the answer is that the page is in a script that the model does not read."""
    return answer.strip().rstrip(".").lower() == OTHER_SCRIPT.rstrip(".").lower()
