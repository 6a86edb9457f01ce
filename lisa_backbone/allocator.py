"""Memory that is freed is kept for the next step of training."""

from __future__ import annotations

import ctypes

__all__ = ['keep_freed_memory']

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, in place of giving large blocks back to the system at once.

    Each step allocates the same large tensors anew. By default glibc maps each of them from the system and unmaps it,
    and the system fills its pages with zeros every time, which takes a good part of a step with softmax attention on a
    processor. The values do not change; memory stays at its peak. GPUs are not concerned.

    Returns:
        Whether it was done; there is nothing to do without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
