"""The collection a call names, as it is when the call comes."""

from __future__ import annotations

from dataclasses import dataclass

from lantern.call import Call
from lantern.collections.collection import POINTER
from lantern.collections.library import BUILT_IN, Collections, empty
from lantern.errors import one_of
from lantern.registry import Technique
from services.collection_record import Manifest
from services.gateway.context import current
from services.gateway.guard import owner


@dataclass(frozen=True)
class Pinned:
    """A collection at one time; built-in ones, which never change, have no manifest."""

    digest: str
    manifest: Manifest | None = None


def pin(technique: Technique, call: Call) -> Pinned | None:
    """Find the collection of a call and note that it is used; None where it names none.

    Raises:
        UnknownName: the caller has none of that name.
        InvalidParameter: it is empty.
    """
    if not technique.takes_collection:
        return None
    name = str(call.params["collection"])
    if name in BUILT_IN:
        return Pinned(Collections().find(name).digest)
    collections = current().stores.collections
    record = collections.find(owner(), name)
    if record is None:
        own = (one.name for one in collections.every(owner()))
        raise one_of("collection", name, [*BUILT_IN, *own], pointer=POINTER)
    manifest = collections.manifest(record)
    if not manifest.pictures:
        raise empty()
    collections.renew(manifest)
    return Pinned(manifest.digest, manifest)
