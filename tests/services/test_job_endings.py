"""Jobs that finish, and jobs that are cancelled."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from services import job_bytes
from services.jobs import (
    CACHE,
    JOB,
    Claim,
    Jobs,
)
from services.outbox import OUTBOX
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
    end_time,
    events,
    is_nowhere,
    race,
    read,
    snapshot,
    status_of,
    story,
)
from tests.waiting import until


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

    def test_whose_it_was_is_known_for_longer(
        self, make_jobs: MakeJobs, client: redis.Redis
    ) -> None:
        jobs = make_jobs(ttl_s=1)
        job, deleted = create(jobs), create(jobs)
        assert jobs.owner_of_ended(job.id) is None
        for one in (job, deleted):
            assert jobs.finish(claim(jobs, one), "succeeded", result=RESULT)
        jobs.delete(deleted)
        assert jobs.owner_of_ended(deleted.id) is None
        until(lambda: jobs.get(job.id) is None)
        assert jobs.owner_of_ended(job.id) == job.owner
        assert 0 < client.pttl(JOB + job.id + ":owner") <= 1000

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
        job, later = create(jobs, cache="name"), create(jobs, cache="name")
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
        assert "state-1" in job_bytes.needed_names(over)


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
