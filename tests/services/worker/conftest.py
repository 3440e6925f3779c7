"""A desk with the real network, and jobs on a photograph for it."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from lantern.call import Call, Studio
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.clients import Stores
from services.jobs import Claim, Order
from services.record import new_id
from services.settings import Settings
from services.worker.desk import Desk
from tests.services.worker.deeds import Submit


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio(Zoo(downloads=False), StyleLibrary(Settings().styles_path))


@pytest.fixture(scope="session")
def photo() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def desk(stores: Stores, studio: Studio, settings: Settings) -> Desk:
    quick = dataclasses.replace(settings, checkpoint_every_s=0.3, beat_s=0.05)
    return Desk(quick, stores, studio)


@pytest.fixture
def submit(desk: Desk, photo: bytes) -> Submit:
    """Queue a call on the photograph, as the gateway does, and claim it."""

    def make(technique: str, params: dict[str, Any], **options: Any) -> Claim:
        job_id = new_id()
        desk.stores.blobs.put(job_id, "input-image", photo, ttl_s=60)
        call = Call(technique, {}, params, **options)
        record = vars(call) | {"inputs": ["image"], "accept": list(call.accept)}
        desk.stores.jobs.create(Order(call=record, owner="nobody", id=job_id))
        claim = desk.stores.jobs.claim("jobs", "worker:1")
        assert claim is not None
        return claim

    return make
