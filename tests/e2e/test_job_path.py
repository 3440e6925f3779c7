"""Jobs through gateway, queue and worker; what happens to them when processes die."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import numpy as np
import psutil
import pytest

from tests.e2e.conftest import LEASE_S
from tests.e2e.dreams import MINUTES, QUICK, SEVERAL_SECONDS, result_of
from tests.e2e.pictures import decode, encode, kind_of, noise
from tests.e2e.running import Running, problem
from tests.waiting import until

pytestmark = pytest.mark.e2e
EITHER = "image/png, application/json;q=0.5"


def await_first_step(stack: Running, job: Any) -> None:
    def stepped() -> bool:
        now = stack.json(job["links"]["self"])
        assert now["status"] in ("queued", "running"), now
        return now["progress"] is not None

    until(stepped, 20)


def position(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


@pytest.fixture(scope="module")
def repainted(stack: Running, coffee: bytes, cat: bytes) -> Any:
    """Submit a style transfer and follow it: the answer, the events and the final document."""
    response = stack.form("style-transfer", {"image": coffee, "style": cat}, steps=40, size=128)
    job = json.loads(response.data)
    events = list(stack.events(job))
    return response, events, stack.json(job["links"]["self"])


class TestFromSubmissionToResult:
    def test_it_is_accepted(self, repainted: Any) -> None:
        response, _, _ = repainted
        job = json.loads(response.data)
        assert response.status == 202
        assert response.headers["Location"] == job["links"]["self"]
        assert (job["technique"], job["status"]) == ("style-transfer", "queued")
        assert (job["params"]["steps"], job["params"]["optimizer"]) == (40, "adam")

    def test_its_events_come_in_order(self, repainted: Any) -> None:
        _, events, final = repainted
        names = [name for _, name, _ in events]
        assert names[:2] == ["status", "status"]
        assert [data["status"] for _, _, data in events[:2]] == ["queued", "running"]
        assert names[-1] == "done"
        assert set(names[2:-1]) == {"progress", "preview"}
        ids = [position(event_id) for event_id, _, _ in events]
        assert ids == sorted(set(ids))
        done = [data["done"] for _, name, data in events if name == "progress"]
        assert done == sorted(done)
        assert events[-1][2] == final

    def test_progress_tells_how_far_it_is(self, repainted: Any) -> None:
        _, events, final = repainted
        progress = [data for _, name, data in events if name == "progress"]
        for one in progress:
            assert one["total"] == 40
            assert one["fraction"] == pytest.approx(one["done"] / 40, abs=1e-3)
            assert one["loss"] > 0
            assert one["eta_s"] is None or one["eta_s"] >= 0
        assert progress[-1]["loss"] < progress[0]["loss"]
        assert final["progress"] == progress[-1]

    def test_it_ends_with_all_that_is_known_of_it(self, repainted: Any) -> None:
        _, _, final = repainted
        assert (final["status"], final["attempts"], final["error"]) == ("succeeded", 1, None)
        assert final["created_at"] <= final["started_at"] <= final["finished_at"]
        assert final["finished_at"] < final["expires_at"]
        assert {"lantern", "torch"} <= final["versions"].keys()
        facts = final["result"]["facts"]
        assert facts["loss"]["last"] < facts["loss"]["first"]

    def test_previews_and_result_are_pictures(self, stack: Running, repainted: Any) -> None:
        _, events, final = repainted
        previews = [data for _, name, data in events if name == "preview"]
        assert final["preview"]["step"] == previews[-1]["step"]
        for preview in previews:
            assert kind_of(stack.get(preview["url"]).data) == "JPEG"
        result = result_of(stack, final)
        assert kind_of(result) == "PNG"
        assert decode(result).shape == (85, 128, 3)
        (artifact,) = final["result"]["artifacts"]
        assert stack.get(artifact["url"], accept="image/png").data == result
        assert kind_of(stack.get(artifact["url"]).data) == "JPEG"
        film = stack.json(final["links"]["previews"])["previews"]
        assert film == [{"step": one["step"], "url": one["url"]} for one in previews]

    def test_the_result_comes_in_other_forms(self, stack: Running, repainted: Any) -> None:
        _, _, final = repainted
        for kind in ("JPEG", "WEBP"):
            response = stack.get(final["links"]["result"], accept=f"image/{kind.lower()}")
            assert kind_of(response.data) == kind
        response = stack.get(final["links"]["result"], accept="application/json")
        assert json.loads(response.data) == final["result"]

    def test_a_stream_resumes_where_it_was_left(self, stack: Running, repainted: Any) -> None:
        _, events, final = repainted
        for place in (0, len(events) // 2, len(events) - 2):
            assert list(stack.events(final, after=events[place][0])) == events[place + 1 :]

    def test_it_is_listed(self, stack: Running, repainted: Any) -> None:
        _, _, final = repainted
        listed = stack.json("/v1/jobs?technique=style-transfer&status=succeeded")["jobs"]
        assert final in listed


class TestInteractiveTechniquesAsJobs:
    def test_a_map_can_be_asked_for_as_a_job(self, stack: Running, small_cat: bytes) -> None:
        response = stack.raw("grad-cam", small_cat, prefer="respond-async")
        assert response.status == 202
        assert response.headers["Preference-Applied"] == "respond-async"
        final = stack.ended(json.loads(response.data))
        assert final["status"] == "succeeded"
        picture = decode(result_of(stack, final))
        served = decode(stack.raw("grad-cam", small_cat, accept="image/png").data)
        assert np.abs(picture.astype(int) - served).max() <= 1

    def test_a_table_can_be_asked_for_as_a_job(self, stack: Running, small_cat: bytes) -> None:
        job = stack.submit("classify", {"image": small_cat}, top=3)
        assert stack.ended(job)["status"] == "succeeded"
        assert len(json.loads(result_of(stack, job, accept=EITHER))["artifacts"]) == 1
        assert len(json.loads(stack.get(job["links"]["result"]).data)) == 3

    def test_a_wrong_call_fails_under_its_code(self, stack: Running, tiny: bytes) -> None:
        # only the worker learns how many classes the network has
        final = stack.ended(stack.submit("grad-cam", {"image": tiny}, target=5000))
        assert final["status"] == "failed"
        assert final["error"]["type"] == "/problems/invalid-parameter"
        document = problem(stack.get(final["links"]["result"]), 409, "no-result")
        assert "0 to 999" in document["detail"]

    @pytest.mark.parametrize(
        ("fields", "code"),
        [({"layer": "nope"}, "unknown-layer"), ({"model": "vgg19"}, "weights-missing")],
    )
    def test_what_the_worker_would_refuse_is_refused_at_once(
        self, stack: Running, tiny: bytes, fields: dict[str, str], code: str
    ) -> None:
        problem(stack.form("deep-dream", {"image": tiny}, **fields), 422, code)


class TestWaiting:
    def test_a_job_that_is_done_in_time_is_answered_with_its_result(
        self, stack: Running, tiny: bytes
    ) -> None:
        response = stack.form("deep-dream", {"image": tiny}, headers={"prefer": "wait=25"}, **QUICK)
        assert response.status == 200
        assert response.headers["Preference-Applied"] == "wait=25"
        assert response.headers["Location"].startswith("/v1/jobs/")
        assert decode(response.data).shape == (48, 64, 3)

    def test_one_that_is_not_is_answered_with_the_job(self, stack: Running, coffee: bytes) -> None:
        started = time.monotonic()
        response = stack.form(
            "deep-dream", {"image": coffee}, headers={"prefer": "wait=1"}, **MINUTES
        )
        assert 0.9 < time.monotonic() - started < 3
        assert response.status == 202
        assert response.headers["Preference-Applied"] == "wait=1"
        job = json.loads(response.data)
        stack.request("POST", job["links"]["cancel"])
        assert stack.ended(job)["status"] == "canceled"


class TestRepeating:
    def test_the_same_seed_gives_the_same_bytes(self, stack: Running, tiny: bytes) -> None:
        results = []
        for seed in (5, 5, 6):
            job = stack.submit("deep-dream", {"image": tiny}, seed=seed, **QUICK)
            assert stack.ended(job)["status"] == "succeeded"
            results.append(result_of(stack, job))
        assert results[0] == results[1] != results[2]

    def test_a_replayed_submission_runs_once(self, stack: Running, tiny: bytes) -> None:
        def post(size: int) -> Any:
            headers = {"idempotency_key": "order-17"}
            return stack.form("deep-dream", {"image": tiny}, headers=headers, steps=1, size=size)

        first, again, other = post(64), post(64), post(65)
        assert (first.status, again.status) == (202, 202)
        assert json.loads(first.data)["id"] == json.loads(again.data)["id"]
        assert again.headers["Idempotent-Replayed"] == "true"
        problem(other, 422, "idempotency-conflict")
        assert stack.ended(json.loads(first.data))["attempts"] == 1


class TestCancelling:
    def test_a_running_job_ends_within_three_seconds(self, stack: Running, coffee: bytes) -> None:
        job = stack.submit("deep-dream", {"image": coffee}, **MINUTES)
        await_first_step(stack, job)
        asked = time.monotonic()
        response = stack.request("POST", job["links"]["cancel"])
        assert response.status == 202
        final = stack.ended(job)
        assert time.monotonic() - asked < 3
        assert (final["status"], final["result"]) == ("canceled", None)
        events = list(stack.events(job))
        assert [name for _, name, _ in events].count("done") == 1
        assert stack.request("POST", job["links"]["cancel"]).status in (200, 202)
        problem(stack.get(job["links"]["result"]), 409)

    def test_a_waiting_job_never_starts(self, stack: Running, coffee: bytes) -> None:
        running = stack.submit("deep-dream", {"image": coffee}, **MINUTES)
        waiting = stack.submit("deep-dream", {"image": coffee}, **MINUTES)
        await_first_step(stack, running)
        response = stack.request("POST", waiting["links"]["cancel"])
        assert json.loads(response.data)["status"] == "canceled"
        problem(stack.request("DELETE", running["links"]["self"]), 409, "not-finished")
        stack.request("POST", running["links"]["cancel"])
        assert stack.ended(running)["status"] == "canceled"
        assert stack.json(waiting["links"]["self"])["started_at"] is None
        for job in (running, waiting):
            assert stack.request("DELETE", job["links"]["self"]).status == 204
            problem(stack.get(job["links"]["self"]), 404)


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encode(noise(160, 120), "JPEG")


@pytest.fixture(scope="module")
def undisturbed(stack: Running, photo: bytes) -> bytes:
    job = stack.submit("deep-dream", {"image": photo}, **SEVERAL_SECONDS)
    assert stack.ended(job)["attempts"] == 1
    return result_of(stack, job)


class TestDyingWorkers:
    @pytest.mark.parametrize("victim", ["pool-child", "whole-worker"])
    def test_a_job_outlives_its_worker(
        self, stack: Running, photo: bytes, undisturbed: bytes, victim: str
    ) -> None:
        job = stack.submit("deep-dream", {"image": photo}, **SEVERAL_SECONDS)
        await_first_step(stack, job)
        killed = time.monotonic()
        if victim == "pool-child":
            pool_child(stack).kill()
        else:
            os.killpg(stack.part("worker-1").pid, signal.SIGKILL)
        final = stack.ended(job, within_s=60)
        assert (final["status"], final["attempts"]) == ("succeeded", 2)
        assert result_of(stack, job) == undisturbed
        names = [name for _, name, _ in stack.events(job)]
        assert names.count("done") == 1
        print(f"done {time.monotonic() - killed:.1f} s after the kill")
        assert time.monotonic() - killed < 3 * LEASE_S + 30
        until(stack.ready, 20)


def pool_child(stack: Running) -> psutil.Process:
    """Return the process in which the worker runs its jobs: the one with torch in it."""
    children = stack.part("worker-1").children()
    return max(children, key=lambda child: child.memory_info().rss)
