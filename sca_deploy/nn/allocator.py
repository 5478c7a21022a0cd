"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the process keep freed memory for its next allocations, and say whether that could be arranged.

    A training step frees hundreds of megabytes, which glibc by default hands back to the system; the
    next step gets them as new pages, each of which the kernel clears at the first touch: 16,000 page faults and
    some 5 % of a step of a small convolutional network. The price is that the process stays as large as it
    ever was. Does nothing where the C library is not glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Older versions of glibc take at most 32 MiB for the size from which a block is mapped on its own.
    kept = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, _NEVER))
