"""Calls for the same thing at the same time are one call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """One of the threads that ask for a key works; the others wait for what it finds."""

    def __init__(self) -> None:
        self._lock, self._under_way = threading.Lock(), dict[Hashable, Future[T]]()

    def ask(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return what `work` returns, or what another thread's does that began before.

        Raises:
            Exception: whatever the work raises, in every thread that waits for it.
        """
        with self._lock:
            theirs = self._under_way.get(key)
            ours = Future[T]()
            if theirs is None:
                self._under_way[key] = ours
        if theirs is not None:
            return theirs.result()
        try:
            found = work()
        except BaseException as error:
            self._end(key)
            ours.set_exception(error)
            raise
        self._end(key)
        ours.set_result(found)
        return found

    def _end(self, key: Hashable) -> None:
        with self._lock:
            del self._under_way[key]
