"""Bytes with an owner and a time to live: small ones in Redis, larger ones in the file store."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import fsspec
import redis

BLOB = "lantern:blob:"
# the names of an owner's bytes
NAMES = "lantern:blobs:"
# Owners that end, and with them all they have: also what nobody was told of.
LISTED = "job_"
# what Redis says without memory, and without room for its append-only file
FULL = ("OOM", "MISCONF")
NAME = re.compile(r"[a-z0-9_.-]{1,120}")
# how a file is called while it is written
PASSING = re.compile(r"[a-z0-9_.-]+~")
HERE, IN_FILE = b"\0", b"\1"
# files that are asked after at a time
BATCH = 500
LEAST_FREE_DISK = 0.05
LOOK_AGAIN_S = 1.0
# A file lies there for a moment before Redis knows of it.
ORPHAN_AFTER_S = 600.0


class StorageFull(Exception):
    """The store takes nothing more for now."""


class FilesAway(Exception):
    """The file store does not do what it is asked for, and not because it is full."""


class Blobs:
    """Bytes by owner and name.

    Redis keeps a record of each and the bytes of those up to `inline_bytes`; larger ones are files
    `<owner>/<name>` below an fsspec URL. A file whose record has expired is an orphan, which
    `sweep` removes. An owner is a job, a caller's uploads or the cache: nothing is shared between
    two, so that deleting one takes nothing from another. What a job has is listed for `listed_s`.
    `beside` is a Redis of other things that must have room too where new work is to come.
    """

    def __init__(
        self,
        client: redis.Redis,
        file_store: str,
        *,
        inline_bytes: int,
        high: float,
        listed_s: int = 0,
        beside: redis.Redis | None = None,
    ) -> None:
        self._redis, self._inline_bytes, self._high = client, inline_bytes, high
        self._memories = [client] if beside is None else [client, beside]
        self._listed_s = listed_s
        self._url = file_store
        self._use: tuple[float, float] = (-LOOK_AGAIN_S, 0.0)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def put(self, owner: str, name: str, data: bytes, *, ttl_s: int, in_file: bool = False) -> None:
        """Store bytes for a time, in the place of what had the name before.

        `in_file` keeps small ones out of Redis too: those that are many and stay for long.

        Raises:
            StorageFull: Redis has no memory left, or the disk no room.
            FilesAway: the file cannot be written.
        """
        key = _key(owner, name)
        with needing_room():
            if in_file or len(data) > self._inline_bytes:
                with _reaching_files():
                    self._write(f"{owner}/{name}", data)
                value = IN_FILE
            else:
                value = HERE + data
            pipe = self._redis.pipeline(transaction=True)
            if owner.startswith(LISTED):
                pipe.sadd(NAMES + owner, name)
                pipe.expire(NAMES + owner, max(ttl_s, self._listed_s))
            pipe.set(key, value, ex=ttl_s)
            pipe.execute()

    def read(self, owner: str, name: str) -> bytes | None:
        """Return the bytes, None where there are none.

        Raises:
            FilesAway: the file cannot be read.
        """
        value = cast(bytes | None, self._redis.get(_key(owner, name)))
        if value is None or value[:1] == HERE:
            return value[1:] if value else None
        try:
            with _reaching_files():
                return cast(bytes, self._files.cat_file(self._path(f"{owner}/{name}")))
        except FileNotFoundError:
            return None

    def copy(self, owner: str, name: str, to: str, *, ttl_s: int, as_name: str = "") -> bool:
        """Give another owner the same bytes; False where there are none."""
        data = self.read(owner, name)
        if data is None:
            return False
        self.put(to, as_name or name, data, ttl_s=ttl_s)
        return True

    def names(self, owner: str) -> list[str]:
        """Return the names of all that a job has; some of it may have expired."""
        return [name.decode() for name in cast(set[bytes], self._redis.smembers(NAMES + owner))]

    def unlist(self, owner: str, names: Iterable[str]) -> None:
        """Take names off a job's list, because its record tells of them."""
        if gone := list(names):
            self._redis.srem(NAMES + owner, *gone)

    def expire(self, owner: str, names: Iterable[str], ttl_s: int) -> None:
        """Let some of an owner's bytes end at another time."""
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.expire(_key(owner, name), ttl_s)
        pipe.execute()

    def delete(self, owner: str, *names: str) -> bool:
        """Forget bytes; False where there were none.

        A file that cannot be removed now is an orphan from here on.
        """
        if not names:
            return False
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.getrange(_key(owner, name), 0, 0)
        for name in names:
            pipe.delete(_key(owner, name))
        if owner.startswith(LISTED):
            pipe.srem(NAMES + owner, *names)
        answers = pipe.execute()
        for name, kind in zip(names, answers, strict=False):
            if kind == IN_FILE:
                self._remove(f"{owner}/{name}")
        return any(answers[len(names) : 2 * len(names)])

    def ping(self) -> bool:
        """Tell whether Redis answers."""
        return bool(self._redis.ping())

    def used(self) -> float:
        """Return the share of the storage in use: of the disk or a Redis, whichever is fullest.

        It is looked up at most once a second.
        """
        looked, used = self._use
        if time.monotonic() - looked > LOOK_AGAIN_S:
            used = max(self._disk_used(), *map(_memory_used, self._memories))
            self._use = (time.monotonic(), used)
        return used

    def require_room(self) -> None:
        """Check that new work may bring new bytes.

        Raises:
            StorageFull: the storage is nearly full.
            FilesAway: the disk cannot be looked at.
        """
        if self.used() >= self._high:
            raise StorageFull

    def sweep(self) -> int:
        """Remove files whose record has expired or was never written; return how many.

        Raises:
            FilesAway: the files cannot be listed.
        """
        with _reaching_files():
            removed, old = 0, self._old_files()
        for at in range(0, len(old), BATCH):
            removed += sum(map(self._remove, self._orphans(old[at : at + BATCH])))
        return removed

    def _remove(self, path: str) -> bool:
        """Remove a file; False where that cannot be done, or not now."""
        try:
            with _reaching_files():
                self._files.rm_file(self._path(path))
        except (FileNotFoundError, FilesAway):
            return False
        return True

    def _orphans(self, paths: list[str]) -> list[str]:
        """Return those of the files that no record tells of; others than ours are left alone."""
        parted = {path: path.partition("/")[::2] for path in paths}
        broken_off = [path for path in paths if PASSING.fullmatch(parted[path][1])]
        whole = [path for path in paths if NAME.fullmatch(parted[path][1])]
        pipe = self._redis.pipeline(transaction=False)
        for path in whole:
            pipe.getrange(_key(*parted[path]), 0, 0)
        kinds = pipe.execute()
        return broken_off + [
            path for path, kind in zip(whole, kinds, strict=True) if kind != IN_FILE
        ]

    @property
    def _files(self) -> Any:
        fs, _ = fsspec.core.url_to_fs(self._url)
        return fs

    def _path(self, name: str) -> str:
        _, root = fsspec.core.url_to_fs(self._url)
        return f"{root.rstrip('/')}/{name}"

    def _write(self, name: str, data: bytes) -> None:
        """Write a file under another name first: what is read is whole."""
        final = self._path(name)
        if not self._is_local:
            self._files.pipe_file(final, data)  # object stores show only whole objects
            return
        self._files.makedirs(final.rpartition("/")[0], exist_ok=True)
        passing = f"{final}.{secrets.token_hex(8)}~"
        try:
            self._files.pipe_file(passing, data)
            os.replace(passing, final)
        except OSError:
            with contextlib.suppress(OSError):  # a full disk is not to be left fuller
                os.unlink(passing)
            raise

    def _old_files(self) -> list[str]:
        """Return the names, below the root, of files that were not changed for a while."""
        root, fs = self._path("").rstrip("/"), self._files
        before = datetime.now(UTC) - timedelta(seconds=ORPHAN_AFTER_S)
        old = []
        for path in fs.find(root):
            with contextlib.suppress(FileNotFoundError):
                if fs.modified(path).astimezone(UTC) < before:
                    old.append(path.removeprefix(root).strip("/"))
        return old

    @property
    def _is_local(self) -> bool:
        return self._url.startswith(("file:", "/"))

    def _disk_used(self) -> float:
        """Say 1 where less than a twentieth of a local disk is free, else 0."""
        if not self._is_local:
            return 0.0
        path = self._path("")
        with _reaching_files():
            os.makedirs(path, exist_ok=True)
            disk = shutil.disk_usage(path)
        return 1.0 if disk.free < LEAST_FREE_DISK * disk.total else 0.0


def _key(owner: str, name: str) -> str:
    assert NAME.fullmatch(name), name
    return f"{BLOB}{owner}/{name}"


def _memory_used(client: redis.Redis) -> float:
    """Return the share of a Redis's memory in use, 0 where it may take as much as there is."""
    facts = cast(dict[str, int], client.info("memory"))
    most = facts.get("maxmemory", 0)
    return facts["used_memory"] / most if most else 0.0


@contextlib.contextmanager
def needing_room() -> Iterator[None]:
    """Store something.

    Raises:
        StorageFull: Redis has no memory left, or the disk no room.
        FilesAway: a file cannot be written for another reason.
    """
    try:
        yield
    except (redis.exceptions.ResponseError, OSError) as error:
        if is_full(error):
            raise StorageFull from error
        if isinstance(error, OSError):
            raise FilesAway from error
        raise


@contextlib.contextmanager
def _reaching_files() -> Iterator[None]:
    """Do something with files; that one is not there, or has no room, is told as it is.

    Raises:
        FilesAway: it cannot be done.
    """
    try:
        yield
    except Exception as error:  # object stores have errors of their own, with nothing in common
        if isinstance(error, FileNotFoundError) or is_full(error):
            raise
        raise FilesAway from error


def is_full(error: Exception) -> bool:
    """Tell whether an error of Redis or of a disk says that there is no room."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return True
    # a script reports it in the middle of its own words
    return isinstance(error, redis.RedisError) and any(word in str(error) for word in FULL)
