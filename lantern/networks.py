"""The networks that can be named: the built-in ones, and those that callers have brought."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lantern.brought import Brought, check_weights, record_of
from lantern.errors import UnknownName
from lantern.presets import Presets
from lantern.records import RECORDS, Record, record
from lantern.shelf import Shelf, of_owner
from lantern.vision_model import VisionModel
from lantern.zoo import sketch, sketched

BROUGHT_ID = re.compile(r"net_[0-9a-f]{32}")
_FACTS, _WEIGHTS = "network.json", "weights.safetensors"


@dataclass(frozen=True)
class Entry:
    """A network that somebody has brought; `created_at` is in seconds since 1970."""

    id: str
    owner: str
    created_at: float
    size: int
    brought: Brought
    presets: Presets


class TooManyNetworks(Exception):
    """An owner has brought as many networks as there may be."""


class Networks:
    """Networks by name; those brought are folders `<id>/` below `folder`, which processes share.

    An id is made from all that the network is, so that the same weights brought twice are one
    network, and what is known under an id never changes.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._sketching = threading.Lock()
        self._sketch = functools.lru_cache(maxsize=8)(lambda name: sketched(self.record(name)))

    def record(self, name: str) -> Record:
        """Find a network's record.

        Raises:
            UnknownName: no network has that name.
        """
        if not BROUGHT_ID.fullmatch(name):
            return record(name)
        entry = self.entry(name)
        if entry is None:
            raise unknown()
        return self.record_of(entry)

    def record_of(self, entry: Entry) -> Record:
        """Return the record of a network that was brought."""
        weights = self._there().path(entry.id, _WEIGHTS)
        return record_of(entry.id, entry.brought, weights, entry.presets)

    def sketch(self, name: str) -> VisionModel:
        """Return a network without its weights: its layers, shapes and costs, no values.

        Raises:
            UnknownName: no network has that name.
        """
        self.record(name)
        with self._sketching:  # threads that ask for the same one at first build it once
            return sketch(name) if name in RECORDS else self._sketch(name)

    def entry(self, name: str) -> Entry | None:
        """Return what is known of a network that was brought; None where it is not there."""
        if self.folder is None or not BROUGHT_ID.fullmatch(name):
            return None
        text = self._there().text(name, _FACTS)
        if text is None:
            return None
        facts = json.loads(text)
        presets = facts["presets"]
        known = {
            "brought": Brought.model_validate(facts["brought"]),
            "presets": Presets(**presets | {"style": tuple(presets["style"])}),
        }
        return Entry(**facts | known)

    def every(self, owner: str) -> list[Entry]:
        """Return the networks that somebody has brought, the oldest first."""
        names = self._there().names("net_") if self.folder else []
        return of_owner(owner, map(self.entry, names))

    def bring(
        self, owner: str, brought: Brought, weights: bytes, *, most: int | None = None
    ) -> Entry:
        """Check a network and keep it, unless it is known; an owner has at most so many.

        Raises:
            TooManyNetworks: the owner has as many.
            InvalidParameter: the weights are not those of the architecture, or it is no classifier.
            OSError: they cannot be stored.
        """
        shelf, name = self._there(), identify(owner, brought, weights)
        if (known := self.entry(name)) is not None:
            return known
        if most is not None and len(self.every(owner)) >= most:
            raise TooManyNetworks
        presets = check_weights(brought, weights)
        entry = Entry(name, owner, time.time(), len(weights), brought, presets)
        facts = vars(entry) | {
            "brought": brought.model_dump(mode="json"),
            "presets": vars(presets),
        }
        shelf.put(name, {_WEIGHTS: weights, _FACTS: json.dumps(facts).encode()})
        return entry

    def forget(self, name: str) -> bool:
        """Remove a network that was brought; False where it is not there."""
        return self.entry(name) is not None and self._there().remove(name)

    def _there(self) -> Shelf:
        assert self.folder is not None, "networks can be brought where there is a folder for them"
        return Shelf(self.folder)


def identify(owner: str, brought: Brought, weights: bytes) -> str:
    """Return the id under which a network is kept."""
    said = brought.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps([owner, said], sort_keys=True).encode())
    digest.update(weights)
    return f"net_{digest.hexdigest()[:32]}"


def unknown() -> UnknownName:
    """Build the error for a network that was not brought, or is another caller's."""
    return UnknownName(
        "there is no such network of yours; GET /v1/models lists those there are",
        pointer="/params/model", code="unknown-model",
    )  # fmt: skip
