"""What the order of words alone costs: a table read row by row, whose true text goes by columns.

in_order_of("a b 1 2", "A 1 b 2")       # "a 1 b 2": the true words, where they were read
"""

from __future__ import annotations

from collections import defaultdict, deque
from difflib import SequenceMatcher


def in_order_of(true: str, read: str) -> str:
    """The words of a true text in the order in which they were read.

    The error rate of what comes out, measured against the true text, is the part of the read
    text's that is order, and would remain were every letter right. Which of several equal words
    is which is decided by the longest runs that both texts share, then by order. A word that was
    misread, or not read, stays behind the word that it follows in the true text, which counts it
    as in order. Where most words are misread, this says little.
    """
    words, said = true.split(), read.split()
    place: dict[int, int] = {}
    for here, there, length in SequenceMatcher(None, words, said, False).get_matching_blocks():
        place.update((here + step, there + step) for step in range(length))
    left: dict[str, deque[int]] = defaultdict(deque)
    for there in sorted(set(range(len(said))) - set(place.values())):
        left[said[there]].append(there)
    last = -1
    for here, word in enumerate(words):
        if here not in place:
            place[here] = left[word].popleft() if left[word] else last
        last = place[here]
    return " ".join(words[here] for here in sorted(place, key=lambda here: (place[here], here)))
