"""The Redis of a stack: whether it is there, and which files the jobs in it go with."""

from __future__ import annotations

import contextlib
import json
from typing import cast

import redis

from services.processes import StackError
from services.settings import Settings

SITE = "lantern:site"


def connected(url: str) -> redis.Redis:
    """Connect to a Redis that may be away: it is waited for seconds, not for ever."""
    return redis.Redis.from_url(url, socket_connect_timeout=2.0, socket_timeout=5.0)


def answers(url: str) -> bool:
    """Tell whether a Redis is there."""
    with contextlib.suppress(redis.RedisError), connected(url) as client:
        return bool(client.ping())
    return False


def claim(state: redis.Redis, settings: Settings) -> None:
    """Write down where the files of the jobs in a Redis are, for the next stack that uses it.

    Stacks that share the one must share the other.

    Raises:
        StackError: they are elsewhere than ours; its workers could not read our pictures.
    """
    ours = {"files": settings.file_store_url, "models": str(settings.models_path)}
    state.set(SITE, json.dumps(ours), nx=True)
    theirs = json.loads(cast(bytes | None, state.get(SITE)) or b"{}")
    if theirs != ours:
        raise StackError(
            f"the jobs in this Redis have their files in {theirs.get('files')} and their networks "
            f"in {theirs.get('models')}, this stack has {ours['files']} and {ours['models']}: set "
            "LANTERN_FILE_STORE and LANTERN_MODELS to theirs, or let REDIS_URL name another "
            f"database (redis://.../1); where none of them is needed any more, delete {SITE} there"
        )
