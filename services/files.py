"""Uploads, results and previews in Redis: named by their content, kept for a time."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import Any, cast

import redis

PREFIX = "lantern:file:"
FILE_ID = re.compile(r"file_[0-9a-f]{64}")


class StorageFull(Exception):
    """The store takes nothing more for now."""


@dataclass(frozen=True)
class File:
    """A stored file; `expires_at` is seconds since 1970."""

    id: str
    media_type: str
    size: int
    width: int
    height: int
    expires_at: float


class Files:
    """Bytes by content: the same bytes have the same id and are stored once."""

    def __init__(self, client: redis.Redis, *, ttl_s: int) -> None:
        self._redis, self._ttl_s = client, ttl_s

    def put(self, data: bytes, media_type: str, *, width: int = 0, height: int = 0) -> File:
        """Store bytes, or renew their time where they are stored already.

        Raises:
            StorageFull: Redis has no memory left.
        """
        name = "file_" + hashlib.sha256(data).hexdigest()
        expires = time.time() + self._ttl_s
        file = File(name, media_type, len(data), width, height, round(expires, 3))
        pipe = self._redis.pipeline()
        pipe.set(PREFIX + name, data, ex=self._ttl_s)
        pipe.hset(PREFIX + name + ":facts", mapping=_fields(file))
        pipe.expire(PREFIX + name + ":facts", self._ttl_s)
        try:
            pipe.execute()
        except (redis.exceptions.OutOfMemoryError, redis.exceptions.ResponseError) as error:
            raise StorageFull from error
        return file

    def facts(self, name: str) -> File | None:
        """Return what is known of a file, None where there is none."""
        fields = cast(dict[bytes, bytes], self._redis.hgetall(PREFIX + name + ":facts"))
        if not fields:
            return None
        return File(
            name,
            fields[b"media_type"].decode(),
            int(fields[b"size"]),
            int(fields[b"width"]),
            int(fields[b"height"]),
            float(fields[b"expires_at"]),
        )

    def read(self, name: str) -> bytes | None:
        """Return the bytes, None where there are none."""
        return cast(bytes | None, self._redis.get(PREFIX + name))

    def delete(self, name: str) -> bool:
        """Forget a file; False where there was none."""
        return bool(self._redis.delete(PREFIX + name, PREFIX + name + ":facts"))


def _fields(file: File) -> dict[Any, Any]:
    return {
        "media_type": file.media_type,
        "size": file.size,
        "width": file.width,
        "height": file.height,
        "expires_at": file.expires_at,
    }
