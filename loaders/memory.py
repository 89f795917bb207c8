"""The process's memory: a malloc that suits CPU inference, and giving memory back."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
LARGE = 1 << 20


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


def map_large_blocks() -> None:
    """Let glibc map blocks of 1 MB and more, such as the pages' images, and unmap them when freed.

    By default it stops doing so once a larger one was freed; then small blocks between the images
    keep their room from the system, in an arena for each thread. `keep_freed_memory` goes before.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)


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
