"""Answers that were given before, to be given again to the same call."""

from __future__ import annotations

import json
import logging

import redis

from lantern.artifact import JSON
from lantern.call import Answer
from services.blobs import Blobs, StorageFull

OWNER = "answers"
# Old answers are the first thing there is no room for.
MOST_USED = 0.5
log = logging.getLogger("lantern.gateway")


class Answers:
    """Interactive answers by the ETag of their call, kept for a time while there is room."""

    def __init__(self, blobs: Blobs, *, ttl_s: int) -> None:
        self._blobs, self._ttl_s = blobs, ttl_s

    def find(self, etag: str) -> Answer | None:
        """Return the answer given before, None where there is none or the store is away."""
        if not self._ttl_s:
            return None
        try:
            kept = self._blobs.read(OWNER, etag)
        except redis.RedisError:
            return None
        if kept is None:
            return None
        head, _, body = kept.partition(b"\n")
        media_type = head.decode()
        return Answer(_marked(body) if media_type == JSON else body, media_type, {})

    def keep(self, etag: str, answer: Answer) -> None:
        """Keep an answer; without room for it, or a store, it is computed again next time."""
        try:
            if self._ttl_s and self._blobs.used() < MOST_USED:
                kept = answer.media_type.encode() + b"\n" + answer.body
                self._blobs.put(OWNER, etag, kept, ttl_s=self._ttl_s)
        except (redis.RedisError, StorageFull) as error:
            log.info("an answer was not kept: %s", type(error).__name__)


def _marked(body: bytes) -> bytes:
    """Say in a Result document that it was not computed for this call."""
    document = json.loads(body)
    if isinstance(document, dict) and "facts" in document:
        document["facts"]["cached"] = True
    return json.dumps(document).encode()
