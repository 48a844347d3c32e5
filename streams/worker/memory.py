"""Memory that is free goes back to the system.

glibc keeps what a partition leaves behind for later use, and scattered as it is little of it shrinks by itself: a
worker that once owned all partitions for a moment would look as if it did for ever (470 instead of 380 MB, measured).
"""

import ctypes
import gc


def give_back() -> None:
    """Call it when much has become free. Does nothing where the C library is not glibc."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
