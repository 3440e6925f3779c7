"""The job record: each script by itself, on a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from services.jobs import (
    ALL,
    FINAL,
    PREFIX,
    QUEUED,
    RESEND_AFTER_S,
    RUNNING,
    Claim,
    IdempotencyConflict,
    Job,
    Jobs,
    Position,
    QueueFull,
    Status,
    events_until_done,
    new_id,
)

CALL: dict[str, Any] = {
    "technique": "deep-dream",
    "inputs": {"image": "file_1"},
    "params": {"a": 1},
}


def create(jobs: Jobs, **options: Any) -> Job:
    job, is_new = jobs.create(CALL, **options)
    assert is_new
    return job


def claim(jobs: Jobs, job: Job, worker: str = "worker") -> Claim:
    claimed = jobs.claim(job.id, worker)
    assert claimed is not None
    return claimed


def read(jobs: Jobs, job: Job) -> Job:
    found = jobs.get(job.id)
    assert found is not None
    return found


def end_lease(client: redis.Redis, job: Job) -> None:
    """Let the time of a worker's lease pass at once."""
    client.hset(PREFIX + job.id, "lease_ms", 1)
    client.zadd(RUNNING, {job.id: 1})


def events(jobs: Jobs, job: Job, after: str = "0") -> list[tuple[str, Any]]:
    return [(e.name, e.data) for e in jobs.events(job.id, after, 0.001)]


def names(jobs: Jobs, job: Job) -> list[str]:
    """Return the job's events in short: the status, or the name of the event."""
    return [data["status"] if name == "status" else name for name, data in events(jobs, job)]


def test_ids_are_unique_and_sort_by_age() -> None:
    ids = [new_id() for _ in range(500)]
    assert len(set(ids)) == 500
    assert [name[:16] for name in ids] == sorted(name[:16] for name in ids)


class TestCreate:
    def test_a_job_is_recorded_queued_and_announced(self, jobs: Jobs, client: redis.Redis) -> None:
        before = time.time()
        job = create(jobs)
        assert job.status == "queued"
        assert job.call == CALL
        assert before - 1 < job.created_at < time.time() + 1
        assert (job.started_at, job.finished_at, job.expires_at) == (None, None, None)
        assert (job.attempts, job.progress, job.result, job.error) == (0, None, None, None)
        assert not job.is_final
        assert client.zrange(QUEUED, 0, -1) == [job.id.encode()]
        assert client.zrange(ALL, 0, -1) == [job.id.encode()]
        assert events(jobs, job) == [("status", {"status": "queued"})]
        assert jobs.counts() == {"queued": 1, "running": 0}
        assert read(jobs, job) == job

    def test_calls_keep_every_character(self, jobs: Jobs) -> None:
        call: dict[str, Any] = {
            "technique": "t",
            "text": 'Nacht "ü" \\ \n\x00 🌌',
            "list": [1, 2.5, None, {}, []],
        }
        job, _ = jobs.create(call)
        assert read(jobs, job).call == call

    def test_without_a_key_every_call_is_a_job_of_its_own(self, jobs: Jobs) -> None:
        assert create(jobs, fingerprint="same").id != create(jobs, fingerprint="same").id

    def test_the_same_key_and_payload_give_the_first_job(self, jobs: Jobs) -> None:
        first = create(jobs, key="key", fingerprint="a")
        again, is_new = jobs.create(CALL, key="key", fingerprint="a")
        assert (again.id, is_new) == (first.id, False)
        assert jobs.counts()["queued"] == 1

    def test_the_same_key_and_another_payload_conflict(self, jobs: Jobs) -> None:
        create(jobs, key="key", fingerprint="a")
        with pytest.raises(IdempotencyConflict):
            jobs.create(CALL, key="key", fingerprint="b")
        assert jobs.counts()["queued"] == 1

    def test_other_keys_do_not_meet(self, jobs: Jobs) -> None:
        assert (
            create(jobs, key="1", fingerprint="a").id != create(jobs, key="2", fingerprint="a").id
        )

    def test_a_key_is_forgotten_with_the_results(self, jobs: Jobs, client: redis.Redis) -> None:
        create(jobs, key="key", fingerprint="a")
        assert 0 < client.ttl("lantern:idempotency:key") <= 60

    def test_one_of_many_racing_calls_with_a_key_makes_the_job(self, jobs: Jobs) -> None:
        made = race(16, lambda _: jobs.create(CALL, key="key", fingerprint="a"))
        assert len({job.id for job, _ in made}) == 1
        assert [is_new for _, is_new in made].count(True) == 1
        assert jobs.counts()["queued"] == 1

    def test_a_full_queue_takes_no_more(self, make_jobs: Callable[..., Jobs]) -> None:
        jobs = make_jobs(max_queued=2)
        first, _ = create(jobs, key="key", fingerprint="a"), create(jobs)
        with pytest.raises(QueueFull):
            jobs.create(CALL)
        replayed, is_new = jobs.create(CALL, key="key", fingerprint="a")
        assert (replayed.id, is_new) == (first.id, False)
        claim(jobs, first)
        create(jobs)

    def test_a_replayed_job_that_was_deleted_is_made_anew(self, jobs: Jobs) -> None:
        first = create(jobs, key="key", fingerprint="a")
        jobs.cancel(first.id)
        jobs.delete(first.id)
        again, is_new = jobs.create(CALL, key="key", fingerprint="a")
        assert is_new
        assert again.id != first.id


class TestClaim:
    def test_a_waiting_job_is_taken(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert (claimed.job_id, claimed.fence) == (job.id, 1)
        taken = read(jobs, job)
        assert (taken.status, taken.attempts) == ("running", 1)
        assert taken.started_at is not None
        assert jobs.counts() == {"queued": 0, "running": 1}
        assert names(jobs, job) == ["queued", "running"]
        assert client.hget(PREFIX + job.id, "worker") == b"worker"

    def test_one_of_sixteen_racing_workers_gets_it(self, jobs: Jobs) -> None:
        job = create(jobs)
        claims = race(16, lambda n: jobs.claim(job.id, f"worker-{n}"))
        assert [c.fence for c in claims if c is not None] == [1]
        assert read(jobs, job).attempts == 1

    def test_not_before_the_lease_ends(self, make_jobs: Callable[..., Jobs]) -> None:
        jobs = make_jobs(lease_s=0.2)
        job = create(jobs)
        first = claim(jobs, job)
        assert jobs.claim(job.id, "other") is None
        time.sleep(0.25)
        second = claim(jobs, job, "other")
        assert second.fence > first.fence
        assert read(jobs, job).attempts == 2

    def test_the_first_start_stays_the_start(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claim(jobs, job)
        started = read(jobs, job).started_at
        end_lease(client, job)
        time.sleep(0.01)
        claim(jobs, job)
        assert read(jobs, job).started_at == started

    def test_not_more_often_than_allowed(
        self, make_jobs: Callable[..., Jobs], client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_attempts=2)
        job = create(jobs)
        for _ in range(2):
            claim(jobs, job)
            end_lease(client, job)
        assert jobs.claim(job.id, "worker") is None

    @pytest.mark.parametrize("status", sorted(FINAL))
    def test_not_when_it_is_over(self, jobs: Jobs, status: Status) -> None:
        job = create(jobs)
        assert jobs.finish(claim(jobs, job), status)
        assert jobs.claim(job.id, "worker") is None

    def test_not_when_there_is_no_such_job(self, jobs: Jobs, client: redis.Redis) -> None:
        assert jobs.claim(new_id(), "worker") is None
        assert client.keys("*") == []

    def test_a_job_that_two_messages_bring_runs_once(self, jobs: Jobs) -> None:
        job = create(jobs)
        assert jobs.finish(claim(jobs, job), "succeeded", result={"n": 1})
        assert jobs.claim(job.id, "second message") is None
        assert read(jobs, job).attempts == 1
        assert names(jobs, job) == ["queued", "running", "done"]


class TestBeat:
    def test_it_renews_the_lease(self, make_jobs: Callable[..., Jobs]) -> None:
        jobs = make_jobs(lease_s=0.4)
        job = create(jobs)
        claimed = claim(jobs, job)
        for _ in range(4):
            time.sleep(0.15)
            assert jobs.beat(claimed) == "ok"
            assert jobs.reap() == []
            assert jobs.claim(job.id, "other") is None

    def test_it_records_progress(self, jobs: Jobs) -> None:
        job = create(jobs)
        progress = {"done": 3, "total": 10, "fraction": 0.3, "loss": 0.125, "eta_s": None}
        assert jobs.beat(claim(jobs, job), progress=progress) == "ok"
        assert read(jobs, job).progress == progress
        assert events(jobs, job)[-1] == ("progress", progress)

    def test_it_records_previews(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, preview=(3, "file_a"))
        jobs.beat(claimed, preview=(7, "file_b"))
        assert read(jobs, job).preview_step == 7
        assert (jobs.preview(job.id, 3), jobs.preview(job.id, 7)) == ("file_a", "file_b")
        assert jobs.preview(job.id, 4) is None
        url = f"/v1/jobs/{job.id}/previews/7"
        assert events(jobs, job)[-1] == ("preview", {"step": 7, "url": url})
        assert 0 < client.ttl(PREFIX + job.id + ":previews") <= 60

    def test_it_records_where_the_state_is_kept(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert read(jobs, job).checkpoint is None
        jobs.beat(claimed, checkpoint="file_a")
        jobs.beat(claimed)
        assert read(jobs, job).checkpoint == "file_a"
        assert names(jobs, job) == ["queued", "running"]

    def test_a_bare_sign_of_life_is_no_event(self, jobs: Jobs) -> None:
        job = create(jobs)
        jobs.beat(claim(jobs, job))
        assert names(jobs, job) == ["queued", "running"]

    def test_it_tells_of_a_cancellation_each_time(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.cancel(job.id)
        assert [jobs.beat(claimed), jobs.beat(claimed)] == ["cancel", "cancel"]

    def test_a_wrong_fence_is_lost_and_writes_nothing(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        before = client.hgetall(PREFIX + job.id)
        for fence in (claimed.fence - 1, claimed.fence + 1):
            wrong = Claim(job.id, fence)
            assert jobs.beat(wrong, progress={"done": 1}, preview=(1, "file_x")) == "lost"
        assert client.hgetall(PREFIX + job.id) == before
        assert names(jobs, job) == ["queued", "running"]
        assert jobs.preview(job.id, 1) is None

    def test_a_finished_job_is_lost_to_its_worker(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.finish(claimed, "succeeded")
        assert jobs.beat(claimed) == "lost"

    def test_an_unknown_job_is_lost(self, jobs: Jobs, client: redis.Redis) -> None:
        assert jobs.beat(Claim(new_id(), 1), progress={"done": 1}) == "lost"
        assert client.keys("*") == []

    def test_the_history_is_bounded(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        for step in range(1500):
            jobs.beat(claimed, progress={"done": step})
        assert client.xlen(PREFIX + job.id + ":events") < 800
        assert read(jobs, job).progress == {"done": 1499}


class TestFinish:
    @pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
    def test_it_ends_the_job_with_event_and_expiry(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs)
        assert jobs.finish(claim(jobs, job), status, result={"r": 1}, error={"e": 2})
        done = read(jobs, job)
        assert (done.status, done.is_final) == (status, True)
        assert (done.result, done.error) == ({"r": 1}, {"e": 2})
        assert done.finished_at is not None
        assert done.expires_at == pytest.approx(done.finished_at + 60)
        assert events(jobs, job)[-1] == ("done", {"status": status})
        assert jobs.counts() == {"queued": 0, "running": 0}
        for part in ("", ":events"):
            assert 0 < client.ttl(PREFIX + job.id + part) <= 60

    def test_a_job_has_exactly_one_end(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        ends: list[Status] = ["succeeded", "failed", "canceled", "expired"] * 4
        won = race(16, lambda n: jobs.finish(claimed, ends[n], result={"n": n}))
        assert won.count(True) == 1
        winner = won.index(True)
        assert read(jobs, job).status == ends[winner]
        assert read(jobs, job).result == {"n": winner}
        assert names(jobs, job).count("done") == 1

    def test_a_zombie_changes_nothing_after_a_takeover(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        zombie = claim(jobs, job, "zombie")
        end_lease(client, job)
        heir = claim(jobs, job, "heir")
        before = client.hgetall(PREFIX + job.id)
        assert jobs.beat(zombie, progress={"done": 9}) == "lost"
        assert not jobs.finish(zombie, "failed", error={"by": "zombie"})
        assert client.hgetall(PREFIX + job.id) == before
        assert jobs.finish(heir, "succeeded", result={"by": "heir"})
        assert not jobs.finish(zombie, "failed", error={"by": "zombie"})
        done = read(jobs, job)
        assert (done.status, done.result, done.error) == ("succeeded", {"by": "heir"}, None)
        assert names(jobs, job) == ["queued", "running", "running", "done"]

    def test_a_full_store_takes_the_end_of_a_job(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        client.config_set("maxmemory", 1)
        assert jobs.finish(claimed, "failed", error={"detail": "no room"})
        assert read(jobs, job).error == {"detail": "no room"}

    def test_an_unknown_job_is_not_made(self, jobs: Jobs, client: redis.Redis) -> None:
        assert not jobs.finish(Claim(new_id(), 1), "succeeded")
        assert client.keys("*") == []


class TestCancel:
    def test_a_waiting_job_ends_at_once(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        assert jobs.cancel(job.id) == "canceled"
        done = read(jobs, job)
        assert (done.status, done.started_at) == ("canceled", None)
        assert done.finished_at is not None
        assert done.expires_at == pytest.approx(done.finished_at + 60)
        assert jobs.counts() == {"queued": 0, "running": 0}
        assert events(jobs, job)[-1] == ("done", {"status": "canceled"})
        assert jobs.claim(job.id, "worker") is None
        assert 0 < client.ttl(PREFIX + job.id) <= 60

    def test_a_running_job_is_told_to_end(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        assert jobs.cancel(job.id) == "running"
        assert read(jobs, job).status == "running"
        assert jobs.beat(claimed) == "cancel"
        assert jobs.finish(claimed, "canceled")
        assert names(jobs, job) == ["queued", "running", "done"]

    @pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
    def test_a_finished_job_stays_as_it_is(
        self, jobs: Jobs, client: redis.Redis, status: Status
    ) -> None:
        job = create(jobs)
        jobs.finish(claim(jobs, job), status)
        before = client.hgetall(PREFIX + job.id)
        assert jobs.cancel(job.id) == status
        assert client.hgetall(PREFIX + job.id) == before

    def test_an_unknown_job_has_no_status(self, jobs: Jobs, client: redis.Redis) -> None:
        assert jobs.cancel(new_id()) is None
        assert client.keys("*") == []

    def test_cancelling_and_claiming_never_both_win(self, jobs: Jobs) -> None:
        made = [create(jobs) for _ in range(20)]

        def act(number: int) -> list[Any]:
            if number == 0:
                return [jobs.claim(job.id, "worker") for job in made]
            return [jobs.cancel(job.id) for job in made]

        claims, ends = race(2, act)
        for claimed, status in zip(claims, ends, strict=True):
            assert (claimed is None) == (status == "canceled")


class TestReap:
    def test_a_living_worker_keeps_its_job(self, jobs: Jobs) -> None:
        job = create(jobs)
        claim(jobs, job)
        assert jobs.reap() == []
        assert read(jobs, job).status == "running"

    def test_a_silent_workers_job_goes_back(self, make_jobs: Callable[..., Jobs]) -> None:
        jobs = make_jobs(lease_s=0.1)
        job = create(jobs)
        old = claim(jobs, job)
        time.sleep(0.15)
        assert jobs.reap() == [job.id]
        assert jobs.reap() == []
        assert read(jobs, job).status == "queued"
        assert jobs.counts() == {"queued": 1, "running": 0}
        assert jobs.beat(old, progress={"done": 1}) == "lost"
        assert not jobs.finish(old, "succeeded")
        new = claim(jobs, job)
        assert new.fence > old.fence
        assert read(jobs, job).attempts == 2
        assert names(jobs, job) == ["queued", "running", "queued", "running"]

    def test_a_job_that_kills_its_workers_is_given_up(
        self, make_jobs: Callable[..., Jobs], client: redis.Redis
    ) -> None:
        jobs = make_jobs(max_attempts=3)
        job = create(jobs)
        for attempt in range(3):
            last = claim(jobs, job)
            end_lease(client, job)
            assert jobs.reap() == ([job.id] if attempt < 2 else [])
        dead = read(jobs, job)
        assert (dead.status, dead.attempts) == ("failed", 3)
        assert dead.error is not None
        assert dead.error["type"] == "/problems/poison"
        assert dead.error["retryable"] is False
        assert dead.finished_at is not None
        assert dead.expires_at == pytest.approx(dead.finished_at + 60)
        assert events(jobs, job)[-1] == ("done", {"status": "failed"})
        assert jobs.counts() == {"queued": 0, "running": 0}
        assert not jobs.finish(last, "succeeded")
        assert 0 < client.ttl(PREFIX + job.id) <= 60

    def test_a_canceled_job_whose_worker_is_lost_ends_canceled(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.cancel(job.id)
        end_lease(client, job)
        assert jobs.reap() == []
        assert read(jobs, job).status == "canceled"
        assert events(jobs, job)[-1] == ("done", {"status": "canceled"})
        assert not jobs.finish(claimed, "succeeded")
        assert jobs.claim(job.id, "worker") is None

    def test_a_lost_message_is_sent_again_after_a_time(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        assert jobs.reap() == []
        client.zincrby(QUEUED, -RESEND_AFTER_S * 1000 - 1, job.id)
        assert jobs.reap() == [job.id]
        assert jobs.reap() == []
        assert read(jobs, job).status == "queued"
        assert names(jobs, job) == ["queued"]

    def test_what_has_expired_is_swept_out(self, jobs: Jobs, client: redis.Redis) -> None:
        for index in (QUEUED, RUNNING, ALL):
            client.zadd(index, {"job_gone": 1})
        assert jobs.reap() == []
        assert [client.zcard(index) for index in (QUEUED, RUNNING, ALL)] == [0, 0, 0]

    def test_racing_caretakers_send_each_job_once(self, jobs: Jobs, client: redis.Redis) -> None:
        made = [create(jobs) for _ in range(20)]
        for job in made:
            claim(jobs, job)
            end_lease(client, job)
        sent = [job_id for ids in race(8, lambda _: jobs.reap()) for job_id in ids]
        assert sorted(sent) == sorted(job.id for job in made)


class TestNewest:
    def test_newest_first(self, jobs: Jobs) -> None:
        made = create_apart(jobs, 5)
        assert ids(jobs.newest(10)) == [job.id for job in reversed(made)]
        assert ids(jobs.newest(2)) == [made[4].id, made[3].id]

    def test_each_position_leads_on(self, jobs: Jobs, client: redis.Redis) -> None:
        made = [create(jobs).id for _ in range(6)]
        client.zadd(ALL, dict(zip(made, (5, 5, 5, 5, 9, 1), strict=True)))
        everything = jobs.newest(10)
        assert ids(everything) == [made[4], *sorted(made[:4], reverse=True), made[5]]
        for number, position in enumerate(everything):
            assert jobs.newest(10, position) == everything[number + 1 :]
            assert jobs.newest(2, position) == everything[number + 1 : number + 3]

    def test_a_position_stays_one_when_its_job_is_deleted(self, jobs: Jobs) -> None:
        made = create_apart(jobs, 3)
        (_, middle, oldest) = jobs.newest(3)
        jobs.delete(made[1].id)
        assert jobs.newest(3, middle) == [oldest]

    def test_an_empty_store_has_none(self, jobs: Jobs) -> None:
        assert jobs.newest(10) == []


class TestFollowing:
    def test_events_resume_after_a_position(self, jobs: Jobs) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        for step in range(5):
            jobs.beat(claimed, progress={"done": step})
        everything = jobs.events(job.id, "0", 0.001)
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


class TestDelete:
    def test_nothing_of_it_is_left(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.beat(claimed, progress={"done": 1}, preview=(1, "file_a"))
        jobs.finish(claimed, "succeeded")
        jobs.delete(job.id)
        assert jobs.get(job.id) is None
        assert jobs.newest(10) == []
        assert client.keys("*") == []

    def test_the_worker_of_a_deleted_job_does_not_bring_it_back(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        job = create(jobs)
        claimed = claim(jobs, job)
        jobs.delete(job.id)
        assert jobs.beat(claimed, progress={"done": 1}, preview=(1, "file_a")) == "lost"
        assert not jobs.finish(claimed, "succeeded")
        assert client.keys("*") == []


class TestWorkers:
    def test_the_living_are_counted(self, jobs: Jobs) -> None:
        assert jobs.workers() == 0
        jobs.greet("a", ttl_s=10)
        jobs.greet("a", ttl_s=10)
        jobs.greet("b", ttl_s=0.1)
        assert jobs.workers() == 2
        time.sleep(0.15)
        assert jobs.workers() == 1


def race(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Run `act` in many threads at once; return what each got."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def ids(positions: list[Position]) -> list[str]:
    return [job_id for _, job_id in positions]


def create_apart(jobs: Jobs, count: int) -> list[Job]:
    """Create jobs that differ in the millisecond they were made in."""
    made = []
    for _ in range(count):
        made.append(create(jobs))
        time.sleep(0.003)
    return made
