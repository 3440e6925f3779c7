"""The networks that can be named: the built-in ones, and those that callers have brought."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from lantern.brought import Brought, Presets, check_weights, record_of
from lantern.errors import UnknownName
from lantern.vision_model import VisionModel
from lantern.zoo import RECORDS, Record, record, sketch, sketched

BROUGHT_ID = re.compile(r"net_[0-9a-f]{32}")
# After so long nobody is at work on it any more.
LEFT_S = 3600.0
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
        assert self.folder is not None
        weights = self.folder / entry.id / _WEIGHTS
        return record_of(entry.id, entry.brought, weights, entry.presets)

    def sketch(self, name: str) -> VisionModel:
        """Return a network without its weights: its layers, shapes and costs, no values.

        Raises:
            UnknownName: no network has that name.
        """
        if name in RECORDS:
            return sketch(name)
        self.record(name)
        return self._sketch(name)

    def entry(self, name: str) -> Entry | None:
        """Return what is known of a network that was brought; None where it is not there."""
        if self.folder is None or not BROUGHT_ID.fullmatch(name):
            return None
        try:
            facts = json.loads((self.folder / name / _FACTS).read_text())
        except FileNotFoundError:
            return None
        presets = facts["presets"]
        known = {
            "brought": Brought.model_validate(facts["brought"]),
            "presets": Presets(**presets | {"style": tuple(presets["style"])}),
        }
        return Entry(**facts | known)

    def every(self, owner: str) -> list[Entry]:
        """Return the networks that somebody has brought, the oldest first."""
        names = sorted(path.name for path in self.folder.glob("net_*")) if self.folder else []
        found = [entry for name in names if (entry := self.entry(name)) and entry.owner == owner]
        return sorted(found, key=lambda entry: entry.created_at)

    def bring(
        self, owner: str, brought: Brought, weights: bytes, *, most: int | None = None
    ) -> Entry:
        """Check a network and keep it, unless it is known; an owner has at most so many.

        Raises:
            TooManyNetworks: the owner has as many.
            InvalidParameter: the weights are not those of the architecture, or it is no classifier.
            OSError: they cannot be stored.
        """
        assert self.folder is not None, "networks can be brought where there is a folder for them"
        name = identify(owner, brought, weights)
        if (known := self.entry(name)) is not None:
            return known
        if most is not None and len(self.every(owner)) >= most:
            raise TooManyNetworks
        presets = check_weights(brought, weights)
        entry = Entry(name, owner, time.time(), len(weights), brought, presets)
        self._sweep()
        self._store(entry, weights)
        return entry

    def forget(self, name: str) -> bool:
        """Remove a network that was brought; False where it is not there."""
        if self.folder is None or self.entry(name) is None:
            return False
        gone = self.folder / f"gone-{secrets.token_hex(8)}"
        try:
            (self.folder / name).rename(gone)  # at one blow: nobody reads what is half there
        except FileNotFoundError:  # another was quicker
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _sweep(self) -> None:
        """Remove what a process that was killed has left half written or half removed."""
        assert self.folder is not None
        for path in [*self.folder.glob("new-*"), *self.folder.glob("gone-*")]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > LEFT_S:
                    shutil.rmtree(path, ignore_errors=True)

    def _store(self, entry: Entry, weights: bytes) -> None:
        assert self.folder is not None
        passing = self.folder / f"new-{secrets.token_hex(8)}"
        passing.mkdir(parents=True)
        try:
            (passing / _WEIGHTS).write_bytes(weights)
            facts = vars(entry) | {
                "brought": entry.brought.model_dump(mode="json"),
                "presets": vars(entry.presets),
            }
            (passing / _FACTS).write_text(json.dumps(facts))
            passing.rename(self.folder / entry.id)
        except OSError:
            shutil.rmtree(passing, ignore_errors=True)
            if self.entry(entry.id) is None:  # else another has just brought the same
                raise


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
