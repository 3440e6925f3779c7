"""Creating jobs, and those that are born finished."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import Any

import pytest
import redis

from services.jobs import (
    ACTIVE,
    ALL,
    JOB,
    LATE_S,
    QUEUED,
    IdempotencyConflict,
    Jobs,
    QueueFull,
    QuotaReached,
)
from services.outbox import OUTBOX
from services.record import FINAL, LIVE, Status, new_id
from tests.services.job_deeds import (
    CALL,
    DEADLINES,
    HOOK,
    RESULT,
    MakeJobs,
    bring,
    claim,
    create,
    events,
    ids,
    is_nowhere,
    order,
    race,
    read,
    snapshot,
)


class TestCreate:
    def test_asked_twice_it_makes_one_job_and_says_it_is_new(self, jobs: Jobs) -> None:
        # the client asks again when the answer is lost
        made = dataclasses.replace(order(), id=new_id())
        for _ in range(2):
            job, is_new = jobs.create(made, key="key", fingerprint="a")
            assert (job.id, is_new) == (made.id, True)
        assert jobs.counts()["queued"] == 1

    @pytest.mark.parametrize("key", ["", "key"])
    def test_asked_again_once_it_runs_it_disturbs_nobody(
        self, jobs: Jobs, client: redis.Redis, key: str
    ) -> None:
        made = dataclasses.replace(order(webhook=HOOK), id=new_id())
        job, _ = jobs.create(made, key=key, fingerprint="a")
        claimed = claim(jobs, job)
        before = snapshot(client)
        again, is_new = jobs.create(made, key=key, fingerprint="a")
        assert (again.status, again.attempts, is_new) == ("running", 1, True)
        assert snapshot(client) == before
        assert jobs.beat(claimed) == "ok"
        assert jobs.finish(claimed, "succeeded", result=RESULT)

    @pytest.mark.parametrize("result", [None, RESULT])
    def test_asked_again_once_it_is_over_it_stays_so(
        self, jobs: Jobs, client: redis.Redis, result: dict[str, Any] | None
    ) -> None:
        made = dataclasses.replace(order(webhook=HOOK, result=result), id=new_id())
        job, _ = jobs.create(made)
        if result is None:
            assert jobs.finish(claim(jobs, job), "succeeded", result=RESULT)
        before = snapshot(client)
        again, is_new = jobs.create(made)
        assert (again.status, again.result, is_new) == ("succeeded", RESULT, True)
        assert snapshot(client) == before
        assert [name for name, _ in events(jobs, job)].count("done") == 1
        assert jobs.claim("jobs", "worker") is None

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

    def test_its_place_in_the_list_is_kept_as_long_as_a_job_can_be(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        first, whole_s = create(jobs), 600 + 60 + LATE_S
        now_ms = int(time.time() * 1000)
        for name, age_s in (("job_old", whole_s + 30), ("job_late", whole_s - 30)):
            client.zadd(ALL + "me", {name: now_ms - age_s * 1000})
        client.expire(ALL + "me", 5)
        second = create(jobs, result=RESULT)
        assert set(ids(jobs.newest("me", 10))) == {first.id, second.id, "job_late"}
        assert whole_s - 30 < client.ttl(ALL + "me") <= whole_s

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

    @pytest.mark.parametrize("status", [*LIVE, *FINAL])
    def test_a_key_is_forgotten_with_the_record_and_not_before(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs, key="key", fingerprint="a")
        bring(jobs, job, status)
        left_s = client.ttl(JOB + job.id)
        assert client.ttl("lantern:idempotency:key") == pytest.approx(left_s, abs=1)
        assert (left_s == -1) == (status in LIVE)

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
        first = create(jobs, key="key", fingerprint="a")
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
