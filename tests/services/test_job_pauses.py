"""Jobs put aside, paused, resumed and given back."""

from __future__ import annotations

import pytest
import redis

from services.jobs import (
    JOB,
    Claim,
    Jobs,
)
from services.record import FINAL, Status, new_id
from tests.services.job_deeds import (
    HOOK,
    RESULT,
    MakeJobs,
    bring,
    claim,
    claim_all,
    create,
    end_lease,
    failures,
    is_nowhere,
    read,
    snapshot,
    status_of,
    story,
)


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
        job, later = create(jobs), create(jobs)
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


class TestPauseAndResume:
    def test_a_waiting_job_pauses_at_once_and_goes_on(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job, later = create(jobs), create(jobs)
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
        canceled, paused = create(jobs), create(jobs)
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
