"""A worker's work on real jobs, real files and the real network."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any, cast

import annotated_types
import numpy as np
import PIL.Image
import pytest
import redis
import torch

from lantern import registry
from lantern.call import Call, Studio
from lantern.image import Image
from lantern.progress import Step
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services import clients
from services.blobs import StorageFull
from services.clients import Stores
from services.job_bytes import preview_name, result_names
from services.jobs import JOB, RUNNING, Claim, Order
from services.queues import DELIVER, HOOKS, RUN_JOB, queue_of, send
from services.record import Job, JobOptions, new_id
from services.settings import Settings
from services.worker import caretaker, ending, patience, tasks
from services.worker.app import make_app
from services.worker.desk import Desk
from services.worker.pulse import Pulse
from services.worker.tasks import work
from tests.films import film
from tests.waiting import until

ENDLESS = {"steps": 200, "octaves": 10, "octave_scale": 1.1, "size": 160}
SECONDS = {"steps": 60, "octaves": 2, "size": 96}
LONG_SHEET = {"methods": ["rise", "occlusion", "integrated-gradients"], "evidence": 0}
SHORT = {"steps": 3, "octaves": 1, "size": 64}


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio(Zoo(downloads=False), StyleLibrary(Settings().styles_path))


@pytest.fixture(scope="session")
def photo() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def desk(stores: Stores, studio: Studio, settings: Settings) -> Desk:
    quick = dataclasses.replace(settings, checkpoint_every_s=0.3, beat_s=0.05)
    return Desk(quick, stores, studio)


Submit = Callable[..., Claim]


@pytest.fixture
def submit(desk: Desk, photo: bytes) -> Submit:
    """Queue a call on the photograph, as the gateway does, and claim it."""

    def make(technique: str, params: dict[str, Any], **options: Any) -> Claim:
        job_id = new_id()
        desk.stores.blobs.put(job_id, "input-image", photo, ttl_s=60)
        call = Call(technique, {}, params, **options)
        record = vars(call) | {"inputs": ["image"], "accept": list(call.accept)}
        desk.stores.jobs.create(Order(call=record, owner="nobody", id=job_id))
        claim = desk.stores.jobs.claim("jobs", "worker:1")
        assert claim is not None
        return claim

    return make


def read(desk: Desk, claim: Claim) -> Job:
    job = desk.stores.jobs.get(claim.job_id)
    assert job is not None
    return job


def artifacts(desk: Desk, claim: Claim) -> list[bytes]:
    """Return the bytes of a finished job's artifacts, as they are stored."""
    result = read(desk, claim).result
    assert result is not None
    stored = [desk.stores.blobs.read(claim.job_id, a["blob"]) for a in result["artifacts"]]
    return [data for data in stored if data is not None]


def error_type(job: Job) -> str:
    assert job.error is not None
    return str(job.error["type"])


def names(desk: Desk, claim: Claim) -> list[str]:
    return [event.name for event in desk.stores.jobs.events(claim.job_id, "0", 0.001)]


def kept(desk: Desk, claim: Claim) -> set[str]:
    """Return the kinds of bytes that are stored for a job."""
    found = cast(list[bytes], desk.stores.state.keys(f"lantern:blob:{claim.job_id}/*"))
    return {key.decode().rpartition("/")[2].partition("-")[0] for key in found}


def in_background(desk: Desk, claim: Claim) -> threading.Thread:
    """Work in a thread; return once the first step is taken."""
    thread = threading.Thread(target=work, args=(desk, claim, "jobs"))
    thread.start()
    until(lambda: read(desk, claim).progress is not None)
    return thread


def take_over(desk: Desk, claim: Claim) -> Claim:
    """Let a job's lease end and another worker claim it."""
    for _ in range(100):  # the worker may renew its lease in between
        desk.stores.state.zadd(RUNNING, {claim.job_id: 1})
        desk.stores.jobs.reap()
        heir = desk.stores.jobs.claim("jobs", "heir")
        if heir is not None:
            return heir
    raise AssertionError("the job could not be taken over")


class TestSuccess:
    def test_all_that_is_stored_of_a_result_counts_for_its_caller(
        self, desk: Desk, submit: Submit
    ) -> None:
        claim = submit("deep-dream", SHORT)
        work(desk, claim, "jobs")
        blobs, result = desk.stores.blobs, read(desk, claim).result
        stored = [blobs.read(claim.job_id, name) or b"" for name in result_names(result)]
        assert len(stored) == 2
        assert desk.stores.kept.bytes_of("nobody") == sum(map(len, stored)) > 0

    @pytest.mark.usefixtures("invented")
    def test_the_pictures_of_a_slot_keep_their_order(self, desk: Desk) -> None:
        job_id = new_id()
        levels = {"image": 10, "style": 50, "style-2": 20, "style-3": 90, "wide_extra": 40}
        for name, level in levels.items():
            grey = PIL.Image.new("L", (16, 16), level)
            out = io.BytesIO()
            grey.save(out, "PNG")
            desk.stores.blobs.put(job_id, f"input-{name}", out.getvalue(), ttl_s=60)
        call = vars(Call("collage", {})) | {"inputs": list(levels), "accept": ["*/*"]}
        desk.stores.jobs.create(Order(call=call, owner="nobody", id=job_id))
        claim = desk.stores.jobs.claim("jobs", "worker:1")
        assert claim is not None
        work(desk, claim, "jobs")
        assert read(desk, claim).status == "succeeded"
        rows = json.loads(artifacts(desk, claim)[0])
        assert [row["level"] for row in rows] == list(levels.values())
        assert [row["slot"] for row in rows] == ["image", *["style"] * 3, "wide_extra"]
        assert "input" not in kept(desk, claim)

    def test_artifacts_and_facts_are_stored(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT, seed=7)
        work(desk, claim, "jobs")
        job = read(desk, claim)
        assert (job.status, job.error) == ("succeeded", None)
        assert job.result is not None
        (artifact,) = job.result["artifacts"]
        assert (artifact["name"], artifact["kind"]) == ("picture", "picture")
        assert artifact["media_types"][0] == "image/jpeg"
        assert artifact["stored"] == "image/png"
        (data,) = artifacts(desk, claim)
        with PIL.Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("PNG", (64, 51))
        assert job.result["technique"] == "deep-dream"
        assert job.result["seed"] == 7
        assert job.result["params"]["steps"] == 3
        assert job.result["facts"]["model"]["name"] == "efficientnet-lite0"

    def test_the_last_step_is_told_before_the_end(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT)
        work(desk, claim, "jobs")
        progress = read(desk, claim).progress
        assert progress is not None
        assert (progress["done"], progress["total"], progress["fraction"]) == (3, 3, 1.0)
        told = names(desk, claim)
        assert told[:2] == ["status", "status"]
        assert set(told[2:-1]) == {"progress", "preview"}
        assert told[-1] == "done"

    def test_it_is_learnt_how_long_such_jobs_take(
        self, desk: Desk, submit: Submit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dream = functools.partial(
            desk.stores.speeds.seconds, "deep-dream", "efficientnet-lite0", gigaflop=50.0
        )
        for least_s, is_learnt in ((60.0, False), (0.1, True)):
            monkeypatch.setattr(tasks, "LEAST_TO_LEARN_S", least_s)
            claim = submit("deep-dream", {"steps": 40, "octaves": 1, "size": 64})
            desk.stores.state.hset(JOB + claim.job_id, "estimate", '{"gigaflop": 50.0}')
            began = time.monotonic()
            work(desk, claim, "jobs")
            took_s = time.monotonic() - began
            assert (dream() is not None) == is_learnt, "a moment says little"
        learnt = dream()
        assert learnt is not None
        assert 0.1 * took_s < learnt <= 1.1 * took_s

    def test_a_preview_is_stored(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT)
        work(desk, claim, "jobs")
        step = read(desk, claim).preview_step
        assert step is not None
        assert step in desk.stores.jobs.previews(claim.job_id)
        data = desk.stores.blobs.read(claim.job_id, f"preview-{claim.fence}-{step}")
        assert data is not None
        with PIL.Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG"

    def test_a_step_that_is_told_again_is_not_shown_again(self, desk: Desk, submit: Submit) -> None:
        claim, drawn = submit("deep-dream", SHORT), []

        def draw() -> Image:
            drawn.append(1)
            return Image(torch.zeros(3, 8, 8))

        with Pulse(desk, claim, JobOptions(preview_every_s=0.5)) as pulse:
            for _ in range(4):
                pulse.step(Step(1, 3, 0.0, draw))
                time.sleep(0.3)
            pulse.flush()
        assert len(drawn) == 1
        told = names(desk, claim)
        assert (told.count("progress"), told.count("preview")) == (1, 1)

    def test_how_long_it_will_take_is_told_by_steps_of_one_kind(
        self, desk: Desk, submit: Submit
    ) -> None:
        claim = submit("deep-dream", SHORT)

        def left_behind(pulse: Pulse, done: int, *, is_even: bool) -> float | None:
            grey = Image(torch.zeros(3, 8, 8))
            pulse.step(Step(done, 100, 0.0, lambda: grey, is_even))
            until(lambda: (read(desk, claim).progress or {}).get("done") == done)
            progress = read(desk, claim).progress
            assert progress is not None
            eta_s: float | None = progress["eta_s"]
            return eta_s

        with Pulse(desk, claim, JobOptions()) as pulse:
            for done in (1, 2):
                assert left_behind(pulse, done, is_even=False) is None
                time.sleep(0.5)
            assert left_behind(pulse, 3, is_even=True) is None
            eta_s = left_behind(pulse, 90, is_even=True)
        assert eta_s is not None
        assert eta_s < 5

    def test_the_same_seed_gives_the_same_file(self, desk: Desk, submit: Submit) -> None:
        def made(seed: int) -> list[bytes]:
            claim = submit("deep-dream", SHORT, seed=seed)
            work(desk, claim, "jobs")
            return artifacts(desk, claim)

        assert made(1) == made(1) != made(2)

    def test_an_interactive_technique_runs_as_well(self, desk: Desk, submit: Submit) -> None:
        claim = submit("classify", {"top": 2})
        work(desk, claim, "jobs")
        result = read(desk, claim).result
        assert result is not None
        assert result["artifacts"][0]["stored"] == "application/json"


class TestFailure:
    def test_a_wrong_parameter_fails_under_its_code(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT | {"layer": "no-such-layer"})
        work(desk, claim, "jobs")
        job = read(desk, claim)
        assert job.status == "failed"
        assert error_type(job) == "/problems/unknown-layer"
        assert names(desk, claim)[-1] == "done"

    def test_an_unknown_model_fails_under_its_code(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT, model="no-such-model")
        work(desk, claim, "jobs")
        assert error_type(read(desk, claim)) == "/problems/unknown-model"

    def test_a_picture_that_has_expired_is_asked_for(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT)
        desk.stores.blobs.delete(claim.job_id, "input-image")
        work(desk, claim, "jobs")
        job = read(desk, claim)
        assert error_type(job) == "/problems/missing-input"
        assert job.error is not None
        assert "send it again" in job.error["detail"]

    def test_a_damaged_picture_fails_under_its_code(
        self, desk: Desk, submit: Submit, photo: bytes
    ) -> None:
        claim = submit("deep-dream", SHORT)
        desk.stores.blobs.put(claim.job_id, "input-image", photo[:-200], ttl_s=60)
        work(desk, claim, "jobs")
        assert error_type(read(desk, claim)) == "/problems/undecodable-image"

    def test_our_own_mistake_fails_without_its_words(
        self, desk: Desk, submit: Submit, client: redis.Redis
    ) -> None:
        claim = submit("deep-dream", SHORT)
        client.hset(JOB + claim.job_id, "call", '{"inputs": {}, "no-such-field": "secret"}')
        work(desk, claim, "jobs")
        job = read(desk, claim)
        assert (job.status, error_type(job)) == ("failed", "/problems/internal")
        assert "secret" not in str(job.error)


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
        time.sleep(0.8)
        client.config_set("maxmemory", 0)
        thread.join(10)
        assert read(desk, claim).status == ("succeeded" if grace_s > 1 else "queued")


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


class TestWhatIsKept:
    def test_a_finished_job_keeps_its_result_and_previews_alone(
        self, desk: Desk, submit: Submit
    ) -> None:
        claim = submit("deep-dream", SECONDS)
        work(desk, claim, "jobs")
        assert kept(desk, claim) == {"result", "preview"}
        job = read(desk, claim)
        assert job.result is not None
        arrays = desk.stores.blobs.read(claim.job_id, job.result["arrays"])
        assert arrays is not None
        with np.load(io.BytesIO(arrays)) as found:
            assert found["picture"].dtype == np.float32
        until_gone = desk.stores.state.ttl(f"lantern:blob:{claim.job_id}/preview-1-1")
        assert 0 < until_gone <= desk.settings.preview_ttl_s

    def test_arrays_are_kept_up_to_those_of_the_largest_painting(
        self, desk: Desk, submit: Submit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bounds = registry.find("fast-style").params_type.model_fields["size"].metadata
        (side,) = (cast(int, bound.le) for bound in bounds if isinstance(bound, annotated_types.Le))
        assert 3 * side * side * 4 <= ending.LARGEST_ARRAYS
        monkeypatch.setattr(ending, "LARGEST_ARRAYS", 1000)
        claim = submit("deep-dream", SHORT)
        work(desk, claim, "jobs")
        job = read(desk, claim)
        assert job.result is not None
        assert job.result["arrays"] is None
        assert job.result["artifacts"]

    @pytest.mark.parametrize("end", ["canceled", "expired"])
    def test_what_a_job_needed_that_no_worker_ended_is_tidied_up(
        self, desk: Desk, submit: Submit, end: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim = submit("deep-dream", SHORT)
        jobs, blobs = desk.stores.jobs, desk.stores.blobs
        for name in ("state-1-0", "preview-1-1"):
            blobs.put(claim.job_id, name, b"x", ttl_s=60_000)
        jobs.beat(claim, preview=1, checkpoint="state-1-0")
        jobs.suspend(claim)
        if end == "canceled":
            jobs.cancel(claim.job_id)
        else:
            desk.stores.state.hset(JOB + claim.job_id, "deadline_ms", 1)
            assert jobs.claim("jobs", "worker:1") is None
        assert read(desk, claim).status == end
        assert kept(desk, claim) == {"input", "state", "preview"}
        monkeypatch.setattr(clients, "own_stores", lambda: desk.stores)
        tasks.tidy.run()
        assert kept(desk, claim) == {"preview"}
        left = desk.stores.state.ttl(f"lantern:blob:{claim.job_id}/preview-1-1")
        assert 0 < left <= desk.settings.preview_ttl_s
        assert jobs.ended() == []

    def test_previews_are_a_film(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SECONDS)
        desk.stores.state.hset(
            JOB + claim.job_id, "options", '{"preview_every_s": 0.5, "preview_size": 48}'
        )
        work(desk, claim, "jobs")
        steps = desk.stores.jobs.previews(claim.job_id)
        assert len(steps) >= 2
        assert steps == sorted(steps)
        for step in steps:
            data = desk.stores.blobs.read(claim.job_id, f"preview-{claim.fence}-{step}")
            assert data is not None
            with PIL.Image.open(io.BytesIO(data)) as picture:
                assert max(picture.size) == 48


class TestTheTask:
    def run(self, queue: str) -> None:
        """Run the task as if a message had come by a queue."""
        tasks.run_job.push_request(delivery_info={"routing_key": queue}, hostname="worker")
        try:
            tasks.run_job.run("job_that_may_be_gone")
        finally:
            tasks.run_job.pop_request()

    def test_it_runs_the_job_that_is_first_in_its_lane(
        self, desk: Desk, submit: Submit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "desk", lambda: desk)
        taken = submit("classify", {})
        self.run(queue_of("jobs"))
        assert read(desk, taken).status == "running"
        desk.stores.jobs.suspend(taken)
        self.run(queue_of("fast"))
        assert read(desk, taken).status == "queued"
        self.run(queue_of("jobs"))
        self.run(queue_of("jobs"))
        job = read(desk, taken)
        assert (job.status, job.attempts) == ("succeeded", 2)

    def test_a_message_carries_nothing_but_the_id(
        self, settings: Settings, client: redis.Redis
    ) -> None:
        import base64
        import json

        app = make_app(settings)
        send(app, "fast", "job_1")
        (raw,) = client.lrange(queue_of("fast"), 0, -1)
        message = json.loads(raw)
        args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        assert message["headers"]["task"] == RUN_JOB
        assert (args, kwargs) == (["job_1"], {})
        app.close()


class TestTheCaretaker:
    @pytest.fixture
    def app(self, settings: Settings) -> Iterator[Any]:
        made = make_app(settings)
        yield made
        made.close()

    def test_lost_messages_are_made_up_for_and_doubled_ones_do_no_harm(
        self, desk: Desk, app: Any, client: redis.Redis
    ) -> None:
        for _ in range(3):
            desk.stores.jobs.create(Order(call={"technique": "x", "inputs": []}, owner="nobody"))
        for _ in range(4):
            caretaker.reap(desk.stores, app)
            assert client.llen(queue_of("jobs")) == 3
        client.lpop(queue_of("jobs"))
        caretaker.reap(desk.stores, app)
        assert client.llen(queue_of("jobs")) == 3
        send(app, "jobs", "")
        caretaker.reap(desk.stores, app)
        assert client.llen(queue_of("jobs")) == 4

    def test_jobs_of_dead_processes_come_back_at_once(self, desk: Desk, app: Any) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        jobs = desk.stores.jobs
        for _ in range(3):
            jobs.create(Order(call={"technique": "x", "inputs": []}, owner="nobody"))
        holders = [f"mine:{dead.pid}", f"mine:{os.getpid()}", f"other:{dead.pid}"]
        claims = [jobs.claim("jobs", holder) for holder in holders]
        caretaker.care(desk.stores, app, "mine")
        words = [jobs.beat(claim) for claim in claims if claim]
        assert words == ["lost", "ok", "ok"]
        again = jobs.claim("jobs", "heir:1")
        assert again is not None
        assert claims[0] is not None
        assert again.job_id == claims[0].job_id

    def test_tidying_is_called_for_however_many_messages_wait(
        self, desk: Desk, app: Any, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(3):
            app.send_task(DELIVER, queue=HOOKS)
        for _ in range(2):
            caretaker.announce_tidying(client, app)
        assert client.llen(HOOKS) == 4, "it waits once"
        monkeypatch.setattr(clients, "own_stores", lambda: desk.stores)
        tasks.tidy.run()
        caretaker.announce_tidying(client, app)
        assert client.llen(HOOKS) == 5

    def test_a_chore_is_missed_while_redis_is_away(self, settings: Settings) -> None:
        away = clients.stores(dataclasses.replace(settings, redis_url="redis://127.0.0.1:1/0"))
        caretaker.quietly(lambda: away.jobs.greet("jobs", "worker", ttl_s=5))()
