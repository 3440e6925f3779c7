"""Collections of callers: records in the state Redis, manifests and pictures among the bytes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

import redis

from lantern.collections.digest import digest_of
from services.blobs import Blobs
from services.collection_record import (
    COLLECTION_ID,
    CollectionRecord,
    Manifest,
    Picture,
    by_name,
    new_collection_id,
    parse_collection,
)
from services.jobs import scripts

COLLECTION, COLLECTIONS = "lantern:collection:", "lantern:collections:"
# Bytes outlive the record that names them, and those of an upload that never ended do not.
SLACK_S = 3600
UPLOAD_S = 3600
MOST_TRIES = 100

Pictures = dict[str, Picture]


class NameTaken(Exception):
    """The caller has a collection of that name."""


class TooManyCollections(Exception):
    """The caller has as many collections as one may have."""


class CollectionBusy(Exception):
    """Too many others change the collection at the same time."""


class CollectionFull(Exception):
    """It would get too many pictures or bytes; the message says how many it may have."""


class CollectionGone(Exception):
    """The collection was deleted or has expired, or its bytes are lost."""


@dataclass(frozen=True)
class CollectionLimits:
    """How long collections are kept and how large they may be."""

    ttl_s: int
    max_collections: int
    max_pictures: int
    max_bytes: int


class CollectionStore:
    """The collections of all callers.

    Pictures lie under names that are never used again, the manifest lists those that count, the
    record names the manifest: a change writes new bytes, then turns the record to them in one step.
    What loses the race, and what was replaced, is deleted by whoever wrote or replaced it.
    """

    def __init__(self, client: redis.Redis, blobs: Blobs, limits: CollectionLimits) -> None:
        self._redis, self._blobs, self.limits = client, blobs, limits
        self._scripts = scripts(client)

    def create(self, owner: str, name: str) -> CollectionRecord:
        """Make an empty collection.

        Raises:
            NameTaken: the owner has one of that name.
            TooManyCollections: the owner may have no more.
        """
        made, limits = new_collection_id(), self.limits
        outcome = self._call(
            "create", made, owner, name, digest_of(()), limits.ttl_s, limits.max_collections
        )
        if outcome == b"taken":
            raise NameTaken
        if outcome == b"quota":
            most = limits.max_collections
            raise TooManyCollections(f"you may have {most} collections; delete one first")
        record = self._get(made)
        if record is None:
            raise CollectionGone
        return record

    def find(self, owner: str, key: str) -> CollectionRecord | None:
        """Return an owner's collection by its id or name, None where there is none."""
        name = key
        if not COLLECTION_ID.fullmatch(key):
            found = cast(bytes | None, self._redis.hget(COLLECTIONS + owner, key))
            name = found.decode() if found else ""
        record = self._get(name) if name else None
        return record if record is not None and record.owner == owner else None

    def every(self, owner: str) -> list[CollectionRecord]:
        """Return all collections of an owner, by name."""
        ids = cast(dict[bytes, bytes], self._redis.hgetall(COLLECTIONS + owner)).values()
        pipe = self._redis.pipeline(transaction=False)
        for name in ids:
            pipe.hgetall(COLLECTION + name.decode())
        records = [parse_collection(fields) for fields in pipe.execute() if fields]
        return sorted(records, key=lambda record: record.name)

    def manifest(self, record: CollectionRecord) -> Manifest:
        """Return the pictures of a collection, as its record told of them or newer.

        Raises:
            CollectionGone: it is not there any more, or its bytes are lost.
        """
        for _ in range(MOST_TRIES):
            data = self._blobs.read(record.id, record.manifest) if record.manifest else b""
            if data is not None:
                pictures = Manifest.unpack(data).pictures if data else ()
                return Manifest(record.id, record.name, record.digest, pictures)
            newer = self._get(record.id)
            if newer is None or newer.manifest == record.manifest:
                break
            record = newer
        raise CollectionGone

    def read(self, collection_id: str, picture: Picture) -> bytes | None:
        """Return the bytes of a picture, None where they are gone."""
        return self._blobs.read(collection_id, picture.blob)

    def renew(self, manifest: Manifest) -> None:
        """Note that a collection was used: it is kept for its whole time from now on."""
        record = self._get(manifest.id)
        # a use soon after another changes nothing, and there may be thousands of pictures
        aged_s = 0.0 if record is None else time.time() + self.limits.ttl_s - record.expires_at
        if record is not None and aged_s > min(SLACK_S, self.limits.ttl_s) / 2:
            self._keep(record.id, record.manifest, *(one.blob for one in manifest.pictures))
            self._call("renew", record.id, self.limits.ttl_s)

    def remove(self, record: CollectionRecord, name: str) -> bool:
        """Take a picture out of a collection; False where it has none of that name.

        Raises:
            CollectionGone: the collection is not there any more.
        """
        removed: list[Picture] = []

        def edit(pictures: Pictures) -> None:
            removed[:] = [pictures.pop(name)] if name in pictures else []

        self.change(record.id, edit)
        return bool(removed)

    def delete(self, record: CollectionRecord) -> bool:
        """Forget a collection and its pictures; False where it was gone."""
        manifest = cast(bytes | None, self._call("delete", record.id))
        names = [manifest.decode() if manifest is not None else record.manifest]
        data = self._blobs.read(record.id, names[0]) if names[0] else None
        if data is not None:
            names += [picture.blob for picture in Manifest.unpack(data).pictures]
        self._blobs.delete(record.id, *filter(None, names))
        return manifest is not None

    def put(self, collection_id: str, blob: str, data: bytes) -> None:
        """Store the bytes of a picture that a change is going to add.

        Raises:
            StorageFull: there is no room.
        """
        self._blobs.put(collection_id, blob, data, ttl_s=UPLOAD_S, in_file=True)

    def drop(self, collection_id: str, blobs: list[str]) -> None:
        """Delete bytes that no manifest lists."""
        self._blobs.delete(collection_id, *blobs)

    def change(self, collection_id: str, edit: Callable[[Pictures], None]) -> CollectionRecord:
        """Change the pictures of a collection, whatever others do to it at the same time.

        `edit` changes a dictionary of pictures by name; it may be asked several times. Bytes of
        pictures it leaves out are deleted.

        Raises:
            CollectionFull: there would be too many pictures, or too many bytes.
            CollectionGone: the collection is not there any more.
            CollectionBusy: others were faster every time.
            StorageFull: there is no room.
        """
        for _ in range(MOST_TRIES):
            record = self._get(collection_id)
            if record is None:
                raise CollectionGone
            before = self.manifest(record).pictures
            after = by_name(before)
            edit(after)
            self.check_room(after.values())
            if self._turn(record, by_name(after.values())):
                kept = {picture.blob for picture in after.values()}
                gone = [picture.blob for picture in before if picture.blob not in kept]
                self.drop(collection_id, [*filter(None, [record.manifest]), *gone])
                return self._get(collection_id) or record
        raise CollectionBusy

    def _turn(self, record: CollectionRecord, pictures: Pictures) -> bool:
        """Turn a record to other pictures; False where it has changed meanwhile."""
        digest = digest_of((one.name, one.sha256) for one in pictures.values())
        manifest = Manifest(record.id, record.name, digest, tuple(pictures.values()))
        name, size = "manifest-" + secrets.token_hex(8), sum(p.size for p in pictures.values())
        ttl_s = self.limits.ttl_s
        self._blobs.put(record.id, name, manifest.pack(), ttl_s=ttl_s + SLACK_S, in_file=True)
        self._keep(record.id, *(picture.blob for picture in pictures.values()))
        outcome = self._call(
            "change", record.id, record.manifest, name, digest, len(pictures), size, ttl_s
        )
        if outcome != b"ok":
            self.drop(record.id, [name])
        return bool(outcome == b"ok")

    def check_room(self, pictures: Collection[Picture]) -> None:
        """Check that a collection may have these pictures.

        Raises:
            CollectionFull: they are too many, or have too many bytes.
        """
        limits, size = self.limits, sum(picture.size for picture in pictures)
        if len(pictures) > limits.max_pictures or size > limits.max_bytes:
            raise CollectionFull(
                f"there would be {len(pictures)} pictures of {size} bytes; a collection may have "
                f"{limits.max_pictures} of {limits.max_bytes} bytes: leave some out, or begin "
                "another collection"
            )

    def _keep(self, collection_id: str, *blobs: str) -> None:
        self._blobs.expire(collection_id, filter(None, blobs), self.limits.ttl_s + SLACK_S)

    def _get(self, collection_id: str) -> CollectionRecord | None:
        fields = cast(dict[bytes, bytes], self._redis.hgetall(COLLECTION + collection_id))
        return parse_collection(fields) if fields else None

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._scripts[f"collection_{name}"](args=arguments)
