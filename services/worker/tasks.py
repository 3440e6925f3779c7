"""The tasks: run the job that is first in line, deliver what the outbox holds, tidy up."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import redis
from celery.signals import worker_process_init
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError

from services import clients
from services.blobs import FilesAway, StorageFull
from services.clients import Stores
from services.job_bytes import tidy_up
from services.jobs import Claim
from services.memory import give_back
from services.queues import DELIVER, RUN_JOB, TIDY, queue_of, send
from services.record import LANES, Job, Lane
from services.settings import read
from services.worker.app import app
from services.worker.caretaker import TIDYING
from services.worker.collected import collections_of
from services.worker.courier import deliver_one
from services.worker.desk import Desk, desk
from services.worker.ending import Ending
from services.worker.hang import ends_if_it_hangs
from services.worker.patience import patiently
from services.worker.pulse import Pulse
from services.worker.trained import decoders_of

if TYPE_CHECKING:
    from lantern.artifact import Result

# A shorter run says little of a long one.
LEAST_TO_LEARN_S = 0.5
# What the processes of a lane run before their first job.
WARM_UP: dict[Lane, Sequence[tuple[str, dict[str, Any]]]] = {
    "jobs": [("deep-dream", {"steps": 1, "octaves": 1, "size": 64})],
    "fast": [("grad-cam", {}), ("fast-style", {"size": 64})],
}
log = get_task_logger(__name__)


@app.task(name=RUN_JOB, bind=True)  # type: ignore[untyped-decorator]
def run_job(task: Any, job_id: str) -> None:
    """Run the job that is first in the lane the message came by, usually the one it names."""
    queue = task.request.delivery_info["routing_key"]
    (lane,) = [lane for lane in LANES if queue_of(lane) == queue]
    mine = desk()
    claim = mine.stores.jobs.claim(lane, f"{task.request.hostname}:{os.getpid()}")
    if claim is None:
        log.info("no job waits in %s", lane)
        return
    try:
        with ends_if_it_hangs() as go_on:
            work(mine, claim, lane, go_on)
    finally:
        give_back()


@app.task(name=DELIVER)  # type: ignore[untyped-decorator]
def deliver() -> None:
    """Deliver a message of the outbox."""
    deliver_one(clients.own_stores(), loopback=read().webhook_loopback)


@app.task(name=TIDY)  # type: ignore[untyped-decorator]
def tidy() -> None:
    """Remove what ended jobs left behind, and files that have expired."""
    stores, preview_ttl_s = clients.own_stores(), read().preview_ttl_s
    try:
        _tidy(stores, preview_ttl_s)
    finally:
        stores.state.delete(TIDYING)


def _tidy(stores: Stores, preview_ttl_s: int) -> None:
    for job_id in stores.jobs.ended():
        tidy_up(stores, job_id, preview_ttl_s=preview_ttl_s)
    try:
        removed = stores.blobs.sweep()
    except FilesAway as error:
        log.warning("files that have expired stay for now: %r", error.__cause__)
        return
    if removed:
        log.warning("removed %d files that had expired", removed)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _get_ready(**_: object) -> None:
    """Do before the first job comes what takes long the first time; then give way to others."""
    # what is imported stays: going through all of it again and again would take a sixth of the time
    gc.disable()
    mine = desk()
    for lane, calls in WARM_UP.items():
        if queue_of(lane) in app.amqp.queues.consume_from:
            for technique, params in calls:
                warm_up(mine, technique, params)
    gc.freeze()
    gc.enable()
    os.nice(read().niceness)


def warm_up(at: Desk, technique: str, params: dict[str, Any]) -> None:
    """Run a small call: the network is loaded, and torch imports what its optimizers need.

    So a job that is claimed gets on at once, and what a killed worker had done is work, not this.
    """
    import torch

    from lantern.call import Call
    from lantern.errors import LanternError
    from lantern.image import Image

    grey = Image(torch.full((3, 64, 64), 0.5))
    with contextlib.suppress(LanternError):  # without the weights there are other networks
        at.studio.run(Call(technique, {}, params), {"image": grey})


def work(at: Desk, claim: Claim, lane: Lane, go_on: Callable[[], None] = lambda: None) -> None:
    """Run a claimed job to one of its ends, or until it is to be put down.

    `go_on` is called for as long as the run may.
    """
    from lantern.errors import LanternError
    from lantern.progress import Cancelled, Suspended

    job = at.stores.jobs.get(claim.job_id)
    assert job is not None
    gigaflop = (job.estimate or {}).get("gigaflop", 0.0)
    with Pulse(at, claim, job.chosen, go_on, gigaflop) as pulse:
        ending = Ending(at, claim, job, pulse)
        try:
            result = _run(at, job, pulse)
            stored = ending.store(result)
        except Suspended:
            _put_down(at, claim, lane, pulse)
        except Cancelled:
            if pulse.word == "lost":
                ending.lost()
            else:
                ending.stopped(late=pulse.word == "late")
        except LanternError as error:
            ending.failed(error.code, error.detail)
        except StorageFull:
            detail = "there was no room for the result for some minutes; send the call again later"
            ending.failed("storage-full", detail, retryable=True)
        except FilesAway:
            log.exception("job %s failed: the file store was away too long", job.id)
            detail = "the store of files did not answer for some minutes; send the call again later"
            ending.failed("storage-away", detail, retryable=True)
        except redis.RedisError:
            log.exception("job %s is left to another worker: Redis was away too long", job.id)
        except Exception:
            log.exception("job %s failed", job.id)
            ending.failed("internal", "the technique failed for a reason that is not yours")
        else:
            patiently(pulse.end)
            ending.succeeded(stored)
            _note_speed(at, job, pulse)


def _note_speed(at: Desk, job: Job, pulse: Pulse) -> None:
    """Learn from a run that was not broken off how long the next will take."""
    from lantern import registry

    seconds, share = pulse.worked()
    if job.attempts == 1 and job.estimate and seconds >= LEAST_TO_LEARN_S:
        with contextlib.suppress(redis.RedisError):  # it can be done without
            at.stores.speeds.note(
                registry.find(job.call["technique"]).engine(job.call["params"]),
                job.call["model"],
                gigaflop=share * job.estimate["gigaflop"],
                seconds=seconds,
            )


def _put_down(at: Desk, claim: Claim, lane: Lane, pulse: Pulse) -> None:
    try:
        patiently(pulse.flush)
    except FilesAway:
        log.exception("job %s goes on from the state before: the last one is lost", claim.job_id)
    if patiently(lambda: at.stores.jobs.suspend(claim)) == "queued":
        try:
            send(app, lane, claim.job_id)
        except OperationalError:
            log.warning("job %s will be announced later", claim.job_id)


def _run(at: Desk, job: Job, pulse: Pulse) -> Result:
    """Run a job's call from the state an earlier worker kept; anew where that cannot be used."""
    from lantern import registry
    from lantern.call import Call, decoded
    from lantern.checkpoint import Checkpoints, DamagedCheckpoint
    from lantern.errors import MissingInput
    from services.job_bytes import input_name

    inputs: dict[str, bytes] = {}
    for slot in job.call["inputs"]:
        data = _read(at, job, input_name(slot))
        if data is None:
            raise MissingInput(f"the picture for {slot} has expired; send it again")
        inputs[slot] = data
    call = Call(**{**job.call, "inputs": inputs})
    keeps_state = registry.find(call.technique).keeps_state

    def run(saved: bytes | None) -> Result:
        return at.studio.run(
            call,
            decoded(call),
            pulse.step if keeps_state else pulse.heedful_step,
            Checkpoints(
                pulse.keep,
                saved,
                every_s=at.settings.checkpoint_every_s,
                suspend=pulse.is_suspended,
                technique=call.technique,
            ),
            collections=collections_of(at, job),
            decoders=decoders_of(at, job),
        )

    saved = _saved(at, job, pulse)
    try:
        return run(saved)
    except DamagedCheckpoint as error:
        log.warning("job %s starts anew: %s", job.id, error.detail)
        return run(None)


def _read(at: Desk, job: Job, name: str) -> bytes | None:
    return patiently(lambda: at.stores.blobs.read(job.id, name))


def _saved(at: Desk, job: Job, pulse: Pulse) -> bytes | None:
    """Return the state an earlier worker kept, None where there is none."""
    name = job.checkpoint or ""
    saved = _read(at, job, name) if name else None
    if saved is not None:
        pulse.inherit(name)
    return saved
