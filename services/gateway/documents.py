"""The Job document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import lantern
from services.record import Job

ACTIONS = ("events", "result", "previews", "cancel", "pause", "resume", "deliveries")


def document(job: Job) -> dict[str, Any]:
    """Return the Job document."""
    base = f"/v1/jobs/{job.id}"
    facts = (job.result or {}).get("facts", {})
    return {
        "id": job.id,
        "technique": job.call["technique"],
        "status": job.status,
        "priority": job.chosen.priority,
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "expires_at": moment(job.expires_at),
        "deadline_at": moment(job.deadline_at),
        "attempts": job.attempts,
        "estimate": job.estimate,
        "progress": job.progress,
        "params": job.call["params"],
        "model": job.call["model"],
        "seed": job.call["seed"],
        "versions": facts.get("versions", {"lantern": lantern.__version__}),
        "preview": None if job.preview_step is None else preview(job.id, job.preview_step),
        "result": result_document(job),
        "error": job.error,
        "links": {"self": base} | {action: f"{base}/{action}" for action in ACTIONS},
    }


def preview(job_id: str, step: int) -> dict[str, Any]:
    """Say where the preview of a step is."""
    return {"step": step, "url": f"/v1/jobs/{job_id}/previews/{step}"}


def result_document(job: Job) -> dict[str, Any] | None:
    """Return the Result document of a finished job, artifacts as URLs."""
    if job.result is None:
        return None
    artifacts = [
        {
            "name": artifact["name"],
            "kind": artifact["kind"],
            "media_type": artifact["media_types"][0],
            "url": f"/v1/jobs/{job.id}/artifacts/{artifact['name']}",
        }
        for artifact in job.result["artifacts"]
    ]
    kept = {name: job.result[name] for name in ("technique", "params", "seed", "facts")}
    return kept | {"artifacts": artifacts}


def moment(seconds: float | None) -> str | None:
    """Write a time as RFC 3339."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
