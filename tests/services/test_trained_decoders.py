"""Decoders over HTTP: trained by one job, named by another, and refused where they do not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from lantern.call import Studio
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services import job_bytes
from services.clients import Stores
from services.gateway.guard import digest
from services.record import Job
from services.settings import Settings
from services.worker.desk import Desk
from services.worker.tasks import work
from tests.services.gateway import problem, queue, start

TRAIN = "/v1/techniques/train-decoder"
MAKE = "/v1/techniques/activation-maximization"
TINY = {"size": 16, "width": 4, "steps": 1, "batch": 1, "looked_at": 2}
KEYS = ("first-key-of-a-caller", "second-key-of-a-caller")
ME, YOU = ({"Authorization": f"Bearer {key}"} for key in KEYS)


@pytest.fixture
def http(make_http: Callable[..., FlaskClient]) -> FlaskClient:
    return make_http(api_keys=",".join(map(digest, KEYS)))


@pytest.fixture
def desk(stores: Stores, settings: Settings) -> Desk:
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))
    return Desk(dataclasses.replace(settings, beat_s=0.05), stores, studio)


def run(desk: Desk, document: Any) -> Job:
    """Let a worker run a job to its end."""
    work(desk, start(desk.stores, document), "jobs")
    job = desk.stores.jobs.get(document["id"])
    assert job is not None
    return job


@pytest.fixture
def trained(desk: Desk, http: FlaskClient) -> str:
    """Train a decoder; return its job's id."""
    job = run(desk, submit(http, TRAIN, **TINY))
    assert job.status == "succeeded", job.error
    return job.id


def submit(http: FlaskClient, path: str, **params: Any) -> Any:
    return queue(http, path=path, query_string=params, headers=ME, data=b"", content_type=None)


def refusal(http: FlaskClient, headers: dict[str, str] = ME, **params: Any) -> Any:
    given = {"method": "decoder", "size": 48, "steps": 1} | params
    response = http.post(MAKE, query_string=given, headers=headers)
    told = problem(response, 422)
    assert [error["pointer"] for error in told["errors"]] == ["/params/decoder"]
    return told


def make(http: FlaskClient, decoder: str) -> Any:
    return submit(http, MAKE, method="decoder", decoder=decoder, size=48, steps=1)


def test_a_job_draws_with_the_decoder_another_trained(
    desk: Desk, http: FlaskClient, trained: str
) -> None:
    job = run(desk, make(http, trained))
    assert job.status == "succeeded", job.error
    assert job.result is not None
    assert job.result["facts"]["decoder"]["layer"] == "_conv_head"
    file = http.get(f"/v1/jobs/{trained}/artifacts/decoder", headers=ME)
    assert file.content_type.endswith("safetensors")
    assert file.get_data()[8:9] == b"{"


def test_a_job_keeps_its_decoder_when_the_training_is_deleted(
    desk: Desk, http: FlaskClient, trained: str
) -> None:
    document = make(http, trained)
    assert http.delete(f"/v1/jobs/{trained}", headers=ME).status_code == 204
    assert run(desk, document).status == "succeeded"
    assert refusal(http, decoder=trained)["type"] == "/problems/unknown-decoder"


def test_nothing_is_left_of_it_with_the_job(desk: Desk, http: FlaskClient, trained: str) -> None:
    document = make(http, trained)
    blobs = desk.stores.blobs
    assert blobs.read(document["id"], job_bytes.DECODER)
    run(desk, document)
    job_bytes.tidy_up(desk.stores, document["id"], preview_ttl_s=60)
    assert blobs.read(document["id"], job_bytes.DECODER) is None


def test_decoders_that_are_not_the_callers_or_not_there_are_unknown(
    http: FlaskClient, trained: str, desk: Desk
) -> None:
    told = [
        refusal(http, YOU, decoder=trained),
        refusal(http, decoder="job_" + "0" * 32),
        refusal(http, decoder="decoder.safetensors"),
        refusal(http, decoder=run(desk, make(http, trained)).id),
    ]
    assert {each["type"] for each in told} == {"/problems/unknown-decoder"}


def test_bytes_that_have_expired_are_told_before_a_job_is_made(
    desk: Desk, http: FlaskClient, trained: str
) -> None:
    job = desk.stores.jobs.get(trained)
    assert job is not None
    desk.stores.blobs.delete(trained, *job_bytes.result_names(job.result))
    assert refusal(http, decoder=trained)["type"] == "/problems/unknown-decoder"
    assert desk.stores.jobs.counts()["queued"] == 0


def test_training_that_is_not_over_and_another_network_are_refused(
    http: FlaskClient, trained: str
) -> None:
    waiting = submit(http, TRAIN, **TINY | {"steps": 2})
    told = refusal(http, decoder=waiting["id"])
    assert told["type"] == "/problems/unfinished-decoder"
    assert "queued" in told["detail"]
    told = refusal(http, decoder=trained, model="squeezenet1-0")
    assert told["type"] == "/problems/unfit-decoder"
    assert "efficientnet-lite0" in told["detail"]
