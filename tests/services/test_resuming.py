"""A job whose kept state is good, but not for it, begins anew."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

import lantern
from lantern.call import Studio
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.progress import Suspended
from lantern.run import run
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.clients import Stores
from services.settings import Settings
from services.worker.desk import Desk
from services.worker.tasks import work
from tests.services.gateway import PHOTO, queue, start

SHORT = {"steps": 3, "octaves": 1, "size": 64}


@pytest.fixture
def desk(stores: Stores, settings: Settings) -> Desk:
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))
    return Desk(settings, stores, studio)


def state_of(desk: Desk, technique: str, **params: Any) -> bytes:
    """Return the state of a run behind its first step."""
    saved: list[bytes] = []
    checkpoints = Checkpoints(saved.append, suspend=lambda: True, technique=technique)
    with pytest.raises(Suspended):
        run(
            technique,
            {"image": Image.decode(PHOTO)},
            SHORT | params,
            model=desk.studio.zoo.load("efficientnet-lite0"),
            checkpoints=checkpoints,
        )
    return saved[-1]


@pytest.mark.parametrize("unlike", ["size", "version", "technique"])
def test_a_state_that_is_not_for_the_job_means_a_start_from_nothing(
    desk: Desk, http: FlaskClient, monkeypatch: pytest.MonkeyPatch, unlike: str
) -> None:
    with monkeypatch.context() as before:
        if unlike == "version":
            before.setattr(lantern, "__version__", "0.0.1")
        state = state_of(desk, "deep-dream", size=96 if unlike == "size" else 64)
    if unlike == "technique":
        state = state.replace(b"deep-dream", b"deep-sleep")
    document = queue(http, query_string=SHORT)
    claim = start(desk.stores, document)
    desk.stores.blobs.put(claim.job_id, "state-0-0", state, ttl_s=60)
    desk.stores.jobs.beat(claim, checkpoint="state-0-0")
    work(desk, claim, "jobs")
    job = desk.stores.jobs.get(claim.job_id)
    assert job is not None
    assert (job.status, job.error) == ("succeeded", None)
