"""Jobs listed, followed, forgotten and deleted, and the workers there are."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import redis

from services.following import events_until_done
from services.jobs import (
    ALL,
    JOB,
    RUNNING,
    WORKERS,
    Jobs,
    Position,
)
from services.outbox import OUTBOX
from services.record import FINAL, LIVE, Status, new_id
from tests.services.job_deeds import (
    HOOK,
    HOUR_MS,
    RESULT,
    MakeJobs,
    bring,
    claim,
    create,
    end_lease,
    end_time,
    ids,
    order,
    read,
    set_clock,
    snapshot,
    status_of,
    story,
)
from tests.waiting import in_a_moment


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
        late, there = create(jobs), create(jobs)
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
        lost, dead, late = (create(jobs) for _ in range(3))
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
        made = [create(jobs) for _ in range(5)]
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

    def test_pages_miss_nothing_while_jobs_come(self, jobs: Jobs, client: redis.Redis) -> None:
        made = [create(jobs).id for _ in range(20)]
        first_ms = client.zscore(ALL + "me", made[0]) or 0
        client.zadd(ALL + "me", {name: first_ms + n // 4 for n, name in enumerate(made)})
        seen: list[Position] = []
        while page := jobs.newest("me", 3, seen[-1] if seen else None):
            seen += page
            create(jobs)
        assert seen == sorted(seen, reverse=True)
        assert sorted(ids(seen)) == sorted(made)

    def test_a_position_stays_one_when_its_job_is_deleted(self, jobs: Jobs) -> None:
        made = [create(jobs) for _ in range(3)]
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
        with in_a_moment(0.1, lambda: jobs.cancel(job.id)):
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
        with in_a_moment(0.1, lambda: jobs.finish(claimed, "succeeded", result={"n": 1})):
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
        gone, there = create(jobs), create(jobs)
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
        jobs.greet("jobs", "b", ttl_s=1)
        assert jobs.workers("jobs") == 2
        time.sleep(1.1)
        assert jobs.workers("jobs") == 1
        jobs.greet("jobs", "c", ttl_s=10)
        assert client.zrange(WORKERS + "jobs", 0, -1) == [b"a", b"c"]

    def test_the_lanes_are_apart(self, jobs: Jobs) -> None:
        jobs.greet("jobs", "a", ttl_s=10)
        jobs.greet("fast", "b", ttl_s=10)
        jobs.greet("fast", "a", ttl_s=10)
        assert (jobs.workers("jobs"), jobs.workers("fast")) == (1, 2)
