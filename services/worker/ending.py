"""How a job ends: what it made is stored, what it needed is removed, its record is made final."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from services import job_bytes, published
from services.blobs import needing_room
from services.jobs import Claim
from services.record import Job, Status
from services.worker.desk import Desk
from services.worker.pulse import Pulse

if TYPE_CHECKING:
    from lantern.artifact import Result

T = TypeVar("T")
PATIENCE_S = 60.0
LARGEST_ARRAYS = 128 * 1024 * 1024


def patiently(action: Callable[[], T]) -> T:
    """Do something with Redis, again and again while it restarts."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except (redis.ConnectionError, redis.TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.25)


@dataclass(frozen=True)
class Ending:
    """The end of one claimed job."""

    desk: Desk
    claim: Claim
    job: Job
    pulse: Pulse

    def succeeded(self, result: Mapping[str, Any]) -> None:
        """Record that the result is there."""
        if not self._finish("succeeded", result=result):
            self._delete(job_bytes.result_names(result))
            self._withdraw()

    def failed(self, code: str, detail: str) -> None:
        """Record what went wrong."""
        self._finish("failed", error=_error(code, detail))

    def stopped(self, *, late: bool) -> None:
        """Record that it was cancelled, or came to its deadline."""
        self._finish("expired" if late else "canceled")

    def store(self, result: Result) -> dict[str, Any]:
        """Store every artifact and the raw arrays; return the result as the record keeps it.

        The names hold the fence: a worker that was taken over writes beside what counts.
        """
        prefix = f"result-{self.claim.fence}-"
        arrays = result.npz()
        is_kept = len(arrays) <= LARGEST_ARRAYS
        if is_kept:
            self._put(prefix + job_bytes.ARRAYS, arrays)
        return {
            "technique": result.technique,
            "params": result.params.model_dump(mode="json"),
            "seed": result.seed,
            "facts": dict(result.facts) | self._publish(result),
            "artifacts": [self._store_artifact(prefix, part) for part in result.artifacts],
            "arrays": prefix + job_bytes.ARRAYS if is_kept else None,
        }

    def _withdraw(self) -> None:
        """Take back a style whose job was cancelled; whoever took the job over gives it again."""
        job = self.desk.stores.jobs.get(self.job.id)
        if job is not None and job.is_final and job.status != "succeeded":
            self.desk.studio.styles.own.forget(published.style_id(job.id))

    def _publish(self, result: Result) -> dict[str, str]:
        """Keep a trained style for longer than the job; return what there is to say of it."""
        if result.technique != published.TRAINER:
            return {}
        with needing_room():
            return {"style": published.publish(self.desk.studio.styles.own, self.job, result)}

    def _store_artifact(self, prefix: str, artifact: Any) -> dict[str, Any]:
        """Store the form that loses nothing; callers get any other made from it."""
        from lantern.artifact import Rendering
        from lantern.run import validate

        forms = artifact.media_types
        stored = "image/png" if "image/png" in forms else forms[0]
        rendering = validate(Rendering, self.job.call["rendering"])
        self._put(prefix + artifact.name, artifact.encode(stored, rendering))
        return {
            "name": artifact.name,
            "kind": artifact.kind,
            "media_types": list(forms),
            "stored": stored,
            "blob": prefix + artifact.name,
        }

    def _finish(self, status: Status, **parts: Mapping[str, Any]) -> bool:
        stores, token = self.desk.stores, secrets.token_hex(8)
        self.pulse.store_no_more()
        result, error = parts.get("result"), parts.get("error")

        def finish() -> bool:
            return stores.jobs.finish(self.claim, status, result=result, error=error, token=token)

        if not patiently(finish):
            return False
        with contextlib.suppress(redis.RedisError):  # all of it expires by itself, only later
            self._delete(self.pulse.states)
            preview_ttl_s = self.desk.settings.preview_ttl_s
            job_bytes.tidy_up(stores, self.job.id, preview_ttl_s=preview_ttl_s)
        return True

    def _put(self, name: str, data: bytes) -> None:
        ttl_s = self.desk.settings.result_ttl_s
        self.desk.stores.blobs.put(self.job.id, name, data, ttl_s=ttl_s)

    def _delete(self, names: list[str]) -> None:
        with contextlib.suppress(redis.RedisError):  # they expire by themselves
            self.desk.stores.blobs.delete(self.job.id, *names)


def _error(code: str, detail: str) -> dict[str, Any]:
    title = code.replace("-", " ").capitalize()
    return {"type": f"/problems/{code}", "title": title, "detail": detail, "retryable": False}
