"""Waiting for what comes true by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def until(holds: Callable[[], bool], within_s: float = 20.0) -> float:
    """Wait until something holds; return the seconds it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < within_s, "it did not come true in time"
        time.sleep(0.02)
    return time.monotonic() - started


def let_a_millisecond_pass() -> None:
    """Let what is made next be of another time: jobs of one millisecond have no order."""
    time.sleep(0.001)


@contextmanager
def in_a_moment(after_s: float, deed: Callable[[], object]) -> Iterator[None]:
    """Do something from a thread after some seconds; it is done at the end of the block."""
    timer = threading.Timer(after_s, deed)
    timer.start()
    try:
        yield
    finally:
        timer.join()
