"""A worker's sign of life: a file, by whose age a probe sees that the worker is to be ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis, RedisError

TOUCH_S = 5.0
# The loop of a worker's parent stands still for longer only where it hangs, or Redis is away.
LONGEST_STILL_S = 60.0


@dataclass
class Sign:
    """Touches a file, in a thread of its own, for as long as the parent's loop comes round.

    Without Redis that loop does nothing but wait for it, which is no reason to end the worker: the
    file is touched then too, and the loop has a while to come round once Redis is back.
    """

    path: Path
    state: Redis
    clock: Callable[[], float] = time.monotonic
    _seen: float = field(init=False)
    _end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._seen = self.clock()

    def start(self) -> None:
        """Begin to touch the file."""
        self.look()
        threading.Thread(target=self._work_until_end, daemon=True).start()

    def note(self) -> None:
        """Say, from the loop, that it has come round."""
        self._seen = self.clock()

    def look(self) -> None:
        """Touch the file, unless the loop hangs."""
        if self.clock() - self._seen > LONGEST_STILL_S and not self._is_there():
            self._seen = self.clock()
        if self.clock() - self._seen <= LONGEST_STILL_S:
            self.path.touch()

    def stop(self) -> None:
        """Leave the file alone."""
        self._end.set()

    def _is_there(self) -> bool:
        try:
            return bool(self.state.ping())
        except RedisError:
            return False

    def _work_until_end(self) -> None:
        while not self._end.wait(TOUCH_S):
            self.look()
