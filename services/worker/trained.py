"""The decoder a job may use: the one it was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.job_bytes import DECODER
from services.record import Job
from services.worker.desk import Desk
from services.worker.patience import patiently

if TYPE_CHECKING:
    from lantern.decoders.library import Decoders


def decoders_of(at: Desk, job: Job) -> Decoders:
    """Return the decoder a job was made with, a copy of its own, under the name it was given."""
    from lantern.decoders.library import Decoders

    name = job.call["params"].get("decoder")
    return Decoders({name: lambda: _read(at, job)} if name is not None else {})


def _read(at: Desk, job: Job) -> bytes:
    from lantern.decoders.decoder import POINTER
    from lantern.errors import MissingInput

    data = patiently(lambda: at.stores.blobs.read(job.id, DECODER))
    if data is None:
        raise MissingInput(
            "the decoder has expired since the job was made; run the technique again",
            pointer=POINTER,
            code="missing-decoder",
        )
    return data
