"""The process's memory: a malloc that suits CPU inference, and giving memory back."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
IMAGES = 4096
"""Blocks that are kept at most; a page is one."""


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of giving every tensor's pages back and forth.

    With the defaults each large tensor is mapped, zeroed by the kernel and unmapped again, which
    can make generation on a CPU ten times slower, and the preparation of images for vLLM half as
    slow again. Lasts for the process; `give_back` still works.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 64 << 20)


def reuse_images() -> None:
    """Let Pillow keep the room of freed images for the next ones: as many as there are at once.

    For malloc each would be a block to map, zero and unmap, a thousand page faults; or, on its
    heap, a hole that small blocks are put into, so that the next image needs room of its own. See
    https://pillow.readthedocs.io/en/stable/reference/block_allocator.html (PILLOW_BLOCKS_MAX).
    """
    from PIL import Image

    Image.core.set_blocks_max(IMAGES)  # type: ignore[attr-defined]


def settle() -> None:
    """Let garbage collections leave out what there is now, until `unsettle`.

    A process with vLLM in it holds 690,000 objects that stay; each full collection went through
    them all, for a third of a second in which no other thread ran.
    """
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Let garbage collections look at everything again."""
    gc.unfreeze()


def give_back() -> None:
    """Return what is free to the system and, where CUDA is in use, to the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()
    trim()


def trim() -> None:
    """Return what is free to the system: some milliseconds, for after a commit.

    Arrow's allocator keeps a heap for each thread that ever used it, glibc an arena: as the threads
    of a run commit in turn, they would keep 45 MB for less than 1 MB that a commit needs.
    """
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None:
        pyarrow.default_memory_pool().release_unused()  # of this thread
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
