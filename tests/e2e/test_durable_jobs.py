"""What jobs can do beyond running: pause, go on, wait their turn, report, be remembered."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from standardwebhooks import Webhook

from tests.e2e.conftest import LEASE_S
from tests.e2e.dreams import MINUTES, QUICK, SEVERAL_SECONDS, result_of
from tests.e2e.pictures import decode
from tests.e2e.running import Running
from tests.waiting import until

pytestmark = pytest.mark.e2e


def status_of(stack: Running, job: Any) -> str:
    return str(stack.json(job["links"]["self"])["status"])


def has_begun(stack: Running, job: Any) -> bool:
    return stack.json(job["links"]["self"])["progress"] is not None


@pytest.fixture(scope="module")
def undisturbed(stack: Running, coffee: bytes) -> bytes:
    """The result of a run that nothing happens to."""
    job = stack.submit("deep-dream", {"image": coffee}, **SEVERAL_SECONDS)
    assert stack.ended(job)["status"] == "succeeded"
    return result_of(stack, job)


class TestPausing:
    def test_a_paused_job_goes_on_to_the_same_bytes(
        self, stack: Running, coffee: bytes, tiny: bytes, undisturbed: bytes
    ) -> None:
        job = stack.submit("deep-dream", {"image": coffee}, **SEVERAL_SECONDS)
        until(lambda: has_begun(stack, job), 20)
        stack.request("POST", job["links"]["pause"])
        until(lambda: status_of(stack, job) == "paused", 5)
        steps = stack.json(job["links"]["self"])["progress"]["done"]
        # its worker is free for others meanwhile
        assert stack.ended(stack.submit("deep-dream", {"image": tiny}, **QUICK))["status"] == (
            "succeeded"
        )
        assert status_of(stack, job) == "paused"
        stack.request("POST", job["links"]["resume"])
        final = stack.ended(job)
        assert (final["status"], final["attempts"]) == ("succeeded", 2)
        assert result_of(stack, job) == undisturbed
        states = [data for _, name, data in stack.events(job) if name == "status"]
        assert [one["status"] for one in states] == [
            "queued", "running", "paused", "queued", "running"
        ]  # fmt: skip
        done = [data["done"] for _, name, data in stack.events(job) if name == "progress"]
        assert done == sorted(done)
        assert steps in done


class TestStoppingWorkers:
    def test_a_worker_that_is_told_to_stop_hands_its_job_on(
        self, stack: Running, coffee: bytes, undisturbed: bytes
    ) -> None:
        job = stack.submit("deep-dream", {"image": coffee}, **SEVERAL_SECONDS)
        until(lambda: has_begun(stack, job), 20)
        asked = time.monotonic()
        os.kill(stack.part("worker-1").pid, signal.SIGTERM)
        until(lambda: status_of(stack, job) == "queued", 3)
        assert time.monotonic() - asked < LEASE_S
        final = stack.ended(job)
        assert (final["status"], final["attempts"]) == ("succeeded", 2)
        assert result_of(stack, job) == undisturbed
        until(stack.ready, 30)


class TestLanes:
    def test_a_quick_job_does_not_wait_for_a_long_one(
        self, stack: Running, coffee: bytes, tiny: bytes
    ) -> None:
        long = stack.submit("deep-dream", {"image": coffee}, **MINUTES)
        until(lambda: has_begun(stack, long), 20)
        quick = stack.submit("fast-style", {"image": tiny})
        assert stack.ended(quick, within_s=30)["status"] == "succeeded"
        assert status_of(stack, long) == "running"
        stack.request("POST", long["links"]["cancel"])

    def test_priorities_set_the_order(self, stack: Running, coffee: bytes, tiny: bytes) -> None:
        first = stack.submit("deep-dream", {"image": coffee}, **MINUTES)
        until(lambda: has_begun(stack, first), 20)
        jobs = [
            stack.submit("deep-dream", {"image": tiny}, priority=priority, **QUICK)
            for priority in ("low", "normal", "high")
        ]
        stack.request("POST", first["links"]["cancel"])
        finals = [stack.ended(job) for job in jobs]
        began = [final["started_at"] for final in finals]
        assert began == sorted(began, reverse=True)

    def test_a_deadline_ends_a_job_that_runs_and_one_that_waits(
        self, stack: Running, coffee: bytes
    ) -> None:
        running = stack.submit("deep-dream", {"image": coffee}, deadline_s=4, **MINUTES)
        waiting = stack.submit("deep-dream", {"image": coffee}, deadline_s=2, **MINUTES)
        for job in (running, waiting):
            final = stack.ended(job, within_s=20)
            assert (final["status"], final["error"]["type"]) == ("expired", "/problems/deadline")


class TestTheResultCache:
    def test_an_interactive_answer_is_given_again(self, stack: Running, small_cat: bytes) -> None:
        def ask(**headers: str) -> Any:
            return stack.raw("grad-cam", small_cat, "target=281", cache_control=None, **headers)

        stack.raw("grad-cam", small_cat, "target=281", accept="image/png")
        first, again = ask(accept="image/png"), ask(accept="image/png")
        assert again.headers["Cache-Status"] == "lantern; hit"
        assert first.data == again.data
        assert first.headers["ETag"] == again.headers["ETag"]
        ask(accept="application/json")
        document = json.loads(ask(accept="application/json").data)
        assert document["facts"]["cached"] is True
        fresh = stack.raw("grad-cam", small_cat, "target=281", accept="application/json")
        assert "cached" not in json.loads(fresh.data)["facts"]

    def test_a_jobs_result_is_too(self, stack: Running, tiny: bytes) -> None:
        def submit(cache_control: str | None) -> Any:
            headers = {"cache_control": cache_control}
            response = stack.form("deep-dream", {"image": tiny}, headers=headers, seed=77, **QUICK)
            assert response.status == 202
            return json.loads(response.data)

        first = stack.ended(submit("no-cache"))
        again = submit(None)
        assert (again["status"], again["result"]["facts"]["cached"]) == ("succeeded", True)
        assert result_of(stack, again) == result_of(stack, first)
        assert submit("no-cache")["status"] == "queued"

    def test_raw_arrays_of_a_job_are_those_of_a_call(
        self, stack: Running, small_cat: bytes
    ) -> None:
        job = stack.submit("grad-cam", {"image": small_cat}, target=281)
        stack.ended(job)
        kind = "application/x-npz"
        ours = stack.get(job["links"]["result"], accept=kind).data
        theirs = stack.raw("grad-cam", small_cat, "target=281", accept=kind).data
        with np.load(_file(ours)) as a, np.load(_file(theirs)) as b:
            assert a.files == b.files == ["heatmap", "heatmap.grid", "signed", "signed.grid"]
            np.testing.assert_allclose(a["heatmap"], b["heatmap"], rtol=1e-4, atol=1e-6)


class TestWebhooks:
    @pytest.fixture
    def receiver(self) -> Iterator[Any]:
        """A server that refuses the first message and takes the second."""
        seen: list[tuple[dict[str, str], bytes]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                seen.append((dict(self.headers), body))
                self.send_response(503 if len(seen) == 1 else 204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", seen
        server.shutdown()
        server.server_close()
        thread.join()

    def test_the_end_of_a_job_is_told_until_it_is_heard(
        self, stack: Running, tiny: bytes, receiver: Any
    ) -> None:
        url, seen = receiver
        job = stack.submit("deep-dream", {"image": tiny}, webhook_url=url, **QUICK)
        assert stack.ended(job)["status"] == "succeeded"
        until(lambda: len(seen) == 2, 30)
        for headers, body in seen:
            data = Webhook(job["webhook"]["secret"]).verify(body, headers)
            assert data["type"] == "job.succeeded"
            assert data["data"]["id"] == job["id"]
        assert seen[0][0]["webhook-id"] == seen[1][0]["webhook-id"]
        link = job["links"]["deliveries"]
        until(lambda: len(stack.json(link)["deliveries"]) == 2, 5)
        first, second = stack.json(link)["deliveries"]
        assert (first["status"], second["status"]) == (503, 204)
        assert (first["next_in_s"] >= 5, second["next_in_s"]) == (True, None)


class TestManyStreams:
    def test_ninety_open_streams_leave_the_service_answering(
        self, stack: Running, coffee: bytes, tiny: bytes
    ) -> None:
        long = stack.submit("deep-dream", {"image": coffee}, **MINUTES)
        until(lambda: has_begun(stack, long), 20)
        with contextlib.ExitStack() as streams:
            opened = 0
            while opened < 90:
                response = stack.stream(long["links"]["events"])
                streams.callback(response.close)
                opened += response.status == 200
            assert stack.raw("fast-style", tiny).status == 200
            job = stack.submit("deep-dream", {"image": tiny}, **QUICK)
            stack.request("POST", long["links"]["cancel"])
            assert stack.ended(job)["status"] == "succeeded"
            assert stack.ended(long)["status"] == "canceled"
        time.sleep(0.2)
        assert decode(stack.raw("fast-style", tiny, accept="image/png").data).shape == (48, 64, 3)


def _file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)
