"""Keeping what a run makes on the way, without making the run wait for the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from services.blobs import Blobs, FilesAway, StorageFull

# How soon what could not be stored is tried again.
RETRY_S = 0.5
# How long a thread that hangs in the store is waited for.
LONGEST_REST_S = 5.0


@dataclass
class Keeper:
    """Stores the bytes of one job, and deletes them, in a thread of its own.

    Bytes are offered for a purpose, for which only the newest count: they replace those that still
    wait. While the store is away they stay; `kept` is told the name of what is stored, from that
    thread.
    """

    blobs: Blobs
    job_id: str
    ttl_s: int
    kept: Callable[[str, str], None]
    _waiting: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    _costs_s: dict[str, float] = field(default_factory=dict)
    _unwanted: list[str] = field(default_factory=list)
    _news: threading.Event = field(default_factory=threading.Event)
    _end: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=self._work_until_end, daemon=True)
        self._thread.start()

    @property
    def unwanted(self) -> list[str]:
        """The names of what is still to be deleted."""
        return list(self._unwanted)

    def rest(self) -> None:
        """Put down the work; what waits then is stored by `flush` alone."""
        self._end.set()
        self._news.set()
        assert self._thread is not None
        self._thread.join(timeout=LONGEST_REST_S)

    def offer(self, purpose: str, name: str, data: bytes) -> float:
        """Have bytes stored soon under a name, in the place of what waits for that purpose.

        Return the seconds of a core that storing such bytes took last.
        """
        with self._lock:
            self._waiting[purpose] = name, data
        self._news.set()
        return self._costs_s.get(purpose, 0.0)

    def withdraw(self, *purposes: str) -> None:
        """Do without what waits for these purposes."""
        with self._lock:
            for purpose in purposes:
                self._waiting.pop(purpose, None)

    def discard(self, names: list[str]) -> None:
        """Have bytes deleted soon; where that fails, they expire by themselves."""
        self._unwanted += names
        self._news.set()

    def flush(self) -> None:
        """Delete and store all that waits, in the caller's thread.

        Raises:
            RedisError: the store is away; what is left still waits.
            StorageFull, FilesAway: a part of it cannot be stored now, and still waits.
        """
        while self._unwanted:
            self.blobs.delete(self.job_id, self._unwanted[0])
            del self._unwanted[0]
        failures = [*filter(None, map(self._store, list(self._waiting)))]
        if failures:
            raise failures[0]

    def _store(self, purpose: str) -> StorageFull | FilesAway | None:
        """Store what waits for a purpose; return why it still waits, None where it does not."""
        with self._lock:
            offered = self._waiting.pop(purpose, None)
        if offered is None:
            return None
        name, data = offered
        began = time.thread_time()
        try:
            self.blobs.put(self.job_id, name, data, ttl_s=self.ttl_s)
        except (redis.RedisError, StorageFull, FilesAway) as error:
            with self._lock:
                self._waiting.setdefault(purpose, offered)  # unless a newer one came
            if isinstance(error, redis.RedisError):
                raise
            return error
        self._costs_s[purpose] = time.thread_time() - began
        self.kept(purpose, name)
        return None

    def _work_until_end(self) -> None:
        while not self._end.is_set():
            self._news.wait()
            self._news.clear()
            if self._end.is_set():
                return
            try:
                self.flush()
            except (redis.RedisError, StorageFull, FilesAway):
                self._news.set()
                self._end.wait(RETRY_S)
