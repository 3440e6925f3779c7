"""What a job leaves behind, also what its record does not tell of."""

from __future__ import annotations

import dataclasses
import functools
from typing import cast

import pytest
import redis
import torch
from flask.testing import FlaskClient

from lantern.call import Studio
from lantern.image import Image
from lantern.progress import Cancelled, Step
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services import clients
from services.blobs import BLOB, NAMES
from services.clients import Stores
from services.job_bytes import preview_name
from services.jobs import Claim
from services.record import JobOptions
from services.settings import Settings
from services.worker import tasks
from services.worker.desk import Desk
from services.worker.pulse import Pulse
from tests.services.gateway import finish, queue, start
from tests.waiting import until


@pytest.fixture
def desk(stores: Stores, settings: Settings) -> Desk:
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))
    return Desk(settings, stores, studio)


@pytest.fixture
def claim(http: FlaskClient, stores: Stores) -> Claim:
    """A job that a worker has begun."""
    return start(stores, queue(http))


def kept(stores: Stores, claim: Claim) -> set[str]:
    found = cast(list[bytes], stores.state.keys(f"{BLOB}{claim.job_id}/*"))
    return {key.decode().rpartition("/")[2] for key in found}


def is_kept(stores: Stores, claim: Claim, name: str) -> bool:
    return name in kept(stores, claim)


def leave(stores: Stores, claim: Claim) -> None:
    """Store what a worker has made before it is killed; only some of it was told of."""
    for name in ("state-1-1", "state-1-2", preview_name(1, claim.fence), preview_name(2, 1)):
        stores.blobs.put(claim.job_id, name, b"x", ttl_s=600_000)
    stores.jobs.beat(claim, preview=1, checkpoint="state-1-1")


def step(done: int) -> Step:
    return Step(done, 9, 0.0, lambda: Image(torch.zeros(3, 8, 8)))


def test_what_nobody_was_told_of_is_tidied_up(
    stores: Stores, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(stores, claim)
    stores.jobs.suspend(claim)
    stores.jobs.cancel(claim.job_id)
    monkeypatch.setattr(clients, "own_stores", lambda: stores)
    tasks.tidy.run()
    assert kept(stores, claim) == {preview_name(1, claim.fence)}
    assert not stores.state.exists(NAMES + claim.job_id)


def test_a_result_stays(http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    document = queue(http)
    finish(stores, document)
    monkeypatch.setattr(clients, "own_stores", lambda: stores)
    tasks.tidy.run()
    assert http.get(f"/v1/jobs/{document['id']}/result").status_code == 200


def test_what_nobody_was_told_of_is_deleted_with_its_job(
    http: FlaskClient, stores: Stores, claim: Claim
) -> None:
    leave(stores, claim)
    stores.jobs.suspend(claim)
    stores.jobs.cancel(claim.job_id)
    assert http.delete(f"/v1/jobs/{claim.job_id}").status_code == 204
    assert kept(stores, claim) == set()
    assert not stores.state.exists(NAMES + claim.job_id)


def test_the_list_of_a_job_lasts_as_long_as_what_is_on_it(
    stores: Stores, settings: Settings, client: redis.Redis
) -> None:
    stores.blobs.put("job_1", "a", b"x", ttl_s=settings.live_ttl_s)
    stores.blobs.put("job_1", "b", b"x", ttl_s=1)
    assert set(stores.blobs.names("job_1")) == {"a", "b"}
    assert client.ttl(NAMES + "job_1") >= settings.live_ttl_s
    stores.blobs.put("uploads-me", "a", b"x", ttl_s=60)
    assert stores.blobs.names("uploads-me") == []


def test_previews_that_come_between_two_beats_are_all_told_of(desk: Desk, claim: Claim) -> None:
    quiet = dataclasses.replace(desk, settings=dataclasses.replace(desk.settings, beat_s=60))
    with Pulse(quiet, claim, JobOptions()) as pulse:
        for done in (1, 2, 3):
            pulse._previewed_at = float("-inf")
            pulse.step(step(done))
            name = preview_name(done, claim.fence)
            until(functools.partial(is_kept, desk.stores, claim, name))
        pulse.flush()
    assert desk.stores.jobs.previews(claim.job_id) == [1, 2, 3]


def test_a_worker_that_was_taken_over_leaves_nothing_behind_an_ended_job(
    desk: Desk, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_on(at: Desk, job: object, pulse: Pulse) -> None:
        until(lambda: pulse.word == "lost")
        name = f"state-{claim.fence}-late"
        at.stores.blobs.put(claim.job_id, name, b"x", ttl_s=60)
        raise Cancelled

    monkeypatch.setattr(tasks, "_run", keep_on)
    desk.stores.jobs.suspend(claim)
    desk.stores.jobs.cancel(claim.job_id)
    tasks.work(desk, claim, "jobs")
    assert kept(desk.stores, claim) == set()
