"""Waiting for a store: one that restarts, one that is full, or one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import redis

from services.blobs import FilesAway, StorageFull
from services.worker.pulse import Pulse

T = TypeVar("T")
PATIENCE_S = 60.0
# Room comes within minutes, of what expires or of whoever is called for help, and a result may be
# the work of hours; for longer, jobs that wait behind it would be held up.
ROOM_WITHIN_S = 300.0
# A worker that is to stop is killed some seconds later: a result that waits is given up before.
RELEASED_WITHIN_S = 3.0
# Pauses double from the first to the usual one: a result that waits is lost if its worker dies, so
# it is stored soon after there is room. Whether to go on is looked up in between.
FIRST_PAUSE_S, USUAL_PAUSE_S, LOOK_EVERY_S = 0.25, 1.0, 0.1
# A try that took long, as files do, is followed by so many times as long a pause, within limits.
REST, LONGEST_PAUSE_S = 5.0, 5.0


REDIS_AWAY = (redis.ConnectionError, redis.TimeoutError)


def patiently(
    action: Callable[[], T], away: tuple[type[Exception], ...] = (*REDIS_AWAY, FilesAway)
) -> T:
    """Do something with the stores, again and again while Redis or the files are away."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except away:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.25)


@dataclass
class Room:
    """Stores things for a job that goes on beating, again and again while there is no room.

    Files that are away are waited for in the same way. All of them together wait
    `ROOM_WITHIN_S` from the first time that there was none, and
    `RELEASED_WITHIN_S` from when the worker is to stop.
    """

    pulse: Pulse
    _deadline: float | None = None
    _released_at: float | None = None

    def find(self, action: Callable[[], T]) -> T:
        """Do something that needs room.

        Raises:
            StorageFull: there was none for too long.
            FilesAway: the file store has failed for too long.
            Cancelled: the job is not to go on.
            Suspended: the job is to go on later.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            tried = time.monotonic()
            try:
                return patiently(action, REDIS_AWAY)
            except (StorageFull, FilesAway):
                now = time.monotonic()
                self._deadline = self._deadline or now + ROOM_WITHIN_S
                if now >= self._deadline:
                    raise
                rest_s = min(max(pause_s, REST * (now - tried)), LONGEST_PAUSE_S)
                self._pause(min(rest_s, self._deadline - now))
            pause_s = min(2 * pause_s, USUAL_PAUSE_S)

    def _pause(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if not self._has_a_moment():
                self.pulse.heed()
            time.sleep(min(left, LOOK_EVERY_S))

    def _has_a_moment(self) -> bool:
        """Tell whether a worker that is to stop may still wait: the work would be done again."""
        if self.pulse.word != "release":
            return False
        now = time.monotonic()
        self._released_at = self._released_at or now
        return now < self._released_at + RELEASED_WITHIN_S
