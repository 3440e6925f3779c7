"""A worker puts a job down while it looks at pictures, or within a map, and goes on later."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from torch import Tensor

from lantern.call import Call, Studio
from lantern.looks import Looks
from lantern.styles.library import StyleLibrary
from lantern.techniques.rise import draw_masks
from lantern.zoo import Zoo
from services.clients import Stores
from services.jobs import Claim, Order
from services.record import Job, new_id
from services.settings import Settings
from services.worker.desk import Desk
from services.worker.tasks import work
from tests.services.gateway import PHOTO, queue
from tests.services.worker.deeds import take_over
from tests.waiting import until

MASKS = {"masks": 160, "error": 1e-6, "evidence": 0}
LOOKING: dict[str, dict[str, Any]] = {
    "multifaceted": {"looked_at": 6, "facets": 1, "steps": 1, "size": 64},
    "train-decoder": {"looked_at": 6, "size": 16, "width": 4, "steps": 1, "batch": 1},
}


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(Zoo(downloads=False), StyleLibrary(Settings().styles_path))


@pytest.fixture
def desk(stores: Stores, studio: Studio, settings: Settings) -> Desk:
    quick = dataclasses.replace(settings, checkpoint_every_s=0.3, beat_s=0.05)
    return Desk(quick, stores, studio)


def read(desk: Desk, claim: Claim) -> Job:
    job = desk.stores.jobs.get(claim.job_id)
    assert job is not None
    return job


def claimed(desk: Desk) -> Claim:
    """Claim the only job."""
    claim = desk.stores.jobs.claim("jobs", "worker:1")
    assert claim is not None
    return claim


class Slow:
    """Holds a run up behind each batch of pictures it looks at, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behind, self.go_on = 0, threading.Semaphore(0)
        looked = Looks.looked

        def hold(looks: Looks, at: int, preview: Callable[[], Any]) -> None:
            self.behind += 1
            assert self.go_on.acquire(timeout=20)
            looked(looks, at, preview)

        monkeypatch.setattr(Looks, "looked", hold)


class TestLooking:
    @pytest.fixture
    def slow(self, monkeypatch: pytest.MonkeyPatch) -> Slow:
        for module in ("facets", "multifaceted", "train_decoder"):
            monkeypatch.setattr(f"lantern.techniques.{module}.BATCH", 1)
        return Slow(monkeypatch)

    @pytest.mark.parametrize("technique", list(LOOKING))
    @pytest.mark.parametrize(
        ("wish", "end"), [("pause", "paused"), ("release", "queued"), ("cancel", "canceled")]
    )
    def test_what_is_wished_is_heard_behind_the_next_pictures(
        self, desk: Desk, http: FlaskClient, slow: Slow, technique: str, wish: str, end: str
    ) -> None:
        path, params = f"/v1/techniques/{technique}", LOOKING[technique]
        queue(http, path=path, query_string=params, data=b"", content_type=None)
        jobs = desk.stores.jobs
        claim = claimed(desk)
        thread = threading.Thread(target=work, args=(desk, claim, "jobs"))
        thread.start()
        slow.go_on.release()
        until(lambda: slow.behind == 2)
        getattr(jobs, wish)("worker" if wish == "release" else claim.job_id)
        time.sleep(0.5)  # a few beats
        slow.go_on.release()
        thread.join(5)
        assert not thread.is_alive()
        job = read(desk, claim)
        assert (slow.behind, job.status) == (2, end)
        if wish == "pause":
            slow.go_on.release(20)
            jobs.resume(claim.job_id)
            work(desk, claimed(desk), "jobs")
            assert (slow.behind, read(desk, claim).status) == (6, "succeeded")


class TestAMap:
    def submitted(self, desk: Desk) -> Claim:
        job_id = new_id()
        desk.stores.blobs.put(job_id, "input-image", PHOTO, ttl_s=60)
        call = vars(Call("rise", {}, MASKS)) | {"inputs": ["image"], "accept": ["*/*"]}
        desk.stores.jobs.create(Order(call=call, owner="nobody", id=job_id))
        return claimed(desk)

    def made(self, desk: Desk, claim: Claim) -> bytes:
        job = read(desk, claim)
        assert job.result is not None, job.error
        data = desk.stores.blobs.read(claim.job_id, job.result["arrays"])
        assert data is not None
        return data

    @pytest.mark.parametrize("is_lost", [True, False])
    def test_it_goes_on_to_the_same_bytes(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, is_lost: bool
    ) -> None:
        counts: list[int] = []

        def draw(count: int, *rest: Any) -> Tensor:
            counts.append(count)
            time.sleep(0.03)  # on a quick processor, too, it is to be under way for a second
            return draw_masks(count, *rest)

        monkeypatch.setattr("lantern.techniques.rise.draw_masks", draw)
        unbroken = self.submitted(desk)
        work(desk, unbroken, "jobs")
        pairs, jobs = sum(counts), desk.stores.jobs
        claim = self.submitted(desk)
        thread = threading.Thread(target=work, args=(desk, claim, "jobs"))
        thread.start()
        until(lambda: read(desk, claim).checkpoint is not None)
        if is_lost:
            heir = take_over(desk, claim)
        else:
            jobs.pause(claim.job_id)
        thread.join(10)
        assert not thread.is_alive()
        assert sum(counts) < 2 * pairs
        counts.clear()
        if not is_lost:
            jobs.resume(claim.job_id)
            heir = claimed(desk)
        work(desk, heir, "jobs")
        assert 0 < sum(counts) < pairs
        assert self.made(desk, claim) == self.made(desk, unbroken)
