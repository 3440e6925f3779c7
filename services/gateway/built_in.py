"""The built-in collections as the others are shown: a record, and a manifest of pictures."""

from __future__ import annotations

import functools
import hashlib

from lantern.collections.library import BUILT_IN
from lantern.image import Image
from services.collection_record import CollectionRecord, Manifest, Picture

# whose they are
NOBODYS = ""


@functools.cache
def manifest_of(name: str) -> Manifest:
    """List the pictures of a built-in collection."""
    collection = BUILT_IN[name]()
    pictures = []
    for entry in collection:
        data = entry.read()
        header = Image.probe(data)
        pictures.append(
            Picture(
                name=entry.name,
                sha256=hashlib.sha256(data).hexdigest(),
                media_type=header.media_type,
                width=header.width,
                height=header.height,
                size=len(data),
                blob=entry.name,
            )
        )
    return Manifest(name, name, collection.digest, tuple(pictures))


def record_of(name: str) -> CollectionRecord:
    """Return a built-in collection as a record; its times mean nothing."""
    manifest = manifest_of(name)
    return CollectionRecord(
        id=name,
        owner=NOBODYS,
        name=name,
        created_at=0.0,
        expires_at=0.0,
        count=len(manifest.pictures),
        size=sum(picture.size for picture in manifest.pictures),
        digest=manifest.digest,
        manifest="",
    )


def read(name: str, picture: Picture) -> bytes:
    """Return the bytes of a picture."""
    collection = BUILT_IN[name]()
    return collection.entry(collection.names.index(picture.name)).read()
