"""What the allocator does with the room of freed images."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from loaders.memory import map_large_blocks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

map_large_blocks()
once = bytearray(16 << 20)
del once  # without the call, blocks of up to 16 MB are on the heap from here on
before = resident()
pairs = [(bytearray(b"x") * (3 << 20), bytearray(2000)) for _ in range(60)]
full = resident()
pairs = [small for _, small in pairs]  # each keeps the room of its image, were it on the heap
print(before, full, resident())
"""


def test_freed_images_leave_the_process_also_with_small_blocks_between_them() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, full, after = map(int, done.stdout.split())
    assert full - before >= 170
    assert after - before <= 10


THREADS = """
import threading

import pyarrow as pa

from loaders.memory import trim
from pagemill.parts import encode

COLUMNS = [f"column{n}" for n in range(30)]
ROWS = [{name: f"{name} of row {n}" for name in COLUMNS} for n in range(500)]
many, done, leave = 24, threading.Semaphore(0), threading.Event()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

def commit():
    encode(pa.Table.from_pylist(ROWS))
    trim()
    done.release()
    leave.wait()

def commit_in_a_thread():
    threading.Thread(target=commit).start()
    done.acquire()

commit_in_a_thread()
before = resident()
for _ in range(many):
    commit_in_a_thread()
print(before, resident())
leave.set()
"""


def test_threads_that_have_committed_keep_nothing_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    before, after = map(int, done.stdout.split())
    assert after - before <= 24  # else more than 2 MB for each of the 24
