"""The record of a job as it is read from Redis."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import Field

from lantern.params import Params

Status = Literal["queued", "running", "paused", "succeeded", "failed", "canceled", "expired"]
Lane = Literal["fast", "jobs"]
Priority = Literal["low", "normal", "high"]
LIVE: tuple[Status, ...] = ("queued", "running", "paused")
FINAL: tuple[Status, ...] = ("succeeded", "failed", "canceled", "expired")
LANES: tuple[Lane, ...] = ("fast", "jobs")
LONGEST_DEADLINE_S = 7 * 24 * 3600
# An urgent job goes ahead of what came up to an hour before it, so that nothing waits for ever.
HEAD_START_MS: Mapping[Priority, int] = {"low": -3_600_000, "normal": 0, "high": 3_600_000}


class JobOptions(Params):
    """How a call is run as a job; a call that is answered at once has no use for them."""

    priority: Priority = Field(
        "normal", description="which job goes first; an hour's wait counts as much as one rank"
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        le=LONGEST_DEADLINE_S,
        description="seconds after which the job's result is of no use any more",
        json_schema_extra={"unit": "s"},
    )
    preview_every_s: float = Field(
        2.0,
        ge=0.5,
        le=600,
        description="seconds between two previews of a job; long jobs make fewer",
        json_schema_extra={"unit": "s"},
    )
    preview_size: int = Field(
        320,
        ge=32,
        le=1024,
        description="longest side of a job's previews",
        json_schema_extra={"unit": "px"},
    )
    webhook_url: str | None = Field(
        None, max_length=2048, description="https address that is told of the job's end"
    )
    webhook_secret: str | None = Field(
        None, max_length=120, description="whsec_ and base64; signs what the webhook is told"
    )


@dataclass(frozen=True)
class Job:
    """One job as it stands; times are seconds since 1970, None where not yet reached."""

    id: str
    owner: str
    lane: Lane
    status: Status
    call: Mapping[str, Any]
    created_at: float
    options: Mapping[str, Any] = field(default_factory=dict)
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    deadline_at: float | None = None
    cache: str = ""
    """The name of what it computes; "" where it has none."""
    attempts: int = 0
    progress: Mapping[str, Any] | None = None
    preview_step: int | None = None
    checkpoint: str | None = None
    webhook: Mapping[str, Any] | None = None
    estimate: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def chosen(self) -> JobOptions:
        """The options, with the defaults of those that were not given."""
        return JobOptions(**self.options)

    @property
    def is_final(self) -> bool:
        """Whether nothing about it will change."""
        return self.status in FINAL


def failure(code: str, detail: str, *, retryable: bool) -> dict[str, Any]:
    """Say why a job failed, as its record keeps it."""
    title = code.replace("-", " ").capitalize()
    return {"type": f"/problems/{code}", "title": title, "detail": detail, "retryable": retryable}


def new_id() -> str:
    """Return a job id: time first, so that ids sort by age, then 80 random bits."""
    return f"job_{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


def parse(fields: Mapping[bytes, bytes]) -> Job:
    """Read a job from the fields of its hash."""

    def seconds(name: bytes) -> float | None:
        return int(fields[name]) / 1000 if name in fields else None

    def plain(name: bytes) -> Mapping[str, Any] | None:
        return json.loads(fields[name]) if name in fields else None

    def text(name: bytes) -> str:
        return fields[name].decode()

    step = fields.get(b"preview_step")
    return Job(
        id=text(b"id"),
        owner=text(b"owner"),
        lane=cast(Lane, text(b"lane")),
        status=cast(Status, text(b"status")),
        call=json.loads(fields[b"call"]),
        options=plain(b"options") or {},
        created_at=seconds(b"created_ms") or 0.0,
        started_at=seconds(b"started_ms"),
        finished_at=seconds(b"finished_ms"),
        expires_at=seconds(b"expires_ms"),
        deadline_at=seconds(b"deadline_ms"),
        cache=text(b"cache") if b"cache" in fields else "",
        attempts=int(fields[b"attempts"]),
        progress=plain(b"progress"),
        preview_step=int(step) if step else None,
        checkpoint=text(b"checkpoint") if b"checkpoint" in fields else None,
        webhook=plain(b"webhook"),
        estimate=plain(b"estimate"),
        result=plain(b"result"),
        error=plain(b"error"),
    )
