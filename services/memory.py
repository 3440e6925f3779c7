"""Memory that was used is given back to the system."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Bytes from which a value gets pages of its own, and of free memory at the heap's end.
LARGE, MOST_FREE = 1024 * 1024, 1024 * 1024


def give_back() -> None:
    """Give what was freed back to the system.

    glibc keeps it as long as anything above it lives: a process would seem to grow by a quarter.
    """
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def keep_little() -> None:
    """Keep little of what is freed from now on: for a process of many threads, before they start.

    By itself glibc has a heap for each of the first threads, eight for each core, and as the values
    it has freed get larger, it keeps ever larger ones in them: a gateway of 58 MB would grow to 74.
    """
    if (mallopt := _function("mallopt")) is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, MOST_FREE)


@functools.cache
def _function(name: str) -> Any:
    """Return a function of glibc; other C libraries have no such ones, and keep less."""
    return getattr(ctypes.CDLL(None), name, None)
