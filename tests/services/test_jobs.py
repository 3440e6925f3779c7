"""The job store: each script by itself, then all of them at random, on a real Redis."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import redis

from services import job_bytes
from services.jobs import (
    ACTIVE,
    ALL,
    CACHE,
    JOB,
    QUEUED,
    RUNNING,
    WORKERS,
    Claim,
    IdempotencyConflict,
    Jobs,
    Limits,
    Order,
    Position,
    QueueFull,
    QuotaReached,
    events_until_done,
)
from services.outbox import OUTBOX
from services.record import FINAL, LANES, LIVE, Job, Lane, Priority, Status, new_id

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
    job, is_new = jobs.create(order(**more), key=key, fingerprint=fingerprint)
    assert is_new
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


class TestCreate:
    def test_asked_twice_it_makes_one_job_and_says_it_is_new(self, jobs: Jobs) -> None:
        # the client asks again when the answer is lost
        made = dataclasses.replace(order(), id=new_id())
        for _ in range(2):
            job, is_new = jobs.create(made, key="key", fingerprint="a")
            assert (job.id, is_new) == (made.id, True)
        assert jobs.counts()["queued"] == 1

    def test_a_job_is_recorded_queued_and_announced(self, jobs: Jobs, client: redis.Redis) -> None:
        before = time.time()
        job = create(jobs)
        assert (job.status, job.owner, job.lane) == ("queued", "me", "jobs")
        assert job.call == CALL
        assert job.options == {"priority": "normal", "deadline_s": None}
        assert before - 1 < job.created_at < time.time() + 1
        assert (job.started_at, job.finished_at, job.expires_at) == (None, None, None)
        assert (job.attempts, job.progress, job.result, job.error) == (0, None, None, None)
        assert (job.webhook, job.checkpoint, job.preview_step) == (None, None, None)
        assert not job.is_final
        for key in (QUEUED + "jobs", ALL + "me", ACTIVE + "me", DEADLINES):
            assert client.zrange(key, 0, -1) == [job.id.encode()], key
        assert events(jobs, job) == [("status", {"status": "queued"})]
        assert jobs.counts() == {"queued": 1, "running": 0}
        assert read(jobs, job) == job
        assert client.ttl(JOB + job.id) == -1  # it is kept until it has ended

    def test_it_takes_the_id_that_was_chosen_for_it(self, jobs: Jobs) -> None:
        chosen = new_id()
        assert create(jobs, id=chosen).id == chosen

    def test_calls_keep_every_character(self, jobs: Jobs) -> None:
        call: dict[str, Any] = {
            "technique": "t",
            "text": 'Nacht "ü" \\ \n\x00 🌌',
            "list": [1, 2.5, None, {}, []],
        }
        job = create(jobs, call=call, webhook={"url": "ü\\"})
        assert read(jobs, job).call == call
        assert read(jobs, job).webhook == {"url": "ü\\"}

    def test_without_a_key_every_call_is_a_job_of_its_own(self, jobs: Jobs) -> None:
        assert create(jobs, fingerprint="same").id != create(jobs, fingerprint="same").id

    def test_the_same_key_and_payload_give_the_first_job(self, jobs: Jobs) -> None:
        first = create(jobs, key="key", fingerprint="a")
        again, is_new = jobs.create(order(), key="key", fingerprint="a")
        assert (again.id, is_new) == (first.id, False)
        assert jobs.counts()["queued"] == 1

    @pytest.mark.parametrize("status", ["running", "paused", *FINAL])
    def test_a_replayed_job_is_given_as_it_stands(self, jobs: Jobs, status: Status) -> None:
        first = create(jobs, key="key", fingerprint="a")
        bring(jobs, first, status)
        again, is_new = jobs.create(order(), key="key", fingerprint="a")
        assert (again.id, again.status, is_new) == (first.id, status, False)

    def test_the_same_key_and_another_payload_conflict(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        create(jobs, key="key", fingerprint="a")
        before = snapshot(client)
        with pytest.raises(IdempotencyConflict):
            jobs.create(order(), key="key", fingerprint="b")
        assert snapshot(client) == before

    def test_other_keys_do_not_meet(self, jobs: Jobs) -> None:
        first = create(jobs, key="1", fingerprint="a")
        assert create(jobs, key="2", fingerprint="a").id != first.id

    def test_a_key_is_forgotten_with_the_results(self, jobs: Jobs, client: redis.Redis) -> None:
        create(jobs, key="key", fingerprint="a")
        assert 0 < client.ttl("lantern:idempotency:key") <= 60

    def test_a_replayed_job_that_was_deleted_is_made_anew(self, jobs: Jobs) -> None:
        first = create(jobs, key="key", fingerprint="a")
        jobs.cancel(first.id)
        jobs.delete(first)
        again = create(jobs, key="key", fingerprint="a")
        assert again.id != first.id
        assert jobs.create(order(), key="key", fingerprint="a")[0].id == again.id

    def test_one_of_many_racing_calls_with_a_key_makes_the_job(self, jobs: Jobs) -> None:
        made = race(16, lambda _: jobs.create(order(), key="key", fingerprint="a"))
        assert len({job.id for job, _ in made}) == 1
        assert [is_new for _, is_new in made].count(True) == 1
        assert jobs.counts()["queued"] == 1

    def test_an_owner_has_only_so_many_jobs_under_way(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_active=2)
        first, _ = create(jobs, key="key", fingerprint="a"), create(jobs, lane="fast")
        before = snapshot(client)
        with pytest.raises(QuotaReached):
            jobs.create(order(), key="other", fingerprint="b")
        assert snapshot(client) == before
        create(jobs, owner="somebody else")
        assert jobs.create(order(), key="key", fingerprint="a")[0].id == first.id

    @pytest.mark.parametrize("status", ["queued", "running", "paused"])
    def test_what_lives_counts_whatever_its_state(
        self, make_jobs: MakeJobs, status: Status
    ) -> None:
        jobs = make_jobs(max_active=1)
        bring(jobs, create(jobs), status)
        with pytest.raises(QuotaReached):
            jobs.create(order())

    @pytest.mark.parametrize("status", FINAL)
    def test_what_is_over_counts_no_more(self, make_jobs: MakeJobs, status: Status) -> None:
        jobs = make_jobs(max_active=1)
        bring(jobs, create(jobs), status)
        create(jobs)

    def test_a_full_lane_takes_no_more(self, make_jobs: MakeJobs, client: redis.Redis) -> None:
        jobs = make_jobs(max_queued=2)
        (first,) = create_apart(jobs, 1, key="key", fingerprint="a")
        create(jobs)
        before = snapshot(client)
        with pytest.raises(QueueFull):
            jobs.create(order(owner="somebody else"), key="other", fingerprint="b")
        assert snapshot(client) == before
        replayed, is_new = jobs.create(order(), key="key", fingerprint="a")
        assert (replayed.id, is_new) == (first.id, False)
        create(jobs, lane="fast")
        claim(jobs, first)
        create(jobs)

    def test_many_racing_callers_do_not_pass_the_limits(self, make_jobs: MakeJobs) -> None:
        jobs = make_jobs(max_active=3, max_queued=5)

        def attempt(number: int) -> str:
            try:
                jobs.create(order(owner=f"owner-{number % 2}"))
            except (QuotaReached, QueueFull) as refusal:
                return type(refusal).__name__
            return "made"

        assert Counter(race(16, attempt))["made"] == 5

    def test_a_job_has_until_the_end_of_its_age(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        assert job.deadline_at == pytest.approx(job.created_at + 600)
        assert client.zscore(DEADLINES, job.id) == pytest.approx(1000 * (job.created_at + 600))

    @pytest.mark.parametrize(("asked", "given"), [(20.5, 20.5), (599, 599), (601, 600)])
    def test_a_deadline_may_only_be_shorter(self, jobs: Jobs, asked: float, given: float) -> None:
        job = create(jobs, deadline_s=asked)
        assert job.deadline_at == pytest.approx(job.created_at + given, abs=0.002)


class TestBornFinished:
    def test_it_is_over_at_once(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs, result=RESULT)
        assert (job.status, job.result, job.is_final) == ("succeeded", RESULT, True)
        assert job.started_at == job.finished_at == job.created_at
        assert job.expires_at == pytest.approx(job.created_at + 60)
        assert (job.attempts, job.deadline_at) == (0, None)
        assert events(jobs, job) == [("done", {"status": "succeeded"})]
        assert is_nowhere(client, job)
        assert ids(jobs.newest("me", 10)) == [job.id]
        assert jobs.claim("jobs", "worker") is None
        for part in ("", ":events"):
            assert 0 < client.ttl(JOB + job.id + part) <= 60

    def test_its_webhook_is_told(self, jobs: Jobs, client: redis.Redis) -> None:
        create(jobs, result=RESULT)
        assert client.zcard(OUTBOX) == 0
        job = create(jobs, result=RESULT, webhook=HOOK)
        assert client.zrange(OUTBOX, 0, -1) == [job.id.encode()]

    def test_it_answers_for_what_it_holds(self, jobs: Jobs) -> None:
        job = create(jobs, result=RESULT, cache="name")
        known = jobs.known("name")
        assert known is not None
        assert known.id == job.id

    def test_no_limit_holds_it_up(self, make_jobs: MakeJobs) -> None:
        jobs = make_jobs(max_active=0, max_queued=0)
        create(jobs, result=RESULT)
        with pytest.raises(QuotaReached):
            jobs.create(order())

    def test_its_key_gives_it_again(self, jobs: Jobs) -> None:
        first = create(jobs, result=RESULT, key="key", fingerprint="a")
        again, is_new = jobs.create(order(result=RESULT), key="key", fingerprint="a")
        assert (again, is_new) == (first, False)
        with pytest.raises(IdempotencyConflict):
            jobs.create(order(result=RESULT), key="key", fingerprint="b")

    def test_an_empty_result_is_a_result(self, jobs: Jobs) -> None:
        assert create(jobs, result={}).status == "succeeded"


class TestClaim:
    def test_a_waiting_job_is_taken(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert (claimed.job_id, claimed.fence) == (job.id, 1)
        taken = read(jobs, job)
        assert (taken.status, taken.attempts) == ("running", 1)
        assert taken.started_at is not None
        assert jobs.counts() == {"queued": 0, "running": 1}
        assert story(jobs, job) == ["queued", "running"]
        assert client.hget(JOB + job.id, "worker") == b"worker"
        lease_ms = cast(float, client.zscore(RUNNING, job.id))
        assert lease_ms == pytest.approx(1000 * (taken.started_at + 5))

    def test_an_empty_lane_gives_nothing(self, jobs: Jobs, client: redis.Redis) -> None:
        assert jobs.claim("jobs", "worker") is None
        assert client.keys("*") == []

    def test_the_oldest_goes_first(self, jobs: Jobs) -> None:
        made = [job.id for job in create_apart(jobs, 6)]
        assert claim_all(jobs) == made

    def test_the_urgent_go_first(self, jobs: Jobs) -> None:
        ranks: list[Priority] = ["low", "normal", "high", "low", "high", "normal"]
        made = [create_apart(jobs, 1, priority=rank)[0].id for rank in ranks]
        assert claim_all(jobs) == [made[n] for n in (2, 4, 1, 5, 0, 3)]

    @pytest.mark.parametrize(("waiting", "new"), [("low", "normal"), ("normal", "high")])
    def test_an_hours_wait_makes_up_for_a_rank(
        self, jobs: Jobs, client: redis.Redis, waiting: Priority, new: Priority
    ) -> None:
        patient, urgent = create(jobs, priority=waiting), create(jobs, priority=new)
        age(client, patient, HOUR_MS - 1000)
        assert claim_all(jobs) == [urgent.id, patient.id]
        patient, urgent = create(jobs, priority=waiting), create(jobs, priority=new)
        age(client, patient, HOUR_MS + 1000)
        assert claim_all(jobs) == [patient.id, urgent.id]

    @pytest.mark.parametrize("cut_off", ["reaped", "released"])
    def test_one_that_was_cut_off_goes_on_before_one_that_was_paused(
        self, jobs: Jobs, client: redis.Redis, cut_off: str
    ) -> None:
        paused, lost = create(jobs), create(jobs)
        held = [claim(jobs, paused), claim(jobs, lost)]
        jobs.pause(paused.id)
        jobs.suspend(held[0])
        jobs.resume(paused.id)
        if cut_off == "reaped":
            end_lease(client, lost)
            jobs.reap()
        else:
            jobs.release("w")
            jobs.suspend(held[1])
        assert claim_all(jobs) == [lost.id, paused.id]

    def test_one_that_was_begun_goes_on_before_all_others(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        begun = create(jobs, priority="low")
        taken = claim(jobs, begun)
        urgent = create(jobs, priority="high")
        jobs.suspend(taken)
        age(client, begun, -2 * HOUR_MS)  # the clock was set back
        assert claim_all(jobs) == [begun.id, urgent.id]

    def test_two_hours_make_up_for_two_ranks(self, jobs: Jobs, client: redis.Redis) -> None:
        patient, urgent = create(jobs, priority="low"), create(jobs, priority="high")
        age(client, patient, 2 * HOUR_MS + 1000)
        assert claim_all(jobs) == [patient.id, urgent.id]

    def test_the_lanes_are_apart(self, jobs: Jobs) -> None:
        slow, fast = create(jobs), create(jobs, lane="fast")
        assert claim_all(jobs, "fast") == [fast.id]
        assert claim_all(jobs, "jobs") == [slow.id]

    def test_a_job_that_vanished_is_passed_over(self, jobs: Jobs, client: redis.Redis) -> None:
        gone, there = create_apart(jobs, 2)
        client.delete(JOB + gone.id)
        client.zadd(QUEUED + "jobs", {"job_never_was": 0})
        claim(jobs, there)
        assert client.exists(QUEUED + "jobs", JOB + gone.id, JOB + "job_never_was") == 0

    def test_a_job_in_another_state_is_passed_over(self, jobs: Jobs, client: redis.Redis) -> None:
        over, there = create_apart(jobs, 2)
        jobs.cancel(over.id)
        client.zadd(QUEUED + "jobs", {over.id: 0})
        claim(jobs, there)
        assert status_of(jobs, over) == "canceled"

    def test_a_late_job_is_not_begun(self, jobs: Jobs, client: redis.Redis) -> None:
        late, there = create_apart(jobs, 2, webhook=HOOK)
        end_time(client, late)
        claim(jobs, there)
        ended = read(jobs, late)
        assert (ended.status, ended.attempts, ended.started_at) == ("expired", 0, None)
        assert ended.error is not None
        assert ended.error["type"] == "/problems/deadline"
        assert story(jobs, late) == ["queued", "done"]
        assert is_nowhere(client, late)
        assert client.zrange(OUTBOX, 0, -1) == [late.id.encode()]

    def test_a_lane_of_late_jobs_gives_nothing(self, jobs: Jobs, client: redis.Redis) -> None:
        made = [create(jobs) for _ in range(5)]
        for job in made:
            end_time(client, job)
        assert jobs.claim("jobs", "worker") is None
        assert {status_of(jobs, job) for job in made} == {"expired"}

    def test_a_real_deadline_passes(self, jobs: Jobs) -> None:
        job = create(jobs, deadline_s=0.05)
        time.sleep(0.06)
        assert jobs.claim("jobs", "worker") is None
        assert status_of(jobs, job) == "expired"

    def test_the_first_start_stays_the_start(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claim(jobs, job)
        started = read(jobs, job).started_at
        end_lease(client, job)
        jobs.reap()
        time.sleep(0.01)
        claim(jobs, job)
        assert read(jobs, job).started_at == started

    @pytest.mark.parametrize("status", ["running", "paused", *FINAL])
    def test_only_what_waits_is_given_out(self, jobs: Jobs, status: Status) -> None:
        bring(jobs, create(jobs), status)
        assert jobs.claim("jobs", "worker") is None

    def test_one_of_sixteen_racing_workers_gets_it(self, jobs: Jobs) -> None:
        job = create(jobs)
        claims = race(16, lambda n: jobs.claim("jobs", f"worker-{n}"))
        assert [c.fence for c in claims if c is not None] == [1]
        assert read(jobs, job).attempts == 1

    def test_racing_threads_get_different_jobs(self, make_jobs: MakeJobs) -> None:
        jobs = make_jobs(max_active=200, max_queued=200)
        made = [create(jobs).id for _ in range(200)]
        taken = list(itertools.chain(*race(2, lambda _: claim_all(jobs))))
        assert sorted(taken) == sorted(made)
        assert jobs.counts() == {"queued": 0, "running": 200}

    def test_racing_processes_get_different_jobs(self, make_jobs: MakeJobs, redis_url: str) -> None:
        jobs = make_jobs(max_active=200, max_queued=200)
        made = [create(jobs).id for _ in range(200)]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=spawn) as pool:
            shares = list(pool.map(claim_in_process, [redis_url] * 2))
        assert all(shares)
        assert sorted(itertools.chain(*shares)) == sorted(made)
        assert {jobs.get_all([name])[0].attempts for name in made} == {1}


def claim_in_process(url: str) -> list[str]:
    """Claim jobs as soon as another process does, slowly enough for both to get some."""
    limits = Limits(lease_s=5, ttl_s=60, max_attempts=3, max_queued=9, max_active=9, max_age_s=60)
    with redis.Redis.from_url(url) as client:
        jobs = Jobs(client, limits)
        client.incr("test:ready")
        while int(client.get("test:ready") or 0) < 2:
            time.sleep(0.001)
        taken = []
        while claimed := jobs.claim("jobs", "worker"):
            taken.append(claimed.job_id)
            time.sleep(0.001)
    return taken


class TestBeat:
    def test_it_renews_the_lease(self, make_jobs: MakeJobs) -> None:
        jobs = make_jobs(lease_s=0.4)
        job = create(jobs)
        claimed = claim(jobs, job)
        for _ in range(4):
            time.sleep(0.15)
            assert jobs.beat(claimed) == "ok"
            jobs.reap()
            assert status_of(jobs, job) == "running"

    def test_it_records_progress(self, jobs: Jobs) -> None:
        job = create(jobs)
        progress = {"done": 3, "total": 10, "fraction": 0.3, "loss": 0.125, "eta_s": None}
        assert jobs.beat(claim(jobs, job), progress=progress) == "ok"
        assert read(jobs, job).progress == progress
        assert events(jobs, job)[-1] == ("progress", progress)

    def test_it_records_previews(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert jobs.previews(job.id) == []
        for step in (0, 7, 12, 100, 7):
            jobs.beat(claimed, preview=step)
        assert read(jobs, job).preview_step == 7
        assert jobs.previews(job.id) == [0, 7, 12, 100]
        url = f"/v1/jobs/{job.id}/previews/7"
        assert events(jobs, job)[-1] == ("preview", {"step": 7, "url": url})
        assert story(jobs, job) == ["queued", "running"] + ["preview"] * 5

    def test_progress_is_told_before_its_preview(self, jobs: Jobs) -> None:
        job = create(jobs)
        jobs.beat(claim(jobs, job), progress={"done": 1}, preview=1)
        assert story(jobs, job) == ["queued", "running", "progress", "preview"]

    def test_it_records_where_the_state_is_kept(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert read(jobs, job).checkpoint is None
        jobs.beat(claimed, checkpoint="state-1")
        jobs.beat(claimed)
        assert read(jobs, job).checkpoint == "state-1"
        assert story(jobs, job) == ["queued", "running"]

    def test_getting_further_takes_back_the_failures(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claim(jobs, job)
        end_lease(client, job)
        jobs.reap()
        claimed = claim(jobs, job)
        jobs.beat(claimed, progress={"done": 1}, preview=1)
        assert failures(client, job) == 2
        jobs.beat(claimed, checkpoint="state-1")
        assert failures(client, job) == 0
        assert read(jobs, job).attempts == 2

    def test_a_bare_sign_of_life_is_no_event(self, jobs: Jobs) -> None:
        job = create(jobs)
        jobs.beat(claim(jobs, job))
        assert story(jobs, job) == ["queued", "running"]

    def test_it_tells_of_each_wish_again_and_again(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job, "mine:1")
        assert [jobs.beat(claimed), jobs.beat(claimed)] == ["ok", "ok"]
        jobs.release("mine")
        assert [jobs.beat(claimed), jobs.beat(claimed)] == ["release", "release"]
        jobs.pause(job.id)
        assert [jobs.beat(claimed), jobs.beat(claimed)] == ["pause", "pause"]
        jobs.cancel(job.id)
        assert [jobs.beat(claimed), jobs.beat(claimed)] == ["cancel", "cancel"]

    def test_it_tells_of_the_deadline(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        end_time(client, job)
        assert jobs.beat(claimed, progress={"done": 1}) == "late"
        assert status_of(jobs, job) == "running"
        assert read(jobs, job).progress == {"done": 1}

    def test_a_wrong_fence_is_lost_and_writes_nothing(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        before = snapshot(client)
        for fence in (claimed.fence - 1, claimed.fence + 1):
            wrong = Claim(job.id, fence)
            news: dict[str, Any] = {"progress": {"done": 1}, "preview": 1, "checkpoint": "x"}
            assert jobs.beat(wrong, **news) == "lost"
        assert snapshot(client) == before

    @pytest.mark.parametrize("status", ["paused", *FINAL])
    def test_what_runs_no_more_is_lost_to_its_worker(self, jobs: Jobs, status: Status) -> None:
        claimed = bring(jobs, create(jobs), status)
        assert claimed is not None
        assert jobs.beat(claimed) == "lost"

    def test_an_unknown_job_is_lost(self, jobs: Jobs, client: redis.Redis) -> None:
        assert jobs.beat(Claim(new_id(), 1), progress={"done": 1}) == "lost"
        assert client.keys("*") == []

    def test_the_history_is_bounded(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        for step in range(1500):
            jobs.beat(claimed, progress={"done": step})
        assert client.xlen(JOB + job.id + ":events") < 800
        assert read(jobs, job).progress == {"done": 1499}


class TestSuspend:
    def test_a_paused_job_waits_for_its_caller(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, progress={"done": 5}, checkpoint="state-1")
        jobs.pause(job.id)
        assert jobs.suspend(claimed)
        paused = read(jobs, job)
        assert (paused.status, paused.checkpoint) == ("paused", "state-1")
        assert paused.progress == {"done": 5}
        assert jobs.counts() == {"queued": 0, "running": 0}
        assert jobs.claim("jobs", "other") is None
        assert story(jobs, job)[-1] == "paused"
        assert client.ttl(JOB + job.id) == -1

    def test_a_released_job_waits_for_another_worker(self, jobs: Jobs, client: redis.Redis) -> None:
        job, later = create_apart(jobs, 2)
        claimed = claim(jobs, job, "mine:1")
        jobs.release("mine")
        assert jobs.suspend(claimed)
        assert story(jobs, job) == ["queued", "running", "queued"]
        assert failures(client, job) == 0
        again = claim(jobs, job, "other")  # where it was: before what came later
        assert again.fence > claimed.fence
        assert jobs.beat(again) == "ok"
        assert read(jobs, job).attempts == 2
        claim(jobs, later)

    def test_being_released_is_no_failure_however_often(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_attempts=2)
        job = create(jobs)
        for _ in range(5):
            assert jobs.suspend(claim(jobs, job))
        claim(jobs, job)
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "queued"

    def test_whoever_put_it_down_holds_it_no_more(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert jobs.suspend(claimed)
        before = snapshot(client)
        assert jobs.beat(claimed, progress={"done": 1}) == "lost"
        assert not jobs.suspend(claimed)
        assert not jobs.finish(claimed, "succeeded", result=RESULT)
        assert snapshot(client) == before

    def test_a_zombie_puts_nothing_down(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        zombie = claim(jobs, job, "zombie")
        end_lease(client, job)
        jobs.reap()
        assert not jobs.suspend(zombie)
        heir = claim(jobs, job, "heir")
        before = snapshot(client)
        assert not jobs.suspend(zombie)
        assert snapshot(client) == before
        assert jobs.finish(heir, "succeeded")
        assert not jobs.suspend(zombie)
        assert status_of(jobs, job) == "succeeded"

    def test_an_unknown_job_is_not_made(self, jobs: Jobs, client: redis.Redis) -> None:
        assert not jobs.suspend(Claim(new_id(), 1))
        assert client.keys("*") == []

    def test_a_cancellation_that_came_meanwhile_counts(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs, webhook=HOOK)
        claimed = claim(jobs, job)
        jobs.cancel(job.id)
        jobs.suspend(claimed)
        assert status_of(jobs, job) == "canceled"
        assert story(jobs, job).count("done") == 1
        assert is_nowhere(client, job)

    def test_a_resumption_that_came_meanwhile_counts(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.pause(job.id)
        assert jobs.beat(claimed) == "pause"
        assert jobs.resume(job.id) == "running"
        jobs.suspend(claimed)
        assert status_of(jobs, job) == "queued"

    def test_a_pause_that_came_meanwhile_counts(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job, "mine:1")
        jobs.release("mine")
        assert jobs.beat(claimed) == "release"
        jobs.pause(job.id)
        jobs.suspend(claimed)
        assert status_of(jobs, job) == "paused"

    def test_being_paused_is_no_failure(self, make_jobs: MakeJobs, client: redis.Redis) -> None:
        jobs = make_jobs(max_attempts=2)
        job = create(jobs)
        for _ in range(3):
            claimed = claim(jobs, job)
            jobs.pause(job.id)
            assert jobs.suspend(claimed)
            jobs.resume(job.id)
        claim(jobs, job)
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "queued"

    def test_a_release_after_a_checkpoint_gives_no_further_attempt(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_attempts=1)
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, checkpoint="state-1")
        jobs.suspend(claimed)
        assert failures(client, job) == 0
        claim(jobs, job)
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "failed"


class TestFinish:
    def test_asked_twice_it_says_the_same(self, jobs: Jobs) -> None:
        # the client asks again when the answer is lost
        job = create(jobs)
        claimed = claim(jobs, job)
        for _ in range(2):
            assert jobs.finish(claimed, "succeeded", result=RESULT, token="mine")
        assert not jobs.finish(claimed, "succeeded", result=RESULT)
        assert story(jobs, job).count("done") == 1

    @pytest.mark.parametrize("status", FINAL)
    def test_it_ends_the_job_with_event_and_expiry(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, progress={"done": 1}, preview=1)
        assert jobs.finish(claimed, status, result={"r": 1}, error={"e": 2})
        done = read(jobs, job)
        assert (done.status, done.is_final) == (status, True)
        assert (done.result, done.error) == ({"r": 1}, {"e": 2})
        assert done.progress == {"done": 1}
        assert done.finished_at is not None
        assert done.expires_at == pytest.approx(done.finished_at + 60)
        assert events(jobs, job)[-1] == ("done", {"status": status})
        assert story(jobs, job).count("done") == 1
        assert jobs.counts() == {"queued": 0, "running": 0}
        assert is_nowhere(client, job)
        for part in ("", ":events", ":previews"):
            assert 0 < client.ttl(JOB + job.id + part) <= 60, part

    def test_a_job_has_exactly_one_end(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        ends = [status for status in FINAL for _ in range(4)]
        won = race(16, lambda n: jobs.finish(claimed, ends[n], result={"n": n}))
        assert won.count(True) == 1
        winner = won.index(True)
        assert read(jobs, job).status == ends[winner]
        assert read(jobs, job).result == {"n": winner}
        assert story(jobs, job).count("done") == 1

    def test_a_zombie_changes_nothing_after_a_takeover(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        zombie = claim(jobs, job, "zombie")
        end_lease(client, job)
        jobs.reap()
        heir = claim(jobs, job, "heir")
        before = snapshot(client)
        assert jobs.beat(zombie, progress={"done": 9}, preview=9, checkpoint="x") == "lost"
        assert not jobs.finish(zombie, "failed", error={"by": "zombie"})
        assert snapshot(client) == before
        assert jobs.finish(heir, "succeeded", result={"by": "heir"})
        before = snapshot(client)
        assert not jobs.finish(zombie, "failed", error={"by": "zombie"})
        assert snapshot(client) == before
        assert story(jobs, job) == ["queued", "running", "queued", "running", "done"]

    def test_a_silent_worker_whom_nobody_missed_may_still_end_its_job(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        end_lease(client, job)
        assert jobs.finish(claimed, "succeeded", result=RESULT)
        jobs.reap()
        assert status_of(jobs, job) == "succeeded"

    def test_a_cancellation_wins_over_success(self, jobs: Jobs) -> None:
        job = create(jobs, cache="name")
        claimed = claim(jobs, job)
        jobs.cancel(job.id)
        assert not jobs.finish(claimed, "succeeded", result=RESULT)
        done = read(jobs, job)
        assert (done.status, done.result) == ("canceled", None)
        assert events(jobs, job)[-1] == ("done", {"status": "canceled"})
        assert jobs.known("name") is None

    @pytest.mark.parametrize("status", ["failed", "canceled", "expired"])
    def test_a_cancellation_leaves_other_ends_as_they_are(self, jobs: Jobs, status: Status) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.cancel(job.id)
        assert jobs.finish(claimed, status)
        assert status_of(jobs, job) == status

    @pytest.mark.parametrize("wish", ["pause", "release"])
    def test_what_is_ready_is_not_put_down(self, jobs: Jobs, wish: str) -> None:
        job = create(jobs)
        claimed = claim(jobs, job, "mine:1")
        jobs.pause(job.id) if wish == "pause" else jobs.release("mine")
        assert jobs.finish(claimed, "succeeded", result=RESULT)
        assert status_of(jobs, job) == "succeeded"

    def test_what_was_computed_is_known_from_then_on(self, jobs: Jobs, client: redis.Redis) -> None:
        job, later = create_apart(jobs, 2, cache="name")
        assert jobs.known("name") is None
        jobs.finish(claim(jobs, job), "succeeded", result=RESULT)
        assert jobs.known("name") == read(jobs, job)
        assert 0 < client.ttl(CACHE + "name") <= 60
        jobs.finish(claim(jobs, later), "succeeded", result=RESULT)
        assert jobs.known("name") == read(jobs, later)
        jobs.delete(later)
        assert jobs.known("name") is None

    @pytest.mark.parametrize("status", ["failed", "canceled", "expired"])
    def test_only_success_is_known(self, jobs: Jobs, client: redis.Redis, status: Status) -> None:
        job = create(jobs, cache="name")
        jobs.finish(claim(jobs, job), status)
        assert jobs.known("name") is None
        assert client.keys(CACHE + "*") == []

    def test_a_job_without_a_name_is_not_known(self, jobs: Jobs, client: redis.Redis) -> None:
        jobs.finish(claim(jobs, create(jobs)), "succeeded", result=RESULT)
        assert client.keys(CACHE + "*") == []

    def test_an_unknown_job_is_not_made(self, jobs: Jobs, client: redis.Redis) -> None:
        assert not jobs.finish(Claim(new_id(), 1), "succeeded")
        assert client.keys("*") == []

    @pytest.mark.parametrize("end", ["canceled", "expired", "poison"])
    def test_the_bytes_of_a_job_no_worker_ended_can_be_found(
        self, make_jobs: MakeJobs, client: redis.Redis, end: str
    ) -> None:
        jobs = make_jobs(max_attempts=0)
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, checkpoint="state-1")
        if end == "poison":
            end_lease(client, job)
        else:
            jobs.suspend(claimed)
        if end == "canceled":
            jobs.cancel(job.id)
        elif end == "expired":
            end_time(client, job)
        jobs.reap()
        over = read(jobs, job)
        assert over.is_final
        assert "state-1" in job_bytes.names(over)


class TestCancel:
    @pytest.mark.parametrize("status", ["queued", "paused"])
    def test_a_job_nobody_works_on_ends_at_once(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs, webhook=HOOK)
        bring(jobs, job, status)
        assert jobs.cancel(job.id) == "canceled"
        done = read(jobs, job)
        assert (done.status, done.error) == ("canceled", None)
        assert done.finished_at is not None
        assert done.expires_at == pytest.approx(done.finished_at + 60)
        assert is_nowhere(client, job)
        assert events(jobs, job)[-1] == ("done", {"status": "canceled"})
        assert jobs.claim("jobs", "worker") is None
        for part in ("", ":events"):
            assert 0 < client.ttl(JOB + job.id + part) <= 60
        assert client.zrange(OUTBOX, 0, -1) == [job.id.encode()]

    def test_a_running_job_is_told_to_end(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert jobs.cancel(job.id) == "running"
        assert status_of(jobs, job) == "running"
        assert jobs.beat(claimed) == "cancel"
        assert jobs.finish(claimed, "canceled")
        assert story(jobs, job) == ["queued", "running", "done"]

    @pytest.mark.parametrize("status", FINAL)
    def test_a_finished_job_stays_as_it_is(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs)
        bring(jobs, job, status)
        before = snapshot(client)
        assert jobs.cancel(job.id) == status
        assert snapshot(client) == before

    def test_cancelling_and_claiming_never_both_win(self, jobs: Jobs) -> None:
        made = [create(jobs) for _ in range(40)]

        def act(number: int) -> list[Any]:
            if number == 0:
                return claim_all(jobs)
            return [jobs.cancel(job.id) for job in reversed(made)]

        claimed, ends = race(2, act)
        for job, status in zip(reversed(made), ends, strict=True):
            assert (job.id in claimed) == (status == "running")

    def test_cancelling_and_ending_leave_one_end(self, jobs: Jobs) -> None:
        made = [create(jobs) for _ in range(40)]
        claims = [jobs.claim("jobs", "worker") for _ in made]

        def act(number: int) -> list[Any]:
            if number == 0:
                return [jobs.finish(c, "succeeded", result=RESULT) for c in claims if c]
            return [jobs.cancel(c.job_id) for c in reversed(claims) if c]

        ends, _ = race(2, act)
        for claimed, won in zip(claims, ends, strict=True):
            assert claimed is not None
            (job,) = jobs.get_all([claimed.job_id])
            assert job.status == ("succeeded" if won else "canceled")
            assert (job.result == RESULT) == won
            assert story(jobs, job).count("done") == 1


class TestPauseAndResume:
    def test_a_waiting_job_pauses_at_once_and_goes_on(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job, later = create_apart(jobs, 2)
        assert jobs.pause(job.id) == "paused"
        assert status_of(jobs, job) == "paused"
        assert jobs.counts() == {"queued": 1, "running": 0}
        assert client.ttl(JOB + job.id) == -1
        assert jobs.resume(job.id) == "queued"
        assert story(jobs, job) == ["queued", "paused", "queued"]
        assert claim_all(jobs) == [job.id, later.id]  # where it was

    def test_a_running_job_is_told_to_pause(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert jobs.pause(job.id) == "running"
        assert status_of(jobs, job) == "running"
        assert jobs.beat(claimed) == "pause"
        assert jobs.suspend(claimed)
        assert jobs.resume(job.id) == "queued"
        again = claim(jobs, job)
        assert jobs.beat(again) == "ok"  # the wish is fulfilled

    def test_a_running_job_need_not_pause_after_all(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.pause(job.id)
        assert jobs.resume(job.id) == "running"
        assert jobs.beat(claimed) == "ok"

    def test_a_cancellation_is_not_taken_back(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.cancel(job.id)
        assert jobs.pause(job.id) == "running"
        assert jobs.beat(claimed) == "cancel"
        assert jobs.resume(job.id) == "running"
        assert jobs.beat(claimed) == "cancel"

    @pytest.mark.parametrize("status", ["paused", *FINAL])
    def test_pausing_what_does_not_go_on_changes_nothing(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs)
        bring(jobs, job, status)
        before = snapshot(client)
        assert jobs.pause(job.id) == status
        assert snapshot(client) == before

    @pytest.mark.parametrize("status", ["queued", "running", *FINAL])
    def test_resuming_what_is_not_paused_changes_nothing(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs)
        bring(jobs, job, status)
        before = snapshot(client)
        assert jobs.resume(job.id) == status
        assert snapshot(client) == before

    @pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
    def test_an_unknown_job_has_no_status(self, jobs: Jobs, client: redis.Redis, verb: str) -> None:
        assert getattr(jobs, verb)(new_id()) is None
        assert client.keys("*") == []


class TestRelease:
    def test_only_the_jobs_of_the_worker_are_asked_for(self, jobs: Jobs) -> None:
        made = [create(jobs), create(jobs, lane="fast"), create(jobs, owner="other", lane="fast")]
        mine = [jobs.claim("jobs", "mine:1"), jobs.claim("fast", "mine:2")]
        others = jobs.claim("fast", "others")
        jobs.release("mine")
        assert [jobs.beat(held) for held in mine if held] == ["release", "release"]
        assert others is not None
        assert jobs.beat(others) == "ok"
        assert {status_of(jobs, job) for job in made} == {"running"}

    def test_a_wish_of_the_caller_stays(self, jobs: Jobs) -> None:
        canceled, paused = create_apart(jobs, 2)
        claims = [claim(jobs, canceled, "mine:1"), claim(jobs, paused, "mine:1")]
        jobs.cancel(canceled.id)
        jobs.pause(paused.id)
        jobs.release("mine")
        assert [jobs.beat(held) for held in claims] == ["cancel", "pause"]

    def test_a_worker_without_jobs_is_no_trouble(self, jobs: Jobs, client: redis.Redis) -> None:
        jobs.release("nobody")
        assert client.keys("*") == []

    def test_a_pause_that_is_taken_back_leaves_the_release(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job, "mine:1")
        jobs.release("mine")
        jobs.pause(job.id)
        jobs.resume(job.id)
        assert jobs.beat(claimed) == "release"


class TestReap:
    def test_a_living_worker_keeps_its_job(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claim(jobs, job)
        before = snapshot(client)
        assert jobs.reap() == {"fast": 0, "jobs": 0}
        assert snapshot(client) == before

    def test_a_silent_workers_job_goes_back(self, make_jobs: MakeJobs) -> None:
        jobs = make_jobs(lease_s=0.1)
        job = create(jobs)
        old = claim(jobs, job)
        time.sleep(0.15)
        assert jobs.reap() == {"fast": 0, "jobs": 1}
        assert jobs.reap() == {"fast": 0, "jobs": 1}
        assert status_of(jobs, job) == "queued"
        assert jobs.counts() == {"queued": 1, "running": 0}
        assert jobs.beat(old, progress={"done": 1}) == "lost"
        assert not jobs.finish(old, "succeeded")
        new = claim(jobs, job)
        assert new.fence > old.fence
        assert read(jobs, job).attempts == 2
        assert story(jobs, job) == ["queued", "running", "queued", "running"]

    def test_it_goes_back_to_where_it_was(self, jobs: Jobs, client: redis.Redis) -> None:
        ranks: list[Priority] = ["low", "normal", "high"]
        made = {rank: create_apart(jobs, 2, priority=rank) for rank in ranks}
        for _ in range(4):
            jobs.claim("jobs", "worker")
        for job in (made["high"][0], made["normal"][1]):
            end_lease(client, job)
        jobs.reap()
        expected = [made["high"][0], made["normal"][1], *made["low"]]
        assert claim_all(jobs) == [job.id for job in expected]

    def test_what_was_reached_is_kept(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        jobs.beat(claim(jobs, job), progress={"done": 4}, preview=4, checkpoint="state-1")
        end_lease(client, job)
        jobs.reap()
        waiting = read(jobs, job)
        assert (waiting.checkpoint, waiting.preview_step) == ("state-1", 4)
        assert waiting.progress == {"done": 4}

    def test_a_job_that_kills_its_workers_is_given_up(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_attempts=3)
        job = create(jobs, webhook=HOOK)
        for attempt in range(3):
            last = claim(jobs, job)
            end_lease(client, job)
            assert jobs.reap()["jobs"] == (1 if attempt < 2 else 0)
        dead = read(jobs, job)
        assert (dead.status, dead.attempts) == ("failed", 3)
        assert dead.error is not None
        assert dead.error["type"] == "/problems/poison"
        assert dead.error["retryable"] is False
        assert dead.finished_at is not None
        assert dead.expires_at == pytest.approx(dead.finished_at + 60)
        assert events(jobs, job)[-1] == ("done", {"status": "failed"})
        assert is_nowhere(client, job)
        assert not jobs.finish(last, "succeeded")
        assert 0 < client.ttl(JOB + job.id) <= 60
        assert client.zrange(OUTBOX, 0, -1) == [job.id.encode()]

    def test_a_job_that_gets_further_each_time_is_not_given_up(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_attempts=2)
        job = create(jobs)
        for attempt in range(6):
            claimed = claim(jobs, job)
            jobs.beat(claimed, checkpoint=f"state-{attempt}")
            end_lease(client, job)
            jobs.reap()
        claim(jobs, job)
        end_lease(client, job)
        jobs.reap()
        assert (status_of(jobs, job), read(jobs, job).attempts) == ("queued", 7)
        claim(jobs, job)
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "failed"  # twice without getting further

    def test_a_canceled_job_whose_worker_is_lost_ends_canceled(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs, webhook=HOOK)
        claimed = claim(jobs, job)
        jobs.cancel(job.id)
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "canceled"
        assert events(jobs, job)[-1] == ("done", {"status": "canceled"})
        assert not jobs.finish(claimed, "succeeded")
        assert jobs.claim("jobs", "worker") is None
        assert client.zcard(OUTBOX) == 1

    def test_a_job_to_pause_whose_worker_is_lost_is_paused(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.pause(job.id)
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "paused"
        assert jobs.beat(claimed) == "lost"
        assert jobs.resume(job.id) == "queued"
        assert jobs.beat(claim(jobs, job)) == "ok"

    def test_a_job_to_release_whose_worker_is_lost_waits_again(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claim(jobs, job, "mine:1")
        jobs.release("mine")
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "queued"
        assert jobs.beat(claim(jobs, job)) == "ok"

    @pytest.mark.parametrize("status", ["queued", "paused"])
    def test_a_job_past_its_deadline_ends_though_nobody_claims_it(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs, webhook=HOOK)
        bring(jobs, job, status)
        jobs.reap()
        assert status_of(jobs, job) == status
        end_time(client, job)
        jobs.reap()
        late = read(jobs, job)
        assert late.status == "expired"
        assert late.error is not None
        assert late.error["type"] == "/problems/deadline"
        assert story(jobs, job).count("done") == 1
        assert is_nowhere(client, job)
        assert client.zcard(OUTBOX) == 1
        assert jobs.resume(job.id) == "expired"

    def test_a_late_job_that_runs_is_its_workers_to_end(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        end_time(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "running"
        assert jobs.finish(claimed, "expired")
        assert is_nowhere(client, job)

    def test_a_late_job_whose_worker_is_lost_expires(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claim(jobs, job)
        end_time(client, job)
        end_lease(client, job)
        jobs.reap()
        assert status_of(jobs, job) == "expired"
        assert story(jobs, job).count("done") == 1

    def test_what_has_vanished_is_swept_out(self, jobs: Jobs, client: redis.Redis) -> None:
        for index in (RUNNING, DEADLINES):
            client.zadd(index, {"job_gone": 1, "job_never_was": 2})
        jobs.reap()
        assert snapshot(client) == {}

    def test_each_lane_is_counted(self, jobs: Jobs) -> None:
        for lane, count in (("fast", 2), ("jobs", 3)):
            for _ in range(count):
                create(jobs, lane=lane)
        assert jobs.reap() == {"fast": 2, "jobs": 3}
        jobs.claim("jobs", "worker")
        assert jobs.reap() == {"fast": 2, "jobs": 2}

    def test_racing_caretakers_bring_each_job_back_once(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_active=150, max_queued=150)
        made = [create(jobs) for _ in range(150)]  # more than one pass takes
        claim_all(jobs)
        for job in made:
            end_lease(client, job)
        race(4, lambda _: jobs.reap())
        assert jobs.reap()["jobs"] == 150
        assert {tuple(story(jobs, job)) for job in made} == {("queued", "running", "queued")}


class TestClock:
    """The clock of Redis's machine is set: everything stored is an hour off."""

    @pytest.fixture
    def jobs(self, make_jobs: MakeJobs) -> Jobs:
        return make_jobs(lease_s=0.3, max_age_s=7 * 24 * 3600)

    @pytest.mark.parametrize("ms", [-HOUR_MS, HOUR_MS])
    def test_what_waits_keeps_its_order(self, jobs: Jobs, client: redis.Redis, ms: int) -> None:
        made = [job.id for job in create_apart(jobs, 4)]
        jobs.pause(made[1])
        set_clock(client, ms)
        jobs.reap()
        jobs.resume(made[1])
        assert claim_all(jobs) == made

    def test_set_back_a_silent_workers_job_still_comes_back_in_time(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claim(jobs, job)
        set_clock(client, -HOUR_MS)
        jobs.reap()
        assert status_of(jobs, job) == "running"
        assert cast(float, client.zscore(RUNNING, job.id)) < time.time() * 1000 + 301
        time.sleep(0.35)
        assert jobs.reap()["jobs"] == 1
        jobs.finish(claim(jobs, job), "succeeded")
        assert story(jobs, job) == ["queued", "running", "queued", "running", "done"]

    def test_set_back_many_leases_are_put_right(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(lease_s=5, max_active=250, max_queued=250)
        for _ in range(250):
            create(jobs)
        claim_all(jobs)
        set_clock(client, -HOUR_MS)
        for _ in range(3):  # a hundred in each pass
            jobs.reap()
        assert client.zcount(RUNNING, 0, time.time() * 1000 + 5001) == 250

    def test_set_back_a_message_is_delivered_in_time(self, jobs: Jobs, client: redis.Redis) -> None:
        waits = {create(jobs, webhook=HOOK).id: wait_ms for wait_ms in (-1000, 60_000)}
        began = time.time() * 1000
        for job_id, wait_ms in waits.items():
            jobs.cancel(job_id)
            client.zadd(OUTBOX, {job_id: began + wait_ms})
        jobs.reap()
        set_clock(client, -HOUR_MS)
        for _ in range(2):  # what is put right is so once and for all
            jobs.reap()
            for job_id, wait_ms in waits.items():
                due = cast(float, client.zscore(OUTBOX, job_id))
                assert abs(due - began - wait_ms) < 2000

    @pytest.mark.parametrize("ms", [-HOUR_MS, HOUR_MS])
    def test_a_living_worker_goes_on_where_it_beats_first(
        self, jobs: Jobs, client: redis.Redis, ms: int
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        set_clock(client, ms)
        assert jobs.beat(claimed) == "ok"
        jobs.reap()
        assert jobs.finish(claimed, "succeeded", result=RESULT)
        assert story(jobs, job) == ["queued", "running", "done"]

    def test_set_on_a_living_worker_loses_its_job_and_nobody_else_does(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs, webhook=HOOK)
        claimed = claim(jobs, job)
        set_clock(client, HOUR_MS)
        assert jobs.reap()["jobs"] == 1
        heir = claim(jobs, job, "heir")
        assert jobs.beat(claimed) == "lost"
        assert not jobs.finish(claimed, "succeeded", result={"by": "first"})
        assert jobs.finish(heir, "succeeded", result={"by": "heir"})
        assert read(jobs, job).result == {"by": "heir"}
        assert story(jobs, job).count("done") == 1
        assert client.zcard(OUTBOX) == 1

    def test_set_on_and_back_nothing_is_lost(self, jobs: Jobs, client: redis.Redis) -> None:
        made = [create(jobs) for _ in range(6)]
        claims = [claimed for _ in range(4) if (claimed := jobs.claim("jobs", "w"))]
        for ms in (HOUR_MS, -HOUR_MS, -HOUR_MS, HOUR_MS):
            set_clock(client, ms)
            jobs.reap()
            claims += [claimed for _ in range(2) if (claimed := jobs.claim("jobs", "w"))]
        time.sleep(0.35)
        jobs.reap()
        claims += [claimed for _ in made if (claimed := jobs.claim("jobs", "w"))]
        won = Counter(held.job_id for held in claims if jobs.finish(held, "succeeded"))
        ended = {job.id: story(jobs, job).count("done") for job in made}
        assert set(ended.values()) == {1}
        # each either by one worker, or given up as its workers seemed to die
        for job in made:
            assert won[job.id] == (status_of(jobs, job) == "succeeded")
        assert jobs.counts() == {"queued": 0, "running": 0}

    @pytest.mark.parametrize("ms", [-HOUR_MS, HOUR_MS])
    def test_events_stay_in_order(self, jobs: Jobs, client: redis.Redis, ms: int) -> None:
        job = create(jobs)
        name = f"{int(time.time() * 1000) + ms}-0"
        stream = JOB + job.id + ":events"
        if ms > 0:  # written while the clock was ahead: what follows comes behind it all the same
            client.xadd(stream, {"event": "progress", "data": "{}"}, id=name)
        jobs.cancel(job.id)
        assert story(jobs, job)[-1] == "done"
        assert story(jobs, job)[0] == "queued"


class TestMemory:
    """Redis has no memory left: nothing new begins, what is under way can end."""

    def fill(self, client: redis.Redis) -> None:
        client.config_set("maxmemory", 1)

    def test_a_job_is_refused_and_leaves_nothing(self, jobs: Jobs, client: redis.Redis) -> None:
        create(jobs, key="a", fingerprint="a")
        before = snapshot(client)
        self.fill(client)
        for result in (None, RESULT):
            with pytest.raises(redis.ResponseError, match="maxmemory"):
                jobs.create(order(result=result), key="b", fingerprint="b")
        assert snapshot(client) == before
        assert not jobs.create(order(), key="a", fingerprint="a")[1]  # needs no memory
        client.config_set("maxmemory", 0)
        create(jobs, key="b", fingerprint="b")

    def test_a_job_goes_its_whole_way(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs, webhook=HOOK, cache="name")
        self.fill(client)
        claimed = claim(jobs, job)
        news: dict[str, Any] = {"progress": {"done": 1}, "preview": 1, "checkpoint": "state-1"}
        assert jobs.beat(claimed, **news) == "ok"
        assert jobs.finish(claimed, "succeeded", result=RESULT)
        done = read(jobs, job)
        assert (done.result, done.progress) == (RESULT, {"done": 1})
        assert jobs.previews(job.id) == [1]
        assert story(jobs, job) == ["queued", "running", "progress", "preview", "done"]
        assert jobs.known("name") == done
        assert client.zcard(OUTBOX) == 1
        jobs.delete(done)
        assert jobs.get(job.id) is None

    def test_a_late_job_is_passed_over(self, jobs: Jobs, client: redis.Redis) -> None:
        late, there = create_apart(jobs, 2)
        end_time(client, late)
        self.fill(client)
        claim(jobs, there)
        assert status_of(jobs, late) == "expired"

    def test_a_failure_is_recorded(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        self.fill(client)
        assert jobs.finish(claimed, "failed", error={"detail": "no room"})
        assert read(jobs, job).error == {"detail": "no room"}

    @pytest.mark.parametrize("paused", [True, False])
    def test_a_job_is_put_down_and_taken_up(
        self, jobs: Jobs, client: redis.Redis, paused: bool
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        self.fill(client)
        if paused:
            jobs.pause(job.id)
        assert jobs.suspend(claimed)
        assert jobs.resume(job.id) == "queued"
        claim(jobs, job)

    @pytest.mark.parametrize("status", LIVE)
    def test_a_job_is_canceled(self, jobs: Jobs, client: redis.Redis, status: Status) -> None:
        job = create(jobs)
        claimed = bring(jobs, job, status)
        self.fill(client)
        assert jobs.cancel(job.id) == ("running" if status == "running" else "canceled")
        if status == "running":
            assert claimed is not None
            assert jobs.beat(claimed) == "cancel"

    def test_a_waiting_job_is_paused_and_goes_on(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        self.fill(client)
        assert [jobs.pause(job.id), jobs.resume(job.id)] == ["paused", "queued"]

    def test_a_worker_is_released(self, jobs: Jobs, client: redis.Redis) -> None:
        claimed = claim(jobs, create(jobs), "mine:1")
        self.fill(client)
        jobs.release("mine")
        assert jobs.beat(claimed) == "release"

    def test_what_got_lost_is_brought_back(self, make_jobs: MakeJobs, client: redis.Redis) -> None:
        jobs = make_jobs(max_attempts=2)
        lost, dead, late = (create_apart(jobs, 1)[0] for _ in range(3))
        claim(jobs, lost)
        claim(jobs, dead)
        client.hset(JOB + dead.id, "failures", 2)
        for job in (lost, dead):
            end_lease(client, job)
        end_time(client, late)
        self.fill(client)
        assert jobs.reap()["jobs"] == 1
        ended = [status_of(jobs, job) for job in (lost, dead, late)]
        assert ended == ["queued", "failed", "expired"]

    @pytest.mark.parametrize("status", ["queued", "paused"])
    def test_a_late_job_is_ended(self, jobs: Jobs, client: redis.Redis, status: Status) -> None:
        job = create(jobs)
        bring(jobs, job, status)
        end_time(client, job)
        self.fill(client)
        jobs.reap()
        assert status_of(jobs, job) == "expired"

    def test_a_lease_is_put_right_when_the_clock_was_set_back(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claim(jobs, job)
        set_clock(client, -HOUR_MS)
        self.fill(client)
        jobs.reap()
        assert cast(float, client.zscore(RUNNING, job.id)) < time.time() * 1000 + 5001

    def test_scripts_that_redis_forgot_are_sent_again(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        self.fill(client)
        client.script_flush()
        claimed = claim(jobs, job)
        client.script_flush()
        assert jobs.finish(claimed, "succeeded")


class TestNewest:
    def test_newest_first(self, jobs: Jobs) -> None:
        made = create_apart(jobs, 5)
        assert ids(jobs.newest("me", 10)) == [job.id for job in reversed(made)]
        assert ids(jobs.newest("me", 2)) == [made[4].id, made[3].id]

    def test_each_owner_has_a_list(self, jobs: Jobs) -> None:
        made = {owner: create(jobs, owner=owner).id for owner in ("me", "you", "me:you", "")}
        for owner, job_id in made.items():
            assert ids(jobs.newest(owner, 10)) == [job_id]

    def test_each_position_leads_on(self, jobs: Jobs, client: redis.Redis) -> None:
        made = [create(jobs).id for _ in range(6)]
        client.zadd(ALL + "me", dict(zip(made, (5, 5, 5, 5, 9, 1), strict=True)))
        everything = jobs.newest("me", 10)
        assert ids(everything) == [made[4], *sorted(made[:4], reverse=True), made[5]]
        for number, position in enumerate(everything):
            assert jobs.newest("me", 10, position) == everything[number + 1 :]
            assert jobs.newest("me", 2, position) == everything[number + 1 : number + 3]

    def test_pages_miss_nothing_while_jobs_come(self, jobs: Jobs) -> None:
        made = [create(jobs).id for _ in range(20)]  # some in one millisecond
        seen: list[Position] = []
        while page := jobs.newest("me", 3, seen[-1] if seen else None):
            seen += page
            create(jobs)
        assert seen == sorted(seen, reverse=True)
        assert sorted(ids(seen)) == sorted(made)

    def test_a_position_stays_one_when_its_job_is_deleted(self, jobs: Jobs) -> None:
        made = create_apart(jobs, 3)
        _, middle, oldest = jobs.newest("me", 3)
        jobs.delete(made[1])
        assert jobs.newest("me", 3, middle) == [oldest]

    def test_what_is_a_month_old_is_left_out(self, jobs: Jobs, client: redis.Redis) -> None:
        client.zadd(ALL + "me", {"job_old": (time.time() - 31 * 24 * 3600) * 1000})
        assert ids(jobs.newest("me", 10, None)) == ["job_old"]
        job = create(jobs)
        assert ids(jobs.newest("me", 10)) == [job.id]

    def test_an_empty_store_has_none(self, jobs: Jobs) -> None:
        assert jobs.newest("me", 10) == []

    def test_many_are_read_at_once(self, jobs: Jobs) -> None:
        made = [create(jobs) for _ in range(5)]
        jobs.delete(made[2])
        found = jobs.get_all([job.id for job in made] + ["job_never_was"])
        assert found == [job for number, job in enumerate(made) if number != 2]
        assert jobs.get_all([]) == []


class TestFollowing:
    def test_events_resume_after_a_position(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        for step in range(5):
            jobs.beat(claimed, progress={"done": step})
        everything = jobs.events(job.id, "0", 0.001)
        assert len(everything) == 7
        for position, event in enumerate(everything):
            assert jobs.events(job.id, event.id, 0.001) == everything[position + 1 :]

    def test_events_are_waited_for(self, jobs: Jobs) -> None:
        job = create(jobs)
        (first,) = jobs.events(job.id, "0", 0.001)
        threading.Timer(0.1, lambda: jobs.cancel(job.id)).start()
        started = time.monotonic()
        (event,) = jobs.events(job.id, first.id, 5)
        assert (event.name, event.data) == ("done", {"status": "canceled"})
        assert time.monotonic() - started < 2

    def test_nothing_comes_within_the_time(self, jobs: Jobs) -> None:
        job = create(jobs)
        (first,) = jobs.events(job.id, "0", 0.001)
        started = time.monotonic()
        assert jobs.events(job.id, first.id, 0.1) == []
        assert time.monotonic() - started >= 0.09

    def test_the_first_event_is_the_oldest_that_is_kept(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        assert jobs.first_event(new_id()) == ""
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, progress={"done": 1})
        everything = jobs.events(job.id, "0", 0.001)
        assert jobs.first_event(job.id) == everything[0].id
        client.xtrim(JOB + job.id + ":events", maxlen=1, approximate=False)
        assert jobs.first_event(job.id) == everything[-1].id

    def test_waiting_ends_with_the_job(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        threading.Timer(0.1, lambda: jobs.finish(claimed, "succeeded", result={"n": 1})).start()
        started = time.monotonic()
        done = jobs.wait(job.id, 10)
        assert done is not None
        assert (done.status, done.result) == ("succeeded", {"n": 1})
        assert time.monotonic() - started < 3

    def test_waiting_ends_with_the_time(self, jobs: Jobs) -> None:
        job = create(jobs)
        started = time.monotonic()
        waiting = jobs.wait(job.id, 0.2)
        assert waiting is not None
        assert waiting.status == "queued"
        assert 0.15 < time.monotonic() - started < 2

    @pytest.mark.parametrize("status", FINAL)
    def test_waiting_for_what_is_over_ends_at_once(self, jobs: Jobs, status: Status) -> None:
        job = create(jobs)
        bring(jobs, job, status)
        started = time.monotonic()
        assert jobs.wait(job.id, 10) == read(jobs, job)
        assert time.monotonic() - started < 1

    def test_waiting_for_nothing_ends_at_once(self, jobs: Jobs) -> None:
        assert jobs.wait(new_id(), 5) is None

    def test_following_ends_with_done(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        seen: list[str] = []
        for event in events_until_done(jobs, job.id, "0", 0.05):
            seen.append(event.name if event else "pause")
            if seen[-1] == "pause":
                jobs.finish(claimed, "succeeded")
        assert seen == ["status", "status", "pause", "done"]

    def test_those_who_wait_for_the_same_read_once(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        (begun,) = jobs.events(job.id, "0", 0.001)
        client.config_resetstat()
        with ThreadPoolExecutor(8) as pool:
            waits = [pool.submit(jobs.events, job.id, begun.id, 0.5) for _ in range(8)]
            assert [waited.result(5) for waited in waits] == [[]] * 8
        commands = cast(dict[str, dict[str, int]], client.info("commandstats"))
        assert 1 <= commands["cmdstat_xread"]["calls"] <= 2


class TestDelete:
    def test_nothing_of_it_is_left(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, progress={"done": 1}, preview=1, checkpoint="state-1")
        jobs.finish(claimed, "succeeded")
        client.rpush(JOB + job.id + ":deliveries", "{}")
        jobs.delete(job)
        assert jobs.get(job.id) is None
        assert jobs.newest("me", 10) == []
        assert client.keys("*") == []

    def test_others_stay(self, jobs: Jobs) -> None:
        gone, there = create_apart(jobs, 2)
        for job in (gone, there):
            jobs.cancel(job.id)
        jobs.delete(gone)
        assert ids(jobs.newest("me", 10)) == [there.id]
        assert story(jobs, there) == ["queued", "done"]

    def test_the_worker_of_a_deleted_job_does_not_bring_it_back(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.delete(job)
        assert jobs.beat(claimed, progress={"done": 1}, preview=1) == "lost"
        assert not jobs.suspend(claimed)
        assert not jobs.finish(claimed, "succeeded")
        for verb in (jobs.cancel, jobs.pause, jobs.resume):
            assert verb(job.id) is None
        jobs.reap()
        assert snapshot(client) == {}

    @pytest.mark.parametrize("status", [*LIVE, *FINAL])
    def test_a_job_can_be_forgotten_wherever_it_stands(
        self, make_jobs: MakeJobs, client: redis.Redis, status: Status
    ) -> None:
        jobs = make_jobs(max_active=1)
        job = create(jobs, webhook=HOOK)
        bring(jobs, job, status)
        jobs.delete(job)
        assert client.keys("*") == []
        create(jobs)  # it counts no more

    def test_forgetting_twice_is_no_trouble(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        jobs.delete(job)
        jobs.delete(job)
        assert client.keys("*") == []


class TestWorkers:
    def test_the_living_are_counted(self, jobs: Jobs, client: redis.Redis) -> None:
        assert jobs.workers("jobs") == 0
        jobs.greet("jobs", "a", ttl_s=10)
        jobs.greet("jobs", "a", ttl_s=10)
        jobs.greet("jobs", "b", ttl_s=0.1)
        assert jobs.workers("jobs") == 2
        time.sleep(0.15)
        assert jobs.workers("jobs") == 1
        jobs.greet("jobs", "c", ttl_s=10)
        assert client.zrange(WORKERS + "jobs", 0, -1) == [b"a", b"c"]

    def test_the_lanes_are_apart(self, jobs: Jobs) -> None:
        jobs.greet("jobs", "a", ttl_s=10)
        jobs.greet("fast", "b", ttl_s=10)
        jobs.greet("fast", "a", ttl_s=10)
        assert (jobs.workers("jobs"), jobs.workers("fast")) == (1, 2)


@dataclass
class Walk:
    """Three workers and some callers who do whatever comes to their minds."""

    jobs: Jobs
    client: redis.Redis
    dice: random.Random
    made: dict[str, Job] = field(default_factory=dict)
    held: list[Claim] = field(default_factory=list)
    """Every claim there ever was: most are out of date, and used all the same."""
    seen: dict[str, Status] = field(default_factory=dict)
    """The status each job had when last looked at."""
    fences: dict[str, int] = field(default_factory=dict)
    won: Counter[str] = field(default_factory=Counter)

    def step(self) -> str:
        """Do one thing; return what was done."""
        actions: dict[Callable[[], object], int] = {
            self.create: 9, self.claim: 9, self.beat: 6, self.suspend: 4, self.finish: 3,
            self.cancel: 1, self.pause: 3, self.resume: 4, self.delete: 1, self.release: 1,
            self.die: 3, self.be_late: 1, self.reap: 4,
        }  # fmt: skip
        (action,) = self.dice.choices(list(actions), list(actions.values()))
        action()
        return getattr(action, "__name__", "")

    def create(self) -> None:
        said = self.dice.choice(["", "", "", "", "a", "b"])
        chosen = order(
            priority=self.dice.choice(["low", "normal", "high"]),
            owner=self.dice.choice(["me", "you"]),
            lane=self.dice.choice(LANES),
            webhook=self.dice.choice([None, HOOK]),
            cache=self.dice.choice(["", "x", "y"]),
            result=self.dice.choice([None, None, None, RESULT]),
        )
        try:
            job, _ = self.jobs.create(chosen, key=said, fingerprint=self.dice.choice("11112"))
        except (IdempotencyConflict, QuotaReached, QueueFull):
            return
        self.made[job.id] = job

    def claim(self) -> None:
        worker = self.dice.choice(["worker-1", "worker-2", "worker-3"])
        claimed = self.jobs.claim(self.dice.choice(LANES), worker)
        if claimed is not None:
            assert claimed not in self.held
            self.held.append(claimed)

    def beat(self) -> None:
        if claimed := self.some_claim():
            self.jobs.beat(
                claimed,
                progress=self.dice.choice([None, {"done": 1}]),
                preview=self.dice.choice([None, 0, 3]),
                checkpoint=self.dice.choice(["", "", "state"]),
            )

    def suspend(self) -> None:
        if claimed := self.some_claim():
            self.jobs.suspend(claimed)

    def finish(self) -> None:
        if claimed := self.some_claim():
            end = self.dice.choice(FINAL)
            if self.jobs.finish(claimed, end, result={"fence": claimed.fence}):
                self.won[claimed.job_id] += 1
                found = self.jobs.get(claimed.job_id)
                assert found is not None
                assert (found.status, found.result) == (end, {"fence": claimed.fence})

    def cancel(self) -> None:
        self.jobs.cancel(self.some_job())

    def pause(self) -> None:
        self.jobs.pause(self.some_job())

    def resume(self) -> None:
        self.jobs.resume(self.some_job())

    def delete(self) -> None:
        job = self.jobs.get(self.some_job())
        if job is not None and job.is_final:
            self.jobs.delete(job)
            del self.made[job.id]

    def release(self) -> None:
        self.jobs.release("worker-1")

    def reap(self) -> None:
        self.jobs.reap()

    def die(self) -> None:
        """Let a lease end."""
        running = cast(list[bytes], self.client.zrange(RUNNING, 0, -1))
        if running:
            self.client.zadd(RUNNING, {self.dice.choice(running): 1})

    def be_late(self) -> None:
        """Let a deadline pass."""
        live = cast(list[bytes], self.client.zrange(DEADLINES, 0, -1))
        if live:
            end_time(self.client, self.made[self.dice.choice(live).decode()])

    def some_job(self) -> str:
        return self.dice.choice([*self.made, "job_unknown"])

    def some_claim(self) -> Claim | None:
        """Return a claim, a late one rather than an early one."""
        recent = self.held[-4:] if self.dice.random() < 0.7 else self.held
        return self.dice.choice(recent) if recent else None

    def check(self) -> None:
        """Hold what is there against what must be true of it at any time."""
        pipe = self.client.pipeline()
        for job_id in self.made:
            pipe.hgetall(JOB + job_id)
            pipe.xrange(JOB + job_id + ":events")
            pipe.ttl(JOB + job_id)
        for key in (RUNNING, DEADLINES, OUTBOX, QUEUED + "fast", QUEUED + "jobs"):
            pipe.zrange(key, 0, -1)
        pipe.zrange(ACTIVE + "me", 0, -1)
        pipe.zrange(ACTIVE + "you", 0, -1)
        answers = pipe.execute()
        facts = dict(zip(self.made, zip(*[iter(answers[:-7])] * 3, strict=True), strict=True))
        lists = [{name.decode() for name in members} for members in answers[-7:]]
        running, deadlines, outbox, fast, slow, mine, yours = lists
        status = {job_id: of[b"status"].decode() for job_id, (of, _, _) in facts.items()}
        owner = {job_id: job.owner for job_id, job in self.made.items()}
        lane = {job_id: job.lane for job_id, job in self.made.items()}
        live = {job_id for job_id, state in status.items() if state in LIVE}
        assert running == {job_id for job_id in live if status[job_id] == "running"}
        queued = {job_id for job_id in live if status[job_id] == "queued"}
        assert fast == {job_id for job_id in queued if lane[job_id] == "fast"}
        assert slow == {job_id for job_id in queued if lane[job_id] == "jobs"}
        assert deadlines == live
        assert mine == {job_id for job_id in live if owner[job_id] == "me"}
        assert yours == {job_id for job_id in live if owner[job_id] == "you"}
        hooked = {job_id for job_id, (of, _, _) in facts.items() if b"webhook" in of}
        assert outbox & self.made.keys() == hooked - live
        for job_id, (of, entries, ttl_s) in facts.items():
            is_final = job_id not in live
            before = self.seen.get(job_id)
            assert before not in FINAL or before == status[job_id]
            self.seen[job_id] = cast(Status, status[job_id])
            done = [event for _, event in entries if event[b"event"] == b"done"]
            assert len(done) == is_final
            assert not is_final or entries[-1][1] in done
            assert not done or json.loads(done[0][b"data"]) == {"status": status[job_id]}
            assert (ttl_s > 0) == is_final
            fence = int(of[b"fence"])
            assert fence >= self.fences.get(job_id, 0)
            self.fences[job_id] = fence
            assert self.won[job_id] <= is_final
            assert b"wish" not in of or status[job_id] == "running"
            assert int(of[b"attempts"]) <= fence

    def end_everything(self) -> None:
        """Let all workers die and new ones do what is left."""
        while live := [job_id for job_id, state in self.seen.items() if state in LIVE]:
            for job_id in live:
                self.jobs.resume(job_id)
                if self.client.zscore(RUNNING, job_id) is not None:
                    self.client.zadd(RUNNING, {job_id: 1})
            self.jobs.reap()
            for lane in LANES:
                while claimed := self.jobs.claim(lane, "last"):
                    assert self.jobs.finish(claimed, "succeeded")
            self.check()


class TestAtRandom:
    @pytest.mark.parametrize("seed", range(4))
    def test_whatever_happens_the_records_agree(
        self, make_jobs: MakeJobs, client: redis.Redis, seed: int
    ) -> None:
        jobs = make_jobs(max_active=25, max_queued=20, lease_s=60)
        walk = Walk(jobs, client, random.Random(seed))
        done: list[str] = []
        for _ in range(400):
            done.append(walk.step())
            try:
                walk.check()
            except AssertionError as error:
                raise AssertionError(f"after {done[-8:]}") from error
        walk.end_everything()
        assert len(walk.seen) > 20
        assert set(walk.seen.values()) <= set(FINAL)


def ids(positions: list[Position]) -> list[str]:
    return [job_id for _, job_id in positions]


def create_apart(jobs: Jobs, count: int, **more: Any) -> list[Job]:
    """Create jobs that differ in the millisecond they were made in."""

    def made() -> Iterator[Job]:
        for _ in range(count):
            yield create(jobs, **more)
            time.sleep(0.003)

    return list(made())
