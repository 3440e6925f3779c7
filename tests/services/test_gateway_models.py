"""Networks of callers' own, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from flask.testing import FlaskClient
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from lantern.brought import Brought, build
from lantern.call import Call, Studio
from services.gateway.guard import digest, new_key
from services.settings import Settings
from tests.services.gateway import PHOTO, post, problem, queue

ALL = "/v1/models"
SAID: dict[str, Any] = {
    "architecture": "squeezenet1_1", "title": "Birds", "labels": ["crow", "duck"], "input_size": 64
}  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> bytes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return safetensors.torch.save(build(Brought(**SAID)).state_dict())


def bring(http: FlaskClient, weights: bytes, said: Any = None, **options: Any) -> TestResponse:
    return send(http, json.dumps(SAID if said is None else said), weights, **options)


def send(http: FlaskClient, model: str, weights: bytes, **options: Any) -> TestResponse:
    body, kind = encode_multipart_formdata({"model": model, "weights": ("w", weights)})
    return http.post(ALL, data=body, content_type=kind, **options)


def brought(http: FlaskClient, weights: bytes, **options: Any) -> Any:
    response = bring(http, weights, **options)
    assert response.status_code == 201, response.get_data(as_text=True)
    assert response.headers["Location"] == f"{ALL}/{response.get_json()['name']}"
    return response.get_json()


def test_a_network_is_described_and_listed(http: FlaskClient, weights: bytes) -> None:
    made = brought(http, weights)
    assert made["name"].startswith("net_")
    facts = {name: made[name] for name in ("title", "architecture", "weights", "classes")}
    assert facts == {
        "title": "Birds", "architecture": "torchvision/squeezenet1_1", "weights": "ready",
        "classes": 2,
    }  # fmt: skip
    assert made in http.get(ALL).get_json()["models"]
    whole = http.get(f"{ALL}/{made['name']}").get_json()
    assert whole["labels"] == ["crow", "duck"]
    assert any(layer["name"] == "features.12" for layer in whole["layers"])
    assert brought(http, weights) == made, "brought twice it is the same"


def test_jobs_take_it(http: FlaskClient, weights: bytes, settings: Settings) -> None:
    name = brought(http, weights)["name"]
    document = queue(http, query_string={"model": name, "layer": "features.5"})
    assert document["estimate"]["gigaflop"] > 0
    response = post(http, query_string={"model": name, "layer": "features.99"})
    assert problem(response, 422, "unknown-layer")
    studio = Studio.open(settings.styles_path, settings.models_path, downloads=False)
    call = Call("classify", {"image": PHOTO}, model=name, accept=["application/json"])
    answer = studio.perform(call)
    rows = json.loads(answer.body)["artifacts"][0]["data"]
    assert {row["label"] for row in rows} == {"crow", "duck"}


def test_once_deleted_it_is_gone(http: FlaskClient, weights: bytes) -> None:
    name = brought(http, weights)["name"]
    assert http.delete(f"{ALL}/{name}").status_code == 204
    assert problem(http.delete(f"{ALL}/{name}"), 404, "unknown-model")
    assert problem(http.get(f"{ALL}/{name}"), 404, "unknown-model")
    assert problem(post(http, query_string={"model": name}), 422, "unknown-model")
    assert problem(http.delete(f"{ALL}/resnet18"), 409, "built-in")


def test_who_brings_it_has_it_alone(make_http: Callable[..., FlaskClient], weights: bytes) -> None:
    keys = [new_key(), new_key()]
    http = make_http(api_keys=",".join(map(digest, keys)))
    me, you = ({"Authorization": f"Bearer {key}"} for key in keys)
    name = brought(http, weights, headers=me)["name"]
    assert http.get(f"{ALL}/{name}", headers=me).status_code == 200
    for method in (http.get, http.delete):
        assert problem(method(f"{ALL}/{name}", headers=you), 404, "unknown-model")
    assert name not in http.get(ALL, headers=you).get_data(as_text=True)
    for path in ("/v1/techniques/deep-dream", "/v1/techniques/classify"):
        response = post(http, path, query_string={"model": name}, headers=you)
        assert problem(response, 422, "unknown-model")
    assert http.get(f"{ALL}/{name}", headers=me).status_code == 200


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"architecture": "resnet18"}, "/model"),
        (SAID | {"input_size": 1}, "/model/input_size"),
        (SAID | {"code": "import os"}, "/model"),
        (SAID | {"architecture": "fcn_resnet50"}, "/model/architecture"),
        (SAID | {"labels": ["one"]}, "/model/scores"),
        (SAID | {"labels": ["one", "two", "three"]}, "/weights"),
    ],
)
def test_what_is_wrong_is_pointed_at(
    said: Any, pointer: str, http: FlaskClient, weights: bytes
) -> None:
    found = problem(bring(http, weights, said), 422)
    assert found["errors"][0]["pointer"] == pointer
    assert "net_" not in http.get(ALL).get_data(as_text=True)


def test_forms_that_are_none_are_refused(http: FlaskClient, weights: bytes) -> None:
    assert problem(http.post(ALL, json=SAID), 415)
    assert problem(http.post(ALL, data={"model": "{}"}, content_type="multipart/form-data"), 422)
    for text, status in (("{", 400), ("[]", 422)):
        assert problem(send(http, text, weights), status, "malformed")


def test_a_field_has_a_bound_of_its_own(http: FlaskClient, weights: bytes) -> None:
    told = problem(send(http, "x" * (1024 * 1024 + 1), weights), 413, "form-too-large")
    assert "a field that is no file 1048576 bytes" in told["detail"]


def test_there_are_bounds(make_http: Callable[..., FlaskClient], weights: bytes) -> None:
    http = make_http(max_models=1, max_model_bytes=len(weights) + 2000, max_upload_bytes=1000)
    brought(http, weights)
    assert problem(bring(http, weights, SAID | {"title": "more"}), 429, "too-many-models")
    large = make_http(max_model_bytes=len(weights) - 1)
    refused = problem(bring(large, weights), 413, "too-large")
    assert f"at most {len(weights) - 1} bytes" in refused["detail"]
    assert "half precision" in refused["detail"]
    assert "LANTERN_MAX_MODEL_BYTES" in refused["detail"]
