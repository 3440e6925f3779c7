"""Connections made from the settings, one way for every process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from services.blobs import Blobs
from services.collection_store import CollectionLimits, CollectionStore
from services.files import Files
from services.jobs import Jobs, Limits
from services.kept import Kept
from services.outbox import Outbox
from services.settings import Settings, read
from services.speeds import Speeds

LONGEST_BLOCK_S = 35.0
DELIVERY_LEASE_S = 60.0


@dataclass(frozen=True)
class Stores:
    """Everything that outlives a process; nothing connects before it is used."""

    state: redis.Redis
    jobs: Jobs
    blobs: Blobs
    files: Files
    kept: Kept
    collections: CollectionStore
    outbox: Outbox
    speeds: Speeds
    memory: Blobs
    """The blobs for what can be done without: a store that is away costs little time."""

    def close(self) -> None:
        """Close the connections."""
        self.state.close()
        self.blobs.close()
        self.memory.close()


@functools.cache
def own_stores() -> Stores:
    """Return the stores of this process."""
    return stores(read())


def stores(settings: Settings) -> Stores:
    """Return the stores of these settings."""
    state = connect(settings.state_url, timeout_s=LONGEST_BLOCK_S)
    blobs, memory = (
        Blobs(
            client,
            settings.file_store_url,
            inline_bytes=settings.inline_bytes,
            high=settings.storage_high,
            listed_s=settings.live_ttl_s + settings.result_ttl_s,
            beside=beside,
        )
        for client, beside in (
            (connect(settings.blob_url, timeout_s=5.0), state),
            (connect(settings.blob_url, timeout_s=0.5, patient=False), None),
        )
    )
    limits = Limits(
        lease_s=settings.lease_s,
        ttl_s=settings.result_ttl_s,
        max_attempts=settings.max_attempts,
        max_queued=settings.max_queued,
        max_active=settings.max_active,
        max_age_s=settings.max_age_s,
    )
    kept = Kept(
        state,
        most=settings.max_kept_bytes,
        most_names=settings.max_kept,
        ttl_s=settings.result_ttl_s,
    )
    return Stores(
        state=state,
        jobs=Jobs(state, limits),
        blobs=blobs,
        files=Files(blobs, kept, ttl_s=settings.result_ttl_s),
        kept=kept,
        collections=CollectionStore(state, blobs, _collection_limits(settings)),
        outbox=Outbox(state, lease_s=DELIVERY_LEASE_S, ttl_s=settings.result_ttl_s),
        speeds=Speeds(state),
        memory=memory,
    )


def _collection_limits(settings: Settings) -> CollectionLimits:
    return CollectionLimits(
        ttl_s=settings.collection_ttl_s,
        max_collections=settings.max_collections,
        max_pictures=settings.max_collection_pictures,
        max_bytes=settings.max_collection_bytes,
    )


def connect(url: str, *, timeout_s: float, patient: bool = True) -> redis.Redis:
    """Connect to a Redis; the pool opens connections on first use and is safe over a fork.

    A `patient` client sends a command again when its answer was lost.
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,  # longer than the longest blocking read
        socket_connect_timeout=min(2.0, timeout_s),
        retry=Retry(ExponentialWithJitterBackoff(base=0.1, cap=1.0), 3 if patient else 0),
        socket_keepalive=True,
        health_check_interval=10,
        max_connections=512,
    )
