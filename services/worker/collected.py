"""The collections a job may read: the built-in ones, and the one it was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.collection_record import Manifest
from services.job_bytes import COLLECTION
from services.record import Job
from services.worker.desk import Desk
from services.worker.patience import patiently

if TYPE_CHECKING:
    from lantern.collections.collection import Collection
    from lantern.collections.library import Collections


def collections_of(at: Desk, job: Job) -> Collections:
    """Return the collections of a job.

    What it was made with is read as it was then, whatever came since; a picture that was deleted
    since is an error when the technique comes to it.
    """
    from lantern.collections.library import BUILT_IN, Collections

    name = job.call["params"].get("collection")
    if name is None or name in BUILT_IN:
        return Collections()
    return Collections({name: lambda: _open(at, job, name)})


def _open(at: Desk, job: Job, name: str) -> Collection:
    from lantern.collections.collection import POINTER, Collection
    from lantern.errors import MissingInput

    def missing(what: str) -> MissingInput:
        return MissingInput(
            f"{what} was deleted or has expired since the job was made; upload it again, or run "
            "the technique on what there is now",
            pointer=POINTER,
            code="missing-picture",
        )

    data = patiently(lambda: at.stores.blobs.read(job.id, COLLECTION))
    if data is None:
        raise missing(f"the collection {name}")
    manifest = Manifest.unpack(data)
    pictures = {picture.name: picture for picture in manifest.pictures}

    def read(picture: str) -> bytes:
        data = patiently(lambda: at.stores.collections.read(manifest.id, pictures[picture]))
        if data is None:
            raise missing(f"the picture {picture} of the collection {manifest.name}")
        return data

    return Collection(manifest.name, pictures, read, digest=manifest.digest)
