"""A worker reads collections: as they were when the job was made, and what if they are gone."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import redis
from flask.testing import FlaskClient
from pydantic import Field

from lantern import registry
from lantern.artifact import Outcome, Table
from lantern.call import Studio
from lantern.collections.library import Collections
from lantern.image import Image
from lantern.params import Params
from lantern.progress import Progress, Step
from lantern.registry import technique
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services import clients, job_bytes
from services.clients import Stores
from services.record import Job
from services.settings import Settings
from services.worker import tasks
from services.worker.desk import Desk
from services.worker.tasks import work
from tests.services.gateway import encode, queue, start
from tests.services.packing import zipped

FILES = {f"{kind}/{n}.png": encode(seed=n) for n, kind in enumerate(("cats", "cats", "dogs"))}
ALL, SIZES = "/v1/collections", "/v1/techniques/sizes"


class SizesParams(Params):
    collection: str = Field("samples", max_length=64, description="pictures to look at")


class Gate:
    """Holds a run up behind its first picture."""

    def __init__(self) -> None:
        self.came, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Register a technique that measures every picture, thrown away after the test."""
    known = {found.name: found for found in registry.every()}
    monkeypatch.setattr(registry, "_techniques", known)
    gate = Gate()

    @technique("sizes", family="inference", runs="job", source="none", outputs={"sizes": "pixels"})
    def sizes(
        image: Annotated[Image, "any picture"],
        collections: Collections,
        progress: Progress,
        params: SizesParams,
    ) -> Outcome:
        """Say how large each picture of a collection is."""
        found, rows = collections.find(params.collection), []
        for done, entry in enumerate(found, start=1):
            rows.append({"name": entry.name, "width": entry.image.width})
            progress(Step(done, len(found), 0.0, lambda: image))
            gate.came.set()
            assert gate.go_on.wait(20)
        return Outcome((Table("sizes", tuple(rows)),))

    return gate


@pytest.fixture
def desk(stores: Stores, settings: Settings, gate: Gate) -> Desk:
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))
    return Desk(dataclasses.replace(settings, beat_s=0.05), stores, studio)


@pytest.fixture
def mine(http: FlaskClient) -> Any:
    made = http.post(ALL, json={"name": "mine"}).get_json()
    add(http, FILES)
    return made


def add(http: FlaskClient, files: dict[str, bytes]) -> None:
    response = http.post(f"{ALL}/mine/images", data=zipped(files), content_type="application/zip")
    assert response.status_code == 201


Submit = Callable[..., Any]


@pytest.fixture
def submit(http: FlaskClient, gate: Gate) -> Submit:
    return lambda collection="mine": queue(
        http, path=SIZES, query_string={"collection": collection}
    )


def run(desk: Desk, document: Any) -> Job:
    """Let a worker run a job to its end."""
    work(desk, start(desk.stores, document), "jobs")
    job = desk.stores.jobs.get(document["id"])
    assert job is not None
    return job


def names(desk: Desk, job: Job) -> list[str]:
    """Return the names of the pictures a job has measured."""
    assert job.status == "succeeded", job.error
    assert job.result is not None
    data = desk.stores.blobs.read(job.id, job.result["artifacts"][0]["blob"])
    assert data is not None
    rows = json.loads(data)
    assert all(row["width"] == 64 for row in rows)
    return [row["name"] for row in rows]


def error(job: Job) -> Any:
    assert (job.status, job.result) == ("failed", None)
    return job.error


def test_a_job_reads_the_callers_collection(
    desk: Desk, http: FlaskClient, mine: Any, submit: Submit
) -> None:
    told = http.get(f"{ALL}/mine").get_json()
    for name in ("mine", mine["id"]):
        job = run(desk, submit(name))
        assert names(desk, job) == sorted(FILES)
        assert job.result is not None
        assert job.result["facts"]["collection"] == {
            "name": "mine", "count": 3, "digest": told["digest"],
        }  # fmt: skip


def test_a_job_reads_the_built_in_one(desk: Desk, submit: Submit) -> None:
    job = run(desk, submit("samples"))
    assert job.result is not None
    assert job.result["facts"]["collection"]["count"] == 20


def test_a_job_reads_what_was_there_when_it_was_made(
    desk: Desk, http: FlaskClient, mine: Any, submit: Submit
) -> None:
    document = submit()
    add(http, {"new.png": encode(seed=9)})
    assert names(desk, run(desk, document)) == sorted(FILES)
    assert names(desk, run(desk, submit())) == sorted([*FILES, "new.png"])


def test_the_same_call_is_answered_from_the_result_until_the_pictures_change(
    desk: Desk, http: FlaskClient, mine: Any, submit: Submit
) -> None:
    run(desk, submit())
    assert submit()["status"] == "succeeded"
    add(http, {"new.png": encode(seed=9)})
    assert submit()["status"] == "queued"
    http.delete(f"{ALL}/mine/images/new.png")
    assert submit()["status"] == "succeeded"


def test_a_collection_that_was_deleted_fails_its_jobs_with_what_to_do(
    desk: Desk, http: FlaskClient, mine: Any, submit: Submit
) -> None:
    document = submit()
    assert http.delete(f"{ALL}/mine").status_code == 204
    told = error(run(desk, document))
    assert told["type"] == "/problems/missing-picture"
    assert "cats/0.png of the collection mine was deleted" in told["detail"]
    assert "upload it again" in told["detail"]


@pytest.mark.parametrize("replace", [False, True])
def test_so_does_a_picture_that_was_taken_out_or_replaced(
    desk: Desk, http: FlaskClient, mine: Any, submit: Submit, replace: bool
) -> None:
    document = submit()
    if replace:
        add(http, {"dogs/2.png": encode(seed=9)})
    else:
        assert http.delete(f"{ALL}/mine/images/dogs/2.png").status_code == 204
    assert "dogs/2.png" in error(run(desk, document))["detail"]
    run(desk, submit())


def test_a_collection_that_is_deleted_under_a_running_job(
    desk: Desk, http: FlaskClient, mine: Any, submit: Submit, gate: Gate
) -> None:
    document = submit()
    gate.go_on.clear()
    claim = start(desk.stores, document)
    thread = threading.Thread(target=work, args=(desk, claim, "jobs"))
    thread.start()
    assert gate.came.wait(20)
    http.delete(f"{ALL}/mine")
    gate.go_on.set()
    thread.join(20)
    job = desk.stores.jobs.get(document["id"])
    assert job is not None
    assert error(job)["type"] == "/problems/missing-picture"
    assert "cats/1.png" in error(job)["detail"]


def test_a_list_of_pictures_that_has_expired_is_told(desk: Desk, mine: Any, submit: Submit) -> None:
    document = submit()
    desk.stores.blobs.delete(document["id"], job_bytes.COLLECTION)
    told = error(run(desk, document))
    assert told["type"] == "/problems/missing-picture"
    assert "the collection mine" in told["detail"]


def test_nothing_is_left_of_it_with_the_job(
    desk: Desk, mine: Any, submit: Submit, client: redis.Redis, http: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    done, canceled = submit(), submit()
    run(desk, done)
    http.post(f"/v1/jobs/{canceled['id']}/cancel")
    monkeypatch.setattr(clients, "own_stores", lambda: desk.stores)
    tasks.tidy.run()
    for document in (done, canceled):
        assert client.keys(f"lantern:blob:{document['id']}/collection") == []


def test_a_collection_outlives_its_jobs(
    desk: Desk, http: FlaskClient, mine: Any, submit: Submit
) -> None:
    document = submit()
    run(desk, document)
    assert http.delete(f"/v1/jobs/{document['id']}").status_code == 204
    assert names(desk, run(desk, submit())) == sorted(FILES)
