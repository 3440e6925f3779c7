"""Answers that were given before, to be given again to the same call."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import redis

from lantern.artifact import JSON
from lantern.call import Answer
from services.blobs import Blobs, FilesAway, StorageFull

OWNER = "answers"
# Old answers are the first thing there is no room for.
MOST_USED = 0.5
# Answers that wait for the store; one more is not kept.
MOST_WAITING = 8
log = logging.getLogger("lantern.gateway")


class Answers:
    """Interactive answers by the ETag of their call, kept for a time while there is room.

    A thread of its own stores them, so that no caller waits for it; until it has, this process
    finds them with itself.
    """

    def __init__(self, blobs: Blobs, *, ttl_s: int) -> None:
        self._blobs, self._ttl_s = blobs, ttl_s
        self._waiting: dict[str, Answer] = {}
        self._writer = ThreadPoolExecutor(max_workers=1)  # begins with the first, after the fork

    def find(self, etag: str) -> Answer | None:
        """Return the answer given before, None where there is none or the store is away."""
        if not self._ttl_s:
            return None
        waiting = self._waiting.get(etag)
        if waiting is not None:
            return _again(waiting.media_type, waiting.body)
        try:
            kept = self._blobs.read(OWNER, etag)
        except (redis.RedisError, FilesAway):
            return None
        if kept is None:
            return None
        head, _, body = kept.partition(b"\n")
        return _again(head.decode(), body)

    def keep(self, etag: str, answer: Answer) -> None:
        """Keep an answer; without room for it, or a store, it is computed again next time."""
        if self._ttl_s and len(self._waiting) < MOST_WAITING:
            self._waiting[etag] = answer
            self._writer.submit(self._store, etag, answer)

    def _store(self, etag: str, answer: Answer) -> None:
        try:
            if self._blobs.used() < MOST_USED:
                kept = answer.media_type.encode() + b"\n" + answer.body
                self._blobs.put(OWNER, etag, kept, ttl_s=self._ttl_s)
        except (redis.RedisError, StorageFull, FilesAway) as error:
            log.info("an answer was not kept: %s", type(error).__name__)
        except Exception:  # the top of its thread: nobody else would see it
            log.exception("an answer was not kept")
        finally:
            self._waiting.pop(etag, None)


def _again(media_type: str, body: bytes) -> Answer:
    return Answer(_marked(body) if media_type == JSON else body, media_type, {})


def _marked(body: bytes) -> bytes:
    """Say in a Result document that it was not computed for this call."""
    document = json.loads(body)
    if isinstance(document, dict) and "facts" in document:
        document["facts"]["cached"] = True
    return json.dumps(document).encode()
