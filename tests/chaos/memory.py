"""How much memory each process of the stack has to itself, over time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean
from typing import Any

import psutil
import redis

from tests.chaos.site import JOB_WORKERS, Site

EVERY_S = 3.0
WARM_AFTER_S = 20.0
MB = 1e6
# The allocator keeps so many bytes before each piece, which Redis does not count. A piece each is
# the key, the value, and of a table's or a skip list's entry the entry and its parts.
PIECE_HEAD = 8
PIECES = """
local pieces = 0
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('OBJECT', 'ENCODING', key)
  local entries = 1
  if kind == 'hashtable' then
    entries = redis.call('TYPE', key).ok == 'hash' and redis.call('HLEN', key)
      or redis.call('SCARD', key)
  elseif kind == 'skiplist' then
    entries = redis.call('ZCARD', key)
  end
  pieces = pieces + 3 + 3 * entries
end
return pieces
"""


@dataclass(frozen=True)
class Sample:
    """What one process had at a time, in bytes, and how much of that is data it is to hold."""

    at: float
    role: str
    pid: int
    size: int
    data: int


@dataclass(frozen=True)
class Growth:
    """What the largest process of a role had once it was warm, and in the end, in bytes.

    `warm_data` and `last_data` are what of it were the contents of a Redis.
    """

    role: str
    warm: float
    last: float
    warm_data: float = 0.0
    last_data: float = 0.0

    @property
    def ratio(self) -> float:
        """Growth beyond that of the data, as a share of what the process would have with it.

        What an allocator adds grows with the values it holds: a store of a megabyte that is given
        four more is not to keep to a tenth of one.
        """
        expected = self.warm + self.last_data - self.warm_data
        return (self.last - expected) / expected


class Scales:
    """Weighs every process that has run for a while, every few seconds, in a thread."""

    def __init__(self, site: Site) -> None:
        self._site, self._over = site, threading.Event()
        self.samples: list[Sample] = []
        self._thread = threading.Thread(target=self._weigh_until_over, daemon=True)

    def __enter__(self) -> Scales:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def growth(self, warm: tuple[float, float], last: tuple[float, float]) -> list[Growth]:
        """Compare each role in two spans of time; a role that is not in both is left out."""
        before, after = self._largest(*warm), self._largest(*last)
        return [
            Growth(role, before[role][0], after[role][0], before[role][1], after[role][1])
            for role in before
            if role in after
        ]

    def _largest(self, since: float, until: float) -> dict[str, tuple[float, float]]:
        """Return the mean size of each role's largest process, and of its data."""
        weighed = defaultdict[tuple[str, int], list[Sample]](list)
        for sample in self.samples:
            if since <= sample.at <= until:
                weighed[sample.role, sample.pid].append(sample)
        largest = dict[str, tuple[float, float]]()
        for (role, _), found in weighed.items():
            means = (mean(one.size for one in found), mean(one.data for one in found))
            largest[role] = max(largest.get(role, (0.0, 0.0)), means)
        return largest

    def _weigh_until_over(self) -> None:
        while not self._over.wait(EVERY_S):
            with suppress(psutil.Error, OSError, ValueError, KeyError):
                for role, process in processes(self._site):
                    self._weigh(role, process)

    def _weigh(self, role: str, process: psutil.Process) -> None:
        with suppress(psutil.Error, redis.RedisError, OSError):
            if time.time() - process.create_time() >= WARM_AFTER_S:
                size = process.memory_full_info().uss
                self.samples.append(Sample(time.time(), role, process.pid, size, self._data(role)))

    def _data(self, role: str) -> int:
        store = {"Redis of records": "redis", "Redis of blobs": "blobs"}.get(role)
        if store is None:
            return 0
        with self._site.store(store) as client:
            held: Any = client.memory_stats()
            pieces: Any = client.eval(PIECES, 0)
        # a key's place in the table of keys is data too
        tables = [held[name] for name in held if name.startswith("db.") and name[3:].isdigit()]
        counted = held["dataset.bytes"] + sum(sum(table.values()) for table in tables)
        return int(counted + PIECE_HEAD * pieces)


def processes(site: Site) -> Iterator[tuple[str, psutil.Process]]:
    """Go through the processes of the stack with what each of them is."""
    yield "supervisor", psutil.Process(site.stack.process.pid)
    yield "Redis of records", site.stack.part("redis")
    yield "Redis of blobs", site.stack.part("blobs")
    for worker in JOB_WORKERS:
        yield "worker's parent", site.stack.part(worker)
        kind = "fast" if worker.startswith("fast") else "long"
        yield from ((f"pool child, {kind} jobs", child) for child in site.children(worker))
    yield "courier", site.stack.part("courier")
    yield "gateway's master", site.stack.part("gateway")
    yield from (("gateway process", child) for child in site.children("gateway"))
    yield "TorchServe's launcher", site.stack.part("torchserve")
    yield from (("TorchServe's frontend", child) for child in site.children("torchserve"))
    for process in site.model_workers():
        model = next((w for w in process.cmdline() if w in ("stylize", "explain")), "")
        yield f"TorchServe worker {model}".rstrip(), process
