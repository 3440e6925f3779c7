"""Styles that jobs train: kept for their callers, painted in at once, and forgotten."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from lantern.call import Studio
from lantern.image import Image
from lantern.shelf import Shelf
from lantern.styles.own import OwnStyles
from lantern.vision_model import VisionModel
from services.clients import Stores
from services.gateway.guard import digest
from services.jobs import Claim
from services.published import style_id
from services.record import Job
from services.settings import Settings
from services.worker.desk import Desk
from services.worker.ending import Ending
from services.worker.pulse import Pulse
from services.worker.tasks import work
from tests.paintings import fill
from tests.services.gateway import PHOTO, problem, queue, start
from tests.services.worker.deeds import take_over

TRAIN = "/v1/techniques/train-style"
PAINT = "/v1/techniques/fast-style"
TINY = {"steps": 1, "batch": 1, "crop": 64, "style_size": 64, "title": "Wind", "quality": 70}
KEYS = ("first-key-of-a-caller", "second-key-of-a-caller")
ME, YOU = ({"Authorization": f"Bearer {key}"} for key in KEYS)
Http = Callable[..., FlaskClient]


@pytest.fixture
def store(tmp_path: Path, model: VisionModel, picture: Image) -> Path:
    """A model store with a small network that two styles share."""
    fill(tmp_path / "store" / "styles", model, picture)
    return tmp_path / "store"


@pytest.fixture
def http(make_http: Http, store: Path) -> FlaskClient:
    return make_http(api_keys=",".join(map(digest, KEYS)), model_store=str(store))


@pytest.fixture
def desk(stores: Stores, settings: Settings, store: Path) -> Desk:
    studio = Studio.open(store / "styles", settings.models_path, downloads=False)
    return Desk(dataclasses.replace(settings, beat_s=0.05), stores, studio)


def submit(http: FlaskClient, **params: Any) -> Any:
    return queue(http, path=TRAIN, query_string=TINY | params, headers=ME)


def run(desk: Desk, document: Any) -> Job:
    """Let a worker run a job to its end."""
    work(desk, start(desk.stores, document), "jobs")
    job = desk.stores.jobs.get(document["id"])
    assert job is not None
    return job


def trained(desk: Desk, http: FlaskClient, **params: Any) -> str:
    """Train a style; return its name."""
    job = run(desk, submit(http, **params))
    assert job.status == "succeeded", job.error
    assert job.result is not None
    name: str = job.result["facts"]["style"]
    return name


def listed(http: FlaskClient, headers: dict[str, str] = ME) -> dict[str, Any]:
    styles = http.get("/v1/styles", headers=headers).get_json()["styles"]
    return {style["name"]: style for style in styles}


def paint(http: FlaskClient, style: str, headers: dict[str, str] = ME) -> Any:
    options = {"content_type": "image/png", "data": PHOTO}
    wait = headers | {"Prefer": "respond-async"}
    return http.post(PAINT, query_string={"style": style}, headers=wait, **options)


@pytest.mark.parametrize(
    ("way", "kind"), [("quick", "many-style"), ("thorough", "per-style")], ids=["quick", "thorough"]
)
def test_a_trained_style_is_listed_and_painted_in(
    desk: Desk, http: FlaskClient, way: str, kind: str
) -> None:
    document = submit(http, way=way)
    assert document["estimate"]["gigaflop"] > 0
    job = run(desk, document)
    assert job.result is not None, job.error
    name = job.result["facts"]["style"]
    assert name == "sty_" + job.id.removeprefix("job_")
    style = listed(http)[name]
    assert (style["title"], style["kind"], style["blends"]) == ("Wind", kind, way == "quick")
    assert style["facts"]["losses"]["first"] > 0
    assert style["created_at"].startswith("20")
    thumbnail = http.get(style["thumbnail"], headers=ME)
    assert thumbnail.get_data()[:2] == b"\xff\xd8"
    kept_by = [
        http.get(f"/v1/styles/{n}/thumbnail", headers=ME).cache_control for n in (name, "dots")
    ]
    assert [(bool(kept.private), bool(kept.public)) for kept in kept_by] == [
        (True, False),
        (False, True),
    ]
    painting = paint(http, name)
    assert painting.status_code == 202
    assert run_fast(desk, painting.get_json()).status == "succeeded"


def run_fast(desk: Desk, document: Any) -> Job:
    work(desk, start(desk.stores, document), "fast")
    job = desk.stores.jobs.get(document["id"])
    assert job is not None
    return job


def test_hands_of_ones_own_mix_with_those_of_the_store(desk: Desk, http: FlaskClient) -> None:
    name = trained(desk, http)
    mixed = paint(http, f"{name}:0.6,waves:0.4")
    assert run_fast(desk, mixed.get_json()).status == "succeeded"
    told = problem(paint(http, f"{name},dots"), 422, "invalid-parameter")
    assert "dots has a network of its own" in told["detail"]


def test_it_is_nobody_elses(desk: Desk, http: FlaskClient) -> None:
    name = trained(desk, http)
    assert name not in listed(http, YOU)
    told = [problem(paint(http, style, YOU), 422) for style in (name, f"{name},waves")]
    unknown = problem(paint(http, "sty_" + "0" * 32), 422)
    assert {each["type"] for each in (*told, unknown)} == {"/problems/unknown-style"}
    for answer in (
        http.get(f"/v1/styles/{name}/thumbnail", headers=YOU),
        http.delete(f"/v1/styles/{name}", headers=YOU),
    ):
        problem(answer, 404, "unknown-style")
    assert name in listed(http)


def test_it_stays_when_its_job_goes_and_goes_when_it_is_deleted(
    desk: Desk, http: FlaskClient
) -> None:
    document = submit(http)
    name = run(desk, document).result["facts"]["style"]  # type: ignore[index]
    assert http.delete(f"/v1/jobs/{document['id']}", headers=ME).status_code == 204
    assert name in listed(http)
    assert http.delete(f"/v1/styles/{name}", headers=ME).status_code == 204
    assert name not in listed(http)
    problem(http.delete(f"/v1/styles/{name}", headers=ME), 404, "unknown-style")
    problem(paint(http, name), 422, "unknown-style")
    problem(http.delete("/v1/styles/dots", headers=ME), 409, "built-in")


def test_the_same_call_gives_the_same_style_until_it_is_deleted(
    desk: Desk, http: FlaskClient
) -> None:
    name = trained(desk, http)
    again = submit(http)
    assert again["status"] == "succeeded"
    result = http.get(f"/v1/jobs/{again['id']}/result", headers=ME | {"Accept": "application/json"})
    assert result.get_json()["facts"]["style"] == name
    http.delete(f"/v1/styles/{name}", headers=ME)
    assert submit(http)["status"] == "queued"


def test_there_may_be_so_many(desk: Desk, make_http: Http, store: Path) -> None:
    http = make_http(api_keys=digest(KEYS[0]), model_store=str(store), max_styles=1)
    name = trained(desk, http)
    options = {"query_string": TINY | {"steps": 2}, "headers": ME, "data": PHOTO}
    told = problem(http.post(TRAIN, content_type="image/png", **options), 429, "too-many-styles")
    assert "1 styles" in told["detail"]
    http.delete(f"/v1/styles/{name}", headers=ME)
    assert submit(http, steps=2)["status"] == "queued"


def test_a_style_whose_job_is_cancelled_in_its_last_moment_is_taken_back(
    desk: Desk, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, kept = submit(http), OwnStyles.keep

    def cancel(*given: Any) -> None:
        kept(*given)
        assert http.post(f"/v1/jobs/{document['id']}/cancel", headers=ME).status_code == 202
        job = desk.stores.jobs.get(document["id"])
        assert job is not None

    monkeypatch.setattr(OwnStyles, "keep", cancel)
    job = run(desk, document)
    assert (job.status == "succeeded") == (listed(http).keys() > {"dots", "stars", "waves"})


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_a_style_of_a_worker_that_was_taken_over_goes_with_a_job_that_gives_none(
    desk: Desk, http: FlaskClient, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    document = submit(http)
    claim, heirs, store = start(desk.stores, document), list[Claim](), Ending.store

    def store_late(ending: Ending, result: Any) -> Any:
        heirs.append(take_over(desk, claim))
        return store(ending, result)

    monkeypatch.setattr(Ending, "store", store_late)
    work(desk, claim, "jobs")
    job = desk.stores.jobs.get(claim.job_id)
    assert job is not None
    assert job.status == "running"
    with Pulse(desk, heirs[0], job.chosen) as pulse:
        ending = Ending(desk, heirs[0], job, pulse)
        if end == "stopped":
            ending.stopped(late=False)
        else:
            ending.failed("internal", "it failed")
    assert desk.studio.styles.own.entry(style_id(claim.job_id)) is None


def test_a_full_disk_is_told(
    desk: Desk, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Shelf, "put", full)
    monkeypatch.setattr("services.worker.patience.ROOM_WITHIN_S", 0.5)
    job = run(desk, submit(http))
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["type"] == "/problems/storage-full"
