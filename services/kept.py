"""How much is kept for one caller, so that nobody fills the storage of all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis

from services.blobs import needing_room
from services.jobs import scripts


class TooMuchKept(Exception):
    """A caller has as much kept as one key may have."""


class Kept:
    """The bytes of each caller's results and uploads, by the names of jobs and files.

    Each is counted until it is deleted or its time is over. A result counts from its job's end on,
    whatever its size: what was worked for is kept, and what comes next is refused.
    """

    def __init__(self, client: redis.Redis, *, most: int, most_names: int = 0, ttl_s: int) -> None:
        self._most, self._most_names, self._ttl_s = most, most_names, ttl_s
        known = scripts(client)
        self._keep, self._kept, self._forget = (known[n] for n in ("keep", "kept", "forget"))

    def bytes_of(self, owner: str) -> int:
        """Return how many bytes a caller has kept."""
        return int(self._kept(args=[owner])[0])

    def require_room(self, owner: str) -> None:
        """Check that a caller may have more kept.

        Raises:
            TooMuchKept: not before some is deleted or its time is over.
        """
        before, names = self._kept(args=[owner])
        if 0 < self._most <= before or 0 < self._most_names <= names:
            raise self._refusal(before, names)

    def take(self, owner: str, name: str, size: int) -> None:
        """Count what is to be kept under a name, in the place of what had the name before.

        Raises:
            TooMuchKept: it does not fit.
            StorageFull: there is no room for anybody.
        """
        with needing_room():
            fits, before, names = self._keep(
                args=[owner, name, size, self._most, self._most_names, self._ttl_s]
            )
        if not fits:
            raise self._refusal(before, names, size)

    @contextlib.contextmanager
    def taking(self, owner: str, name: str, size: int) -> Iterator[None]:
        """Count what is kept in the block, unless that fails.

        Raises:
            TooMuchKept: it does not fit.
        """
        self.take(owner, name, size)
        try:
            yield
        except Exception:
            self.forget(owner, name)
            raise

    def forget(self, owner: str, *names: str) -> None:
        """Count no more what is not there any more."""
        self._forget(args=[owner, *names])

    def _refusal(self, before: int, names: int, size: int = 0) -> TooMuchKept:
        more = f", and this has {size} more" if size else ""
        what = f"{before} bytes of results and uploads, of {self._most} at most{more}"
        if 0 < self._most_names <= names:
            what = f"{names} results and uploads, of {self._most_names} at most"
        return TooMuchKept(
            f"this key has {what}; delete jobs and files, or wait until the oldest expire"
        )
