"""Pages on their way from a render child: memory that both sides see, cut into slots.

Pixels by pipe cost as much as drawing a page of text. The parent makes the memory, sealed so that
nobody can shrink it under the reader, and never has more pages unanswered than there are slots;
the n-th answer lies in slot n modulo their number, so no side has to believe the other's word.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


class Slots:
    """Some slots of equal size, taken one after the other.

    Parameters
    ----------
    size : int
        Bytes of a slot.
    count : int
    fd : int, optional
        The other side's memory; left out, it is made.

    Attributes
    ----------
    size : int
    fd : int
    """

    def __init__(self, size: int, count: int, fd: int | None = None) -> None:
        self.size, self._count, self._next = size, count, 0
        self.fd = _sealed(size * count) if fd is None else fd
        access = mmap.ACCESS_READ if fd is None else mmap.ACCESS_WRITE
        self._memory = mmap.mmap(self.fd, size * count, access=access)

    def take(self) -> int:
        """Where the next answer lies; the one after it lies in the next slot."""
        start = self._next % self._count * self.size
        self._next += 1
        return start

    def next(self) -> memoryview:
        """The slot that the next answer will lie in."""
        start = self._next % self._count * self.size
        return memoryview(self._memory)[start : start + self.size]

    def picture(self, start: int, size: tuple[int, int], mode: str) -> Image:
        """What lies in a slot, copied."""
        from PIL import Image

        length = len(mode) * size[0] * size[1]
        with memoryview(self._memory) as memory, memory[start : start + length] as pixels:
            return Image.frombytes("RGB", size, pixels, "raw", mode)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.fd)


def _sealed(size: int) -> int:
    fd = os.memfd_create("pages", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
