"""How long a caller wants to wait for an interactive call, with an engine that may be slow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import flask
import pytest
from flask.testing import FlaskClient

from services.clients import Stores
from services.gateway.guard import digest, new_key
from tests.services.engine import Engine, Reply
from tests.services.gateway import (
    JOB_ID,
    PAINT,
    PHOTO,
    finish,
    finish_the_first,
    post,
    problem,
    queue,
)

JPEG = {"content-type": "image/jpeg"}
TOO_LARGE = Reply(413, b'{"code": "answer-too-large", "detail": "too large", "errors": []}')
# longer than anybody waits here
SLOW_S = 2.5


@pytest.fixture
def http(make_http: Callable[..., FlaskClient], engine: Engine) -> FlaskClient:
    return make_http(torchserve_url=engine.url)


@pytest.mark.parametrize(("prefer", "applied"), [("wait=7", "wait=7"), ("wait=0", None)])
def test_an_answer_in_time_says_what_was_applied(
    http: FlaskClient, engine: Engine, prefer: str, applied: str | None
) -> None:
    engine.reply(Reply(headers=JPEG | {"x-lantern-timings": json.dumps({"model": 20.0})}))
    response = post(http, PAINT, headers={"Prefer": prefer})
    assert (response.status_code, response.data) == (200, b"picture")
    assert response.headers.get("Preference-Applied") == applied
    assert "model;dur=20.0" in response.headers["Server-Timing"]


def test_a_slow_engine_makes_a_job_when_the_time_is_over(http: FlaskClient, engine: Engine) -> None:
    engine.reply(Reply(headers=JPEG, slow_s=SLOW_S))
    started = time.monotonic()
    response = post(http, PAINT, headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - started < 2
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=1"
    assert response.get_json()["status"] == "queued"


def test_an_answer_too_large_for_the_engine_makes_a_job_at_once(
    http: FlaskClient, engine: Engine
) -> None:
    engine.reply(TOO_LARGE)
    started = time.monotonic()
    response = post(http, PAINT)
    assert time.monotonic() - started < 2
    assert response.status_code == 202
    assert response.get_json()["status"] == "queued"
    assert len(engine.seen) == 1


def test_a_key_without_jobs_is_told_what_a_large_answer_needs(
    make_http: Callable[..., FlaskClient], engine: Engine
) -> None:
    key = new_key()
    http = make_http(torchserve_url=engine.url, api_keys=f"{digest(key)}:infer")
    engine.reply(TOO_LARGE)
    response = post(http, PAINT, headers={"Authorization": f"Bearer {key}"})
    assert "`jobs`" in problem(response, 403, "missing-scope")["detail"]


def test_the_job_is_waited_for_as_long_as_is_left(
    make_http: Callable[..., FlaskClient], engine: Engine, stores: Stores
) -> None:
    engine.reply(Reply(headers=JPEG, slow_s=SLOW_S))
    http = make_http(torchserve_url=engine.url, interactive_timeout_s=2)

    thread = threading.Thread(target=finish_the_first, args=(stores,))
    thread.start()
    response = post(http, PAINT, headers={"Prefer": "wait=10", "Accept": "image/png"})
    thread.join()
    assert (response.status_code, response.data) == (200, PHOTO)
    started = time.monotonic()
    again = post(http, PAINT, headers={"Prefer": "wait=3", "Cache-Control": "no-cache"})
    assert 2.9 < time.monotonic() - started < 4.5, "two of the three seconds are the engine's"
    assert again.status_code == 202


@pytest.mark.parametrize(
    ("prefer", "applied"), [("wait=5", None), ("respond-async, wait=5", "respond-async")]
)
def test_a_wait_that_no_seat_was_free_for_is_not_said_to_be_applied(
    make_http: Callable[..., FlaskClient], prefer: str, applied: str | None
) -> None:
    http = make_http(max_streams=0)
    started = time.monotonic()
    response = post(http, headers={"Prefer": prefer})
    assert time.monotonic() - started < 2
    assert response.status_code == 202
    assert response.headers.get("Preference-Applied") == applied


def test_a_result_that_is_there_needs_no_seat(
    make_http: Callable[..., FlaskClient], stores: Stores
) -> None:
    http = make_http(max_streams=0)
    finish(stores, queue(http))
    response = post(http, headers={"Prefer": "wait=5", "Accept": "image/png"})
    assert (response.status_code, response.data) == (200, PHOTO)
    assert response.headers["Preference-Applied"] == "wait=5"


class TestWithoutAnEngine:
    @pytest.fixture
    def http(self, make_http: Callable[..., FlaskClient]) -> FlaskClient:
        return make_http()

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
        thread = threading.Thread(target=finish_the_first, args=(stores,))
        thread.start()
        started = time.monotonic()
        response = post(app.test_client(), headers={"Prefer": "wait=20", "Accept": "image/png"})
        thread.join()
        assert time.monotonic() - started < 5
        assert (response.status_code, response.content_type) == (200, "image/png")
        assert response.data == PHOTO
        assert response.headers["Preference-Applied"] == "wait=20"
        assert JOB_ID.fullmatch(response.headers["Location"].rpartition("/")[2])
