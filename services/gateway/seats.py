"""How many callers may wait in one process: each open stream or wait holds a thread."""

from __future__ import annotations

import threading
from collections import Counter


class Seats:
    """Counts who waits, in all and by key."""

    def __init__(self, most: int, most_per_key: int) -> None:
        self._most, self._most_per_key = most, most_per_key
        self._lock, self._taken = threading.Lock(), Counter[str]()

    @property
    def bounds(self) -> str:
        """Say how many there are."""
        return f"{self._most_per_key} at a time of one key, {self._most} of all in one process"

    def take(self, owner: str) -> bool:
        """Take a seat; False where none is free."""
        with self._lock:
            if self._taken.total() >= self._most or self._taken[owner] >= self._most_per_key:
                return False
            self._taken[owner] += 1
            return True

    def give_back(self, owner: str) -> None:
        """Free a seat."""
        with self._lock:
            self._taken[owner] -= 1
