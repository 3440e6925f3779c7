"""Two threads that change one job at a time, on a real Redis: each order of the two is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from services.jobs import ALL, JOB, QUEUED, RUNNING, Claim, Jobs
from services.outbox import OUTBOX, Due, Outbox
from services.record import Job
from tests.services.job_deeds import (
    HOOK,
    RESULT,
    bring,
    claim,
    create,
    is_nowhere,
    race,
    read,
    status_of,
    story,
)

ROUNDS = 25
Act = Callable[[Jobs, Job, Claim], Any]
ACTS: dict[str, Act] = {
    "suspend": lambda jobs, job, held: jobs.suspend(held),
    "pause": lambda jobs, job, held: jobs.pause(job.id),
    "resume": lambda jobs, job, held: jobs.resume(job.id),
    "cancel": lambda jobs, job, held: jobs.cancel(job.id),
    "abandon": lambda jobs, job, held: jobs.abandon(job.id, "node:1"),
    "release": lambda jobs, job, held: jobs.release("node"),
    "beat": lambda jobs, job, held: jobs.beat(held, progress={"done": 1}, preview=1),
    "finish": lambda jobs, job, held: jobs.finish(held, "succeeded", result=RESULT | {"bytes": 9}),
    "reap": lambda jobs, job, held: jobs.reap(),
    "delete": lambda jobs, job, held: jobs.delete(job),
}


def both(jobs: Jobs, job: Job, held: Claim, *names: str) -> list[Any]:
    """Do two things to a job at once; return what each got."""
    return race(len(names), lambda number: ACTS[names[number]](jobs, job, held))


def running(jobs: Jobs, **more: Any) -> tuple[Job, Claim]:
    job = create(jobs, **more)
    return job, claim(jobs, job, "node:1")


def places(client: redis.Redis, job: Job) -> list[str]:
    """Return the lists a job is in that say where it stands."""
    keys = {"queued": QUEUED + job.lane, "running": RUNNING}
    return [name for name, key in keys.items() if client.zscore(key, job.id) is not None]


def note_both(outbox: Outbox, due: Due) -> None:
    """Let two couriers tell what came of a message at once, of whom the second delivered it."""
    waits: list[float | None] = [60.0, None]
    race(2, lambda number: outbox.note(due, {"number": number}, waits[number]))


def delete_and_note(jobs: Jobs, job: Job, outbox: Outbox, due: Due) -> None:
    """Delete a job while a courier tells what came of its message."""
    race(2, lambda number: jobs.delete(job) if number else outbox.note(due, {}, 60.0))


@pytest.fixture
def outbox(client: redis.Redis) -> Outbox:
    return Outbox(client, lease_s=60, ttl_s=60)


def test_of_two_suspends_one_counts(jobs: Jobs, client: redis.Redis) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs)
        assert sorted(map(str, both(jobs, job, held, "suspend", "suspend"))) == ["None", "queued"]
        assert places(client, job) == ["queued"]
        assert claim(jobs, job).fence == held.fence + 2, (
            "one for each holder, one to void the first"
        )
        jobs.delete(job)


def test_a_pause_is_not_lost_between_two_workers(jobs: Jobs, client: redis.Redis) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs)
        both(jobs, job, held, "suspend", "pause")
        assert (status_of(jobs, job), places(client, job)) == ("paused", [])
        assert jobs.claim("jobs", "other") is None
        jobs.delete(job)


def test_nor_is_a_cancel(jobs: Jobs, client: redis.Redis) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs)
        both(jobs, job, held, "suspend", "cancel")
        assert status_of(jobs, job) == "canceled"
        assert is_nowhere(client, job)


@pytest.mark.parametrize("status", ["queued", "paused"])
def test_between_pause_and_resume_a_job_stands_where_it_says(
    status: Any, jobs: Jobs, client: redis.Redis
) -> None:
    for _ in range(ROUNDS):
        job = create(jobs)
        held = bring(jobs, job, status) or Claim(job.id, 0)
        both(jobs, job, held, "pause", "resume")
        now = status_of(jobs, job)
        assert now in ("queued", "paused")
        assert places(client, job) == (["queued"] if now == "queued" else [])
        jobs.delete(job)


def test_of_a_running_job_the_later_wish_counts(jobs: Jobs) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs)
        both(jobs, job, held, "pause", "resume")
        assert (status_of(jobs, job), jobs.beat(held) in ("ok", "pause")) == ("running", True)
        jobs.delete(job)


def test_a_job_that_two_resume_waits_once(jobs: Jobs, client: redis.Redis) -> None:
    for _ in range(ROUNDS):
        job = create(jobs)
        held = bring(jobs, job, "paused")
        assert held is not None
        assert both(jobs, job, held, "resume", "resume") == ["queued", "queued"]
        assert story(jobs, job)[-2:] == ["paused", "queued"]
        assert client.zcard(QUEUED + "jobs") == 1
        jobs.delete(job)


@pytest.mark.parametrize("other", ["suspend", "abandon", "release", "pause", "resume", "reap"])
def test_a_job_that_is_finished_stays_so(other: str, jobs: Jobs, client: redis.Redis) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs)
        finished, _got = both(jobs, job, held, "finish", other)
        jobs.reap()
        now = read(jobs, job)
        assert (now.status == "succeeded") == finished
        if finished:
            assert now.result is not None
            assert is_nowhere(client, job)
        else:
            assert (other, now.status, places(client, job)) == ("suspend", "queued", ["queued"])
        jobs.delete(job)


@pytest.mark.parametrize("other", ["beat", "suspend", "reap", "abandon"])
def test_a_job_that_is_given_up_comes_back_once(
    other: str, jobs: Jobs, client: redis.Redis
) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs)
        both(jobs, job, held, "abandon", other)
        jobs.reap()
        assert client.zcard(QUEUED + "jobs") + client.zcard(RUNNING) == 1
        assert places(client, job) == [status_of(jobs, job)]
        if status_of(jobs, job) == "queued":
            assert jobs.beat(held) == "lost"
        jobs.delete(job)


@pytest.mark.parametrize("other", ["suspend", "beat", "finish", "abandon"])
def test_a_release_does_not_reach_the_next_worker(
    other: str, jobs: Jobs, client: redis.Redis
) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs)
        both(jobs, job, held, "release", other)
        if status_of(jobs, job) == "running":
            jobs.suspend(held)
        if status_of(jobs, job) == "queued":
            assert jobs.beat(claim(jobs, job, "other:1")) == "ok"
        else:
            assert client.hget(JOB + job.id, "release") is None
        jobs.delete(job)


@pytest.mark.parametrize("other", sorted(ACTS))
def test_a_deleted_job_leaves_nothing(other: str, jobs: Jobs, client: redis.Redis) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs, webhook=HOOK)
        both(jobs, job, held, "delete", other)
        assert jobs.get(job.id) is None
        assert client.keys(f"*{job.id}*") == []
        assert is_nowhere(client, job)
        for key in (ALL + "me", OUTBOX, "lantern:jobs:ended", "lantern:kept:me:ends"):
            assert client.zscore(key, job.id) is None


def test_two_couriers_note_what_both_did(jobs: Jobs, outbox: Outbox, client: redis.Redis) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs, webhook=HOOK)
        jobs.finish(held, "succeeded", result=RESULT)
        due = outbox.fetch()
        assert due == Due(job.id, 1)
        note_both(outbox, due)
        noted = outbox.deliveries(job.id)
        assert sorted(attempt["number"] for attempt in noted) == [0, 1]
        assert client.zscore(OUTBOX, job.id) is None, "one of them has delivered it"
        jobs.delete(job)


def test_what_was_delivered_of_a_deleted_job_is_not_noted(
    jobs: Jobs, outbox: Outbox, client: redis.Redis
) -> None:
    for _ in range(ROUNDS):
        job, held = running(jobs, webhook=HOOK)
        jobs.finish(held, "succeeded", result=RESULT)
        due = outbox.fetch()
        assert due is not None
        delete_and_note(jobs, job, outbox, due)
        assert client.keys(f"*{job.id}*") == []
        assert client.zscore(OUTBOX, job.id) is None
