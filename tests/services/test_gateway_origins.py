"""Which web pages may call: without keys this service's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from services.clients import Stores
from services.gateway.guard import digest
from tests.services.gateway import DREAM, post, problem, queue
from tests.services.test_live_stream import HANDSHAKE

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
            problem(answer, 403, "foreign-origin")
        assert stores.jobs.counts()["queued"] == 0

    def test_a_program_sends_no_origin(self, http: FlaskClient) -> None:
        queue(http)
        queue(http, headers={"Origin": ""})


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
