"""Memory that the C library keeps for the next step, instead of giving it back to the system after each.

Training on the CPU frees and takes the same tensors in every step. By glibc's defaults the free end of the heap goes
back once it is some tens of megabytes, so the next step finds it unmapped: every page of 4 KiB faults and is filled
with zeros first. ResNet-20 in batches of 128 met 12,000 such faults a step, a tenth of its time; augmenting batches of
1.5 MB took twice as long. The price is that a process keeps, until it ends, the most that it has ever needed: what
reading the data took and training does not need stays with it, too.

Source: ``mallopt(3)`` of the Linux man-pages; glibc, malloc/malloc.c.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT_BYTES = 2**30, 2**25  # glibc before 2.35 refuses more than 32 MiB
CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, in blocks of up to 1 GiB; whether it could.

    Not where the user has chosen the allocator's settings by environment variables, nor where the C library is another.
    """
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Without the first the second alone would end glibc's own adapting, and every large tensor would be mapped anew.
    allowed = mallopt is not None and any(mallopt(_MMAP_THRESHOLD, size) for size in _KEPT_BYTES)
    return bool(allowed and mallopt and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES[0]))
