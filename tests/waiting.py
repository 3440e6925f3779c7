"""Waiting for what comes true by itself."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], bool], within_s: float = 20.0) -> float:
    """Wait until something holds; return the seconds it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < within_s, "it did not come true in time"
        time.sleep(0.02)
    return time.monotonic() - started
