"""Memory that a job has used is given back when it has ended."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Give what was freed back to the system.

    glibc keeps it as long as anything above it lives: a process would seem to grow by a quarter.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], int]:
    # other C libraries have no such function, and keep less
    found: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: pad)
    return found
