"""How a job ends: what it made is stored, what it needed is removed, its record is made final."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from services import job_bytes, published
from services.blobs import needing_room
from services.jobs import Claim
from services.record import Job, Status, failure
from services.worker.desk import Desk
from services.worker.patience import Room, patiently
from services.worker.pulse import Pulse

if TYPE_CHECKING:
    from lantern.artifact import Result

# The largest painting, 4096 px a side, has 192 MiB of them.
LARGEST_ARRAYS = 256 * 1024 * 1024


@dataclass
class Ending:
    """The end of one claimed job."""

    desk: Desk
    claim: Claim
    job: Job
    pulse: Pulse
    _room: Room = field(init=False)
    _written: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._room = Room(self.pulse)

    def succeeded(self, result: Mapping[str, Any]) -> None:
        """Record that the result is there."""
        if not self._finish("succeeded", result=result):
            self._delete(job_bytes.result_names(result))
            self._withdraw()
            self.lost()

    def failed(self, code: str, detail: str, *, retryable: bool = False) -> None:
        """Record what went wrong, and whether the same call may do better later."""
        self._finish("failed", error=failure(code, detail, retryable=retryable))

    def stopped(self, *, late: bool) -> None:
        """Record that it was cancelled, or came to its deadline."""
        self._finish("expired" if late else "canceled")

    def lost(self) -> None:
        """Leave nothing behind where the job is over: nobody comes to tidy up after it again."""
        self.pulse.store_no_more()
        with contextlib.suppress(redis.RedisError):  # all of it expires by itself, only later
            job = self.desk.stores.jobs.get(self.job.id)
            if job is None or job.is_final:
                self._tidy_up()

    def store(self, result: Result) -> dict[str, Any]:
        """Store every artifact and the raw arrays; return the result as the record keeps it.

        The names hold the fence: a worker that was taken over writes beside what counts. What is
        stored of a result that cannot be stored whole is deleted again.

        Raises:
            StorageFull, FilesAway: there was no room for long, or the files were away.
            Cancelled, Suspended: the job is not to go on, or only later, and waited for room.
        """
        prefix = f"result-{self.claim.fence}-"
        with contextlib.ExitStack() as undoing:
            undoing.callback(self._delete, self._written)
            arrays = self._store_arrays(prefix, result)
            artifacts = [self._store_artifact(prefix, part) for part in result.artifacts]
            stored = {
                "technique": result.technique,
                "params": result.params.model_dump(mode="json"),
                "seed": result.seed,
                # published last: nobody is to see the style of a job that ends in another way
                "facts": dict(result.facts) | self._publish(result),
                "artifacts": artifacts,
                "arrays": arrays,
                "bytes": sum(self._written.values()),
            }
            undoing.pop_all()
        return stored

    def _withdraw(self) -> None:
        """Take back a style whose job ended in another way than by giving it.

        It may be of a worker that was taken over; while the job goes on, it is left alone.
        """
        if self.job.call.get("technique") != published.TRAINER:
            return
        job = patiently(lambda: self.desk.stores.jobs.get(self.job.id))
        if job is not None and job.is_final and job.status != "succeeded":
            self.desk.studio.styles.own.forget(published.style_id(job.id))

    def _publish(self, result: Result) -> dict[str, str]:
        """Keep a trained style for longer than the job; return what there is to say of it."""
        if result.technique != published.TRAINER:
            return {}
        return {"style": self._room.find(lambda: self._published(result))}

    def _published(self, result: Result) -> str:
        with needing_room():
            return published.publish(self.desk.studio.styles.own, self.job, result)

    def _store_arrays(self, prefix: str, result: Result) -> str | None:
        """Store the raw arrays, unless they are too large; return the name they are kept under."""
        from lantern.errors import AnswerTooLarge

        name = prefix + job_bytes.ARRAYS
        with contextlib.suppress(AnswerTooLarge):
            self._put(name, result.npz(LARGEST_ARRAYS))
            return name
        return None

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
        self._withdraw()
        with contextlib.suppress(redis.RedisError):  # all of it expires by itself, only later
            self._tidy_up()
        return True

    def _tidy_up(self) -> None:
        preview_ttl_s = self.desk.settings.preview_ttl_s
        job_bytes.tidy_up(self.desk.stores, self.job.id, preview_ttl_s=preview_ttl_s)

    def _put(self, name: str, data: bytes) -> None:
        ttl_s, blobs = self.desk.settings.result_ttl_s, self.desk.stores.blobs
        self._written[name] = len(data)
        self._room.find(lambda: blobs.put(self.job.id, name, data, ttl_s=ttl_s))

    def _delete(self, names: Iterable[str]) -> None:
        with contextlib.suppress(redis.RedisError):  # they expire by themselves
            self.desk.stores.blobs.delete(self.job.id, *names)
