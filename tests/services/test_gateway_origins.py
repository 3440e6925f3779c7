"""Which web pages may call: without keys only this service's own, with an allowed origin others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from services.clients import Stores
from services.gateway.guard import digest
from services.gateway.origins import EXPOSED, TAKEN
from tests.services.gateway import DREAM, PAINT, post, problem, queue
from tests.services.test_live_stream import HANDSHAKE

APP = "https://app.example"
KEY = "a-key"
OPENED = {"Authorization": f"Bearer {KEY}"}


class TestWithoutKeys:
    @pytest.mark.parametrize(
        "host",
        ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:9999", "[::1]", "[::1]:8000"],
    )
    def test_this_machine_is_called_by_its_own_names(self, http: FlaskClient, host: str) -> None:
        assert http.get("/v1/jobs", headers={"Host": host}).status_code == 200
        queue(http, headers={"Host": host, "Origin": f"http://{host}"})

    def test_or_by_the_name_it_was_given(self, make_http: Callable[..., FlaskClient]) -> None:
        http = make_http(host="lantern.internal")
        assert http.get("/v1/jobs", headers={"Host": "lantern.internal:8000"}).status_code == 200
        problem(http.get("/v1/jobs", headers={"Host": "other.internal"}), 403, "foreign-host")

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
         "10.0.0.1", "[::2]", "localhost@evil.example", "x y", "", "127.0.0.1:8000:8000"],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/", "/v1/jobs", "/openapi.json", "/metrics", "/nope"])
    def test_a_name_that_was_made_to_lead_here_is_refused(
        self, http: FlaskClient, host: str, path: str
    ) -> None:
        answer = http.get(path, headers={"Host": host})
        assert "localhost" in problem(answer, 403, "foreign-host")["detail"]
        assert "evil" not in answer.get_data(as_text=True)

    def test_whether_it_lives_may_be_asked_by_any_name(self, http: FlaskClient) -> None:
        assert http.get("/healthz/live", headers={"Host": "10.0.0.1:8000"}).status_code == 200

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "http://localhost:1", "http://localhost.evil.example", "null",
         "http://[", "http://a:99999999", "localhost", "http://localhost/"],
    )  # fmt: skip
    def test_another_sites_page_changes_nothing(
        self, http: FlaskClient, stores: Stores, origin: str
    ) -> None:
        for method, path in (("POST", DREAM), ("POST", "/v1/files"), ("DELETE", "/v1/jobs/x")):
            answer = http.open(path, method=method, headers={"Origin": origin})
            assert "LANTERN_ORIGINS" in problem(answer, 403, "foreign-origin")["detail"]
        assert stores.jobs.counts()["queued"] == 0

    def test_a_program_sends_no_origin(self, http: FlaskClient) -> None:
        queue(http)
        queue(http, headers={"Origin": ""})

    def test_an_origin_that_is_let_in_may_do_all(
        self, make_http: Callable[..., FlaskClient]
    ) -> None:
        http = make_http(origins=f"{APP},capacitor://localhost")
        for origin in (APP, "capacitor://localhost"):
            queue(http, headers={"Origin": origin})
            problem(http.get("/v1/stream", headers=HANDSHAKE | {"Origin": origin}), 501)
        problem(post(http, headers={"Origin": "https://app.example.evil"}), 403, "foreign-origin")


class TestWithKeys:
    @pytest.fixture
    def http(self, make_http: Callable[..., FlaskClient]) -> FlaskClient:
        return make_http(api_keys=digest(KEY))

    def test_the_key_tells_who_calls(self, http: FlaskClient) -> None:
        foreign = {"Host": "lantern.example", "Origin": "https://elsewhere.example"}
        queue(http, headers=OPENED | foreign)
        problem(post(http, headers=foreign), 401, "unauthorized")

    @pytest.mark.parametrize("origin", ["http://elsewhere.example", "http://[", "null"])
    def test_but_a_stream_is_for_its_own_pages(self, http: FlaskClient, origin: str) -> None:
        headers = OPENED | HANDSHAKE | {"Origin": origin}
        problem(http.get("/v1/stream", headers=headers), 403, "foreign-origin")


class TestAllowedOrigins:
    @pytest.fixture
    def http(self, make_http: Callable[..., FlaskClient]) -> FlaskClient:
        return make_http(api_keys=digest(KEY), origins=f"{APP},http://localhost:5173")

    def preflight(self, http: FlaskClient, path: str, origin: str = APP) -> Any:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,prefer",
        }
        return http.options(path, headers=asked)

    @pytest.mark.parametrize("path", [PAINT, "/v1/files", "/v1/jobs/x", "/v1/models/x"])
    def test_a_browser_may_ask_before_it_shows_the_key(self, http: FlaskClient, path: str) -> None:
        answer = self.preflight(http, path)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert "Origin" in answer.vary
        assert answer.headers["Access-Control-Allow-Methods"] == answer.headers["Allow"]
        assert {"Authorization", "Content-Type", "Prefer"} <= set(
            answer.headers["Access-Control-Allow-Headers"].split(", ")
        )
        assert int(answer.headers["Access-Control-Max-Age"]) > 0

    def test_answers_and_problems_can_be_read(self, http: FlaskClient) -> None:
        made = post(http, headers=OPENED | {"Origin": APP})
        assert made.status_code == 202
        refused = post(http, headers={"Origin": APP})
        problem(refused, 401)
        for answer in (made, refused):
            assert answer.headers["Access-Control-Allow-Origin"] == APP
            exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
            assert {"Location", "ETag", "X-Request-Id", "Retry-After"} <= exposed
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert "Origin" in answer.vary
            assert "Access-Control-Allow-Headers" not in answer.headers

    @pytest.mark.parametrize("origin", ["https://evil.example", f"{APP}:444", "http://app.example"])
    def test_any_other_page_reads_nothing(self, http: FlaskClient, origin: str) -> None:
        told = http.get("/v1/jobs", headers=OPENED | {"Origin": origin})
        for answer in (self.preflight(http, PAINT, origin), told):
            assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
            # a cache must not give one page's answer to another
            assert "Origin" in answer.vary

    def test_a_stream_opens_for_them(self, http: FlaskClient) -> None:
        offered = HANDSHAKE | {"Sec-WebSocket-Protocol": f"lantern, bearer.{KEY}"}
        problem(http.get("/v1/stream", headers=offered | {"Origin": APP}), 501)
        foreign = offered | {"Origin": "https://evil.example"}
        problem(http.get("/v1/stream", headers=foreign), 403, "foreign-origin")

    def test_every_header_that_is_declared_may_be_sent(self, http: FlaskClient) -> None:
        paths = http.get("/openapi.json").get_json()["paths"].values()
        operations = [operation for path in paths for operation in path.values()]
        declared = {
            parameter["name"]
            for operation in operations
            for parameter in operation.get("parameters", [])
            if parameter["in"] == "header"
        }
        assert declared < set(TAKEN)

    def test_what_is_said_in_headers_can_be_read(self, http: FlaskClient) -> None:
        for_browsers = {"Cache-Control", "Content-Security-Policy", "Referrer-Policy", "Vary"}
        always = {"Content-Type", "Content-Length"}
        answer = post(http, headers=OPENED | {"Origin": APP, "Prefer": "wait=0"})
        ours = {name for name, _ in answer.headers if not name.startswith(("Access-", "X-"))}
        assert ours - for_browsers - always <= set(EXPOSED)


def test_without_allowed_origins_nothing_is_said_of_them(http: FlaskClient) -> None:
    answer = http.get("/v1/jobs", headers={"Origin": APP})
    assert answer.status_code == 200
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
    assert "Origin" not in answer.vary
