"""What belongs to one job in the blob store, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from services.record import Job

if TYPE_CHECKING:
    from services.clients import Stores

ARRAYS = "arrays.npz"


def input_name(slot: str) -> str:
    """Name the picture in an input slot."""
    return f"input-{slot}"


def preview_name(step: int) -> str:
    """Name the preview of a step."""
    return f"preview-{step}"


def names(job: Job, previews: Iterable[int] = ()) -> list[str]:
    """Return the names of all that is kept for a job."""
    return [
        *(input_name(slot) for slot in job.call["inputs"]),
        *(preview_name(step) for step in previews),
        *filter(None, [job.checkpoint]),
        *result_names(job),
    ]


def tidy_up(stores: Stores, job_id: str, *, preview_ttl_s: int) -> None:
    """Delete what an ended job needed; let its previews end a while after it."""
    job = stores.jobs.get(job_id)
    if job is not None:
        needed = [input_name(slot) for slot in job.call["inputs"]]
        stores.blobs.delete(job_id, *needed, *filter(None, [job.checkpoint]))
        previews = [preview_name(step) for step in stores.jobs.previews(job_id)]
        stores.blobs.expire(job_id, previews, preview_ttl_s)
    stores.jobs.tidied(job_id)


def result_names(job: Job) -> list[str]:
    """Return the names of what the job made."""
    result: dict[str, Any] = dict(job.result or {})
    arrays = [result["arrays"]] if result.get("arrays") else []
    return [artifact["blob"] for artifact in result.get("artifacts", ())] + arrays
