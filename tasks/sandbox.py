"""What a render child gives up before it opens a document. Linux; standard library only."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress

from tasks.seccomp import refuse_calls

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def die_with_parent(parent: int) -> None:
    """Be killed when the parent (its process number) dies; it may be dead already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def lock_down(memory_mb: int, stack_mb: int, cpu_seconds: float, may_start_processes: bool) -> None:
    """Bound memory, CPU time, stack, descriptors; no writing, processes, network, privileges.

    Parameters
    ----------
    memory_mb : int
        Address space.
    stack_mb : int
        What is nested without end dies of it, also where the host allows stacks of any size.
    cpu_seconds : float
        Beyond: SIGXCPU, five seconds later SIGKILL.
    may_start_processes : bool
        Poppler is one.
    """
    os.nice(5)
    # Where memory runs out, the kernel should end this one first.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    seconds = int(cpu_seconds) + 1
    limit(resource.RLIMIT_AS, memory_mb << 20)
    limit(resource.RLIMIT_CPU, seconds, seconds + 5)
    limit(resource.RLIMIT_STACK, stack_mb << 20)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_CORE, 0)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filtered = refuse_calls(may_start_processes)
    if not may_start_processes and not filtered:
        limit(resource.RLIMIT_NPROC, 0)  # forbids threads as well, and not to root


def limit(what: int, soft: int, hard: int | None = None) -> None:
    """Lower a resource limit, or leave it where it is lower already."""
    _, most = resource.getrlimit(what)
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))
