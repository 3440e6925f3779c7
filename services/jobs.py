"""The job record in Redis: the truth about every job; queue messages are only hints."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import redis
from redis.commands.core import Script

from services.record import HEAD_START_MS, LANES, Job, JobOptions, Lane, Status, new_id, parse
from services.together import Together

Word = Literal["ok", "lost", "late", "cancel", "pause", "release"]
Position = tuple[int, str]
"""Where a job stands in its owner's list: the millisecond it was made in, and its id."""

JOB, ALL, ACTIVE = "lantern:job:", "lantern:jobs:all:", "lantern:jobs:active:"
QUEUED, RUNNING = "lantern:jobs:queued:", "lantern:jobs:running"
CACHE, WORKERS, ENDED = "lantern:cache:", "lantern:workers:", "lantern:jobs:ended"
IDEMPOTENCY = "lantern:idempotency:"
# A job that misses its deadline still stores what it has, or waits for a worker to end it.
LATE_S = 3600
SCRIPTS = Path(__file__).parent / "scripts"
PRELUDE = "prelude"


class IdempotencyConflict(Exception):
    """The idempotency key was used before for something else."""


class QueueFull(Exception):
    """As many jobs as may wait are waiting."""


class QuotaReached(Exception):
    """The caller has as many jobs under way as one key may have."""


@dataclass(frozen=True)
class Limits:
    """How long jobs are held and kept, and how many there may be."""

    lease_s: float
    ttl_s: int
    max_attempts: int
    max_queued: int
    max_active: int
    max_age_s: int


@dataclass(frozen=True)
class Order:
    """A job to be made: `call` is kept as it is, `cache` names what it computes.

    `max_active` is how many its owner may have under way, where that is not what all may have.
    """

    call: Mapping[str, Any]
    owner: str
    lane: Lane = "jobs"
    id: str = ""
    options: Mapping[str, Any] | None = None
    webhook: Mapping[str, Any] | None = None
    cache: str = ""
    max_active: int | None = None
    estimate: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    """The result where it is known already: the job is born finished."""


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


def scripts(client: redis.Redis) -> dict[str, Script]:
    """Read every script, by name, with the prelude in front of it.

    Once and for all: files that are replaced while a process runs must not break it.
    """
    texts = {path.stem: path.read_text() for path in SCRIPTS.glob("*.lua")}
    prelude = texts.pop(PRELUDE)
    return {name: client.register_script(prelude + text) for name, text in texts.items()}


class Jobs:
    """Every job of one Redis; each change is one Lua script."""

    def __init__(self, client: redis.Redis, limits: Limits) -> None:
        self._redis, self._limits = client, limits
        self._scripts = scripts(client)
        self._lease_ms = int(limits.lease_s * 1000)
        self._ttl_s = limits.ttl_s
        self._readings = Together[list[Event]]()

    # --- What callers do

    def create(self, order: Order, *, key: str = "", fingerprint: str = "") -> tuple[Job, bool]:
        """Make a job; return it and whether it is new.

        With an idempotency `key`, the same `fingerprint` gets the job made the first time.

        Raises:
            IdempotencyConflict: the key stands for another payload.
            QuotaReached: the owner has too many jobs under way.
            QueueFull: too many jobs wait.
        """
        options = order.options or {}
        record = {
            "call": order.call,
            "options": options,
            "webhook": order.webhook,
            "estimate": order.estimate or None,
        }
        texts = {name: json.dumps(part) for name, part in record.items() if part is not None}
        if order.cache:
            texts["cache"] = order.cache
        if order.result is not None:
            texts["result"] = json.dumps(order.result)
        chosen = JobOptions(**options)
        seconds = min(chosen.deadline_s or self._limits.max_age_s, self._limits.max_age_s)
        status = "queued" if order.result is None else "succeeded"
        outcome, known = self._call(
            "create", order.id or new_id(), order.owner, order.lane, HEAD_START_MS[chosen.priority],
            key, fingerprint, self._ttl_s, order.max_active or self._limits.max_active,
            self._limits.max_queued, int(seconds * 1000), json.dumps(texts), status,
            self._limits.max_age_s + self._ttl_s + LATE_S,
        )  # fmt: skip
        if outcome == b"conflict":
            raise IdempotencyConflict
        if outcome == b"quota":
            most = order.max_active or self._limits.max_active
            raise QuotaReached(f"this key may have {most} jobs under way; wait for some to end")
        if outcome == b"full":
            most = self._limits.max_queued
            raise QueueFull(f"{most} jobs may wait at a time, and do; try again later")
        job = self.get(known.decode())
        if job is None:  # the first one was deleted in between
            return self.create(order, key=key, fingerprint=fingerprint)
        # a call whose answer was lost is sent again, and finds the job it has made
        return job, outcome == b"created" or job.id == order.id

    def replayed(self, key: str, fingerprint: str) -> Job | None:
        """Return the job that was made with an idempotency key, None where there is none.

        Raises:
            IdempotencyConflict: the key stands for another payload.
        """
        known = cast(bytes | None, self._redis.get(IDEMPOTENCY + key))
        before, _, job_id = (known or b"").decode().partition(" ")
        if known and before != fingerprint:
            raise IdempotencyConflict
        return self.get(job_id) if known else None

    def get(self, job_id: str) -> Job | None:
        """Return a job, or None where there is none or it has expired."""
        fields = cast(dict[bytes, bytes], self._redis.hgetall(JOB + job_id))
        return parse(fields) if fields else None

    def owner_of_ended(self, job_id: str) -> str | None:
        """Return whose a job was, known for as long again as its record; None where none ended."""
        name = cast(bytes | None, self._redis.get(JOB + job_id + ":owner"))
        return name.decode() if name else None

    def get_all(self, job_ids: list[str]) -> list[Job]:
        """Return those of the jobs that are still there, in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hgetall(JOB + job_id)
        return [parse(fields) for fields in pipe.execute() if fields]

    def newest(self, owner: str, limit: int, after: Position | None = None) -> list[Position]:
        """Return the positions of up to `limit` jobs of an owner, newest first, behind `after`.

        A job may have expired while its position is still there.
        """
        index, top, skip = ALL + owner, "+inf", 0
        if after is not None:
            # of one millisecond there may be several, in the order of their ids
            top = str(after[0])
            peers = cast(list[bytes], self._redis.zrangebyscore(index, top, top))
            skip = sum(name.decode() >= after[1] for name in peers)
        rows = cast(
            list[tuple[bytes, float]],
            self._redis.zrevrangebyscore(index, top, "-inf", skip, limit, withscores=True),
        )
        return [(int(score), name.decode()) for name, score in rows]

    def known(self, cache: str) -> Job | None:
        """Return the finished job that has computed this, None where there is none."""
        job_id = cast(bytes | None, self._redis.get(CACHE + cache))
        return self.get(job_id.decode()) if job_id else None

    def cancel(self, job_id: str) -> Status | None:
        """Ask for the job to end; return the status it has now, None where there is none."""
        return self._status(self._call("cancel", job_id, self._ttl_s))

    def pause(self, job_id: str) -> Status | None:
        """Ask for the job to be put down; return the status it has now, None where none is."""
        return self._status(self._call("pause", job_id))

    def resume(self, job_id: str) -> Status | None:
        """Let a paused job go on; return the status it has now, None where there is none."""
        return self._status(self._call("resume", job_id))

    def delete(self, job: Job) -> None:
        """Forget a job and its events."""
        self._call("delete", job.id)

    def previews(self, job_id: str) -> list[int]:
        """Return the steps there are previews of, first to last."""
        return sorted({step for step, _ in self.shown(job_id)})

    def shown(self, job_id: str) -> list[tuple[int, int]]:
        """Return all previews, each as its step and its worker's fence; the last of a step counts.

        A worker that takes a job over may come to steps again that the one before it has shown.
        Steps without a fence are of an earlier version; they count as of the first.
        """
        marks = cast(list[bytes], self._redis.zrange(JOB + job_id + ":previews", 0, -1))
        parted = (mark.decode().rpartition("-") for mark in marks)
        return sorted((int(step), int(fence or 0)) for fence, _, step in parted)

    # --- What workers do

    def claim(self, lane: Lane, worker: str) -> Claim | None:
        """Take the first job that waits in a lane; None where none does.

        `worker` is `<node>:<pid>` of the process that is going to run it.
        """
        taken = self._call("claim", lane, worker, self._lease_ms, self._ttl_s)
        return Claim(taken[0].decode(), int(taken[1])) if taken else None

    def beat(
        self,
        claim: Claim,
        *,
        progress: Mapping[str, Any] | None = None,
        preview: int | None = None,
        checkpoint: str = "",
    ) -> Word:
        """Renew the lease, record progress and where the state is kept; learn whether to go on."""
        word = self._call(
            "beat", claim.job_id, claim.fence, self._lease_ms,
            json.dumps(dict(progress)) if progress else "",
            "" if preview is None else preview, checkpoint,
        )  # fmt: skip
        return cast(Word, word.decode())

    def suspend(self, claim: Claim) -> Status | None:
        """Put the job down: for another worker, or as its caller wishes by now.

        Return the status it has now, None where another worker has taken over meanwhile.
        """
        return self._status(self._call("suspend", claim.job_id, claim.fence, self._ttl_s))

    def finish(
        self,
        claim: Claim,
        status: Status,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        token: str = "",
    ) -> bool:
        """Make the state final; False where another worker has taken over meanwhile.

        With the same `token` it can be asked again where the answer was lost.
        """
        texts = [json.dumps(dict(part)) if part else "" for part in (result, error)]
        token = token or secrets.token_hex(8)
        size = (result or {}).get("bytes", 0)
        arguments = (claim.job_id, claim.fence, status, *texts, self._ttl_s, token, size)
        return bool(self._call("finish", *arguments))

    def release(self, node: str) -> None:
        """Ask the processes of a worker that is to stop to put their jobs down."""
        self._call("release", node)

    def held(self) -> list[tuple[str, str]]:
        """Return the running jobs, each with the worker process that holds it."""
        job_ids = [name.decode() for name in cast(list[bytes], self._redis.zrange(RUNNING, 0, -1))]
        pipe = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hget(JOB + job_id, "worker")
        workers = pipe.execute() if job_ids else []
        return [(i, w.decode()) for i, w in zip(job_ids, workers, strict=True) if w]

    def abandon(self, job_id: str, worker: str) -> bool:
        """End the lease of a dead process; False where it does not hold the job any more."""
        return bool(self._call("abandon", job_id, worker))

    def reap(self) -> dict[Lane, int]:
        """Requeue jobs of silent workers, end late ones; return how many wait in each lane."""
        found = self._call("reap", self._limits.max_attempts, self._lease_ms, self._ttl_s)
        return {
            cast(Lane, lane.decode()): int(count)
            for lane, count in zip(found[::2], found[1::2], strict=True)
        }

    def ended(self, limit: int = 500) -> list[str]:
        """Return jobs that have ended and that nobody has tidied up behind."""
        return [
            name.decode() for name in cast(list[bytes], self._redis.zrange(ENDED, 0, limit - 1))
        ]

    def tidied(self, job_id: str) -> None:
        """Note that nothing is left behind but what the job made."""
        self._redis.zrem(ENDED, job_id)

    # --- Events

    def events(self, job_id: str, after: str, wait_s: float) -> list[Event]:
        """Return the events behind position `after`, waiting up to `wait_s` for the first.

        Threads that wait at the same position read once: ninety streams of a job take the time of
        one.
        """
        return self._readings.ask(
            (job_id, after, wait_s), lambda: self._events(job_id, after, wait_s)
        )

    def _events(self, job_id: str, after: str, wait_s: float) -> list[Event]:
        stream = JOB + job_id + ":events"
        block = max(1, int(wait_s * 1000))
        found = cast(Any, self._redis.xread({stream: after}, count=100, block=block))
        entries = found[0][1] if found else []
        return [
            Event(name.decode(), fields[b"event"].decode(), json.loads(fields[b"data"]))
            for name, fields in entries
        ]

    def first_event(self, job_id: str) -> str:
        """Return the position of the oldest event that is kept, "" where there is none."""
        found = cast(Any, self._redis.xrange(JOB + job_id + ":events", count=1))
        return found[0][0].decode() if found else ""

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

    # --- How things stand

    def counts(self) -> dict[str, int]:
        """Return how many jobs wait and run."""
        queued = [self._redis.zcard(QUEUED + lane) for lane in LANES]
        return {"queued": sum(queued), "running": self._redis.zcard(RUNNING)}

    def greet(self, lane: str, worker: str, *, ttl_s: float) -> None:
        """Note that a worker lives."""
        now = self._now()
        self._redis.zadd(WORKERS + lane, {worker: now + ttl_s})
        self._redis.zremrangebyscore(WORKERS + lane, "-inf", now)

    def workers(self, lane: str) -> int:
        """Count the workers of a lane that gave a sign of life lately."""
        return self._redis.zcount(WORKERS + lane, self._now(), "+inf")

    def _now(self) -> float:
        """Return Redis's time: the clocks of two machines differ."""
        seconds, microseconds = self._redis.time()
        return float(seconds) + microseconds / 1e6

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._scripts[name](args=arguments)

    @staticmethod
    def _status(answer: bytes) -> Status | None:
        return cast(Status, answer.decode()) if answer else None
