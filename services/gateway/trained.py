"""The decoder a call names: what a job of the same caller has trained."""

from __future__ import annotations

from dataclasses import dataclass

from lantern.call import Call
from lantern.decoders.decoder import POINTER
from lantern.decoders.library import unknown
from lantern.errors import InvalidParameter
from lantern.registry import Technique
from services.gateway.context import current
from services.gateway.guard import owner
from services.gateway.jobs import JOB_ID

TRAINER, ARTIFACT = "train-decoder", "decoder"


@dataclass(frozen=True)
class Trained:
    """A decoder's bytes: the job they belong to, and their name there."""

    job_id: str
    blob: str


def find_trained(technique: Technique, call: Call) -> Trained | None:
    """Find the decoder of a call; None where it names none.

    Raises:
        UnknownName: the caller has no such job, or it made no decoder or not yet.
        InvalidParameter: it was trained on another network.
    """
    name = call.params.get("decoder") if technique.takes_decoder else None
    if name is None:
        return None
    job = current().stores.jobs.get(name) if JOB_ID.fullmatch(name) else None
    if job is None or job.owner != owner() or job.call["technique"] != TRAINER:
        raise unknown()
    made = job.result["artifacts"] if job.status == "succeeded" and job.result else ()
    blobs = [artifact["blob"] for artifact in made if artifact["name"] == ARTIFACT]
    if not blobs:
        raise InvalidParameter(
            f"the job that trains this decoder is {job.status}; name one that has succeeded",
            pointer=POINTER, code="unfinished-decoder",
        )  # fmt: skip
    if job.call["model"] != call.model:
        raise InvalidParameter(
            f"the decoder was trained on the network {job.call['model']}, not on {call.model}; "
            "name that network, or another decoder",
            pointer=POINTER, code="unfit-decoder",
        )  # fmt: skip
    return Trained(name, blobs[0])
