"""How many bytes are kept for a caller, on a real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from services.clients import Stores
from services.gateway.guard import NOBODY
from services.kept import Kept, TooMuchKept
from tests.services.gateway import (
    DREAM,
    PHOTO,
    RESULT_BYTES,
    encode,
    finish,
    post,
    problem,
    queue,
    start,
)
from tests.services.job_deeds import race

MakeHttp = Callable[..., FlaskClient]


@pytest.fixture
def kept(client: redis.Redis) -> Kept:
    return Kept(client, most=100, ttl_s=60)


def pass_time(client: redis.Redis, owner: str, *names: str) -> None:
    """Let the time of some of what is kept be over."""
    client.zadd(f"lantern:kept:{owner}:ends", dict.fromkeys(names, 1))


class TestKept:
    def test_what_is_taken_is_counted_by_owner(self, kept: Kept) -> None:
        kept.take("me", "a", 30)
        kept.take("me", "b", 20)
        kept.take("you", "a", 5)
        assert (kept.bytes_of("me"), kept.bytes_of("you"), kept.bytes_of("else")) == (50, 5, 0)

    def test_what_is_taken_again_counts_once(self, kept: Kept) -> None:
        kept.take("me", "a", 90)
        kept.take("me", "a", 95)
        assert kept.bytes_of("me") == 95

    def test_no_more_than_fits_is_taken(self, kept: Kept, client: redis.Redis) -> None:
        kept.take("me", "a", 90)
        with pytest.raises(TooMuchKept, match=r"has 90 bytes .* of 100 at most, and this has 11"):
            kept.take("me", "b", 11)
        assert kept.bytes_of("me") == 90
        kept.take("me", "b", 10)
        with pytest.raises(TooMuchKept, match="delete jobs and files"):
            kept.require_room("me")
        kept.require_room("you")

    def test_what_is_there_may_be_taken_again_where_nothing_else_may(self, kept: Kept) -> None:
        kept.take("me", "a", 100)
        kept.take("me", "a", 100)

    def test_what_is_forgotten_makes_room(self, kept: Kept, client: redis.Redis) -> None:
        kept.take("me", "a", 60)
        kept.take("me", "b", 40)
        kept.forget("me", "a", "never was")
        kept.take("me", "c", 60)
        kept.forget("me", "b", "c")
        assert client.keys("*") == []

    def test_what_has_expired_makes_room(self, kept: Kept, client: redis.Redis) -> None:
        kept.take("me", "a", 60)
        kept.take("me", "b", 40)
        pass_time(client, "me", "a")
        assert kept.bytes_of("me") == 40
        kept.take("me", "c", 60)

    def test_nothing_outlives_what_is_kept_last(self, kept: Kept, client: redis.Redis) -> None:
        kept.take("me", "a", 60)
        assert {0 < client.ttl(key) <= 60 for key in client.keys("*")} == {True}

    def test_threads_that_race_take_no_more_than_fits(self, kept: Kept) -> None:
        def take(number: int) -> bool:
            try:
                kept.take("me", str(number), 30)
            except TooMuchKept:
                return False
            return True

        assert sum(race(8, take)) == 3
        assert kept.bytes_of("me") == 90

    def test_no_more_names_are_taken_than_may_be(self, client: redis.Redis) -> None:
        kept = Kept(client, most=0, most_names=2, ttl_s=60)
        kept.take("me", "a", 1)
        kept.require_room("me")
        kept.take("me", "b", 1)
        kept.take("me", "b", 2)
        with pytest.raises(TooMuchKept, match="has 2 results and uploads, of 2 at most; delete"):
            kept.take("me", "c", 1)
        with pytest.raises(TooMuchKept):
            kept.require_room("me")
        kept.take("you", "c", 1)
        kept.forget("me", "a")
        kept.take("me", "c", 1)

    def test_nought_is_no_limit(self, client: redis.Redis) -> None:
        kept = Kept(client, most=0, ttl_s=60)
        kept.take("me", "a", 10**15)
        kept.require_room("me")

    def test_a_full_redis_still_counts_and_forgets(self, kept: Kept, client: redis.Redis) -> None:
        kept.take("me", "a", 60)
        kept.take("me", "b", 10)
        pass_time(client, "me", "b")
        client.config_set("maxmemory", 1)
        assert kept.bytes_of("me") == 60
        kept.forget("me", "a")
        assert kept.bytes_of("me") == 0


def sizes(stores: Stores) -> int:
    return stores.kept.bytes_of(NOBODY)


class TestCalls:
    def test_a_result_counts_from_its_jobs_end_until_it_is_deleted(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        job = queue(http)
        assert sizes(stores) == 0
        finish(stores, job)
        assert sizes(stores) == RESULT_BYTES
        http.delete(job["links"]["self"])
        assert sizes(stores) == 0

    @pytest.mark.parametrize("status", ["failed", "canceled"])
    def test_a_job_without_a_result_does_not_count(
        self, status: Any, http: FlaskClient, stores: Stores
    ) -> None:
        stores.jobs.finish(start(stores, queue(http)), status)
        assert sizes(stores) == 0

    def test_the_same_call_again_and_again_fills_no_more_than_a_key_may_have(
        self, make_http: MakeHttp, stores: Stores
    ) -> None:
        http = make_http(max_kept_bytes=4 * RESULT_BYTES + 1)
        first = queue(http)
        finish(stores, first)
        again = [queue(http) for _ in range(3)]
        assert {job["status"] for job in again} == {"succeeded"}
        before = stores.state.dbsize()
        told = problem(post(http), 507, "too-much-kept")
        assert f"has {4 * RESULT_BYTES} bytes" in told["detail"]
        assert stores.state.dbsize() == before
        http.delete(first["links"]["self"])
        assert queue(http)["status"] == "succeeded"

    def test_nor_are_there_more_jobs_that_are_over_at_once(
        self, make_http: MakeHttp, stores: Stores
    ) -> None:
        http = make_http(max_kept=3)
        finish(stores, queue(http))
        again = [queue(http)["status"] for _ in range(2)]
        assert again == ["succeeded", "succeeded"]
        problem(post(http), 507, "too-much-kept")

    def test_a_caller_who_has_too_much_gets_no_new_jobs(
        self, make_http: MakeHttp, stores: Stores
    ) -> None:
        http = make_http(max_kept_bytes=RESULT_BYTES)
        headers = {"Idempotency-Key": "k"}
        job = queue(http, headers=headers)
        finish(stores, job)
        problem(post(http, data=encode(seed=1)), 507, "too-much-kept")
        assert int(post(http, data=encode(seed=1)).headers["Retry-After"]) > 0
        assert post(http, headers=headers).headers["Idempotent-Replayed"] == "true"
        assert http.get(job["links"]["result"]).status_code == 200

    def test_a_caller_who_has_too_much_may_upload_no_more(self, make_http: MakeHttp) -> None:
        http = make_http(max_kept_bytes=len(PHOTO) + 1)
        location = post(http, "/v1/files").headers["Location"]
        problem(post(http, "/v1/files", data=encode(seed=1)), 507, "too-much-kept")
        body = json.dumps({"inputs": {"image": location.rpartition("/")[2]}})
        assert post(http, DREAM, data=body, content_type="application/json").status_code == 202
        assert http.delete(location).status_code == 204
        assert post(http, "/v1/files", data=encode("JPEG")).status_code == 201

    def test_a_copy_that_was_of_no_use_does_not_count(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        first = queue(http)
        finish(stores, first)
        stores.blobs.delete(first["id"], "result-1-arrays.npz")
        assert queue(http)["status"] == "queued"
        assert sizes(stores) == RESULT_BYTES
