"""What is free goes back to the system, although it lies between what is not."""

import numpy as np
import psutil

from streams.worker.memory import give_back

MB = 1 << 20


def test_what_is_free_goes_back() -> None:
    before = psutil.Process().memory_info().rss
    blocks = [np.ones(80_000, np.uint8) for _ in range(2_000)]  # below the size that glibc maps by itself
    kept = blocks[::50]
    assert psutil.Process().memory_info().rss > before + 140 * MB
    del blocks
    give_back()
    assert psutil.Process().memory_info().rss < before + 30 * MB
    assert len(kept) == 40
