"""A worker that is stopped puts its job down, and another goes on with it."""

from __future__ import annotations

import dataclasses
import time

import pytest
import redis
import torch

from lantern.image import Image
from lantern.progress import Step
from services.job_bytes import preview_name
from services.jobs import JOB
from services.record import JobOptions
from services.worker import tasks
from services.worker.desk import Desk
from services.worker.pulse import Pulse
from services.worker.tasks import work
from tests.films import film
from tests.services.worker.deeds import (
    ENDLESS,
    LONG_SHEET,
    SECONDS,
    SHORT,
    Submit,
    artifacts,
    error_type,
    in_background,
    names,
    read,
    take_over,
)
from tests.waiting import until


class TestPuttingDownAComparison:
    def test_pausing_is_heard_and_the_job_goes_on_later(self, desk: Desk, submit: Submit) -> None:
        claim = submit("compare-methods", LONG_SHEET)
        thread = in_background(desk, claim)
        desk.stores.jobs.pause(claim.job_id)
        thread.join(3)
        job = read(desk, claim)
        assert (thread.is_alive(), job.status) == (False, "paused")
        desk.stores.jobs.resume(claim.job_id)
        again = desk.stores.jobs.claim("jobs", "worker:2")
        assert again is not None
        thread = in_background(desk, again)
        desk.stores.jobs.cancel(claim.job_id)
        thread.join(3)
        assert read(desk, claim).status == "canceled"

    def test_a_worker_that_is_to_stop_gives_it_back(self, desk: Desk, submit: Submit) -> None:
        claim = submit("compare-methods", LONG_SHEET)
        thread = in_background(desk, claim)
        desk.stores.jobs.release("worker")
        thread.join(3)
        assert not thread.is_alive()
        assert read(desk, claim).status == "queued"


class TestStopping:
    def test_a_cancelled_film_ends_within_a_frame(self, desk: Desk, submit: Submit) -> None:
        claim = submit("fast-style", {"size": 512})
        moving = film("GIF", count=200, size=(512, 384))
        desk.stores.blobs.put(claim.job_id, "input-image", moving, ttl_s=60)
        thread = in_background(desk, claim)
        progress = read(desk, claim).progress
        assert progress is not None
        assert (progress["total"], progress["done"] < 200) == (200, True)
        desk.stores.jobs.cancel(claim.job_id)
        thread.join(3)
        assert not thread.is_alive()
        assert read(desk, claim).status == "canceled"

    def test_a_cancelled_run_ends_soon(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", ENDLESS)
        thread = in_background(desk, claim)
        cancelled = time.monotonic()
        desk.stores.jobs.cancel(claim.job_id)
        thread.join(10)
        assert time.monotonic() - cancelled < 2
        job = read(desk, claim)
        assert (job.status, job.result) == ("canceled", None)
        assert names(desk, claim).count("done") == 1

    def test_who_has_lost_the_lease_writes_nothing_more(
        self, desk: Desk, submit: Submit, client: redis.Redis
    ) -> None:
        claim = submit("deep-dream", ENDLESS)
        thread = in_background(desk, claim)
        heir = take_over(desk, claim)
        thread.join(10)
        assert not thread.is_alive()
        job = read(desk, claim)
        assert (job.status, job.attempts) == ("running", 2)
        assert "done" not in names(desk, claim)
        assert desk.stores.jobs.beat(heir) == "ok"

    def test_who_has_lost_the_lease_spoils_no_preview(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT)
        blobs, deaf = desk.stores.blobs, dataclasses.replace(desk.settings, beat_s=60)
        with Pulse(dataclasses.replace(desk, settings=deaf), claim, JobOptions()) as zombie:
            heir = take_over(desk, claim)
            blobs.put(claim.job_id, preview_name(1, heir.fence), b"the heir's", ttl_s=60)
            desk.stores.jobs.beat(heir, preview=1)
            zombie.step(Step(1, 3, 0.0, lambda: Image(torch.zeros(3, 8, 8))))
            late = preview_name(1, claim.fence)
            until(lambda: blobs.read(claim.job_id, late) is not None)
            zombie.flush()
        ((step, fence),) = desk.stores.jobs.shown(claim.job_id)
        assert blobs.read(claim.job_id, preview_name(step, fence)) == b"the heir's"


class TestGoingOn:
    @pytest.fixture
    def whole(self, desk: Desk, submit: Submit) -> list[bytes]:
        """What a run that nothing disturbs ends in."""
        claim = submit("deep-dream", SECONDS)
        work(desk, claim, "jobs")
        return artifacts(desk, claim)

    def test_another_worker_goes_on_from_the_kept_state(
        self, desk: Desk, submit: Submit, whole: list[bytes]
    ) -> None:
        claim = submit("deep-dream", SECONDS)
        thread = in_background(desk, claim)
        until(lambda: read(desk, claim).checkpoint is not None)
        heir = take_over(desk, claim)
        thread.join(10)
        before = read(desk, claim).progress
        desk.stores.state.hdel(JOB + claim.job_id, "progress")
        thread = in_background(desk, heir)
        first = read(desk, claim).progress
        thread.join(30)
        assert before is not None
        assert first is not None
        assert first["done"] > 1
        assert artifacts(desk, claim) == whole

    @pytest.mark.parametrize("kept", [None, b"not a state"])
    def test_a_state_that_cannot_be_read_means_a_start_from_nothing(
        self, desk: Desk, submit: Submit, kept: bytes | None
    ) -> None:
        claim = submit("deep-dream", SHORT)
        if kept is not None:
            desk.stores.blobs.put(claim.job_id, "state-0-0", kept, ttl_s=60)
        desk.stores.jobs.beat(claim, checkpoint="state-0-0")
        work(desk, claim, "jobs")
        assert read(desk, claim).status == "succeeded"

    def test_a_paused_run_is_put_down_and_goes_on_to_the_same_bytes(
        self, desk: Desk, submit: Submit, whole: list[bytes]
    ) -> None:
        claim = submit("deep-dream", SECONDS)
        thread = in_background(desk, claim)
        desk.stores.jobs.pause(claim.job_id)
        thread.join(10)
        job = read(desk, claim)
        assert (job.status, job.attempts) == ("paused", 1)
        assert job.checkpoint is not None
        assert job.progress is not None
        assert desk.stores.jobs.claim("jobs", "worker") is None
        assert desk.stores.jobs.resume(claim.job_id) == "queued"
        again = desk.stores.jobs.claim("jobs", "worker")
        assert again is not None
        work(desk, again, "jobs")
        assert read(desk, claim).status == "succeeded"
        assert artifacts(desk, claim) == whole

    def test_a_worker_that_is_to_stop_hands_its_job_back(
        self, desk: Desk, submit: Submit, whole: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []
        monkeypatch.setattr(tasks, "send", lambda app, lane, job_id: sent.append(job_id))
        claim = submit("deep-dream", SECONDS)
        thread = in_background(desk, claim)
        desk.stores.jobs.release("worker")
        thread.join(10)
        assert read(desk, claim).status == "queued"
        assert sent == [claim.job_id]
        heir = desk.stores.jobs.claim("jobs", "heir")
        assert heir is not None
        work(desk, heir, "jobs")
        assert artifacts(desk, claim) == whole

    def test_a_run_past_its_deadline_expires(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", ENDLESS)
        thread = in_background(desk, claim)
        desk.stores.state.hset(JOB + claim.job_id, "deadline_ms", 1)
        thread.join(10)
        job = read(desk, claim)
        assert (job.status, error_type(job)) == ("expired", "/problems/deadline")
