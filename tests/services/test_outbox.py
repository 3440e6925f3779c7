"""The outbox: what is due, who has it, what came of it; and what puts a message there."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import redis

from services.clients import Stores
from services.jobs import JOB, RUNNING, Claim, Jobs, Order
from services.outbox import MOST_IN_HAND, OUTBOX, Due, Outbox
from services.record import Job, Status
from tests.waiting import let_a_millisecond_pass

HOSTS = itertools.count()
RESULT: dict[str, Any] = {"artifacts": []}
DEADLINES = "lantern:jobs:deadlines"
MakeJobs = Callable[..., Jobs]


@pytest.fixture
def outbox(client: redis.Redis) -> Outbox:
    return Outbox(client, lease_s=30, ttl_s=60)


def create(jobs: Jobs, *, hooked: bool = True, url: str = "", **more: Any) -> Job:
    """Make a job whose webhook is at a host of its own, unless it is given."""
    call = {"technique": "t", "inputs": []}
    url = url or f"https://host-{next(HOSTS)}.example/"
    webhook = {"url": url, "secret": "whsec_x"} if hooked else None
    job, _ = jobs.create(Order(**{"call": call, "owner": "me", "webhook": webhook, **more}))
    return job


def ended(jobs: Jobs, url: str = "") -> Job:
    """Make a job whose webhook is to be told that it is over, before that of the next one."""
    job = create(jobs, url=url)
    jobs.cancel(job.id)
    let_a_millisecond_pass()
    return job


def fetch(outbox: Outbox) -> Due:
    due = outbox.fetch()
    assert due is not None
    return due


def make_due(client: redis.Redis, job: Job) -> None:
    """Let the time pass until a message is due."""
    client.zadd(OUTBOX, {job.id: 1}, xx=True)


def entries(client: redis.Redis) -> list[str]:
    return [name.decode() for name in cast(list[bytes], client.zrange(OUTBOX, 0, -1))]


class TestFetch:
    def test_nothing_is_due_at_first(self, outbox: Outbox, client: redis.Redis) -> None:
        assert outbox.due() == 0
        assert outbox.fetch() is None
        assert client.keys("*") == []

    def test_what_is_over_is_due_at_once(self, jobs: Jobs, outbox: Outbox) -> None:
        job = ended(jobs)
        assert outbox.due() == 1
        assert outbox.fetch() == Due(job.id, 1)

    def test_nobody_else_gets_it_while_the_lease_lasts(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        job = ended(jobs)
        fetch(outbox)
        assert outbox.due() == 0
        assert outbox.fetch() is None
        left_ms = (client.zscore(OUTBOX, job.id) or 0) - time.time() * 1000
        assert 29_000 < left_ms < 30_100

    def test_whoever_fails_to_note_anything_leaves_it_to_others(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        outbox = Outbox(client, lease_s=1, ttl_s=60)
        job = ended(jobs)
        fetch(outbox)
        assert outbox.fetch() is None
        time.sleep(1.1)
        assert outbox.fetch() == Due(job.id, 1)

    def test_what_has_been_due_longest_goes_first(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        made = [ended(jobs).id for _ in range(4)]
        client.zadd(OUTBOX, dict(zip(made, (3, 1, 4, 2), strict=True)))
        assert [fetch(outbox).job_id for _ in made] == [made[n] for n in (1, 3, 0, 2)]

    def test_racing_couriers_get_different_messages(self, jobs: Jobs, outbox: Outbox) -> None:
        made = {ended(jobs).id for _ in range(40)}
        barrier = threading.Barrier(4)

        def take(_: int) -> list[str]:
            barrier.wait()
            return [due.job_id for due in iter(outbox.fetch, None) if due]

        with ThreadPoolExecutor(4) as pool:
            taken = [job_id for share in pool.map(take, range(4)) for job_id in share]
        assert len(taken) == 40
        assert set(taken) == made

    def test_a_message_of_a_job_that_is_gone_is_dropped(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        gone, there = ended(jobs), ended(jobs)
        jobs.delete(gone)
        client.zadd(OUTBOX, {gone.id: 1, "job_never_was": 2})
        assert outbox.fetch() == Due(there.id, 1)
        assert entries(client) == [there.id]
        assert client.keys(JOB + gone.id + "*") == []

    def test_very_many_that_are_gone_do_not_hold_up_the_rest(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        there = ended(jobs)
        client.zadd(OUTBOX, {f"job_{n}": 1 for n in range(250)})
        taken = [due for _ in range(4) if (due := outbox.fetch())]
        assert taken == [Due(there.id, 1)]
        assert entries(client) == [there.id]


class TestASlowReceiver:
    @pytest.mark.parametrize("before", [3, 250])
    def test_it_holds_up_no_other(self, jobs: Jobs, outbox: Outbox, before: int) -> None:
        slow = {ended(jobs, f"https://Slow.example:8443/{n}").id for n in range(before)}
        other = ended(jobs, "https://other.example/")
        taken = [due.job_id for _ in range(8) if (due := outbox.fetch())]
        assert len(taken) == MOST_IN_HAND + 1
        assert set(taken) - slow == {other.id}

    def test_its_next_message_comes_when_one_is_done(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        made = [ended(jobs, "https://slow.example/") for _ in range(MOST_IN_HAND + 1)]
        first = [fetch(outbox) for _ in range(MOST_IN_HAND)]
        assert outbox.fetch() is None
        assert outbox.due() == 0
        outbox.note(first[0], {"status": 200}, None)
        make_due(client, made[-1])
        assert fetch(outbox).job_id == made[-1].id

    def test_a_courier_that_died_counts_no_longer_than_its_lease(
        self, jobs: Jobs, client: redis.Redis
    ) -> None:
        outbox = Outbox(client, lease_s=1, ttl_s=60)
        made = {ended(jobs, "https://slow.example/").id for _ in range(MOST_IN_HAND)}
        assert {fetch(outbox).job_id for _ in made} == made
        time.sleep(1.1)
        assert {fetch(outbox).job_id for _ in made} == made


class TestNote:
    def test_a_delivered_message_is_done_with(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        job = ended(jobs)
        outbox.note(fetch(outbox), {"status": 200}, None)
        assert entries(client) == []
        assert outbox.deliveries(job.id) == [{"status": 200}]
        assert 0 < client.ttl(JOB + job.id + ":deliveries") <= 60

    def test_another_attempt_waits_its_time(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        job = ended(jobs)
        outbox.note(fetch(outbox), {"n": 1}, 100)
        assert outbox.due() == 0
        assert outbox.fetch() is None
        left_ms = (client.zscore(OUTBOX, job.id) or 0) - time.time() * 1000
        assert 99_000 < left_ms < 100_100

    def test_a_short_wait_ends(self, jobs: Jobs, outbox: Outbox) -> None:
        job = ended(jobs)
        outbox.note(fetch(outbox), {"n": 1}, 1)
        assert outbox.fetch() is None
        time.sleep(1.1)
        assert outbox.fetch() == Due(job.id, 2)

    def test_attempts_are_counted_and_kept_in_order(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        job = ended(jobs)
        for n in range(1, 5):
            due = fetch(outbox)
            assert due == Due(job.id, n)
            outbox.note(due, {"n": n, "error": "ü"}, 5 if n < 4 else None)
            make_due(client, job)
        assert outbox.fetch() is None
        assert outbox.deliveries(job.id) == [{"n": n, "error": "ü"} for n in range(1, 5)]

    def test_a_job_that_is_gone_is_not_brought_back(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        job = ended(jobs)
        due = fetch(outbox)
        jobs.delete(job)
        outbox.note(due, {"n": 1}, None)
        assert client.keys("*") == []
        assert outbox.deliveries(job.id) == []

    def test_a_job_that_is_gone_is_not_told_of_again(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        job = ended(jobs)
        due = fetch(outbox)
        jobs.delete(job)
        outbox.note(due, {"n": 1}, 5)
        make_due(client, job)
        assert outbox.fetch() is None
        assert client.keys("*") == []

    def test_what_was_delivered_is_not_sent_again_by_a_slow_courier(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        job = ended(jobs)
        slow = fetch(outbox)
        make_due(client, job)
        outbox.note(fetch(outbox), {"by": "other"}, None)
        outbox.note(slow, {"by": "slow"}, 5)
        assert entries(client) == []
        assert outbox.deliveries(job.id) == [{"by": "other"}, {"by": "slow"}]

    def test_redis_without_memory_stops_nothing(
        self, jobs: Jobs, outbox: Outbox, client: redis.Redis
    ) -> None:
        first, second = ended(jobs), ended(jobs)
        client.config_set("maxmemory", 1)
        due = [fetch(outbox), fetch(outbox)]
        outbox.note(due[0], {"n": 1}, None)
        outbox.note(due[1], {"n": 1}, 5)
        assert entries(client) == [due[1].job_id]
        assert {d.job_id for d in due} == {first.id, second.id}
        assert outbox.deliveries(first.id) == [{"n": 1}]


def claimed(jobs: Jobs, job: Job) -> Claim:
    found = jobs.claim("jobs", "worker")
    assert found is not None
    assert found.job_id == job.id
    return found


def finishes(status: Status) -> Callable[[Jobs, redis.Redis, Job], None]:
    return lambda jobs, client, job: _finish(jobs, job, status)


def _finish(jobs: Jobs, job: Job, status: Status) -> None:
    held = claimed(jobs, job)
    assert jobs.finish(held, status)
    assert not jobs.finish(held, status)


def canceled_while_queued(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    jobs.cancel(job.id)
    jobs.cancel(job.id)


def canceled_while_paused(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    jobs.pause(job.id)
    jobs.cancel(job.id)


def canceled_before_success(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    held = claimed(jobs, job)
    jobs.cancel(job.id)
    assert not jobs.finish(held, "succeeded")


def canceled_with_a_lost_worker(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    claimed(jobs, job)
    jobs.cancel(job.id)
    client.zadd(RUNNING, {job.id: 1})


def late_with_a_lost_worker(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    claimed(jobs, job)
    late_in_the_queue(jobs, client, job)
    client.zadd(RUNNING, {job.id: 1})


def late_when_claimed(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    late_in_the_queue(jobs, client, job)
    assert jobs.claim("jobs", "worker") is None


def late_in_the_queue(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    client.hset(JOB + job.id, "deadline_ms", 1)
    client.zadd(DEADLINES, {job.id: 1})


def late_while_paused(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    jobs.pause(job.id)
    late_in_the_queue(jobs, client, job)


def poison(jobs: Jobs, client: redis.Redis, job: Job) -> None:
    for _ in range(3):
        claimed(jobs, job)
        client.zadd(RUNNING, {job.id: 1})
        jobs.reap()


ENDS: dict[Callable[[Jobs, redis.Redis, Job], None], Status] = {
    finishes("succeeded"): "succeeded",
    finishes("failed"): "failed",
    finishes("canceled"): "canceled",
    finishes("expired"): "expired",
    canceled_while_queued: "canceled",
    canceled_while_paused: "canceled",
    canceled_before_success: "canceled",
    canceled_with_a_lost_worker: "canceled",
    late_with_a_lost_worker: "expired",
    late_when_claimed: "expired",
    late_in_the_queue: "expired",
    late_while_paused: "expired",
    poison: "failed",
}
NAMES = [f"{end.__name__} {status}" for end, status in ENDS.items()]
EveryEnd = pytest.mark.parametrize(("end", "status"), list(ENDS.items()), ids=NAMES)


class TestEveryEnd:
    @EveryEnd
    def test_a_webhook_is_told_once(
        self,
        jobs: Jobs,
        outbox: Outbox,
        client: redis.Redis,
        end: Callable[[Jobs, redis.Redis, Job], None],
        status: Status,
    ) -> None:
        job = create(jobs)
        assert client.zcard(OUTBOX) == 0
        end(jobs, client, job)
        jobs.reap()
        over = jobs.get(job.id)
        assert over is not None
        assert over.status == status
        assert outbox.fetch() == Due(job.id, 1)
        outbox.note(Due(job.id, 1), {}, None)
        jobs.cancel(job.id)
        jobs.reap()
        assert outbox.fetch() is None
        assert entries(client) == []

    @EveryEnd
    def test_without_a_webhook_nobody_is_told(
        self,
        jobs: Jobs,
        client: redis.Redis,
        end: Callable[[Jobs, redis.Redis, Job], None],
        status: Status,
    ) -> None:
        job = create(jobs, hooked=False)
        end(jobs, client, job)
        jobs.reap()
        over = jobs.get(job.id)
        assert over is not None
        assert over.status == status
        assert not client.exists(OUTBOX)

    @pytest.mark.parametrize("hooked", [True, False])
    def test_a_job_that_is_born_finished_is_an_end(
        self, jobs: Jobs, client: redis.Redis, hooked: bool
    ) -> None:
        job = create(jobs, hooked=hooked, result=RESULT)
        assert entries(client) == ([job.id] if hooked else [])

    def test_what_is_not_over_is_not_told(self, jobs: Jobs, client: redis.Redis) -> None:
        job = create(jobs)
        held = claimed(jobs, job)
        jobs.beat(held, progress={"done": 1}, preview=1, checkpoint="state-1")
        jobs.pause(job.id)
        jobs.suspend(held)
        jobs.resume(job.id)
        claimed(jobs, job)
        client.zadd(RUNNING, {job.id: 1})
        jobs.reap()
        assert not client.exists(OUTBOX)


def test_the_outbox_of_the_settings_holds_a_message_for_a_minute(
    stores: Stores, jobs: Jobs, client: redis.Redis
) -> None:
    job = ended(jobs)
    fetch(stores.outbox)
    left_ms = (client.zscore(OUTBOX, job.id) or 0) - time.time() * 1000
    assert 59_000 < left_ms < 60_100
