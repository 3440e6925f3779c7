"""The OpenAPI document, held against the gateway itself on a real Redis."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

import lantern.techniques  # noqa: F401  fills the registry
from lantern import registry
from lantern.artifact import Rendering
from lantern.image import READ
from services.clients import Stores
from services.record import new_id
from tests.services.gateway import (
    DREAM,
    PAINT,
    PHOTO,
    finish,
    multipart,
    post,
    problem,
    queue,
)


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


def operations(document: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Go through all operations of an OpenAPI document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield (path, method.upper()), operation
