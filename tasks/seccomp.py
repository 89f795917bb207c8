"""A filter of system calls: what a render child may not even ask of the kernel.

No network, no program, no process, no signal to others, no file opened to be written, made,
renamed, removed or changed, none of the kernel's odder doors. It holds for root as well, and for
threads and programs that are started under it. Refused calls fail with an error, so that what
libraries only try (a cache file, a thread pool) does no harm.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import NamedTuple

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7
_NEVER = {  # name: number on x86-64, on arm64; None where there is no such call
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "io_uring_setup": (425, 425),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "creat": (85, None),
    "openat2": (437, 437),
}
_NOT_ALONE = {  # what poppler's parent needs
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "tkill": (200, 130),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
_OPEN, _OPENAT = (2, None), (257, 56)
_CLONE, _CLONE3, _TGKILL = (56, 220), (435, 435), (234, 131)
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CLONE_THREAD = 0x10000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x40000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_Number = tuple[int, int | None]


class _Step(NamedTuple):
    """An instruction of the kernel's filter machine."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def refuse_calls(may_start_processes: bool) -> bool:
    """Install the filter, for good. Needs no_new_privs.

    Returns
    -------
    bool
        Whether it is in force: not on another architecture, nor where the kernel has no filters.
    """
    architecture = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine())
    if architecture is None:
        return False
    steps = _filter(architecture, may_start_processes)
    packed = b"".join(
        code.to_bytes(2, "little") + bytes((if_true, if_false)) + value.to_bytes(4, "little")
        for code, value, if_true, if_false in steps
    )
    program = _Program(len(steps), packed)
    prctl = ctypes.CDLL(None).prctl
    return bool(prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(architecture: int, may_start_processes: bool) -> list[_Step]:
    column = 0 if architecture == _X86_64 else 1
    steps = [
        _Step(_LOAD, _ARCHITECTURE),
        _Step(_EQUAL, architecture, 1, 0),
        _Step(_RETURN, _REFUSE | errno.EPERM),  # calls of another machine, with other numbers
        _Step(_LOAD, _NUMBER),
        _Step(_AT_LEAST, _X32, 0, 1),
        _Step(_RETURN, _REFUSE | errno.EPERM),
    ]
    refused = {**_NEVER, **({} if may_start_processes else _NOT_ALONE)}
    for numbers in refused.values():
        if (number := numbers[column]) is not None:
            steps += [
                _Step(_EQUAL, number, 0, 1),
                _Step(_RETURN, _REFUSE | errno.EPERM),
            ]
    steps += _on_argument(_OPEN, column, 1, _ANY_BIT, _TO_WRITE, refuse=errno.EACCES)
    steps += _on_argument(_OPENAT, column, 2, _ANY_BIT, _TO_WRITE, refuse=errno.EACCES)
    if not may_start_processes:
        steps += _on_argument(_CLONE, column, 0, _ANY_BIT, _CLONE_THREAD)
        steps += _on_argument(_TGKILL, column, 0, _EQUAL, os.getpid())
        # Its flags lie where a filter cannot look; libraries then take clone.
        steps += [
            _Step(_EQUAL, _CLONE3[column], 0, 1),
            _Step(_RETURN, _REFUSE | errno.ENOSYS),
        ]
    return [*steps, _Step(_RETURN, _ALLOW)]


def _on_argument(
    numbers: _Number, column: int, argument: int, test: int, value: int, refuse: int = 0
) -> list[_Step]:
    """Refuse a call where its argument passes the test; without `refuse`, where it does not."""
    number = numbers[column]
    if number is None:
        return []
    passed = _REFUSE | refuse if refuse else _ALLOW
    otherwise = _ALLOW if refuse else _REFUSE | errno.EPERM
    return [
        _Step(_EQUAL, number, 0, 4),
        _Step(_LOAD, 16 + 8 * argument),  # the lower half: both machines are little-endian
        _Step(test, value, 0, 1),
        _Step(_RETURN, passed),
        _Step(_RETURN, otherwise),
    ]
