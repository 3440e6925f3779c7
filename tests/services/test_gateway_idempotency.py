"""Calls that are sent again with their key: they find their job, whatever came since."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import lantern
from services.clients import Stores
from services.gateway.guard import digest, new_key
from tests.services.engine import Engine, Reply
from tests.services.gateway import DREAM, PAINT, encode, finish, post, problem, queue
from tests.services.packing import zipped

KEY = {"Idempotency-Key": "k"}
TRAIN = "/v1/techniques/train-decoder"
NOWHERE = "redis://127.0.0.1:1/0"
MakeHttp = Callable[..., FlaskClient]


def is_replay(response: TestResponse, job: Any) -> bool:
    """Tell whether an answer is that of a call sent again, which has made a job before."""
    said = response.headers.get("Idempotent-Replayed")
    assert (response.status_code, said) == (202, "true"), response.get_data(as_text=True)
    return bool(response.get_json()["id"] == job["id"])


def test_full_storage_refuses_other_calls_alone(make_http: MakeHttp, stores: Stores) -> None:
    http = make_http(storage_high=0.5)
    job = queue(http, headers=KEY)
    used: Any = stores.state.info("memory")["used_memory"]
    stores.state.config_set("maxmemory", int(used / 0.9))
    time.sleep(1.1)  # how full it is is looked up once a second
    problem(post(http, data=encode(seed=1)), 507, "storage-full")
    assert is_replay(post(http, headers=KEY), job)


def test_a_collection_that_is_gone_refuses_other_calls_alone(
    http: FlaskClient, stores: Stores
) -> None:
    http.post("/v1/collections", json={"name": "mine"})
    archive = zipped({"a.png": encode(seed=1), "b.png": encode(seed=2)})
    http.post("/v1/collections/mine/images", data=archive, content_type="application/zip")
    options: dict[str, Any] = {"query_string": {"collection": "mine"}, "data": b""}
    job = queue(http, path=TRAIN, headers=KEY, **options)
    assert http.delete("/v1/collections/mine").status_code == 204
    problem(post(http, TRAIN, **options), 422)
    assert is_replay(post(http, TRAIN, headers=KEY, **options), job)


def test_another_version_of_the_service_knows_the_call(
    http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue(http, headers=KEY)
    finish(stores, job)
    monkeypatch.setattr(lantern, "__version__", "another")
    assert is_replay(post(http, headers=KEY), job)
    assert queue(http)["status"] == "queued"  # what it computes may have changed


def test_a_call_finds_its_job_whatever_it_accepts_now(http: FlaskClient) -> None:
    job = queue(http, headers=KEY | {"Accept": "image/png"})
    assert is_replay(post(http, headers=KEY | {"Accept": "application/json"}), job)
    other = post(http, headers=KEY | {"Accept": "image/png"}, query_string={"quality": "50"})
    problem(other, 422, "idempotency-conflict")


def test_a_key_does_not_count_for_calls_that_are_answered_at_once(
    make_http: MakeHttp, engine: Engine
) -> None:
    http = make_http(torchserve_url=engine.url)
    for seed in (1, 2):
        engine.reply(Reply(headers={"content-type": "image/jpeg"}))
        assert post(http, PAINT, headers=KEY, data=encode(seed=seed)).status_code == 200
    declared = http.get("/openapi.json").get_json()["paths"][PAINT]["post"]["parameters"]
    (said,) = [one["description"] for one in declared if one["name"] == "Idempotency-Key"]
    assert "answered at once" in said


def test_a_quick_call_that_became_a_job_finds_it_when_it_could_be_answered(
    make_http: MakeHttp, engine: Engine
) -> None:
    job = queue(make_http(), path=PAINT, headers=KEY)
    http = make_http(torchserve_url=engine.url)
    engine.reply(Reply(headers={"content-type": "image/jpeg"}))
    assert is_replay(post(http, PAINT, headers=KEY), job)
    assert post(http, PAINT).status_code == 200


def test_a_quick_call_with_a_key_needs_no_store(make_http: MakeHttp, engine: Engine) -> None:
    engine.reply(Reply(headers={"content-type": "image/jpeg"}))
    http = make_http(torchserve_url=engine.url, redis_url=NOWHERE)
    assert post(http, PAINT, headers=KEY).status_code == 200
    problem(post(http, DREAM, headers=KEY), 503, "unavailable")


def test_a_caller_who_may_have_no_jobs_any_more_is_shown_none(make_http: MakeHttp) -> None:
    key = new_key()
    headers = KEY | {"Authorization": f"Bearer {key}"}
    queue(make_http(api_keys=digest(key)), path=PAINT, headers=headers)
    http = make_http(api_keys=f"{digest(key)}:infer")
    problem(post(http, PAINT, headers=headers), 403, "missing-scope")


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
