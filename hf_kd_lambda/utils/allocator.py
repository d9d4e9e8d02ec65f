"""How the CPU's memory allocator treats what training frees at each step."""

import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h
LARGEST_FREED = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Have glibc keep blocks of up to a gigabyte that were freed, instead of giving them back to the kernel.

    By default it maps every block above 32 MB anew, say the gradient of an embedding, and the kernel then zeroes it
    page by page, at each step. The price is that a process does not shrink any more. The user's own
    `MALLOC_MMAP_THRESHOLD_` is left in force.

    Returns:
        Whether that is how it is now; False also where the allocator is another.
    """
    if os.name != "posix" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(
        mallopt(MMAP_THRESHOLD, LARGEST_FREED) and mallopt(TRIM_THRESHOLD, LARGEST_FREED)
    )
