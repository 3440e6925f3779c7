"""The collections that a technique can ask for by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from lantern import samples
from lantern.collections.collection import POINTER, Collection
from lantern.errors import InvalidParameter, one_of

Opener = Callable[[], Collection]


@functools.cache
def sample_collection() -> Collection:
    """Return the photographs and textures that come with scikit-image."""
    paths = samples.pictures()
    return Collection("samples", paths, lambda name: paths[name].read_bytes())


BUILT_IN: Mapping[str, Opener] = {"samples": sample_collection}


class Collections:
    """The built-in collections and `others`, by name; each is opened on first use and kept."""

    def __init__(self, others: Mapping[str, Opener] | None = None) -> None:
        self._openers = {**BUILT_IN, **(others or {})}
        self._opened: dict[str, Collection] = {}

    def find(self, name: str) -> Collection:
        """Find a collection.

        Raises:
            UnknownName: there is none of that name.
            InvalidParameter: there are no pictures in it.
        """
        if name not in self._openers:
            raise one_of("collection", name, self._openers, pointer=POINTER)
        if name not in self._opened:
            self._opened[name] = self._openers[name]()
        found = self._opened[name]
        if not len(found):
            raise empty()
        return found


def empty() -> InvalidParameter:
    """Build the error for a collection without pictures."""
    return InvalidParameter(
        "the collection is empty; put JPEG, PNG, WebP or GIF pictures into it first",
        pointer=POINTER,
        code="empty-collection",
    )
