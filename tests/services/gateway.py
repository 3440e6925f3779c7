"""What the tests of the gateway share."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any

import numpy as np
import PIL.Image
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from services.clients import Stores
from services.gateway.guard import NOBODY
from services.jobs import QUEUED, Claim
from tests.waiting import let_a_millisecond_pass

PROBLEM_JSON = "application/problem+json"
DREAM = "/v1/techniques/deep-dream"
PAINT = "/v1/techniques/fast-style"
NO_JOB = "job_" + 32 * "0"
JOB_ID = re.compile(r"job_[0-9a-f]{32}")


def encode(kind: str = "PNG", size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


PHOTO = encode()
ARRAYS = b"the raw arrays"
RESULT_BYTES = len(PHOTO) + len(ARRAYS)


class Closing(FlaskClient):
    """Reads each answer to its end, so that none leaves a file open."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        return super().open(*args, **({"buffered": True} | kwargs))


def problem(response: TestResponse, status: int, code: str = "") -> Any:
    """Check that an answer is a problem document; return it."""
    body = response.get_data(as_text=True)
    assert response.status_code == status, body
    assert response.content_type == PROBLEM_JSON
    document = json.loads(body)
    assert document["status"] == status
    assert all(isinstance(document[name], str) for name in ("type", "title", "detail"))
    assert document["request_id"] == response.headers["X-Request-Id"]
    assert "Traceback" not in body
    if code:
        assert document["type"] == f"/problems/{code}"
    return document


def post(http: FlaskClient, path: str = DREAM, **options: Any) -> TestResponse:
    return http.post(path, **({"data": PHOTO, "content_type": "image/png"} | options))


def queue(http: FlaskClient, **options: Any) -> Any:
    """Submit a job; return its document. The next one is made in another millisecond."""
    response = post(http, **options)
    assert response.status_code == 202, response.get_data(as_text=True)
    let_a_millisecond_pass()
    return response.get_json()


def start(stores: Stores, document: Any) -> Claim:
    """Claim a job before all others."""
    job = stores.jobs.get(document["id"])
    assert job is not None
    stores.state.zadd(QUEUED + job.lane, {job.id: 0})
    claim = stores.jobs.claim(job.lane, "worker")
    assert claim is not None
    assert claim.job_id == job.id
    return claim


def finish(stores: Stores, document: Any) -> dict[str, Any]:
    """Let a job succeed with the photograph as its result."""
    claim = start(stores, document)
    for name, data in (("result-1-picture", PHOTO), ("result-1-arrays.npz", ARRAYS)):
        stores.blobs.put(claim.job_id, name, data, ttl_s=60)
    artifact = {
        "name": "picture", "kind": "picture", "stored": "image/png", "blob": "result-1-picture",
        "media_types": ["image/jpeg", "image/png", "image/webp"],
    }  # fmt: skip
    result = {
        "technique": "deep-dream",
        "params": document["params"],
        "seed": 0,
        "facts": {"versions": {"lantern": "x"}},
        "artifacts": [artifact],
        "arrays": "result-1-arrays.npz",
        "bytes": RESULT_BYTES,
    }
    assert stores.jobs.finish(claim, "succeeded", result=result)
    return result


def multipart(*parts: tuple[str, bytes], **fields: str) -> dict[str, Any]:
    form: dict[str, Any] = {name: (io.BytesIO(data), "x.png") for name, data in parts}
    return {"data": form | fields, "content_type": "multipart/form-data"}


def finish_the_first(stores: Stores) -> None:
    """Wait for a job to be made, and finish it."""
    while not (made := stores.jobs.newest(NOBODY, 1)):
        time.sleep(0.01)
    finish(stores, {"id": made[0][1], "params": {}})
