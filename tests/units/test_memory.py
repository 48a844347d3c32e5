"""What is free goes back to the system, although it lies between what is not."""

import subprocess
import sys

PROOF = """
import numpy as np, psutil
from streams.worker.memory import give_back

rss = lambda: psutil.Process().memory_info().rss >> 20
before = rss()
blocks = [np.ones(80_000, np.uint8) for _ in range(2_000)]  # below the size that glibc maps by itself
kept, full = blocks[::50], rss() - before
del blocks
give_back()
print(full, rss() - before, len(kept))
"""


def test_what_is_free_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROOF], capture_output=True, text=True, check=True, timeout=60)
    full, left, kept = map(int, done.stdout.split())
    assert full > 140
    assert left < 30
    assert kept == 40
