"""Following a job to its end, event by event."""

from __future__ import annotations

import time
from collections.abc import Iterator

import redis

from services.jobs import Event, Jobs

# Times in a row that Redis may be away, a second each.
MOST_FAILURES = 30


def events_until_done(
    jobs: Jobs, job_id: str, after: str, pause_s: float
) -> Iterator[Event | None]:
    """Go through a job's events as they come; None each time `pause_s` passed without one.

    While Redis restarts there is nothing; then it goes on where it was.

    Raises:
        RedisError: Redis was away for long.
    """
    failures = 0
    while True:
        try:
            found = jobs.events(job_id, after, pause_s)
        except (redis.ConnectionError, redis.TimeoutError):
            failures += 1
            if failures > MOST_FAILURES:
                raise
            time.sleep(1.0)
            continue
        failures = 0
        if not found:
            yield None
        for event in found:
            after = event.id
            yield event
            if event.name == "done":
                return
