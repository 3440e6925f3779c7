"""Jobs over HTTP, from the call to the result, on a real Redis with no TorchServe behind it."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import lantern.techniques  # noqa: F401  fills the registry
from services.clients import Stores
from services.gateway import jobs as jobs_module
from services.gateway.guard import NOBODY
from services.jobs import ALL, JOB
from services.queues import queue_of
from services.record import new_id
from tests.services.gateway import (
    DREAM,
    JOB_ID,
    NO_JOB,
    PAINT,
    PHOTO,
    encode,
    finish,
    multipart,
    post,
    problem,
    queue,
    start,
)
from tests.waiting import in_a_moment


class TestJobs:
    def test_a_job_technique_is_queued_and_announced(
        self, http: FlaskClient, client: redis.Redis
    ) -> None:
        response = post(http, query_string={"steps": "3", "seed": "7"})
        assert response.status_code == 202
        job = response.get_json()
        assert JOB_ID.fullmatch(job["id"])
        assert response.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
        assert (job["technique"], job["status"], job["seed"]) == ("deep-dream", "queued", 7)
        assert job["params"]["steps"] == 3
        assert job["params"]["octaves"] == 4
        assert job["model"] == "efficientnet-lite0"
        assert "lantern" in job["versions"]
        assert (job["result"], job["error"], job["preview"], job["progress"]) == (None,) * 4
        (message,) = client.lrange(queue_of("jobs"), 0, -1)
        assert job["id"] in base64.b64decode(json.loads(message)["body"]).decode()
        assert http.get(job["links"]["self"]).get_json() == job

    def test_an_interactive_call_that_cannot_be_served_becomes_a_job(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        response = post(http, PAINT)
        assert response.status_code == 202
        assert response.get_json()["technique"] == "fast-style"
        assert response.headers["Location"].startswith("/v1/jobs/")
        assert "Preference-Applied" not in response.headers
        assert stores.jobs.counts()["queued"] == 1

    def test_the_three_forms_make_the_same_call(self, http: FlaskClient, stores: Stores) -> None:
        url = "data:image/png;base64," + base64.b64encode(PHOTO).decode()
        file = post(http, "/v1/files").get_json()["id"]
        params = {"channels": [3, 5], "step_size": 0.25}
        texts = {"channels": "3,5", "step_size": "0.25", "seed": "9"}
        bodies = [{"inputs": {"image": picture}, "params": params} for picture in (url, file)]
        forms: list[dict[str, Any]] = [
            {"query_string": texts},
            multipart(("image", PHOTO), **texts),
            multipart(("image", PHOTO), params=json.dumps(params | {"seed": 9})),
            *({"data": json.dumps(body | {"seed": 9}), "content_type": "application/json"}
              for body in bodies),
        ]  # fmt: skip
        calls = []
        for form in forms:
            made = stores.jobs.get(queue(http, **form)["id"])
            assert made is not None
            calls.append(made.call)
        assert all(call == calls[0] for call in calls)
        assert calls[0]["inputs"] == ["image"]

    def test_a_full_queue_is_429(self, make_http: Callable[..., FlaskClient]) -> None:
        http = make_http(max_queued=2)
        for path in (DREAM, PAINT):  # each lane has a queue of its own
            queue(http, path=path), queue(http, path=path)
            response = post(http, path)
            assert "2 jobs" in problem(response, 429, "queue-full")["detail"]
            assert int(response.headers["Retry-After"]) > 0

    def test_a_full_store_is_507(self, http: FlaskClient, client: redis.Redis) -> None:
        job = queue(http)
        client.config_set("maxmemory", 1)
        for path in (DREAM, PAINT, "/v1/files"):
            response = post(http, path)
            problem(response, 507, "storage-full")
            assert int(response.headers["Retry-After"]) > 0
        assert http.get(job["links"]["self"]).status_code == 200

    def test_a_job_that_waits_can_be_cancelled_while_the_store_is_full(
        self, http: FlaskClient, client: redis.Redis
    ) -> None:
        job = queue(http)
        client.config_set("maxmemory", 1)
        assert http.post(job["links"]["cancel"]).get_json()["status"] == "canceled"

    def test_a_store_that_is_down_is_503(self, make_http: Callable[..., FlaskClient]) -> None:
        http = make_http(redis_url="redis://127.0.0.1:1/0")
        for response in (post(http), http.get("/v1/jobs"), post(http, "/v1/files")):
            problem(response, 503, "unavailable")
            assert int(response.headers["Retry-After"]) > 0
        assert http.get("/healthz/live").status_code == 200

    def test_an_unknown_job_is_404(self, http: FlaskClient) -> None:
        for job_id in (new_id(), "job_", "nope", "job_" + 32 * "g", "job_" + 33 * "0", "%00"):
            for part in ("", "/events", "/result", "/artifacts/picture", "/previews/1"):
                problem(http.get(f"/v1/jobs/{job_id}{part}"), 404)
            problem(http.post(f"/v1/jobs/{job_id}/cancel"), 404)
            problem(http.delete(f"/v1/jobs/{job_id}"), 404)


class TestListing:
    def test_newest_first_page_by_page(self, http: FlaskClient) -> None:
        made = [queue(http)["id"] for _ in range(7)]
        seen, pages, cursor = [], 0, ""
        while True:
            page = http.get("/v1/jobs", query_string={"limit": 3, "cursor": cursor}).get_json()
            seen += [job["id"] for job in page["jobs"]]
            pages += 1
            if page["next"] is None:
                break
            cursor = page["next"]
        assert seen == made[::-1]
        assert pages == 3

    def test_jobs_of_one_millisecond_are_all_listed(
        self, http: FlaskClient, client: redis.Redis
    ) -> None:
        made = {queue(http)["id"] for _ in range(5)}
        client.zadd(ALL + NOBODY, dict.fromkeys(made, 1_000_000))
        assert walk(http, limit=2) == sorted(made, reverse=True)

    def test_an_expired_job_does_not_end_the_list(
        self, http: FlaskClient, client: redis.Redis
    ) -> None:
        oldest = queue(http)["id"]
        client.zadd(ALL + NOBODY, {f"job_{number:032x}": 10**13 + number for number in range(450)})
        assert walk(http, limit=50) == [oldest]

    def test_only_what_is_asked_for(self, http: FlaskClient, stores: Stores) -> None:
        dream, done = queue(http), queue(http)
        paint = queue(http, path=PAINT)
        finish(stores, done)

        def listed(**query: str) -> list[str]:
            found = http.get("/v1/jobs", query_string=query).get_json()["jobs"]
            return [job["id"] for job in found]

        assert listed(status="succeeded") == [done["id"]]
        assert listed(status="queued") == [paint["id"], dream["id"]]
        assert listed(technique="deep-dream") == [done["id"], dream["id"]]
        assert listed(technique="deep-dream", status="queued") == [dream["id"]]
        assert listed(status="expired") == listed(technique="nope") == []

    @pytest.mark.parametrize("limit", ["0", "-1", "201", "1000000", "x", "", "1.5", "٣", "9" * 400])
    def test_a_wrong_limit_is_422(self, http: FlaskClient, limit: str) -> None:
        response = http.get("/v1/jobs", query_string={"limit": limit})
        document = problem(response, 422, "invalid-parameter")
        assert "1 to 200" in document["detail"]

    @pytest.mark.parametrize(
        "cursor",
        ["x", "!!!!", "AAAA", "\x00", "ü", "9" * 5000]
        + [base64.urlsafe_b64encode(text).decode() for text in (b"x", b"1e9", b"9" * 5000, b"(1")],
    )
    def test_a_forged_cursor_is_400(self, http: FlaskClient, cursor: str) -> None:
        problem(http.get("/v1/jobs", query_string={"cursor": cursor}), 400, "malformed")

    def test_an_unknown_status_is_422(self, http: FlaskClient) -> None:
        response = http.get("/v1/jobs", query_string={"status": "cancelled"})
        assert "canceled" in problem(response, 422)["detail"]


def read_events(response: TestResponse) -> list[dict[str, str]]:
    """Read a whole stream; return the fields of each event."""
    blocks = response.get_data(as_text=True).split("\n\n")
    fields = [dict(re.findall(r"^(\w+): (.*)$", block, re.MULTILINE)) for block in blocks]
    return [block for block in fields if "event" in block]


class TestEvents:
    @pytest.fixture
    def done(self, http: FlaskClient, stores: Stores) -> Any:
        job = queue(http)
        claim = start(stores, job)
        for step in range(1, 4):
            name, picture = f"preview-{claim.fence}-{step}", encode("JPEG", seed=step)
            stores.blobs.put(job["id"], name, picture, ttl_s=60)
            stores.jobs.beat(claim, progress={"done": step, "total": 3}, preview=step)
        stores.jobs.finish(claim, "failed", error={"type": "/problems/x", "detail": "because"})
        return job

    def test_a_stream_tells_everything_in_order(self, http: FlaskClient, done: Any) -> None:
        response = http.get(done["links"]["events"])
        assert response.mimetype == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.get_data(as_text=True).startswith("retry: ")
        events = read_events(response)
        assert [event["event"] for event in events] == [
            "status", "status", *["progress", "preview"] * 3, "done"
        ]  # fmt: skip
        ids = [tuple(map(int, event["id"].split("-"))) for event in events]
        assert ids == sorted(set(ids))
        assert json.loads(events[2]["data"]) == {"done": 1, "total": 3}
        final = json.loads(events[-1]["data"])
        assert final == http.get(done["links"]["self"]).get_json()
        assert (final["status"], final["error"]["detail"]) == ("failed", "because")

    def test_it_resumes_after_the_last_event_seen(self, http: FlaskClient, done: Any) -> None:
        events = read_events(http.get(done["links"]["events"]))
        for position in (0, 4, len(events) - 2):
            headers = {"Last-Event-ID": events[position]["id"]}
            resumed = read_events(http.get(done["links"]["events"], headers=headers))
            assert resumed == events[position + 1 :]

    def test_who_has_seen_the_end_is_let_go(
        self, http: FlaskClient, done: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "COMMENT_EVERY_S", 0.1)
        last = read_events(http.get(done["links"]["events"]))[-1]["id"]
        started = time.monotonic()
        response = http.get(done["links"]["events"], headers={"Last-Event-ID": last})
        assert read_events(response) == []
        assert time.monotonic() - started < 3

    def test_a_silent_job_is_commented_on(
        self, http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "COMMENT_EVERY_S", 0.1)
        job = queue(http)
        with in_a_moment(0.5, lambda: stores.jobs.cancel(job["id"])):
            text = http.get(job["links"]["events"]).get_data(as_text=True)
        assert text.count(": still here\n\n") >= 2
        assert text.rstrip().splitlines()[-2] == "event: done"

    @pytest.mark.parametrize("given", ["x", "-1", "1-", "$", "1-1-1", "9" * 30, "0\x00"])
    def test_a_position_of_no_stream_is_400(self, http: FlaskClient, done: Any, given: str) -> None:
        response = http.get(done["links"]["events"], headers={"Last-Event-ID": given})
        problem(response, 400, "invalid-header")

    def test_previews_are_kept_by_step(self, http: FlaskClient, done: Any) -> None:
        previews = [
            e for e in read_events(http.get(done["links"]["events"])) if e["event"] == "preview"
        ]
        for step, event in enumerate(previews, 1):
            picture = http.get(json.loads(event["data"])["url"])
            assert picture.content_type == "image/jpeg"
            assert picture.data == encode("JPEG", seed=step)
        for unknown in ("99", "x", "-1", 110 * "9", 111 * "9", 4300 * "9", 4301 * "9"):
            problem(http.get(f"/v1/jobs/{done['id']}/previews/{unknown}"), 404)


class TestResults:
    @pytest.fixture
    def done(self, http: FlaskClient, stores: Stores) -> Any:
        job = queue(http)
        finish(stores, job)
        return http.get(job["links"]["self"]).get_json()

    def test_the_job_names_its_artifacts(self, http: FlaskClient, done: Any) -> None:
        assert done["status"] == "succeeded"
        (artifact,) = done["result"]["artifacts"]
        assert artifact.keys() == {"name", "kind", "media_type", "url"}
        assert http.get(artifact["url"], headers={"Accept": "image/png"}).data == PHOTO
        assert done["versions"] == {"lantern": "x"}

    def test_the_result_is_the_picture(self, http: FlaskClient, done: Any) -> None:
        response = http.get(done["links"]["result"])
        assert response.content_type == "image/jpeg"  # as an interactive answer would be
        assert PIL.Image.open(io.BytesIO(response.data)).size == (64, 48)
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_or_the_form_that_is_asked_for(self, http: FlaskClient, done: Any, kind: str) -> None:
        accept = f"image/{kind.lower()}"
        response = http.get(done["links"]["result"], headers={"Accept": accept})
        assert response.content_type == accept
        assert PIL.Image.open(io.BytesIO(response.data)).format == kind

    def test_or_the_document(self, http: FlaskClient, done: Any) -> None:
        response = http.get(done["links"]["result"], headers={"Accept": "application/json"})
        assert response.get_json() == done["result"]

    @pytest.mark.parametrize(
        "accept",
        ["application/json; charset=utf-8", "Application/JSON", "application/*",
         "text/html, application/*", "application/json;q=0.9, image/tiff",
         "application/*, image/png;q=0"],
    )  # fmt: skip
    def test_however_the_document_is_asked_for(
        self, http: FlaskClient, done: Any, accept: str
    ) -> None:
        response = http.get(done["links"]["result"], headers={"Accept": accept})
        assert response.get_json() == done["result"]

    @pytest.mark.parametrize(
        ("accept", "form"),
        [("Image/PNG", "image/png"), ("image/webp; quality=high", "image/webp"),
         ("IMAGE/*", "image/jpeg"), ("application/x-npz;version=1", "application/x-npz"),
         ("application/*, application/json;q=0", "application/x-npz"),
         ("application/json; charset=utf-8; q=0.5, image/png", "image/png")],
    )  # fmt: skip
    def test_or_another_form(self, http: FlaskClient, done: Any, accept: str, form: str) -> None:
        response = http.get(done["links"]["result"], headers={"Accept": accept})
        assert response.mimetype == form

    def test_a_form_that_does_not_exist_is_406(self, http: FlaskClient, done: Any) -> None:
        response = http.get(done["links"]["result"], headers={"Accept": "image/tiff"})
        problem(response, 406, "not-acceptable")

    def test_who_has_it_already_gets_304(self, http: FlaskClient, done: Any) -> None:
        etags = set()
        for accept in ("image/png", "image/jpeg"):
            first = http.get(done["links"]["result"], headers={"Accept": accept})
            headers = {"Accept": accept, "If-None-Match": first.headers["ETag"]}
            again = http.get(done["links"]["result"], headers=headers)
            assert (again.status_code, again.data) == (304, b"")
            etags.add(first.headers["ETag"])
        assert len(etags) == 2

    def test_an_artifact_that_is_not_there_is_404(self, http: FlaskClient, done: Any) -> None:
        problem(http.get(f"/v1/jobs/{done['id']}/artifacts/nope"), 404)

    def test_a_result_that_has_expired_is_410(
        self, http: FlaskClient, done: Any, client: redis.Redis
    ) -> None:
        client.delete(*client.keys("lantern:blob:*"))
        problem(http.get(done["links"]["result"]), 410, "expired")
        problem(http.get(done["result"]["artifacts"][0]["url"]), 410, "expired")

    def test_so_is_that_of_a_job_whose_record_has_expired(
        self, http: FlaskClient, done: Any, client: redis.Redis
    ) -> None:
        client.delete(JOB + done["id"])
        for url in (done["links"]["result"], done["result"]["artifacts"][0]["url"]):
            assert "send the call again" in problem(http.get(url), 410, "expired")["detail"]
        problem(http.get(done["links"]["self"]), 404)
        problem(http.delete(done["links"]["self"]), 404)
        assert http.get("/v1/jobs").get_json()["jobs"] == []
        problem(http.get(f"/v1/jobs/{NO_JOB}/result"), 404)
        problem(http.get("/v1/jobs/nope/result"), 404)

    def test_so_is_that_of_a_job_that_was_too_late(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        assert stores.jobs.finish(start(stores, job), "expired")
        assert "deadline" in problem(http.get(job["links"]["result"]), 410, "expired")["detail"]

    def test_a_job_that_is_not_finished_is_409(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        problem(http.get(job["links"]["result"]), 409, "not-finished")
        start(stores, job)
        problem(http.get(job["links"]["result"]), 409, "not-finished")
        problem(http.get(f"/v1/jobs/{job['id']}/artifacts/picture"), 409, "not-finished")

    def test_a_job_without_a_result_is_409_and_says_why(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        job = queue(http)
        stores.jobs.finish(start(stores, job), "failed", error={"detail": "the layer is wrong"})
        document = problem(http.get(job["links"]["result"]), 409, "no-result")
        assert "the layer is wrong" in document["detail"]

    def test_waiting_for_a_job_ends_with_it(self, http: FlaskClient, done: Any) -> None:
        started = time.monotonic()
        assert http.get(done["links"]["self"], query_string={"wait": 20}).get_json() == done
        assert time.monotonic() - started < 1
        job = queue(http, data=encode(seed=1))
        response = http.get(job["links"]["self"], query_string={"wait": 1})
        assert response.get_json()["status"] == "queued"
        assert response.headers["Retry-After"] == "1"
        for wrong in ("-1", "31", "x"):
            problem(http.get(job["links"]["self"], query_string={"wait": wrong}), 422)


class TestCancelAndDelete:
    def test_a_waiting_job_is_cancelled_at_once(self, http: FlaskClient) -> None:
        job = queue(http)
        response = http.post(job["links"]["cancel"])
        assert response.status_code == 202
        assert response.get_json()["status"] == "canceled"

    def test_a_running_job_is_asked_to_end(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        claim = start(stores, job)
        response = http.post(job["links"]["cancel"])
        assert (response.status_code, response.get_json()["status"]) == (202, "running")
        assert stores.jobs.beat(claim) == "cancel"

    def test_a_finished_job_stays_as_it_is(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        finish(stores, job)
        response = http.post(job["links"]["cancel"])
        assert (response.status_code, response.get_json()["status"]) == (200, "succeeded")

    def test_a_job_that_is_not_finished_is_not_deleted(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        job = queue(http)
        problem(http.delete(job["links"]["self"]), 409, "not-finished")
        start(stores, job)
        problem(http.delete(job["links"]["self"]), 409, "not-finished")

    def test_a_deleted_job_is_gone(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        finish(stores, job)
        assert http.delete(job["links"]["self"]).status_code == 204
        problem(http.get(job["links"]["self"]), 404)
        problem(http.delete(job["links"]["self"]), 404)
        assert http.get("/v1/jobs").get_json()["jobs"] == []


def walk(http: FlaskClient, limit: int) -> list[str]:
    """Return the ids of all jobs, page by page."""
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = http.get("/v1/jobs", query_string={"limit": limit, "cursor": cursor}).get_json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
    return seen
