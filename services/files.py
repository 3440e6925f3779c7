"""Uploads: pictures sent once and used in many calls, named by their content."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass

from services.blobs import Blobs
from services.kept import Kept

FILE_ID = re.compile(r"file_[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """A stored picture; `expires_at` is seconds since 1970."""

    id: str
    media_type: str
    size: int
    width: int
    height: int
    expires_at: float


class Files:
    """Uploads by caller and content: the same bytes have the same id and are stored once."""

    def __init__(self, blobs: Blobs, kept: Kept, *, ttl_s: int) -> None:
        self._blobs, self._kept, self._ttl_s = blobs, kept, ttl_s

    def put(self, owner: str, data: bytes, media_type: str, *, width: int, height: int) -> File:
        """Store a picture, or renew its time where it is stored already.

        Raises:
            StorageFull: there is no room.
            TooMuchKept: the caller has too much kept already.
        """
        name = "file_" + hashlib.sha256(data).hexdigest()
        expires = round(time.time() + self._ttl_s, 3)
        file = File(name, media_type, len(data), width, height, expires)
        facts = json.dumps(asdict(file)).encode()
        with self._kept.taking(owner, name, len(data)):
            self._blobs.put(_folder(owner), name, data, ttl_s=self._ttl_s)
            self._blobs.put(_folder(owner), name + ".facts", facts, ttl_s=self._ttl_s)
        return file

    def facts(self, owner: str, name: str) -> File | None:
        """Return what is known of a picture, None where there is none."""
        if not FILE_ID.fullmatch(name):
            return None
        facts = self._blobs.read(_folder(owner), name + ".facts")
        return File(**json.loads(facts)) if facts else None

    def read(self, owner: str, name: str) -> bytes | None:
        """Return the bytes, None where there are none."""
        return self._blobs.read(_folder(owner), name) if FILE_ID.fullmatch(name) else None

    def delete(self, owner: str, name: str) -> bool:
        """Forget a picture; False where there was none. Jobs have a copy of their own."""
        if not FILE_ID.fullmatch(name):
            return False
        was_there = self._blobs.delete(_folder(owner), name, name + ".facts")
        self._kept.forget(owner, name)
        return was_there


def _folder(owner: str) -> str:
    return f"uploads-{owner}"
