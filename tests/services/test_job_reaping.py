"""Ended leases, deadlines and lost messages, and clocks that jump."""

from __future__ import annotations

import time
from collections import Counter
from typing import cast

import pytest
import redis

from services.jobs import (
    JOB,
    RUNNING,
    Jobs,
)
from services.outbox import OUTBOX
from services.record import Priority, Status
from tests.services.job_deeds import (
    DEADLINES,
    HOOK,
    HOUR_MS,
    RESULT,
    MakeJobs,
    bring,
    claim,
    claim_all,
    create,
    end_lease,
    end_time,
    events,
    is_nowhere,
    race,
    read,
    set_clock,
    snapshot,
    status_of,
    story,
)


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
        made = {rank: [create(jobs, priority=rank) for _ in range(2)] for rank in ranks}
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
        assert "a smaller size" in dead.error["detail"]
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
        made = [create(jobs).id for _ in range(4)]
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
        self, make_jobs: MakeJobs, client: redis.Redis, ms: int
    ) -> None:
        jobs = make_jobs(lease_s=5, max_age_s=7 * 24 * 3600)
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
