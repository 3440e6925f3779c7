"""Who may call: keys, and what each may do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from services.clients import Stores
from services.gateway import guard
from services.gateway.guard import digest, new_key
from services.keys import SCOPES, Key, read_keys
from services.settings import SettingsError
from services.settings import read as read_settings
from tests.services.gateway import DREAM, PAINT, encode, post, problem, queue

NO_JOB = "job_" + 32 * "0"


class TestKeys:
    @pytest.fixture
    def key(self) -> str:
        return new_key()

    @pytest.fixture
    def keyed(self, make_http: Callable[..., FlaskClient], key: str) -> FlaskClient:
        return make_http(api_keys=f"{digest('another')}, {digest(key).upper()}")

    @pytest.mark.parametrize(
        "path", ["/", "/docs", "/openapi.json", "/healthz/live", "/static/studio.js"]
    )
    def test_what_holds_no_data_is_open(self, keyed: FlaskClient, path: str) -> None:
        assert keyed.get(path).status_code == 200

    @pytest.mark.parametrize(
        "path", ["/v1/techniques", "/v1/jobs", "/v1/models", "/metrics", "/v1/nope", "/nope"]
    )
    def test_everything_else_needs_a_key(self, keyed: FlaskClient, path: str) -> None:
        response = keyed.get(path)
        problem(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_a_known_key_opens(self, keyed: FlaskClient, key: str) -> None:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {key}"}
            assert keyed.get("/v1/jobs", headers=headers).status_code == 200
        assert keyed.get("/nope", headers={"Authorization": f"Bearer {key}"}).status_code == 404

    @pytest.mark.parametrize(
        "header",
        ["", "Bearer", "Bearer ", "Bearer lk_wrong", "Basic {key}", "{key}", "Bearer {key}x",
         "Bearer {key} {key}", "Bearer \xff\xfe", "Bearer " + 7000 * "a"],
    )  # fmt: skip
    def test_any_other_does_not(self, keyed: FlaskClient, key: str, header: str) -> None:
        headers = {"Authorization": header.format(key=key)}
        document = problem(keyed.get("/v1/jobs", headers=headers), 401)
        assert key not in json.dumps(document)

    def test_a_key_in_the_query_does_not(self, keyed: FlaskClient, key: str) -> None:
        problem(keyed.get("/v1/jobs", query_string={"key": key, "Authorization": key}), 401)

    def test_a_digest_is_no_key(self, keyed: FlaskClient, key: str) -> None:
        headers = {"Authorization": f"Bearer {digest(key)}"}
        problem(keyed.get("/v1/jobs", headers=headers), 401)

    def test_nothing_is_run_without_a_key(self, keyed: FlaskClient, stores: Stores) -> None:
        problem(post(keyed), 401)
        assert stores.jobs.counts()["queued"] == 0

    def test_keys_are_long_and_distinct(self) -> None:
        keys = {new_key() for _ in range(100)}
        assert len(keys) == 100
        assert all(len(key) > 30 for key in keys)


class TestScopes:
    @pytest.fixture
    def caller(self, make_http: Callable[..., FlaskClient]) -> Callable[[str], Any]:
        """Make a caller whose key may do so much."""

        def make(rest: str) -> Callable[..., Any]:
            key = new_key()
            http = make_http(api_keys=f"{digest('another')},{digest(key)}{rest}")
            headers = {"Authorization": f"Bearer {key}"}

            def call(method: str, path: str, **options: Any) -> Any:
                options["headers"] = headers | options.pop("headers", {})
                body = {"data": encode(), "content_type": "image/png"} if method == "POST" else {}
                return http.open(path, method=method, **(body | options))

            return call

        return make

    @pytest.mark.parametrize(
        ("method", "path", "scope"),
        [("POST", PAINT, "infer"), ("GET", "/v1/stream", "infer"), ("GET", "/v1/jobs", "jobs"),
         ("GET", f"/v1/jobs/{NO_JOB}", "jobs"), ("DELETE", f"/v1/jobs/{NO_JOB}", "jobs"),
         ("POST", "/v1/files", "files"), ("GET", "/v1/collections", "files"),
         ("POST", "/v1/models", "files"), ("DELETE", "/v1/styles/dots", "files")],
    )  # fmt: skip
    def test_a_key_without_it_is_told_which_is_missing(
        self, caller: Any, method: str, path: str, scope: str
    ) -> None:
        others = "+".join(one for one in SCOPES if one != scope)
        document = problem(caller(f":{others}")(method, path), 403, "missing-scope")
        assert f"`{scope}`" in document["detail"]
        for rest in (f":{scope}", "", ":", f"::{7}"):
            assert caller(rest)(method, path).status_code not in (401, 403)

    @pytest.mark.parametrize(
        "path",
        ["/v1/techniques", "/v1/techniques/deep-dream", "/v1/styles", "/v1/models", "/v1/samples",
         "/metrics"],
    )  # fmt: skip
    def test_what_there_is_may_be_read_with_any_key(self, caller: Any, path: str) -> None:
        for scope in SCOPES:
            assert caller(f":{scope}")("GET", path).status_code == 200

    def test_what_makes_a_job_needs_both(self, caller: Any, stores: Stores) -> None:
        call = caller(":infer")
        asked = {"headers": {"Prefer": "respond-async"}}
        for response in (call("POST", DREAM), call("POST", PAINT, **asked)):
            assert "`jobs`" in problem(response, 403, "missing-scope")["detail"]
        problem(caller(":jobs")("POST", DREAM), 403, "missing-scope")
        # nor is one made instead of an answer, for its caller could not ask for it
        response = call("POST", PAINT)
        problem(response, 503, "unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert stores.jobs.counts()["queued"] == 0
        assert caller(":infer+jobs")("POST", DREAM).status_code == 202

    def test_a_key_may_have_a_quota_of_its_own(
        self, make_http: Callable[..., FlaskClient], stores: Stores
    ) -> None:
        keys = [new_key(), new_key(), new_key()]
        rests = (":jobs+infer:1", "::3", "")
        http = make_http(
            api_keys=",".join(digest(key) + rest for key, rest in zip(keys, rests, strict=True)),
            max_active=2,
        )
        for key, most in zip(keys, (1, 3, 2), strict=True):
            headers = {"Authorization": f"Bearer {key}"}
            for seed in range(most):
                queue(http, headers=headers, data=encode(seed=seed))
            told = problem(post(http, headers=headers, data=encode(seed=9)), 429, "quota")
            assert f"may have {most} jobs" in told["detail"]

    def test_every_route_has_a_scope_or_none_on_purpose(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        blueprints = set(http.application.blueprints)
        assert blueprints - guard.SCOPE_OF.keys() == {"catalogue", "health", "openapi"}
        assert set(guard.SCOPE_OF.values()) == set(SCOPES)


class TestReading:
    def test_what_is_not_said_is_not_limited(self) -> None:
        text = f"{64 * 'a'}, {64 * 'B'}:jobs+files ,{64 * 'c'}::5,{64 * 'd'}:INFER:7,"
        assert read_keys(text) == (
            Key(64 * "a"),
            Key(64 * "b", frozenset({"jobs", "files"})),
            Key(64 * "c", frozenset(SCOPES), 5),
            Key(64 * "d", frozenset({"infer"}), 7),
        )
        assert read_keys("") == ()

    def test_a_key_that_is_listed_twice_is_refused(self) -> None:
        text = f"{64 * 'a'}:infer,{64 * 'b'},{64 * 'A'}"
        with pytest.raises(ValueError, match="a key is listed twice: aaaaaaaaaaaa"):
            read_keys(text)
        with pytest.raises(SettingsError, match="a key is listed twice"):
            read_settings({"LANTERN_API_KEYS": text})

    @pytest.mark.parametrize(
        "rest", [":all", ":infer+", ":+", ":infer:0", ":infer:-1", ":infer:x", "::5:", " :jobs"]
    )
    def test_what_is_not_understood_is_refused(self, rest: str) -> None:
        with pytest.raises(ValueError, match="a key"):
            read_keys(64 * "a" + rest)
