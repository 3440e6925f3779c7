"""What callers can do with jobs, and what keeps callers apart; on a real Redis."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import redis
from flask.testing import FlaskClient

from services.clients import Stores
from services.gateway.guard import digest, new_key
from services.gateway.seats import Seats
from services.jobs import JOB, Event, Jobs
from services.record import Job, JobOptions
from services.settings import Settings
from tests.services.gateway import (
    ARRAYS,
    DREAM,
    PAINT,
    PHOTO,
    encode,
    finish,
    multipart,
    post,
    problem,
    queue,
    start,
)

MakeHttp = Callable[..., FlaskClient]
HOOK = "http://127.0.0.1:1/hook"


def read(stores: Stores, job: Any) -> Job:
    found = stores.jobs.get(job["id"])
    assert found is not None
    return found


def kept(stores: Stores, job: Any) -> list[str]:
    """Return the names of the bytes that are stored for a job."""
    keys: Any = stores.state.keys(f"lantern:blob:{job['id']}/*")
    return sorted(key.decode().rpartition("/")[2] for key in keys)


class TestPauseAndResume:
    def test_a_waiting_job_is_paused_at_once_and_announced_when_resumed(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        job = queue(http)
        paused = http.post(job["links"]["pause"])
        assert (paused.status_code, paused.get_json()["status"]) == (202, "paused")
        assert stores.jobs.claim("jobs", "worker") is None
        before = stores.state.llen("lantern.jobs")
        resumed = http.post(job["links"]["resume"])
        assert (resumed.status_code, resumed.get_json()["status"]) == (202, "queued")
        assert stores.state.llen("lantern.jobs") == before + 1

    def test_a_running_job_is_asked(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        claim = start(stores, job)
        assert http.post(job["links"]["pause"]).get_json()["status"] == "running"
        assert stores.jobs.beat(claim) == "pause"
        http.post(job["links"]["resume"])
        assert stores.jobs.beat(claim) == "ok"

    @pytest.mark.parametrize("action", ["pause", "resume"])
    def test_a_finished_job_is_409(self, http: FlaskClient, stores: Stores, action: str) -> None:
        job = queue(http)
        finish(stores, job)
        document = problem(http.post(job["links"][action]), 409, "finished")
        assert "succeeded" in document["detail"]

    def test_a_paused_job_can_be_cancelled_and_listed(self, http: FlaskClient) -> None:
        job = queue(http)
        http.post(job["links"]["pause"])
        listed = http.get("/v1/jobs?status=paused").get_json()["jobs"]
        assert [one["id"] for one in listed] == [job["id"]]
        assert http.post(job["links"]["cancel"]).get_json()["status"] == "canceled"


class TestOptions:
    def test_each_form_of_a_call_takes_them(self, http: FlaskClient, stores: Stores) -> None:
        options = {"priority": "high", "deadline_s": 60, "preview_every_s": 5, "preview_size": 64}
        texts = {name: str(value) for name, value in options.items()}
        url = "data:image/png;base64," + base64.b64encode(PHOTO).decode()
        body = json.dumps({"inputs": {"image": url}, **options})
        forms: list[dict[str, Any]] = [
            {"query_string": texts},
            multipart(("image", PHOTO), **texts),
            {"data": body, "content_type": "application/json"},
        ]
        for form in forms:
            job = queue(http, **form)
            assert job["priority"] == "high"
            assert job["deadline_at"] is not None
            assert options.items() <= read(stores, job).options.items()

    def test_a_high_job_goes_first(self, http: FlaskClient, stores: Stores) -> None:
        made = [queue(http, query_string={"priority": p})["id"] for p in ("low", "normal", "high")]
        claims = [stores.jobs.claim("jobs", "worker") for _ in made]
        assert [claim.job_id for claim in claims if claim] == made[::-1]

    @pytest.mark.parametrize(
        "wrong",
        [{"priority": "urgent"}, {"deadline_s": "0"}, {"deadline_s": "1e9"}, {"deadline_s": "nan"},
         {"preview_every_s": "0.1"}, {"preview_size": "4096"}, {"webhook_secret": "x"}],
    )  # fmt: skip
    def test_a_wrong_one_is_422(self, http: FlaskClient, wrong: dict[str, str]) -> None:
        problem(post(http, query_string=wrong), 422)

    def test_none_of_their_names_can_be_a_parameter(self) -> None:
        from lantern.registry import RESERVED

        assert JobOptions.model_fields.keys() <= RESERVED


class TestQuotas:
    def test_a_key_may_have_so_many_jobs_under_way(
        self, make_http: MakeHttp, stores: Stores
    ) -> None:
        http = make_http(max_active=2)
        first, second = queue(http), queue(http, data=encode(seed=1))
        start(stores, first)
        http.post(second["links"]["pause"])
        response = post(http, data=encode(seed=2))
        problem(response, 429, "quota")
        assert int(response.headers["Retry-After"]) > 0
        http.post(second["links"]["cancel"])
        queue(http, data=encode(seed=2))

    def test_a_refused_job_leaves_nothing_behind(self, make_http: MakeHttp, stores: Stores) -> None:
        http = make_http(max_active=1)
        queue(http)
        before = set(stores.state.keys("*"))
        problem(post(http, data=encode(seed=2)), 429)
        assert set(stores.state.keys("*")) == before

    def test_seats_are_counted_in_all_and_by_key(self) -> None:
        seats = Seats(3, 2)
        assert seats.take("a")
        assert seats.take("a")
        assert not seats.take("a")
        assert seats.take("b")
        assert not seats.take("c")
        seats.give_back("a")
        assert seats.take("c")

    def test_a_stream_too_many_is_429_until_one_closes(self, make_http: MakeHttp) -> None:
        http = make_http(max_streams=1)
        job = queue(http)
        first = http.get(job["links"]["events"], buffered=False)
        second = http.get(job["links"]["events"])
        told = problem(second, 429, "too-many-streams")["detail"]
        assert "of 80 at a time of one key, 1 of all in one process" in told
        assert int(second.headers["Retry-After"]) > 0
        started = time.monotonic()
        assert http.get(job["links"]["self"] + "?wait=20").status_code == 200
        assert time.monotonic() - started < 2  # told at once, to ask again
        first.close()
        third = http.get(job["links"]["events"], buffered=False)
        assert third.status_code == 200
        third.close()


class TestStreams:
    def test_a_stream_outlives_a_restart_of_redis(
        self, http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = queue(http)
        events, calls = Jobs.events, list[str]()

        def flicker(jobs: Jobs, job_id: str, after: str, wait_s: float) -> list[Event]:
            calls.append(after)
            if len(calls) == 2:
                stores.jobs.cancel(job_id)
                raise redis.ConnectionError
            return events(jobs, job_id, after, wait_s)

        monkeypatch.setattr(Jobs, "events", flicker)
        text = http.get(job["links"]["events"]).get_data(as_text=True)
        assert text.count("event: status") == 1
        assert text.count("event: done") == 1
        assert calls[1] == calls[2] != "0"

    def test_history_that_was_trimmed_is_told(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        claim = start(stores, job)
        for step in range(1500):
            stores.jobs.beat(claim, progress={"done": step})
        stores.jobs.finish(claim, "canceled")
        headers = {"Last-Event-ID": "1-0"}
        text = http.get(job["links"]["events"], headers=headers).get_data(as_text=True)
        assert text.count("event: gap") == 1
        assert text.index("event: gap") < text.index("event: progress")
        assert "event: gap" not in http.get(job["links"]["events"]).get_data(as_text=True)


class TestOwners:
    @pytest.fixture
    def two(self, make_http: MakeHttp) -> tuple[FlaskClient, dict[str, str], dict[str, str]]:
        keys = [new_key(), new_key()]
        http = make_http(api_keys=",".join(map(digest, keys)), max_active=1)
        mine, theirs = ({"Authorization": f"Bearer {key}"} for key in keys)
        return http, mine, theirs

    def test_jobs_are_shown_to_their_owner_alone(self, two: Any, stores: Stores) -> None:
        http, mine, theirs = two
        job = queue(http, headers=mine)
        for link in ("self", "events", "result", "previews", "deliveries"):
            problem(http.get(job["links"][link], headers=theirs), 404)
        for link in ("cancel", "pause", "resume"):
            problem(http.post(job["links"][link], headers=theirs), 404)
        problem(http.delete(job["links"]["self"], headers=theirs), 404)
        assert http.get("/v1/jobs", headers=theirs).get_json()["jobs"] == []
        assert len(http.get("/v1/jobs", headers=mine).get_json()["jobs"]) == 1
        finish(stores, job)
        problem(http.get(job["links"]["result"], headers=theirs), 404)

    def test_files_are_too(self, two: Any) -> None:
        http, mine, theirs = two
        location = post(http, "/v1/files", headers=mine).headers["Location"]
        problem(http.get(location, headers=theirs), 404)
        problem(http.delete(location, headers=theirs), 404)
        body = json.dumps({"inputs": {"image": location.rpartition("/")[2]}})
        wrong = post(http, data=body, content_type="application/json", headers=theirs)
        problem(wrong, 422)
        assert http.get(location, headers=mine).data == PHOTO

    def test_one_keys_quota_is_not_anothers(self, two: Any) -> None:
        http, mine, theirs = two
        queue(http, headers=mine)
        problem(post(http, headers=mine), 429, "quota")
        queue(http, headers=theirs)

    def test_what_expired_is_gone_for_its_owner_and_unknown_to_others(
        self, two: Any, stores: Stores
    ) -> None:
        http, mine, theirs = two
        job = queue(http, headers=mine)
        finish(stores, job)
        stores.state.delete(JOB + job["id"])
        problem(http.get(job["links"]["result"], headers=mine), 410, "expired")
        problem(http.get(job["links"]["result"], headers=theirs), 404)

    def test_results_of_others_are_not_reused(self, two: Any, stores: Stores) -> None:
        http, mine, theirs = two
        finish(stores, queue(http, headers=mine))
        assert queue(http, headers=theirs)["status"] == "queued"


class TestTheResultCache:
    def test_the_same_call_is_answered_from_the_stored_result(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        first = queue(http, query_string={"steps": "3"})
        finish(stores, first)
        again = queue(http, query_string={"steps": "3"})
        assert again["id"] != first["id"]
        assert (again["status"], again["attempts"]) == ("succeeded", 0)
        assert again["result"]["facts"]["cached"] is True
        assert stores.jobs.counts() == {"queued": 0, "running": 0}
        events = http.get(again["links"]["events"]).get_data(as_text=True)
        assert events.count("event: done") == 1
        # each has its own copy
        assert http.delete(first["links"]["self"]).status_code == 204
        result = http.get(again["links"]["result"], headers={"Accept": "image/png"})
        assert result.data == PHOTO

    def test_waiting_for_it_gives_the_picture_at_once(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        finish(stores, queue(http))
        response = post(http, headers={"Prefer": "wait=20", "Accept": "image/png"})
        assert (response.status_code, response.data) == (200, PHOTO)

    @pytest.mark.parametrize(
        "change",
        [{"query_string": {"steps": "4"}}, {"query_string": {"seed": "1"}},
         {"query_string": {"quality": "50"}}, {"data": encode(seed=1)},
         {"headers": {"Cache-Control": "no-cache"}}],
    )  # fmt: skip
    def test_another_call_runs(
        self, http: FlaskClient, stores: Stores, change: dict[str, Any]
    ) -> None:
        finish(stores, queue(http))
        assert queue(http, **change)["status"] == "queued"

    def test_a_result_that_has_expired_is_made_again(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        first = queue(http)
        finish(stores, first)
        stores.blobs.delete(first["id"], "result-1-picture")
        assert queue(http)["status"] == "queued"

    def test_a_job_that_failed_is_run_again(self, http: FlaskClient, stores: Stores) -> None:
        stores.jobs.finish(start(stores, queue(http)), "failed", error={"detail": "x"})
        assert queue(http)["status"] == "queued"


class TestForms:
    @pytest.fixture
    def done(self, http: FlaskClient, stores: Stores) -> Any:
        job = queue(http, query_string={"quality": "30"})
        finish(stores, job)
        return http.get(job["links"]["self"]).get_json()

    def test_the_quality_asked_for_holds(self, http: FlaskClient, done: Any) -> None:
        data = http.get(done["links"]["result"]).data
        out = io.BytesIO()
        PIL.Image.open(io.BytesIO(PHOTO)).save(out, "JPEG", quality=95)
        assert PIL.Image.open(io.BytesIO(data)).format == "JPEG"
        assert len(data) < 0.6 * len(out.getvalue())

    def test_the_raw_arrays_can_be_had(self, http: FlaskClient, done: Any) -> None:
        for url in (done["links"]["result"], done["result"]["artifacts"][0]["url"]):
            response = http.get(url, headers={"Accept": "application/x-npz"})
            assert (response.status_code, response.data) == (200, ARRAYS)
            assert response.content_type == "application/x-npz"


class TestWhatIsKept:
    def test_a_deleted_upload_is_not_taken_from_a_job(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        location = post(http, "/v1/files").headers["Location"]
        body = json.dumps({"inputs": {"image": location.rpartition("/")[2]}})
        job = queue(http, data=body, content_type="application/json")
        assert http.delete(location).status_code == 204
        assert stores.blobs.read(job["id"], "input-image") == PHOTO

    def test_of_a_step_that_two_workers_showed_the_last_preview_counts(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        job = queue(http)
        for picture in (b"first", b"second"):
            claim = start(stores, job)
            name = f"preview-{claim.fence}-7"
            stores.blobs.put(job["id"], name, picture, ttl_s=60)
            stores.jobs.beat(claim, preview=7)
            stores.jobs.suspend(claim)
        (shown,) = http.get(job["links"]["previews"]).get_json()["previews"]
        assert http.get(shown["url"]).data == b"second"
        http.post(job["links"]["cancel"])
        assert http.delete(job["links"]["self"]).status_code == 204
        assert kept(stores, job) == []

    def test_a_deleted_job_leaves_nothing(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http)
        claim = start(stores, job)
        stores.blobs.put(job["id"], f"preview-{claim.fence}-1", PHOTO, ttl_s=60)
        stores.jobs.beat(claim, preview=1)
        stores.jobs.suspend(claim)
        finish(stores, job)
        film = http.get(job["links"]["previews"]).get_json()
        assert film["expires_at"] < http.get(job["links"]["self"]).get_json()["expires_at"]
        listed = film["previews"]
        assert [one["step"] for one in listed] == [1]
        assert http.get(listed[0]["url"]).data == PHOTO
        assert len(kept(stores, job)) == 4
        assert http.delete(job["links"]["self"]).status_code == 204
        assert kept(stores, job) == []
        assert not stores.state.keys(f"*{job['id']}*")

    def test_nearly_full_storage_takes_no_new_work_but_gives_what_it_has(
        self, make_http: MakeHttp, stores: Stores
    ) -> None:
        http = make_http(storage_high=0.5)
        job = queue(http)
        finish(stores, job)
        waiting = queue(http, data=encode(seed=1))
        used: Any = stores.state.info("memory")["used_memory"]
        stores.state.config_set("maxmemory", int(used / 0.9))
        time.sleep(1.1)  # how full it is is looked up once a second
        for path in (DREAM, PAINT, "/v1/files"):
            response = post(http, path, data=encode(seed=2))
            problem(response, 507, "storage-full")
            assert int(response.headers["Retry-After"]) > 0
        assert http.get(job["links"]["result"]).status_code == 200
        assert http.post(waiting["links"]["cancel"]).get_json()["status"] == "canceled"
        assert b"lantern_storage_used_ratio 0." in http.get("/metrics").data
        stores.state.config_set("maxmemory", 0)
        time.sleep(1.1)
        queue(http, data=encode(seed=2))

    @pytest.mark.parametrize("is_known", [False, True], ids=["inputs", "copies"])
    def test_what_has_no_job_yet_ends_soon(
        self, is_known: bool, http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if is_known:
            finish(stores, queue(http))
        before = set(stores.state.keys("lantern:blob:*"))

        def die(*_: object, **__: object) -> None:
            raise redis.ConnectionError("killed")

        with monkeypatch.context() as patched:
            patched.setattr(Jobs, "create", die)
            problem(post(http), 503, "unavailable")
        left = set(stores.state.keys("lantern:blob:*")) - before
        assert len(left) == (2 if is_known else 1)
        assert all(0 < stores.state.ttl(key) <= 600 for key in left)

    def test_what_a_job_needs_lasts_as_long_as_the_job_may(
        self, http: FlaskClient, stores: Stores, settings: Settings
    ) -> None:
        job = queue(http)
        (key,) = stores.state.keys(f"lantern:blob:{job['id']}/*")
        assert stores.state.ttl(key) > settings.live_ttl_s - 60
        finish(stores, job)
        copy = queue(http)
        assert copy["status"] == "succeeded"
        copies = stores.state.keys(f"lantern:blob:{copy['id']}/*")
        assert len(copies) == 2
        assert all(stores.state.ttl(key) > settings.result_ttl_s - 60 for key in copies)

    def test_a_redis_without_room_for_the_record_leaves_nothing(
        self, http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise redis.exceptions.OutOfMemoryError

        with monkeypatch.context() as patched:
            patched.setattr(Jobs, "create", refuse)
            problem(post(http), 507, "storage-full")
        assert stores.state.keys("lantern:blob*") == []

    def test_new_work_needs_room_in_the_redis_of_the_records_too(
        self, make_http: MakeHttp, stores: Stores, second_redis_url: str
    ) -> None:
        http = make_http(storage_high=0.5, blob_redis_url=second_redis_url)
        job = queue(http)
        used: Any = stores.state.info("memory")["used_memory"]
        stores.state.config_set("maxmemory", int(used / 0.9))
        time.sleep(1.1)  # how full it is is looked up once a second
        for path in (DREAM, PAINT, "/v1/files"):
            problem(post(http, path, data=encode(seed=2)), 507, "storage-full")
        assert http.post(job["links"]["cancel"]).get_json()["status"] == "canceled"
        metrics = http.get("/metrics").get_data(as_text=True)
        assert float(metrics.rpartition("lantern_storage_used_ratio ")[2]) > 0.5

    def test_a_job_that_cannot_be_announced_for_want_of_room_is_a_job(
        self, http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create = Jobs.create

        def fill(jobs: Jobs, *args: Any, **options: Any) -> Any:
            made = create(jobs, *args, **options)
            stores.state.config_set("maxmemory", 1)
            return made

        monkeypatch.setattr(Jobs, "create", fill)
        assert read(stores, queue(http)).status == "queued"
        assert stores.state.llen("lantern.jobs") == 0


class TestWebhooks:
    def test_no_other_answer_shows_the_secret(self, http: FlaskClient, stores: Stores) -> None:
        url = "data:image/png;base64," + base64.b64encode(PHOTO).decode()
        body = json.dumps({"inputs": {"image": url}, "webhook": {"url": HOOK}})
        job = queue(http, data=body, content_type="application/json")
        secret = job["webhook"]["secret"]
        assert secret.startswith("whsec_")
        assert read(stores, job).webhook == {"url": HOOK, "secret": secret}
        assert secret not in http.get(job["links"]["self"]).get_data(as_text=True)

    def test_the_callers_own_secret_is_used(self, http: FlaskClient, stores: Stores) -> None:
        secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
        job = queue(http, query_string={"webhook_url": HOOK, "webhook_secret": secret})
        assert read(stores, job).webhook == {"url": HOOK, "secret": secret}

    @pytest.mark.parametrize(
        "webhook",
        ["x", 3, [], {}, {"secret": "x"}, {"url": 5}, {"url": HOOK, "more": 1},
         {"url": "ftp://example.com"}, {"url": "http://10.0.0.1/"}, {"url": "https://169.254.169.254/"},
         {"url": HOOK, "secret": "short"}],
    )  # fmt: skip
    def test_a_wrong_one_is_422(self, http: FlaskClient, stores: Stores, webhook: Any) -> None:
        url = "data:image/png;base64," + base64.b64encode(PHOTO).decode()
        body = json.dumps({"inputs": {"image": url}, "webhook": webhook})
        response = post(http, data=body, content_type="application/json")
        problem(response, 422)
        assert "169.254" not in response.get_data(as_text=True)
        assert stores.jobs.counts()["queued"] == 0

    def test_this_machine_is_no_target_unless_a_setting_says_so(self, make_http: MakeHttp) -> None:
        http = make_http(webhook_loopback=False)
        problem(post(http, query_string={"webhook_url": HOOK}), 422)

    def test_deliveries_are_listed(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http, query_string={"webhook_url": HOOK})
        finish(stores, job)
        expires_at = http.get(job["links"]["self"]).get_json()["expires_at"]
        assert expires_at is not None
        before = http.get(job["links"]["deliveries"]).get_json()
        assert before == {"deliveries": [], "expires_at": expires_at}
        due = stores.outbox.fetch()
        assert due is not None
        stores.outbox.note(due, {"attempt": 1, "status": 204}, None)
        listed = http.get(job["links"]["deliveries"]).get_json()["deliveries"]
        assert listed == [{"attempt": 1, "status": 204}]
