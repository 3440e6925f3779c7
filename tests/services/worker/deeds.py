"""What the tests of a worker do with its desk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

from services.jobs import RUNNING, Claim
from services.record import Job
from services.worker.desk import Desk
from services.worker.tasks import work
from tests.waiting import until

ENDLESS = {"steps": 200, "octaves": 10, "octave_scale": 1.1, "size": 160}
# On processors that make a step in three milliseconds, too.
SECONDS = {"steps": 200, "octaves": 2, "size": 96}
LONG_SHEET = {"methods": ["rise", "occlusion", "integrated-gradients"], "evidence": 0}
SHORT = {"steps": 3, "octaves": 1, "size": 64}
Submit = Callable[..., Claim]


def read(desk: Desk, claim: Claim) -> Job:
    job = desk.stores.jobs.get(claim.job_id)
    assert job is not None
    return job


def artifacts(desk: Desk, claim: Claim) -> list[bytes]:
    """Return the bytes of a finished job's artifacts, as they are stored."""
    result = read(desk, claim).result
    assert result is not None
    stored = [desk.stores.blobs.read(claim.job_id, a["blob"]) for a in result["artifacts"]]
    return [data for data in stored if data is not None]


def error_type(job: Job) -> str:
    assert job.error is not None
    return str(job.error["type"])


def names(desk: Desk, claim: Claim) -> list[str]:
    return [event.name for event in desk.stores.jobs.events(claim.job_id, "0", 0.001)]


def kept(desk: Desk, claim: Claim) -> set[str]:
    """Return the kinds of bytes that are stored for a job."""
    found = cast(list[bytes], desk.stores.state.keys(f"lantern:blob:{claim.job_id}/*"))
    return {key.decode().rpartition("/")[2].partition("-")[0] for key in found}


def in_background(desk: Desk, claim: Claim) -> threading.Thread:
    """Work in a thread; return once the first step is taken."""
    thread = threading.Thread(target=work, args=(desk, claim, "jobs"))
    thread.start()
    until(lambda: read(desk, claim).progress is not None)
    return thread


def take_over(desk: Desk, claim: Claim) -> Claim:
    """Let a job's lease end and another worker claim it."""
    for _ in range(100):  # the worker may renew its lease in between
        desk.stores.state.zadd(RUNNING, {claim.job_id: 1})
        desk.stores.jobs.reap()
        heir = desk.stores.jobs.claim("jobs", "heir")
        if heir is not None:
            return heir
    raise AssertionError("the job could not be taken over")
