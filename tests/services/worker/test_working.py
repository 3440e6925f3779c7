"""A worker's work on real jobs, real files and the real network: results, faults, what is kept."""

from __future__ import annotations

import functools
import io
import json
import time
from typing import cast

import annotated_types
import numpy as np
import PIL.Image
import pytest
import redis
import torch

from lantern import registry
from lantern.call import Call
from lantern.image import Image
from lantern.progress import Step
from services import clients
from services.job_bytes import result_names
from services.jobs import JOB, Order
from services.record import JobOptions, new_id
from services.worker import ending, tasks
from services.worker.desk import Desk
from services.worker.pulse import Pulse
from services.worker.tasks import work
from tests.services.worker.deeds import (
    ENDLESS,
    SECONDS,
    SHORT,
    Submit,
    artifacts,
    error_type,
    in_background,
    kept,
    names,
    read,
)
from tests.waiting import until


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
            claim = submit("deep-dream", {"steps": 200, "octaves": 1, "size": 64})
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
        claim, jobs = submit("deep-dream", ENDLESS), desk.stores.jobs
        desk.stores.state.hset(
            JOB + claim.job_id, "options", '{"preview_every_s": 0.5, "preview_size": 48}'
        )
        thread = in_background(desk, claim)
        until(lambda: len(jobs.previews(claim.job_id)) >= 3)
        jobs.cancel(claim.job_id)
        thread.join(10)
        steps = jobs.previews(claim.job_id)
        assert len(steps) >= 3
        assert steps == sorted(set(steps))
        for step in steps:
            data = desk.stores.blobs.read(claim.job_id, f"preview-{claim.fence}-{step}")
            assert data is not None
            with PIL.Image.open(io.BytesIO(data)) as picture:
                assert max(picture.size) == 48
