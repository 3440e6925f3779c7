"""One collection: a name, and pictures in the order of their names."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator

from lantern.collections.digest import digest_of
from lantern.errors import BadImage
from lantern.image import Image

POINTER = "/params/collection"


class Entry:
    """One picture of a collection; its bytes are read when they are asked for."""

    def __init__(self, name: str, read: Callable[[str], bytes]) -> None:
        self.name, self._read = name, read

    @property
    def folder(self) -> str:
        """The folders in the name, `cats` of `cats/tom.jpg`; "" without any."""
        return self.name.rpartition("/")[0]

    @functools.cached_property
    def image(self) -> Image:
        """The picture, decoded when it is first looked at and kept as long as the entry is.

        Raises:
            BadImage: it is undecodable or outside the limits; the detail names it.
        """
        try:
            return Image.decode(self.read())
        except BadImage as error:
            raise BadImage(
                f"{self.name}: {error.detail}", pointer=POINTER, code=error.code
            ) from error

    def read(self) -> bytes:
        """Return the picture's bytes as they are kept."""
        return self._read(self.name)


def spread(length: int, count: int) -> list[int]:
    """Return so many places, evenly spread over all of a length."""
    return [n * length // count for n in range(count)]


class Collection:
    """Pictures in the order of their names; `read` returns the bytes of a name.

    Nothing is read before it is asked for, and nothing that was read is kept: who goes through a
    collection and drops each entry has one picture in memory at a time.
    """

    def __init__(
        self, name: str, names: Iterable[str], read: Callable[[str], bytes], *, digest: str = ""
    ) -> None:
        self.name, self.names = name, tuple(sorted(set(names)))
        self._read, self._digest = read, digest

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Entry]:
        return (Entry(name, self._read) for name in self.names)

    def entry(self, index: int) -> Entry:
        """Return the picture at a place, counted from 0.

        Raises:
            IndexError: there are not so many.
        """
        return Entry(self.names[index], self._read)

    @functools.cached_property
    def digest(self) -> str:
        """The hash of names and contents; it is computed from all bytes where it is not known."""
        return self._digest or digest_of(
            (entry.name, hashlib.sha256(entry.read()).hexdigest()) for entry in self
        )
