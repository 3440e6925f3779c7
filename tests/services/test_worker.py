"""A worker's work on real jobs, real files and the real network."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import redis

from lantern.call import Call, Studio
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.files import Files
from services.jobs import PREFIX, RUNNING, Claim, Job, Jobs
from services.settings import Settings
from services.worker import tasks
from services.worker.app import QUEUE, TASK, make_app, send
from services.worker.desk import Desk
from services.worker.tasks import work

ENDLESS = {"steps": 200, "octaves": 10, "octave_scale": 1.1, "size": 160}
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
def desk(jobs: Jobs, files: Files, studio: Studio, settings: Settings) -> Desk:
    return Desk(settings, jobs, files, studio)


Submit = Callable[..., Claim]


@pytest.fixture
def submit(desk: Desk, photo: bytes) -> Submit:
    """Queue a call on the photograph, as the gateway does, and claim it."""

    def make(technique: str, params: dict[str, Any], **options: Any) -> Claim:
        file = desk.files.put(photo, "image/png")
        call = Call(technique, {}, params, **options)
        record = vars(call) | {"inputs": {"image": file.id}, "accept": list(call.accept)}
        job, _ = desk.jobs.create(record)
        claim = desk.jobs.claim(job.id, "worker")
        assert claim is not None
        return claim

    return make


def read(desk: Desk, claim: Claim) -> Job:
    job = desk.jobs.get(claim.job_id)
    assert job is not None
    return job


def error_type(job: Job) -> str:
    assert job.error is not None
    return str(job.error["type"])


def names(desk: Desk, claim: Claim) -> list[str]:
    return [event.name for event in desk.jobs.events(claim.job_id, "0", 0.001)]


def in_background(desk: Desk, claim: Claim) -> threading.Thread:
    """Work in a thread; return once the first step is taken."""
    thread = threading.Thread(target=work, args=(desk, claim))
    thread.start()
    deadline = time.monotonic() + 20
    while read(desk, claim).progress is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return thread


def take_over(desk: Desk, claim: Claim, client: redis.Redis) -> Claim:
    """Let a job's lease end and another worker claim it."""
    for _ in range(100):  # the worker may renew its lease in between
        client.hset(PREFIX + claim.job_id, "lease_ms", 1)
        client.zadd(RUNNING, {claim.job_id: 1})
        heir = desk.jobs.claim(claim.job_id, "heir")
        if heir is not None:
            return heir
    raise AssertionError("the job could not be taken over")


class TestSuccess:
    def test_artifacts_and_facts_are_stored(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT, seed=7)
        work(desk, claim)
        job = read(desk, claim)
        assert (job.status, job.error) == ("succeeded", None)
        assert job.result is not None
        (artifact,) = job.result["artifacts"]
        assert (artifact["name"], artifact["kind"]) == ("picture", "picture")
        assert artifact["media_type"] == "image/png"
        data = desk.files.read(artifact["file"])
        assert data is not None
        with PIL.Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("PNG", (64, 51))
        assert job.result["technique"] == "deep-dream"
        assert job.result["seed"] == 7
        assert job.result["params"]["steps"] == 3
        assert job.result["facts"]["model"]["name"] == "efficientnet-lite0"

    def test_the_last_step_is_told_before_the_end(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT)
        work(desk, claim)
        progress = read(desk, claim).progress
        assert progress is not None
        assert (progress["done"], progress["total"], progress["fraction"]) == (3, 3, 1.0)
        told = names(desk, claim)
        assert told[:2] == ["status", "status"]
        assert set(told[2:-1]) == {"progress", "preview"}
        assert told[-1] == "done"

    def test_a_preview_is_stored(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT)
        work(desk, claim)
        step = read(desk, claim).preview_step
        assert step is not None
        file = desk.jobs.preview(claim.job_id, step)
        assert file is not None
        data = desk.files.read(file)
        assert data is not None
        with PIL.Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG"

    def test_the_same_seed_gives_the_same_file(self, desk: Desk, submit: Submit) -> None:
        def file(seed: int) -> str:
            claim = submit("deep-dream", SHORT, seed=seed)
            work(desk, claim)
            result = read(desk, claim).result
            assert result is not None
            return str(result["artifacts"][0]["file"])

        assert file(1) == file(1) != file(2)

    def test_an_interactive_technique_runs_as_well(self, desk: Desk, submit: Submit) -> None:
        claim = submit("classify", {"top": 2})
        work(desk, claim)
        result = read(desk, claim).result
        assert result is not None
        assert result["artifacts"][0]["media_type"] == "application/json"


class TestFailure:
    def test_a_wrong_parameter_fails_under_its_code(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT | {"layer": "no-such-layer"})
        work(desk, claim)
        job = read(desk, claim)
        assert job.status == "failed"
        assert error_type(job) == "/problems/unknown-layer"
        assert names(desk, claim)[-1] == "done"

    def test_an_unknown_model_fails_under_its_code(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", SHORT, model="no-such-model")
        work(desk, claim)
        assert error_type(read(desk, claim)) == "/problems/unknown-model"

    def test_a_picture_that_has_expired_is_asked_for(
        self, desk: Desk, submit: Submit, photo: bytes
    ) -> None:
        claim = submit("deep-dream", SHORT)
        desk.files.delete(desk.files.put(photo, "image/png").id)
        work(desk, claim)
        job = read(desk, claim)
        assert error_type(job) == "/problems/missing-input"
        assert job.error is not None
        assert "send it again" in job.error["detail"]

    def test_a_damaged_picture_fails_under_its_code(
        self, desk: Desk, submit: Submit, photo: bytes, client: redis.Redis
    ) -> None:
        claim = submit("deep-dream", SHORT)
        file = desk.files.put(photo, "image/png")
        client.set("lantern:file:" + file.id, photo[:-200])
        work(desk, claim)
        assert error_type(read(desk, claim)) == "/problems/undecodable-image"

    def test_a_full_store_fails_the_job(
        self, desk: Desk, submit: Submit, client: redis.Redis
    ) -> None:
        claim = submit("deep-dream", SHORT)
        client.config_set("maxmemory", 1)
        work(desk, claim)
        assert error_type(read(desk, claim)) == "/problems/storage-full"

    def test_our_own_mistake_fails_without_its_words(
        self, desk: Desk, submit: Submit, client: redis.Redis
    ) -> None:
        claim = submit("deep-dream", SHORT)
        client.hset(PREFIX + claim.job_id, "call", '{"inputs": {}, "no-such-field": "secret"}')
        work(desk, claim)
        job = read(desk, claim)
        assert (job.status, error_type(job)) == ("failed", "/problems/internal")
        assert "secret" not in str(job.error)


class TestStopping:
    def test_a_cancelled_run_ends_soon(self, desk: Desk, submit: Submit) -> None:
        claim = submit("deep-dream", ENDLESS)
        thread = in_background(desk, claim)
        cancelled = time.monotonic()
        desk.jobs.cancel(claim.job_id)
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
        heir = take_over(desk, claim, client)
        thread.join(10)
        assert not thread.is_alive()
        job = read(desk, claim)
        assert (job.status, job.attempts) == ("running", 2)
        assert "done" not in names(desk, claim)
        assert desk.jobs.beat(heir) == "ok"


class TestGoingOn:
    def test_another_worker_goes_on_from_the_kept_state(
        self, desk: Desk, submit: Submit, client: redis.Redis
    ) -> None:
        claim = submit("deep-dream", ENDLESS)
        thread = in_background(desk, claim)
        deadline = time.monotonic() + 20
        while read(desk, claim).checkpoint is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        heir = take_over(desk, claim, client)
        thread.join(10)
        kept = read(desk, claim).progress
        assert kept is not None
        client.hdel(PREFIX + claim.job_id, "progress")
        thread = in_background(desk, heir)
        first = read(desk, claim).progress
        desk.jobs.cancel(claim.job_id)
        thread.join(10)
        assert first is not None
        # the state is kept every five seconds; a start from nothing is far behind that
        assert first["done"] > kept["done"] / 2
        assert read(desk, claim).status == "canceled"

    def test_a_state_that_has_expired_means_a_start_from_nothing(
        self, desk: Desk, submit: Submit
    ) -> None:
        claim = submit("deep-dream", SHORT)
        desk.jobs.beat(claim, checkpoint="file_" + 64 * "0")
        work(desk, claim)
        assert read(desk, claim).status == "succeeded"


class TestTheTask:
    def test_it_runs_a_job_that_waits_and_only_that(
        self, desk: Desk, submit: Submit, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "desk", lambda: desk)
        taken = submit("classify", {})
        tasks.run_job(taken.job_id)
        assert read(desk, taken).status == "running"
        client.hset(PREFIX + taken.job_id, "status", "queued")
        tasks.run_job(taken.job_id)
        tasks.run_job(taken.job_id)
        job = read(desk, taken)
        assert (job.status, job.attempts) == ("succeeded", 2)
        tasks.run_job("job_" + 32 * "0")

    def test_a_message_carries_nothing_but_the_id(
        self, settings: Settings, client: redis.Redis
    ) -> None:
        import base64
        import json

        app = make_app(settings)
        send(app, "job_1")
        (raw,) = client.lrange(QUEUE, 0, -1)
        message = json.loads(raw)
        args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        assert message["headers"]["task"] == TASK
        assert (args, kwargs) == (["job_1"], {})
        app.close()
