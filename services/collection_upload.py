"""Pictures on their way into a collection."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import redis

from services.blobs import FilesAway, StorageFull, is_full
from services.collection_record import CollectionRecord, Picture
from services.collection_store import CollectionFull, CollectionGone, CollectionStore, Pictures


@dataclass(frozen=True)
class Uploaded:
    """What came of an upload: how many pictures are new, took another's place, were there."""

    record: CollectionRecord
    added: int
    replaced: int
    unchanged: int


class Upload:
    """Brings pictures into a collection in one step, or none of them.

    In a `with` block: what was not committed at its end is deleted.
    """

    def __init__(self, store: CollectionStore, collection_id: str) -> None:
        self._store, self._id = store, collection_id
        self._prefix = secrets.token_hex(8)
        self._pictures: Pictures = {}
        self._unused: list[str] = []

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exception: object) -> None:
        self._store.drop(self._id, self._unused)

    @property
    def count(self) -> int:
        """How many pictures have come."""
        return len(self._pictures)

    def has(self, name: str) -> bool:
        """Tell whether a picture of this name has come already."""
        return name in self._pictures

    def put(self, name: str, data: bytes, *, media_type: str, width: int, height: int) -> None:
        """Store a picture.

        Raises:
            CollectionFull: these pictures alone are more than a collection may have.
            StorageFull: there is no room.
            FilesAway: the file store fails.
        """
        blob = f"{self._prefix}-{len(self._pictures)}"
        sha256 = hashlib.sha256(data).hexdigest()
        picture = Picture(name, sha256, media_type, width, height, len(data), blob)
        self._store.check_room([*self._pictures.values(), picture])
        self._unused.append(blob)
        self._store.put(self._id, blob, data)
        self._pictures[name] = picture

    def commit(self) -> Uploaded:
        """Let the collection have the pictures; one of the same name is replaced.

        Raises:
            CollectionFull, CollectionGone, CollectionBusy, StorageFull, FilesAway: it got none.
        """
        before: Pictures = {}

        def edit(pictures: Pictures) -> None:
            before.clear()
            before.update(pictures)
            pictures.update({name: self._pictures[name] for name in self._other_than(before)})

        blobs, self._unused = self._unused, []
        try:
            record = self._store.change(self._id, edit)
        except redis.RedisError as error:
            # otherwise it may have been done, only the answer was lost
            self._unused = blobs if is_full(error) else []
            raise
        except (CollectionFull, CollectionGone, StorageFull, FilesAway):
            self._unused = blobs
            raise
        taken = self._other_than(before)
        self._unused = [p.blob for name, p in self._pictures.items() if name not in taken]
        replaced = sum(name in before for name in taken)
        unchanged = len(self._pictures) - len(taken)
        return Uploaded(record, len(taken) - replaced, replaced, unchanged)

    def _other_than(self, known: Pictures) -> list[str]:
        """Return the names under which there is not the same picture already."""
        return [
            name
            for name, picture in self._pictures.items()
            if name not in known or known[name].sha256 != picture.sha256
        ]
