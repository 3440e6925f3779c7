"""The one task: take a job by its id, run it, record how it ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import redis
from celery.signals import worker_process_init
from celery.utils.log import get_task_logger

from services.files import Files, StorageFull
from services.jobs import Claim, Status
from services.worker.app import TASK, app
from services.worker.desk import Desk, desk
from services.worker.pulse import Pulse

T = TypeVar("T")

log = get_task_logger(__name__)
PATIENCE_S = 60.0


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Run a job, if nobody else has it."""
    mine = desk()
    claim = mine.jobs.claim(job_id, f"{os.uname().nodename}:{os.getpid()}")
    if claim is None:
        log.info("job %s is taken or over", job_id)
        return
    work(mine, claim)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _get_ready(**_: object) -> None:
    """Import what is heavy before the first job comes."""
    desk()


def work(at: Desk, claim: Claim) -> None:
    """Run a claimed job to one of its ends."""
    from lantern.errors import LanternError
    from lantern.progress import Cancelled

    def finish(status: Status, **ending: Mapping[str, Any]) -> None:
        if _patiently(lambda: at.jobs.finish(claim, status, **ending)):
            pulse.forget()

    with Pulse(at, claim) as pulse:
        try:
            result = _run(at, claim, pulse)
        except Cancelled:
            if not pulse.lost:
                finish("canceled")
        except LanternError as error:
            finish("failed", error=_error(error.code, error.detail))
        except StorageFull:
            detail = "there is no room for the result; try again later"
            finish("failed", error=_error("storage-full", detail))
        except redis.RedisError:
            log.exception("job %s is left to another worker: Redis was away too long", claim.job_id)
        except Exception:
            log.exception("job %s failed", claim.job_id)
            detail = "the technique failed for a reason that is not yours"
            finish("failed", error=_error("internal", detail))
        else:
            with contextlib.suppress(redis.RedisError):  # the last step is news, the result is not
                pulse.flush()
            finish("succeeded", result=result)


def _patiently(action: Callable[[], T]) -> T:
    """Do something with Redis, again and again while it restarts."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except redis.RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _run(at: Desk, claim: Claim, pulse: Pulse) -> dict[str, Any]:
    from lantern.call import Call, decode
    from lantern.checkpoint import Checkpoints
    from lantern.errors import MissingInput

    job = at.jobs.get(claim.job_id)
    assert job is not None
    inputs: dict[str, bytes] = {}
    for slot, name in job.call["inputs"].items():
        data = at.files.read(name)
        if data is None:
            raise MissingInput(f"the picture for {slot} has expired; send it again")
        inputs[slot] = data
    call = Call(**{**job.call, "inputs": inputs})
    pulse.inherit(job.checkpoint or "")
    checkpoints = Checkpoints(pulse.keep, at.files.read(job.checkpoint or ""))
    result = at.studio.run(call, decode(inputs), pulse.step, checkpoints)
    return _patiently(lambda: store(at.files, result, call.rendering))


def store(files: Files, result: Any, rendering: Mapping[str, Any]) -> dict[str, Any]:
    """Store every artifact; return the result as the job record keeps it."""
    from lantern.artifact import Rendering
    from lantern.run import validate

    chosen = validate(Rendering, rendering)
    artifacts = []
    for artifact in result.artifacts:
        media_type = "image/png" if "image/png" in artifact.media_types else artifact.media_types[0]
        file = files.put(artifact.encode(media_type, chosen), media_type)
        artifacts.append(
            {
                "name": artifact.name,
                "kind": artifact.kind,
                "media_type": media_type,
                "file": file.id,
            }
        )
    return {
        "technique": result.technique,
        "params": result.params.model_dump(mode="json"),
        "seed": result.seed,
        "facts": dict(result.facts),
        "artifacts": artifacts,
    }


def _error(code: str, detail: str) -> dict[str, Any]:
    title = code.replace("-", " ").capitalize()
    return {"type": f"/problems/{code}", "title": title, "detail": detail, "retryable": False}
