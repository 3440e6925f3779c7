"""A worker whose store is full waits with its result, and is heard meanwhile."""

from __future__ import annotations

import time
from threading import Thread

import pytest
import redis

from services.blobs import StorageFull
from services.jobs import RUNNING, Claim
from services.worker import patience
from services.worker.desk import Desk
from services.worker.tasks import work
from tests.services.worker.deeds import (
    SHORT,
    Submit,
    artifacts,
    error_type,
    in_background,
    kept,
    read,
)
from tests.waiting import until


class TestAFullStore:
    """What a job does whose result has no room: it waits, and can be stopped meanwhile."""

    @pytest.fixture
    def waiting(self, desk: Desk, submit: Submit, client: redis.Redis) -> tuple[Claim, Thread]:
        """A job that has taken its last step, and a full store."""
        claim = submit("deep-dream", SHORT)
        client.config_set("maxmemory", 1)
        thread = in_background(desk, claim)
        until(lambda: (read(desk, claim).progress or {}).get("done") == 3)
        time.sleep(0.5)
        assert thread.is_alive()
        return claim, thread

    def test_the_result_waits_until_there_is_room(
        self, desk: Desk, client: redis.Redis, waiting: tuple[Claim, Thread]
    ) -> None:
        claim, thread = waiting
        leases = []
        for _ in range(3):
            time.sleep(0.5)
            leases.append(client.zscore(RUNNING, claim.job_id) or 0.0)
        assert leases == sorted(set(leases)), "it gives signs of life"
        client.config_set("maxmemory", 0)
        thread.join(10)
        assert (read(desk, claim).status, len(artifacts(desk, claim))) == ("succeeded", 1)

    def test_in_the_end_the_job_fails_and_may_be_tried_again(
        self, desk: Desk, submit: Submit, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patience, "ROOM_WITHIN_S", 1.0)
        claim = submit("deep-dream", SHORT)
        client.config_set("maxmemory", 1)
        began = time.monotonic()
        work(desk, claim, "jobs")
        assert time.monotonic() - began > 1
        job = read(desk, claim)
        assert (job.status, error_type(job)) == ("failed", "/problems/storage-full")
        assert job.error is not None
        assert job.error["retryable"] is True
        assert "result" not in kept(desk, claim)

    def test_cancelling_is_heard(self, desk: Desk, waiting: tuple[Claim, Thread]) -> None:
        claim, thread = waiting
        desk.stores.jobs.cancel(claim.job_id)
        thread.join(2)
        assert not thread.is_alive()
        assert read(desk, claim).status == "canceled"
        assert "result" not in kept(desk, claim)

    def test_pausing_is_heard_and_the_job_goes_on_later(
        self, desk: Desk, client: redis.Redis, waiting: tuple[Claim, Thread]
    ) -> None:
        claim, thread = waiting
        desk.stores.jobs.pause(claim.job_id)
        thread.join(5)
        assert read(desk, claim).status == "paused"
        client.config_set("maxmemory", 0)
        desk.stores.jobs.resume(claim.job_id)
        again = desk.stores.jobs.claim("jobs", "worker:2")
        assert again is not None
        work(desk, again, "jobs")
        assert read(desk, claim).status == "succeeded"

    def test_what_was_stored_of_a_result_gives_its_room_back(
        self, desk: Desk, submit: Submit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patience, "ROOM_WITHIN_S", 0.3)
        put = desk.stores.blobs.put

        def refuse_pictures(owner: str, name: str, data: bytes, *, ttl_s: int) -> None:
            if name.endswith("-picture"):
                raise StorageFull
            put(owner, name, data, ttl_s=ttl_s)

        monkeypatch.setattr(desk.stores.blobs, "put", refuse_pictures)
        claim = submit("deep-dream", SHORT)
        work(desk, claim, "jobs")
        assert error_type(read(desk, claim)) == "/problems/storage-full"
        assert kept(desk, claim) == {"preview"}

    @pytest.mark.parametrize("grace_s", [30.0, 0.3])
    def test_a_worker_that_is_to_stop_waits_a_moment_more(
        self,
        desk: Desk,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        waiting: tuple[Claim, Thread],
        grace_s: float,
    ) -> None:
        monkeypatch.setattr(patience, "RELEASED_WITHIN_S", grace_s)
        claim, thread = waiting
        desk.stores.jobs.release("worker")
        thread.join(0.8 if grace_s > 1 else 10)
        client.config_set("maxmemory", 0)
        thread.join(10)
        assert read(desk, claim).status == ("succeeded" if grace_s > 1 else "queued")
