"""The secrets that are made for webhooks: whoever has called is told, whatever comes between."""

from __future__ import annotations

import base64

import pytest
from flask.testing import FlaskClient

from services.clients import Stores
from tests.services.gateway import PHOTO, finish, post, queue

HOOK = {"webhook_url": "http://127.0.0.1:1/hook"}
IN_TIME = {"Prefer": "wait=20", "Accept": "image/png"}


def kept(stores: Stores, job_id: str) -> str:
    """Return the secret that a job's record holds."""
    job = stores.jobs.get(job_id)
    assert job is not None
    assert job.webhook is not None
    secret: str = job.webhook["secret"]
    return secret


@pytest.mark.parametrize("headers", [{}, IN_TIME])
def test_a_job_that_is_done_already_tells_it(
    http: FlaskClient, stores: Stores, headers: dict[str, str]
) -> None:
    finish(stores, queue(http))
    response = post(http, query_string=HOOK, headers=headers)
    assert response.status_code == 202
    job = response.get_json()
    assert (job["status"], job["result"]["facts"]["cached"]) == ("succeeded", True)
    assert job["webhook"]["secret"] == kept(stores, job["id"])
    assert response.headers.get("Preference-Applied") == ("wait=20" if headers else None)


def test_a_call_that_is_sent_again_is_told_again(http: FlaskClient, stores: Stores) -> None:
    key = {"Idempotency-Key": "k", "Accept": "image/png"}
    first = queue(http, query_string=HOOK, headers=key)
    assert queue(http, query_string=HOOK, headers=key) == first
    finish(stores, first)
    again = post(http, query_string=HOOK, headers=key | {"Prefer": "wait=20"})
    assert again.headers["Idempotent-Replayed"] == "true"
    told = again.get_json()
    assert (told["status"], told["webhook"]) == ("succeeded", first["webhook"])
    assert told["webhook"]["secret"] == kept(stores, first["id"])


def test_who_has_a_secret_gets_the_picture(http: FlaskClient, stores: Stores) -> None:
    finish(stores, queue(http))
    secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    response = post(http, query_string=HOOK | {"webhook_secret": secret}, headers=IN_TIME)
    assert (response.status_code, response.data) == (200, PHOTO)
