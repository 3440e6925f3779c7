"""Connections made from the settings, one way for every process."""

from __future__ import annotations

import redis

from services.files import Files
from services.jobs import Jobs
from services.settings import Settings


def connect(settings: Settings) -> redis.Redis:
    """Connect to Redis; the pool opens connections on first use and is safe over a fork."""
    return redis.Redis.from_url(
        settings.redis_url or "redis://127.0.0.1:6379/0",
        socket_timeout=35.0,  # longer than the longest blocking read
        socket_connect_timeout=2.0,
        socket_keepalive=True,
        health_check_interval=10,
        max_connections=512,
    )


def jobs(settings: Settings, client: redis.Redis) -> Jobs:
    """Return the jobs of this Redis."""
    return Jobs(
        client,
        lease_s=settings.lease_s,
        ttl_s=settings.result_ttl_s,
        max_attempts=settings.max_attempts,
        max_queued=settings.max_queued,
    )


def files(settings: Settings, client: redis.Redis) -> Files:
    """Return the files of this Redis."""
    return Files(client, ttl_s=settings.result_ttl_s)
