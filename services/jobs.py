"""The job record in Redis: the truth about every job; queue messages are only hints."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import redis

Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
Word = Literal["ok", "cancel", "lost"]
Position = tuple[int, str]
"""Where a job stands in the list of all: the millisecond it was made in, and its id."""

PREFIX = "lantern:job:"
QUEUED, RUNNING, ALL = "lantern:jobs:queued", "lantern:jobs:running", "lantern:jobs:all"
WORKERS = "lantern:workers"
RESEND_AFTER_S = 30.0
SCRIPTS = Path(__file__).parent / "scripts"


class IdempotencyConflict(Exception):
    """The idempotency key was used before for something else."""


class QueueFull(Exception):
    """As many jobs as may wait are waiting."""


@dataclass(frozen=True)
class Job:
    """One job as it stands; times are seconds since 1970, None where not yet reached."""

    id: str
    status: Status
    call: Mapping[str, Any]
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    attempts: int = 0
    progress: Mapping[str, Any] | None = None
    preview_step: int | None = None
    checkpoint: str | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing about it will change."""
        return self.status in FINAL


@dataclass(frozen=True)
class Event:
    """One entry of a job's stream; `id` is its position there."""

    id: str
    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job; the fence makes every write of an earlier holder void."""

    job_id: str
    fence: int


class Jobs:
    """Every job of one Redis; each change is one Lua script."""

    def __init__(
        self, client: redis.Redis, *, lease_s: float, ttl_s: int, max_attempts: int, max_queued: int
    ) -> None:
        self._redis = client
        # read once: files that are replaced while a process runs must not break it
        self._scripts = {path.stem: path.read_text() for path in SCRIPTS.glob("*.lua")}
        self._lease_ms = int(lease_s * 1000)
        self._ttl_s, self._max_attempts, self._max_queued = ttl_s, max_attempts, max_queued

    def create(
        self, call: Mapping[str, Any], *, key: str = "", fingerprint: str = ""
    ) -> tuple[Job, bool]:
        """Queue a call; return the job and whether it is new.

        With an idempotency `key`, the same `fingerprint` gets the job made the first time.

        Raises:
            IdempotencyConflict: the key stands for another payload.
            QueueFull: too many jobs wait.
        """
        job_id = new_id()
        keys = [*_keys(job_id, "", QUEUED, ALL, ":events"), f"lantern:idempotency:{key}"]
        record = json.dumps({"call": json.dumps(dict(call))})
        outcome, known = self._call(
            "create", keys,
            [job_id, fingerprint if key else "", self._ttl_s, self._max_queued, record],
        )  # fmt: skip
        if outcome == b"conflict":
            raise IdempotencyConflict
        if outcome == b"full":
            raise QueueFull
        job = self.get(known.decode())
        assert job is not None
        return job, outcome == b"created"

    def get(self, job_id: str) -> Job | None:
        """Return a job, or None where there is none or it has expired."""
        fields = cast(dict[bytes, bytes], self._redis.hgetall(PREFIX + job_id))
        return _job(fields) if fields else None

    def newest(self, limit: int, after: Position | None = None) -> list[Position]:
        """Return the positions of up to `limit` jobs, newest first, from behind `after` on.

        A job may have expired while its position is still there.
        """
        top, skip = "+inf", 0
        if after is not None:
            # of one millisecond there may be several, in the order of their ids
            top = str(after[0])
            peers = cast(list[bytes], self._redis.zrangebyscore(ALL, top, top))
            skip = sum(name.decode() >= after[1] for name in peers)
        rows = cast(
            list[tuple[bytes, float]],
            self._redis.zrevrangebyscore(ALL, top, "-inf", skip, limit, withscores=True),
        )
        return [(int(score), name.decode()) for name, score in rows]

    def claim(self, job_id: str, worker: str) -> Claim | None:
        """Take a job that waits or whose worker is lost; None where there is nothing to take."""
        fence = self._call(
            "claim", _keys(job_id, "", QUEUED, RUNNING, ":events"),
            [job_id, worker, self._lease_ms, self._max_attempts],
        )  # fmt: skip
        return Claim(job_id, int(fence)) if fence else None

    def beat(
        self,
        claim: Claim,
        *,
        progress: Mapping[str, Any] | None = None,
        preview: tuple[int, str] | None = None,
        checkpoint: str = "",
    ) -> Word:
        """Renew the lease, record progress and where the state is kept; learn whether to go on."""
        step, file = preview or ("", "")
        word = self._call(
            "beat", _keys(claim.job_id, "", RUNNING, ":events", ":previews"),
            [claim.job_id, claim.fence, self._lease_ms,
             json.dumps(dict(progress)) if progress else "", step, file, self._ttl_s, checkpoint],
        )  # fmt: skip
        return cast(Word, word.decode())

    def finish(
        self,
        claim: Claim,
        status: Status,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        """Make the state final; False where another worker has taken over meanwhile."""
        texts = [json.dumps(dict(part)) if part else "" for part in (result, error)]
        return bool(
            self._call(
                "finish", _keys(claim.job_id, "", RUNNING, ":events", QUEUED),
                [claim.job_id, claim.fence, status, *texts, self._ttl_s],
            )
        )  # fmt: skip

    def cancel(self, job_id: str) -> Status | None:
        """Ask for the job to end; return the status it has now, None where there is none."""
        keys = _keys(job_id, "", QUEUED, ":events")
        status = self._call("cancel", keys, [job_id, self._ttl_s]).decode()
        return cast(Status, status) if status else None

    def reap(self) -> list[str]:
        """Requeue jobs of silent workers; return the ids whose message has to be sent (again)."""
        ids = self._call(
            "reap", [QUEUED, RUNNING, ALL],
            [PREFIX, self._max_attempts, int(RESEND_AFTER_S * 1000), self._ttl_s],
        )  # fmt: skip
        return [job_id.decode() for job_id in ids]

    def delete(self, job_id: str) -> None:
        """Forget a job and its events."""
        self._redis.delete(*(PREFIX + job_id + part for part in ("", ":events", ":previews")))
        for index in (QUEUED, RUNNING, ALL):
            self._redis.zrem(index, job_id)

    def preview(self, job_id: str, step: int) -> str | None:
        """Return the file id of one preview."""
        file = cast(bytes | None, self._redis.hget(PREFIX + job_id + ":previews", str(step)))
        return file.decode() if file else None

    def events(self, job_id: str, after: str, wait_s: float) -> list[Event]:
        """Return the events behind position `after`, waiting up to `wait_s` for the first."""
        stream = PREFIX + job_id + ":events"
        block = max(1, int(wait_s * 1000))
        found = cast(Any, self._redis.xread({stream: after}, count=100, block=block))
        entries = found[0][1] if found else []
        return [
            Event(name.decode(), fields[b"event"].decode(), json.loads(fields[b"data"]))
            for name, fields in entries
        ]

    def wait(self, job_id: str, seconds: float) -> Job | None:
        """Return the job once it is final, or as it stands when the time is over."""
        deadline, after = time.monotonic() + seconds, "0"
        while (job := self.get(job_id)) and not job.is_final:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for event in self.events(job_id, after, min(left, 5.0)):
                after = event.id
        return job

    def counts(self) -> dict[str, int]:
        """Return how many jobs wait and run."""
        return {
            "queued": self._redis.zcard(QUEUED),
            "running": self._redis.zcard(RUNNING),
        }

    def greet(self, worker: str, ttl_s: float) -> None:
        """Record that a worker is alive, for readiness."""
        now = self._now()
        self._redis.zadd(WORKERS, {worker: now + ttl_s})
        self._redis.zremrangebyscore(WORKERS, "-inf", now)

    def workers(self) -> int:
        """Count the workers that are alive."""
        return self._redis.zcount(WORKERS, self._now(), "+inf")

    def _now(self) -> float:
        """Return Redis's time: the clocks of two machines differ."""
        seconds, microseconds = self._redis.time()
        return float(seconds) + microseconds / 1e6

    def _call(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        return self._redis.register_script(self._scripts[script])(keys=keys, args=arguments)


def new_id() -> str:
    """Return a job id: time first, so that ids sort by age, then 80 random bits."""
    return f"job_{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


def _keys(job_id: str, *parts: str) -> list[str]:
    """Make a script's keys: parts of the job's own ("" or ":suffix") and shared ones."""
    own = PREFIX + job_id
    return [own + part if part == "" or part.startswith(":") else part for part in parts]


def _job(fields: Mapping[bytes, bytes]) -> Job:
    def seconds(name: bytes) -> float | None:
        return int(fields[name]) / 1000 if name in fields else None

    def plain(name: bytes) -> Mapping[str, Any] | None:
        return json.loads(fields[name]) if name in fields else None

    step = fields.get(b"preview_step")
    return Job(
        id=fields[b"id"].decode(),
        status=cast(Status, fields[b"status"].decode()),
        call=json.loads(fields[b"call"]),
        created_at=seconds(b"created_ms") or 0.0,
        started_at=seconds(b"started_ms"),
        finished_at=seconds(b"finished_ms"),
        expires_at=seconds(b"expires_ms"),
        attempts=int(fields[b"attempts"]),
        progress=plain(b"progress"),
        preview_step=int(step) if step else None,
        checkpoint=fields[b"checkpoint"].decode() if b"checkpoint" in fields else None,
        result=plain(b"result"),
        error=plain(b"error"),
    )


def events_until_done(
    jobs: Jobs, job_id: str, after: str, pause_s: float
) -> Iterator[Event | None]:
    """Go through a job's events as they come; None each time `pause_s` passed without one."""
    while True:
        found = jobs.events(job_id, after, pause_s)
        if not found:
            yield None
        for event in found:
            after = event.id
            yield event
            if event.name == "done":
                return
