"""The gateway on a real Redis, with no TorchServe behind it."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import flask
import PIL.Image
import pytest
import redis
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

import lantern.techniques  # noqa: F401  fills the registry
from lantern import registry
from lantern.artifact import Rendering
from lantern.image import READ
from services.clients import Stores
from services.gateway import jobs as jobs_module
from services.gateway.guard import NOBODY
from services.jobs import ALL, JOB
from services.queues import queue_of
from services.record import new_id
from tests.services.gateway import (
    DREAM,
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

NO_JOB = "job_" + 32 * "0"
JOB_ID = re.compile(r"job_[0-9a-f]{32}")


class TestCatalogue:
    def test_every_technique_is_listed(self, http: FlaskClient) -> None:
        listed = http.get("/v1/techniques").get_json()
        assert [one["name"] for one in listed] == [t.name for t in registry.every()]
        for one in listed:
            assert one["summary"]
            assert one["source"]
            assert one["runs"] in ("interactive", "job")
            assert all(slot["most"] >= 1 for slot in one["inputs"])
            assert one["outputs"]
            Draft202012Validator.check_schema(one["params"])
            assert http.get(f"/v1/techniques/{one['name']}").get_json() == one

    def test_an_unknown_technique_is_404_with_those_there_are(self, http: FlaskClient) -> None:
        for response in (http.get("/v1/techniques/nope"), post(http, "/v1/techniques/nope")):
            document = problem(response, 404, "unknown-technique")
            assert "deep-dream" in document["detail"]

    def test_models_are_described_with_their_layers(self, http: FlaskClient) -> None:
        models = http.get("/v1/models").get_json()["models"]
        (lite,) = (model for model in models if model["name"] == "efficientnet-lite0")
        assert (lite["weights"], lite["scores"]) == ("ready", "softmax")
        described = http.get("/v1/models/efficientnet-lite0").get_json()
        assert len(described["labels"]) == 1000
        assert described["labels"][281] == "tabby"
        (head,) = (layer for layer in described["layers"] if layer["name"] == "_conv_head")
        assert head["shape"] == [1280, 7, 7]
        problem(http.get("/v1/models/nope"), 404, "unknown-model")

    def test_styles_have_thumbnails(self, http: FlaskClient) -> None:
        styles = http.get("/v1/styles").get_json()["styles"]
        assert "starry-night" in [style["name"] for style in styles]
        for style in styles:
            thumbnail = http.get(style["thumbnail"])
            assert thumbnail.content_type == "image/jpeg"
            assert PIL.Image.open(io.BytesIO(thumbnail.data)).format == "JPEG"
        problem(http.get("/v1/styles/nope/thumbnail"), 404, "unknown-style")

    def test_samples_are_photographs(self, http: FlaskClient) -> None:
        for sample in http.get("/v1/samples").get_json()["samples"]:
            picture = http.get(sample["url"])
            assert picture.content_type.startswith("image/")
            assert PIL.Image.open(io.BytesIO(picture.data)).size > (100, 100)
        problem(http.get("/v1/samples/nope"), 404)


class TestPages:
    @pytest.mark.parametrize("path", ["/", "/camera", "/docs"])
    def test_each_page_is_closed_to_other_sites(self, http: FlaskClient, path: str) -> None:
        response = http.get(path)
        assert response.status_code == 200
        assert response.mimetype == "text/html"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]

    @pytest.mark.parametrize("path", ["/", "/camera", "/docs"])
    def test_what_a_page_names_is_there(self, http: FlaskClient, path: str) -> None:
        named = re.findall(r'(?:src|href)="(/[^"#]*)"', http.get(path).get_data(as_text=True))
        assert any(name.startswith("/static/") for name in named)
        for name in named:
            assert http.get(name).status_code == 200, name

    @pytest.mark.parametrize("path", ["/", "/camera"])
    def test_a_page_that_needs_a_key_has_a_form_for_it(self, http: FlaskClient, path: str) -> None:
        page = http.get(path).get_data(as_text=True)
        script = http.get("/static/key.js").get_data(as_text=True)
        needed = set(re.findall(r'\$\("([\w-]+)"\)', script))
        assert needed >= {"key-form", "key-input"}
        assert needed <= set(re.findall(r'id="([\w-]+)"', page))

    def test_what_the_camera_page_shows_is_told_in_words(self, http: FlaskClient) -> None:
        page = http.get("/camera").get_data(as_text=True)
        (canvas,) = re.findall(r"<canvas[^>]*>", page)
        assert 'role="img"' in canvas
        assert "aria-label=" in canvas
        sliders = re.findall(r'id="([\w-]+)" type="range"', page)
        assert sliders
        assert sliders == re.findall(r'<output id="[\w-]+" for="([\w-]+)"', page)

    def test_files_outside_static_are_not_served(self, http: FlaskClient) -> None:
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
            problem(http.get(path), 404)


class TestOpenApi:
    @pytest.fixture
    def document(self, http: FlaskClient) -> Any:
        return http.get("/openapi.json").get_json()

    def test_it_is_a_document_of_version_3_1(self, document: Any) -> None:
        assert document["openapi"].startswith("3.1.")
        assert {"title", "version"} <= document["info"].keys()
        for _, operation in operations(document):
            assert operation["responses"]
            assert operation["summary"]
            for response in operation["responses"].values():
                assert "description" in response
            for parameter in operation.get("parameters", []):
                assert parameter["in"] in ("path", "query", "header")
                Draft202012Validator.check_schema(parameter["schema"])
            for media in operation.get("requestBody", {}).get("content", {}).values():
                Draft202012Validator.check_schema(media["schema"])
        for schema in document["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)

    def test_operations_have_names_of_their_own(self, document: Any) -> None:
        names = [operation["operationId"] for _, operation in operations(document)]
        assert len(set(names)) == len(names)

    def test_references_lead_somewhere(self, document: Any) -> None:
        for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
            found = document
            for part in reference.split("/"):
                found = found[part]

    def test_the_names_in_a_path_are_declared(self, document: Any) -> None:
        for (path, _), operation in operations(document):
            declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path))

    def test_every_technique_can_be_posted_to(self, document: Any) -> None:
        for technique in registry.every():
            operation = document["paths"][f"/v1/techniques/{technique.name}"]["post"]
            form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
            assert set(technique.inputs) <= form["properties"].keys()
            assert set(technique.params_type.model_fields) <= form["properties"].keys()

    def test_every_declared_kind_of_body_is_read(self, http: FlaskClient, document: Any) -> None:
        bodies: dict[str, Callable[[], Any]] = {
            "application/json": lambda: "{}",
            "multipart/form-data": lambda: {"file": (io.BytesIO(PHOTO), "x.png")},
        }
        for (path, method), operation in operations(document):
            for kind in operation.get("requestBody", {}).get("content", {}):
                data = bodies.get(kind, lambda: PHOTO)()
                url = path.format(name="samples", job_id=new_id())
                answer = http.open(url, method=method, data=data, content_type=kind)
                assert answer.status_code not in (405, 415, 500), (path, kind)

    def test_a_picture_may_be_uploaded_in_each_declared_way(
        self, http: FlaskClient, document: Any
    ) -> None:
        content = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]
        assert set(content) == {"multipart/form-data", *READ.values()}
        assert list(content["multipart/form-data"]["schema"]["properties"]) == ["file"]
        assert post(http, "/v1/files", **multipart(("file", PHOTO))).status_code == 201

    def test_the_stream_is_declared(self, document: Any) -> None:
        operation = document["paths"]["/v1/stream"]["get"]
        assert operation["responses"].keys() == {"101", "426", "default"}
        declared = {parameter["name"]: parameter for parameter in operation["parameters"]}
        params = registry.find("fast-style").params_type.model_fields
        assert declared.keys() == {"fps", *params, *Rendering.model_fields}
        assert all(parameter["in"] == "query" for parameter in declared.values())
        assert declared["fps"]["schema"]["maximum"] == 60

    def test_events_may_have_been_received_all(self, document: Any) -> None:
        assert "204" in document["paths"]["/v1/jobs/{job_id}/events"]["get"]["responses"]

    def test_every_operation_answers_as_declared(self, http: FlaskClient, document: Any) -> None:
        for (path, method), operation in operations(document):
            url = path.format(job_id=new_id(), name="nope", step=1, picture="a/b.png")
            response = http.open(url, method=method)
            declared = operation["responses"].get(str(response.status_code))
            if declared is None:
                assert response.status_code not in (405, 500), (method, url)
                problem(response, response.status_code)
            else:
                assert response.mimetype in declared.get("content", {response.mimetype: 0}), url

    def test_problems_have_the_declared_form(self, http: FlaskClient, document: Any) -> None:
        schema = document["components"]["schemas"]["Problem"]
        for response in (http.get("/nope"), post(http, query_string={"steps": "0"})):
            Draft202012Validator(schema).validate(response.get_json())

    def test_jobs_have_the_declared_form(
        self, http: FlaskClient, document: Any, stores: Stores
    ) -> None:
        schema = document["components"]["schemas"]["Job"]
        job = queue(http, query_string={"webhook_url": "http://127.0.0.1:1/hook"})
        finish(stores, job)
        done = http.get(job["links"]["self"]).get_json()
        for one in (job, done):
            Draft202012Validator(schema).validate(one)
            assert set(one) <= set(schema["properties"])
        assert set(schema["properties"]) == set(job)
        assert set(done["result"]) <= set(schema["properties"]["result"]["properties"])

    def test_each_route_declares_the_headers_it_reads(self, document: Any) -> None:
        def headers(path: str, method: str) -> set[str]:
            declared = document["paths"][path][method].get("parameters", [])
            return {one["name"] for one in declared if one["in"] == "header"}

        technique = {"Prefer", "Idempotency-Key", "If-None-Match", "Cache-Control"}
        assert headers(DREAM, "post") == headers(PAINT, "post") == technique
        assert headers("/v1/jobs/{job_id}/events", "get") == {"Last-Event-ID"}
        for path in (
            "/v1/files/{name}", "/v1/jobs/{job_id}/result", "/v1/samples/{name}",
            "/v1/jobs/{job_id}/artifacts/{name}", "/v1/styles/{name}/thumbnail",
            "/v1/collections/{name}/images/{picture}",
        ):  # fmt: skip
            assert headers(path, "get") == {"If-None-Match"}, path
        assert headers("/v1/jobs", "get") == headers("/v1/files/{name}", "delete") == set()


class TestRequestIds:
    def test_every_answer_has_one(self, http: FlaskClient) -> None:
        ids = [http.get(path).headers["X-Request-Id"] for path in ("/", "/nope", "/v1/jobs") * 2]
        assert len(set(ids)) == 6

    def test_every_answer_says_where_its_time_went(self, http: FlaskClient) -> None:
        answers = [http.get(path) for path in ("/", "/nope", "/v1/jobs", "/static/studio.js")]
        known = post(http, PAINT, headers={"If-None-Match": "*"})
        for response in (*answers, known, post(http), post(http, data=b"")):
            parts = re.findall(r"(\w+);dur=([0-9.]+)", response.headers["Server-Timing"])
            assert [name for name, _ in parts] == ["queue", "decode", "model", "encode"]
            assert 0 <= float(dict(parts)["queue"]) < 5000

    def test_the_callers_own_is_kept(self, http: FlaskClient) -> None:
        response = http.get("/nope", headers={"X-Request-Id": "trace-1.A_b"})
        assert response.headers["X-Request-Id"] == "trace-1.A_b"
        problem(response, 404)

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>", "ü", "a%0d%0ab"])
    def test_a_strange_one_is_replaced(self, http: FlaskClient, given: str) -> None:
        kept = http.get("/", headers={"X-Request-Id": given}).headers["X-Request-Id"]
        assert kept.startswith("req_")


class TestRefusals:
    def test_an_unknown_path(self, http: FlaskClient) -> None:
        for path in ("/nope", "/v1", "/v1/", "/v2/techniques", "/v1/jobs/", "/static/nope.js"):
            problem(http.get(path), 404)

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", "/v1/techniques", {"GET", "HEAD", "OPTIONS"}),
            ("PUT", DREAM, {"GET", "HEAD", "OPTIONS", "POST"}),
            ("TRACE", "/v1/jobs", {"GET", "HEAD", "OPTIONS"}),
            ("GET", f"/v1/jobs/{NO_JOB}/cancel", {"POST", "OPTIONS"}),
            ("PATCH", "/v1/files", {"POST", "OPTIONS"}),
            ("POST", "/", {"GET", "HEAD", "OPTIONS"}),
        ],
    )
    def test_a_method_that_is_not_there_names_those_that_are(
        self, http: FlaskClient, method: str, path: str, allowed: set[str]
    ) -> None:
        response = http.open(path, method=method)
        problem(response, 405, "method-not-allowed")
        assert set(response.headers["Allow"].split(", ")) == allowed

    def test_options_name_the_methods(self, http: FlaskClient) -> None:
        response = http.options(DREAM)
        assert response.status_code == 200
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}

    @pytest.mark.parametrize(
        "accept",
        ["image/tiff", "text/html", "image/png;q=0", "audio/*", "Image/PNG; x=y; q=0"],
    )
    def test_a_form_that_does_not_exist(
        self, http: FlaskClient, stores: Stores, accept: str
    ) -> None:
        problem(post(http, headers={"Accept": accept}), 406, "not-acceptable")
        assert stores.jobs.counts()["queued"] == 0

    @pytest.mark.parametrize(
        "accept",
        ["*/*", "image/*", "text/html, */*;q=0.1", "", "application/*", "Image/JPEG", "IMAGE/*",
         "application/json; charset=utf-8", "application/json;q=0, application/json;v=1"],
    )  # fmt: skip
    def test_a_form_that_exists(self, http: FlaskClient, accept: str) -> None:
        queue(http, headers={"Accept": accept})

    def test_a_body_that_is_too_large(self, make_http: Callable[..., FlaskClient]) -> None:
        http = make_http(max_upload_bytes=20_000)
        large = encode(size=(300, 300))
        for path in (DREAM, "/v1/files"):
            document = problem(post(http, path, data=large), 413, "too-large")
            assert "20000" in document["detail"]
            problem(post(http, path, **multipart(("image", large))), 413)
        queue(http)

    @pytest.mark.parametrize(
        "kind", ["text/html", "image/svg+xml", "image/bmp", "application/pdf", "image/heic", "zip"]
    )
    def test_a_kind_of_body_that_is_not_read(self, http: FlaskClient, kind: str) -> None:
        problem(post(http, content_type=kind), 415, "unsupported-media-type")

    def test_a_compressed_body(self, http: FlaskClient) -> None:
        problem(post(http, headers={"Content-Encoding": "gzip"}), 415)

    @pytest.mark.parametrize("depth", [17, 100, 500, *range(850, 1000, 5), 2000, 100_000])
    def test_deep_nesting(self, http: FlaskClient, depth: int) -> None:
        for left, right in (("[", "]"), ('{"a":', "}")):
            body = '{"params":' + left * depth + "0" + right * depth + "}"
            response = post(http, data=body, content_type="application/json")
            assert response.status_code in (400, 422)
            problem(response, response.status_code, "malformed")


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


class TestPrefer:
    @pytest.mark.parametrize(
        ("prefer", "applied"),
        [
            ("respond-async", "respond-async"),
            ("Respond-Async", "respond-async"),
            ('foo="bar", respond-async', "respond-async"),
            ("wait=1", "wait=1"),
            ('wait="1"', "wait=1"),
            ("respond-async, wait=1", "wait=1"),
        ],
    )
    def test_what_was_done_is_told(self, http: FlaskClient, prefer: str, applied: str) -> None:
        response = post(http, PAINT, headers={"Prefer": prefer})
        assert response.status_code == 202
        assert response.headers["Preference-Applied"] == applied

    @pytest.mark.parametrize(
        "prefer", ["", "wait=0", "wait=-1", "wait=x", "wait=", "=", ",,", "a=b"]
    )
    def test_what_is_not_understood_is_ignored(self, http: FlaskClient, prefer: str) -> None:
        started = time.monotonic()
        response = post(http, headers={"Prefer": prefer})
        assert response.status_code == 202
        assert "Preference-Applied" not in response.headers
        assert time.monotonic() - started < 1

    def test_waiting_ends_with_the_job(self, app: flask.Flask, stores: Stores) -> None:
        import threading

        def finish_the_first() -> None:
            while not (made := stores.jobs.newest(NOBODY, 1)):
                time.sleep(0.01)
            finish(stores, {"id": made[0][1], "params": {}})

        thread = threading.Thread(target=finish_the_first)
        thread.start()
        started = time.monotonic()
        response = post(app.test_client(), headers={"Prefer": "wait=20", "Accept": "image/png"})
        thread.join()
        assert time.monotonic() - started < 5
        assert (response.status_code, response.content_type) == (200, "image/png")
        assert response.data == PHOTO
        assert response.headers["Preference-Applied"] == "wait=20"
        assert JOB_ID.fullmatch(response.headers["Location"].rpartition("/")[2])


class TestIdempotency:
    def test_a_replay_gets_the_same_job(self, http: FlaskClient, stores: Stores) -> None:
        options: dict[str, Any] = {
            "headers": {"Idempotency-Key": "k"},
            "query_string": {"steps": "3"},
        }
        first, again = post(http, **options), post(http, **options)
        assert first.get_json() == again.get_json()
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert stores.jobs.counts()["queued"] == 1

    @pytest.mark.parametrize("change", [{"query_string": {"steps": "4"}}, {"data": encode(seed=1)}])
    def test_another_payload_is_422(self, http: FlaskClient, change: dict[str, Any]) -> None:
        options: dict[str, Any] = {
            "headers": {"Idempotency-Key": "k"}, "query_string": {"steps": "3"}
        }  # fmt: skip
        queue(http, **options)
        problem(post(http, **(options | change)), 422, "idempotency-conflict")

    def test_the_same_key_on_another_path_is_another_key(self, http: FlaskClient) -> None:
        headers = {"Idempotency-Key": "k", "Prefer": "respond-async"}
        jobs = [queue(http, path=path, headers=headers) for path in (DREAM, PAINT)]
        assert jobs[0]["id"] != jobs[1]["id"]

    def test_a_deleted_job_is_made_anew(self, http: FlaskClient) -> None:
        options: dict[str, Any] = {"headers": {"Idempotency-Key": "k"}}
        first = queue(http, **options)
        http.post(first["links"]["cancel"])
        assert http.delete(first["links"]["self"]).status_code == 204
        assert queue(http, **options)["id"] != first["id"]

    def test_a_key_may_be_255_long(self, http: FlaskClient) -> None:
        queue(http, headers={"Idempotency-Key": 255 * "k"})
        response = post(http, headers={"Idempotency-Key": 256 * "k"})
        problem(response, 400, "invalid-header")


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
        import threading

        monkeypatch.setattr(jobs_module, "COMMENT_EVERY_S", 0.1)
        job = queue(http)
        threading.Timer(0.5, lambda: stores.jobs.cancel(job["id"])).start()
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


class TestFiles:
    @pytest.mark.parametrize(
        ("kind", "media_type"),
        [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")],
    )
    def test_an_upload_comes_back(self, http: FlaskClient, kind: str, media_type: str) -> None:
        data = encode(kind, (70, 50))
        response = post(http, "/v1/files", data=data, content_type=media_type)
        assert response.status_code == 201
        file = response.get_json()
        assert response.headers["Location"] == f"/v1/files/{file['id']}"
        assert (file["media_type"], file["width"], file["height"]) == (media_type, 70, 50)
        assert file["bytes"] == len(data)
        assert file["id"].endswith(file["sha256"])
        fetched = http.get(response.headers["Location"])
        assert (fetched.content_type, fetched.data) == (media_type, data)
        assert fetched.headers["X-Content-Type-Options"] == "nosniff"
        head = http.head(response.headers["Location"])
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(len(data))
        for told in (fetched, head):
            assert told.expires is not None
            ends = datetime.fromisoformat(file["expires_at"])
            assert abs((told.expires - ends).total_seconds()) <= 1

    def test_the_same_bytes_have_the_same_id(self, http: FlaskClient) -> None:
        raw = post(http, "/v1/files").get_json()
        form = post(http, "/v1/files", **multipart(("anything", PHOTO))).get_json()
        assert raw["id"] == form["id"]

    def test_the_bytes_say_what_they_are(self, http: FlaskClient) -> None:
        response = post(http, "/v1/files", data=encode("JPEG"), content_type="image/png")
        assert response.get_json()["media_type"] == "image/jpeg"

    def test_who_has_it_already_gets_304(self, http: FlaskClient) -> None:
        location = post(http, "/v1/files").headers["Location"]
        etag = http.get(location).headers["ETag"]
        assert http.get(location, headers={"If-None-Match": etag}).status_code == 304

    def test_a_file_stays_what_it_is_when_a_job_uses_it(self, http: FlaskClient) -> None:
        location = post(http, "/v1/files").headers["Location"]
        queue(http)
        assert http.get(location).content_type == "image/png"

    def test_a_deleted_file_is_gone(self, http: FlaskClient) -> None:
        location = post(http, "/v1/files").headers["Location"]
        assert http.delete(location).status_code == 204
        for response in (http.get(location), http.delete(location), http.head(location)):
            assert response.status_code == 404

    def test_only_whole_files_are_deleted(self, http: FlaskClient) -> None:
        location = post(http, "/v1/files").headers["Location"]
        problem(http.delete(location + ".facts"), 404)
        problem(http.get(location + ".facts"), 404)
        assert http.get(location).data == PHOTO

    @pytest.mark.parametrize(
        ("options", "status", "code"),
        [
            ({"data": b""}, 400, "empty-body"),
            ({"data": b"hello"}, 422, "undecodable-image"),
            ({"data": PHOTO[:-500]}, 422, "undecodable-image"),
            ({"data": encode(size=(8, 8))}, 422, "image-too-small"),
            (multipart(("a", PHOTO), ("b", PHOTO)), 422, "repeated-input"),
            (multipart(a="text"), 422, "repeated-input"),
        ],
    )
    def test_what_is_no_picture_is_refused(
        self, http: FlaskClient, options: dict[str, Any], status: int, code: str
    ) -> None:
        problem(post(http, "/v1/files", **options), status, code)


class TestEtags:
    def etag(self, http: FlaskClient, **options: Any) -> str:
        """Find the ETag of a call: with `*` any is taken as known."""
        headers = {"If-None-Match": "*"} | options.pop("headers", {})
        response = post(http, PAINT, headers=headers, **options)
        assert (response.status_code, response.data) == (304, b"")
        return response.headers["ETag"]

    def test_a_known_answer_is_304_without_an_engine(self, http: FlaskClient) -> None:
        etag = self.etag(http)
        assert self.etag(http, headers={"If-None-Match": f'"other", {etag}'}) == etag

    def test_a_proxy_may_have_made_it_weak(self, http: FlaskClient) -> None:
        etag = self.etag(http)
        response = post(http, PAINT, headers={"If-None-Match": f"W/{etag}"})
        assert (response.status_code, response.headers["ETag"]) == (304, etag)
        assert response.headers["Cache-Control"] == "private, max-age=3600"

    def test_an_unknown_one_is_not(self, http: FlaskClient) -> None:
        assert post(http, PAINT, headers={"If-None-Match": '"other"'}).status_code == 202

    def test_it_depends_on_all_that_the_answer_depends_on(self, http: FlaskClient) -> None:
        calls: list[dict[str, Any]] = [
            {},
            {"data": encode(seed=1)},
            {"query_string": {"strength": "0.5"}},
            {"query_string": {"quality": "50"}},
            {"headers": {"Accept": "image/webp"}},
        ]
        assert len({self.etag(http, **call) for call in calls}) == len(calls)


class TestHealth:
    def test_readiness_names_what_is_missing(self, http: FlaskClient, stores: Stores) -> None:
        waiting = http.get("/healthz/ready")
        assert waiting.status_code == 503
        assert waiting.get_json() == {
            "status": "waiting",
            "checks": {"redis": True, "torchserve": False, "worker": False},
        }
        stores.jobs.greet("jobs", "worker", ttl_s=10)
        assert http.get("/healthz/ready").get_json()["checks"]["worker"] is False
        stores.jobs.greet("fast", "fast", ttl_s=10)
        assert http.get("/healthz/ready").get_json()["checks"]["worker"] is True

    def test_gauges_count_jobs_and_workers(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        queue(http)
        start(stores, job)
        stores.jobs.greet("jobs", "worker", ttl_s=10)
        response = http.get("/metrics")
        assert response.mimetype == "text/plain"
        gauges = dict(re.findall(r"^(\w+) (\d+)$", response.get_data(as_text=True), re.MULTILINE))
        assert gauges["lantern_jobs_queued"] == "1"
        assert gauges["lantern_jobs_running"] == "1"
        assert gauges["lantern_workers"] == "1"


def operations(document: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Go through all operations of an OpenAPI document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield (path, method.upper()), operation


def walk(http: FlaskClient, limit: int) -> list[str]:
    """Return the ids of all jobs, page by page."""
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = http.get("/v1/jobs", query_string={"limit": limit, "cursor": cursor}).get_json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
    return seen
