"""What belongs to one job in the blob store, by name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from services.record import Job

if TYPE_CHECKING:
    from services.clients import Stores

ARRAYS = "arrays.npz"
# the manifest of the collection a job was made with
COLLECTION = "collection"
# a copy of the decoder a job was made with
DECODER = "decoder"


def input_name(slot: str) -> str:
    """Name the picture in an input slot."""
    return f"input-{slot}"


def preview_name(step: int, fence: int) -> str:
    """Name the preview of a step: a worker that was taken over writes beside what is shown."""
    return f"preview-{fence}-{step}"


def preview_step(name: str) -> int:
    """Return the step whose preview has a name."""
    return int(name.rpartition("-")[2])


def delete(stores: Stores, job: Job) -> None:
    """Delete all that is kept for a job, also what its record does not tell of."""
    names = {*needed_names(job), *result_names(job.result), *stores.blobs.names(job.id)}
    previews = itertools.starmap(preview_name, stores.jobs.shown(job.id))
    stores.blobs.delete(job.id, *names, *previews)


def needed_names(job: Job) -> list[str]:
    """Return the names of what a job needs until its end."""
    return [*given_names(job.call), *filter(None, [job.checkpoint])]


def given_names(call: Mapping[str, Any]) -> list[str]:
    """Return the names of what a caller gave a job."""
    params = call.get("params", {})
    collection = [COLLECTION] if "collection" in params else []
    decoder = [DECODER] if params.get("decoder") is not None else []
    return [*map(input_name, call["inputs"]), *collection, *decoder]


def tidy_up(stores: Stores, job_id: str, *, preview_ttl_s: int) -> None:
    """Delete what an ended job needed and what nobody was told of, as of workers that were killed.

    Its previews end a while after it.
    """
    job = stores.jobs.get(job_id)
    needed = needed_names(job) if job else []
    results = result_names(job.result) if job else []
    previews = [*itertools.starmap(preview_name, stores.jobs.shown(job_id))]
    found = {*needed, *stores.blobs.names(job_id)}
    stores.blobs.delete(job_id, *found.difference(results, previews))
    stores.blobs.unlist(job_id, [*results, *previews])
    stores.blobs.expire(job_id, previews, preview_ttl_s)
    stores.jobs.tidied(job_id)


def result_names(result: Mapping[str, Any] | None) -> list[str]:
    """Return the names of what a job made, from its result as the record keeps it."""
    if result is None:
        return []
    blobs = [artifact["blob"] for artifact in result["artifacts"]]
    return [*blobs, *filter(None, [result["arrays"]])]
