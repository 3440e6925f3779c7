"""What is done to jobs in the tests of the job store, on a real Redis, and how it is checked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import redis

from services.jobs import (
    ACTIVE,
    ALL,
    JOB,
    QUEUED,
    RUNNING,
    Claim,
    Jobs,
    Order,
    Position,
)
from services.outbox import OUTBOX
from services.record import LANES, Job, Lane, Priority, Status
from tests.waiting import let_a_millisecond_pass

CALL: dict[str, Any] = {
    "technique": "deep-dream",
    "inputs": ["image"],
    "params": {"a": 1},
}
HOOK = {"url": "https://example.org/", "secret": "whsec_x"}
RESULT: dict[str, Any] = {"artifacts": [], "facts": {"n": 1}}
CLOCK, DEADLINES = "lantern:clock", "lantern:jobs:deadlines"
HOUR_MS = 3_600_000
MakeJobs = Callable[..., Jobs]


def order(*, priority: Priority = "normal", deadline_s: float | None = None, **more: Any) -> Order:
    options = {"priority": priority, "deadline_s": deadline_s}
    return Order(**{"call": CALL, "owner": "me", "options": options, **more})


def create(jobs: Jobs, *, key: str = "", fingerprint: str = "", **more: Any) -> Job:
    """Make a job; the next one is made in another millisecond, so that the two have an order."""
    job, is_new = jobs.create(order(**more), key=key, fingerprint=fingerprint)
    assert is_new
    let_a_millisecond_pass()
    return job


def claim(jobs: Jobs, job: Job, worker: str = "worker") -> Claim:
    """Claim a job, which must be the first in its lane."""
    claimed = jobs.claim(job.lane, worker)
    assert claimed is not None
    assert claimed.job_id == job.id
    return claimed


def claim_all(jobs: Jobs, lane: Lane = "jobs") -> list[str]:
    """Return the ids of all jobs that wait in a lane, in the order they are given out."""
    taken = iter(lambda: jobs.claim(lane, "worker"), None)
    return [claimed.job_id for claimed in taken if claimed]


def read(jobs: Jobs, job: Job) -> Job:
    found = jobs.get(job.id)
    assert found is not None
    return found


def status_of(jobs: Jobs, job: Job) -> Status:
    return read(jobs, job).status


def end_lease(client: redis.Redis, job: Job) -> None:
    """Let the time of a worker's lease pass at once."""
    client.zadd(RUNNING, {job.id: 1})


def end_time(client: redis.Redis, job: Job) -> None:
    """Let the time until a job's deadline pass at once."""
    client.hset(JOB + job.id, "deadline_ms", 1)
    client.zadd(DEADLINES, {job.id: 1})


def age(client: redis.Redis, job: Job, ms: int) -> None:
    """Let a waiting job have waited longer."""
    client.hincrby(JOB + job.id, "order", -ms)
    client.zincrby(QUEUED + job.lane, -ms, job.id)


def set_clock(client: redis.Redis, ms: int) -> None:
    """Set the clock on by `ms`, or back where it is negative, as far as the records can tell."""
    for key in (RUNNING, DEADLINES, OUTBOX, *(QUEUED + lane for lane in LANES)):
        for name in cast(list[bytes], client.zrange(key, 0, -1)):
            client.zincrby(key, -ms, name)
    for job_id in cast(list[bytes], client.zrange(ALL + "me", 0, -1)):
        key = JOB + job_id.decode()
        for stamp in ("order", "created_ms", "started_ms", "deadline_ms"):
            if client.hexists(key, stamp):
                client.hincrby(key, stamp, -ms)
    if client.exists(CLOCK):
        client.incrby(CLOCK, -ms)


def events(jobs: Jobs, job: Job) -> list[tuple[str, Any]]:
    return [(e.name, e.data) for e in jobs.events(job.id, "0", 0.001)]


def story(jobs: Jobs, job: Job) -> list[str]:
    """Return the job's events in short: the status, or the name of the event."""
    return [data["status"] if name == "status" else name for name, data in events(jobs, job)]


def failures(client: redis.Redis, job: Job) -> int:
    return int(client.hget(JOB + job.id, "failures") or 0)


def is_nowhere(client: redis.Redis, job: Job) -> bool:
    """Tell whether no list holds a job that is over but the list of all jobs."""
    lists = (RUNNING, DEADLINES, ACTIVE + job.owner, *(QUEUED + lane for lane in LANES))
    return all(client.zscore(key, job.id) is None for key in lists)


def race(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Run `act` in many threads at once; return what each got."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def snapshot(client: redis.Redis) -> dict[bytes, Any]:
    """Return all there is by key, but for the time at which the reaper looked last."""
    read: dict[bytes, Callable[[Any], Any]] = {
        b"hash": client.hgetall,
        b"string": client.get,
        b"stream": client.xrange,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    keys = cast(list[bytes], client.keys("*"))
    told = (key for key in keys if key != CLOCK.encode())
    return {key: read[cast(bytes, client.type(key))](key) for key in told}


def bring(jobs: Jobs, job: Job, status: Status) -> Claim | None:
    """Bring a queued job into a state; return the claim it is or was held by."""
    if status == "queued":
        return None
    claimed = claim(jobs, job)
    if status == "paused":
        jobs.pause(job.id)
        assert jobs.suspend(claimed)
    elif status != "running":
        assert jobs.finish(claimed, status)
    return claimed


def ids(positions: list[Position]) -> list[str]:
    return [job_id for _, job_id in positions]
