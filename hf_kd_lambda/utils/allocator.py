"""Settings of the CPU memory allocator for training."""

import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h
LARGEST_FREED = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Make glibc reuse freed blocks of up to 1 GiB instead of returning them to the kernel.

    By default, glibc maps every block above 32 MB again, for example the gradient of an embedding, and the kernel
    zeroes its pages, at each step. The cost: the process does not shrink any more. If the user has set
    `MALLOC_MMAP_THRESHOLD_`, nothing changes.

    Returns:
        Whether the setting was applied; False with another allocator.
    """
    if os.name != "posix" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(
        mallopt(MMAP_THRESHOLD, LARGEST_FREED) and mallopt(TRIM_THRESHOLD, LARGEST_FREED)
    )
