"""The gateway on a real Redis, with no TorchServe behind it: what there is, what is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import PIL.Image
import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

import lantern.techniques  # noqa: F401  fills the registry
from lantern import registry
from services.clients import Stores
from tests.services.gateway import (
    DREAM,
    NO_JOB,
    PAINT,
    PHOTO,
    encode,
    multipart,
    post,
    problem,
    queue,
    start,
)


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
