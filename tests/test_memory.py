"""What becomes of the room of freed images."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource
from PIL import Image
from loaders.memory import reuse_images

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    images = [Image.new("RGB", (1000, 1000)) for _ in range(20)]
    del images
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

reuse_images()
print(faults(), faults())
"""


def test_images_are_put_where_others_were() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    first, again = map(int, done.stdout.split())
    assert again < first / 20
