"""Claiming jobs, and holding them."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, cast

import pytest
import redis

from services.jobs import (
    JOB,
    QUEUED,
    RUNNING,
    Claim,
    Jobs,
    Limits,
)
from services.outbox import OUTBOX
from services.record import FINAL, Priority, Status, new_id
from tests.services.job_deeds import (
    HOOK,
    HOUR_MS,
    MakeJobs,
    age,
    bring,
    claim,
    claim_all,
    create,
    end_lease,
    end_time,
    events,
    failures,
    is_nowhere,
    race,
    read,
    snapshot,
    status_of,
    story,
)


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
        made = [create(jobs).id for _ in range(6)]
        assert claim_all(jobs) == made

    def test_the_urgent_go_first(self, jobs: Jobs) -> None:
        ranks: list[Priority] = ["low", "normal", "high", "low", "high", "normal"]
        made = [create(jobs, priority=rank).id for rank in ranks]
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
        gone, there = create(jobs), create(jobs)
        client.delete(JOB + gone.id)
        client.zadd(QUEUED + "jobs", {"job_never_was": 0})
        claim(jobs, there)
        assert client.exists(QUEUED + "jobs", JOB + gone.id, JOB + "job_never_was") == 0

    def test_a_job_in_another_state_is_passed_over(self, jobs: Jobs, client: redis.Redis) -> None:
        over, there = create(jobs), create(jobs)
        jobs.cancel(over.id)
        client.zadd(QUEUED + "jobs", {over.id: 0})
        claim(jobs, there)
        assert status_of(jobs, over) == "canceled"

    def test_a_late_job_is_not_begun(self, jobs: Jobs, client: redis.Redis) -> None:
        late, there = create(jobs, webhook=HOOK), create(jobs, webhook=HOOK)
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
        jobs = make_jobs(lease_s=1.5)
        job = create(jobs)
        claimed = claim(jobs, job)
        for _ in range(4):
            time.sleep(0.5)
            assert jobs.beat(claimed) == "ok"
            jobs.reap()
            assert status_of(jobs, job) == "running"

    def test_it_records_progress(self, jobs: Jobs) -> None:
        job = create(jobs)
        progress = {"done": 3, "total": 10, "fraction": 0.3, "loss": 0.125, "eta_s": None}
        assert jobs.beat(claim(jobs, job), progress=progress) == "ok"
        assert read(jobs, job).progress == progress
        assert events(jobs, job)[-1] == ("progress", progress)

    def test_previews_of_an_earlier_version_are_read(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        client.zadd(f"{JOB}{job.id}:previews", {"12": 12, "3-5": 5})
        assert jobs.shown(job.id) == [(5, 3), (12, 0)]
        assert jobs.previews(job.id) == [5, 12]

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

    def test_of_a_step_that_two_workers_show_both_are_known(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        first = claim(jobs, job)
        for step in (5, 9):
            jobs.beat(first, preview=step)
        end_lease(client, job)
        jobs.reap()
        second = claim(jobs, job)
        jobs.beat(second, preview=9)
        assert jobs.beat(first, preview=9) == "lost"
        assert jobs.shown(job.id) == [(5, first.fence), (9, first.fence), (9, second.fence)]
        assert jobs.previews(job.id) == [5, 9]

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
