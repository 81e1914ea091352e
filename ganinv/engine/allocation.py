"""What becomes of memory that was freed."""

from __future__ import annotations

import ctypes


def keep_memory() -> None:
    """Makes glibc keep freed blocks for the next step; another C library is left as it is.

    It otherwise gives blocks of megabytes back and asks for them again in every step, whose pages are then cleared one by
    one: a seventh of a step of 40 candidates, for a twentieth more memory at the peak. It costs most on
    a virtual machine that gives freed pages back to its host.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block has pages of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink
