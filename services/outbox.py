"""Messages to webhooks that are still to be delivered, and what came of each attempt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from services.jobs import JOB, scripts

OUTBOX = "lantern:outbox"
# Half of what a courier does at a time; what is beyond it waits a moment while others are served.
MOST_IN_HAND, ASIDE_MS = 2, 1000


@dataclass(frozen=True)
class Due:
    """A message to deliver now: that a job has ended; `attempt` counts from 1."""

    job_id: str
    attempt: int


class Outbox:
    """The outbox of one Redis; a job's final state and its message are written in one step."""

    def __init__(self, client: redis.Redis, *, lease_s: float, ttl_s: int) -> None:
        self._redis, self._lease_ms, self._ttl_s = client, int(lease_s * 1000), ttl_s
        known = scripts(client)
        self._fetch, self._delivered = known["fetch"], known["delivered"]

    def due(self) -> int:
        """Count the messages that are due."""
        seconds, microseconds = self._redis.time()
        now_ms = seconds * 1000 + microseconds // 1000
        return self._redis.zcount(OUTBOX, "-inf", now_ms)

    def fetch(self) -> Due | None:
        """Take the first message that is due; nobody else gets it while the lease lasts.

        Of one receiver, by host and port, no more than `MOST_IN_HAND` are out at a time.
        """
        found = self._fetch(args=[self._lease_ms, MOST_IN_HAND, ASIDE_MS])
        return Due(found[0].decode(), int(found[1]) + 1) if found else None

    def note(self, due: Due, attempt: Mapping[str, Any], again_in_s: float | None) -> None:
        """Note an attempt; the message stays if there is to be another."""
        wait_ms = "" if again_in_s is None else int(again_in_s * 1000)
        self._delivered(args=[due.job_id, json.dumps(attempt), wait_ms, self._ttl_s])

    def deliveries(self, job_id: str) -> list[dict[str, Any]]:
        """Return what came of each attempt, first to last."""
        entries = cast(list[bytes], self._redis.lrange(JOB + job_id + ":deliveries", 0, -1))
        return [json.loads(entry) for entry in entries]
