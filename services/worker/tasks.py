"""The one task: take a job by its id, run it, record how it ended."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis
from celery.signals import worker_process_init
from celery.utils.log import get_task_logger

from services import clients
from services.files import Files, StorageFull
from services.jobs import Claim, Jobs, Word
from services.settings import Settings, read
from services.worker.app import TASK, app

if TYPE_CHECKING:
    from lantern.call import Studio
    from lantern.progress import Step

log = get_task_logger(__name__)
PREVIEW_SIDE = 320
UNREACHABLE_S = 60.0


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Run a job, if nobody else has it."""
    desk = _desk()
    claim = desk.jobs.claim(job_id, f"{os.uname().nodename}:{os.getpid()}")
    if claim is None:
        log.info("job %s is taken or over", job_id)
        return
    work(desk, claim)


@dataclass(frozen=True)
class Desk:
    """What a worker process works with."""

    settings: Settings
    jobs: Jobs
    files: Files
    studio: Studio


@functools.cache
def _desk() -> Desk:
    """Make the desk: torch is imported here, after the fork."""
    from pathlib import Path

    import torch

    from lantern.call import Studio
    from lantern.styles.library import StyleLibrary
    from lantern.zoo import Zoo

    settings = read()
    cores = os.cpu_count() or 1
    torch.set_num_threads(settings.torch_threads or max(1, cores // settings.workers))
    torch.set_flush_denormal(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    client = clients.connect(settings)
    return Desk(
        settings,
        clients.jobs(settings, client),
        clients.files(settings, client),
        Studio(
            Zoo(downloads=settings.downloads, device=device),
            StyleLibrary(Path(settings.styles_path), device=device),
        ),
    )


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _get_ready(**_: object) -> None:
    """Import what is heavy before the first job comes."""
    _desk()


def work(desk: Desk, claim: Claim) -> None:
    """Run a claimed job to one of its ends."""
    from lantern.errors import LanternError
    from lantern.progress import Cancelled

    with Pulse(desk, claim) as pulse:
        try:
            result = _run(desk, claim, pulse)
        except Cancelled:
            if not pulse.lost:
                desk.jobs.finish(claim, "canceled")
        except LanternError as error:
            desk.jobs.finish(claim, "failed", error=_error(error.code, error.detail))
        except StorageFull:
            detail = "there is no room for the result; try again later"
            desk.jobs.finish(claim, "failed", error=_error("storage-full", detail))
        except Exception:
            log.exception("job %s failed", claim.job_id)
            detail = "the technique failed for a reason that is not yours"
            desk.jobs.finish(claim, "failed", error=_error("internal", detail))
        else:
            pulse.flush()
            desk.jobs.finish(claim, "succeeded", result=result)


def _run(desk: Desk, claim: Claim, pulse: Pulse) -> dict[str, Any]:
    from lantern.call import Call, decode
    from lantern.errors import MissingInput

    job = desk.jobs.get(claim.job_id)
    assert job is not None
    inputs: dict[str, bytes] = {}
    for slot, name in job.call["inputs"].items():
        data = desk.files.read(name)
        if data is None:
            raise MissingInput(f"the picture for {slot} has expired; send it again")
        inputs[slot] = data
    call = Call(**{**job.call, "inputs": inputs})
    result = desk.studio.run(call, decode(inputs), pulse.step)
    return store(desk.files, result, call.rendering)


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


@dataclass
class Pulse:
    """Beats for a job while it runs, in a thread of its own; the steps leave their news here.

    A step stops the computation when the last beat said so: the job was cancelled, or another
    worker has it.
    """

    desk: Desk
    claim: Claim
    word: Word = "ok"
    _step: Step | None = None
    _previewed_at: float = 0.0
    _preview: tuple[int, str] | None = None
    _first: tuple[float, int] | None = None
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether another worker has taken the job over."""
        return self.word == "lost"

    def __enter__(self) -> Pulse:
        self._thread = threading.Thread(target=self._beat_until_end, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        assert self._thread is not None
        self._thread.join(timeout=5)

    def step(self, step: Step) -> None:
        """Take note of a step; make a preview now and then.

        Raises:
            Cancelled: the job is not to go on.
        """
        from lantern.progress import Cancelled

        if self.word != "ok":
            raise Cancelled
        now = time.monotonic()
        if now - self._previewed_at >= self.desk.settings.preview_every_s:
            self._previewed_at = now
            picture = step.preview().fit(PREVIEW_SIDE).encode("image/jpeg", 80)
            self._preview = (step.done, self.desk.files.put(picture, "image/jpeg").id)
        self._step = step

    def flush(self) -> None:
        """Record the last step, which no beat may have seen."""
        self._end.set()
        assert self._thread is not None
        self._thread.join(timeout=5)
        self._beat()

    def _beat_until_end(self) -> None:
        silent_since = time.monotonic()
        interval = min(self.desk.settings.beat_s, 0.5)
        while not self._end.wait(interval):
            try:
                self.word = self._beat()
                silent_since = time.monotonic()
            except redis.RedisError:
                # Redis may be restarting: go on, the fence keeps a late result out
                if time.monotonic() - silent_since > UNREACHABLE_S:
                    self.word = "lost"
            if self.word != "ok":
                return

    def _beat(self) -> Word:
        step, self._step = self._step, None
        preview, self._preview = self._preview, None
        return self.desk.jobs.beat(
            self.claim, progress=self._progress(step) if step else None, preview=preview
        )

    def _progress(self, step: Step) -> dict[str, Any]:
        self._first = self._first or (time.monotonic(), step.done)
        began, already = self._first
        # the first step brings the loading of the network along and would spoil the estimate
        per_step = (time.monotonic() - began) / max(1, step.done - already)
        left = per_step * (step.total - step.done) if step.done > already else None
        return {
            "done": step.done,
            "total": step.total,
            "fraction": round(step.fraction, 4),
            "loss": round(step.loss, 6),
            "eta_s": None if left is None else round(left, 1),
        }
