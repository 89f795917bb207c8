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
