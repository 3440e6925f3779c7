"""The styles that callers have had trained, in the folder of the networks they bring."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.shelf import Shelf, of_owner

OWN_ID = re.compile(r"sty_[0-9a-f]{32}")
FACTS, WEIGHTS, THUMBNAIL = "style.json", "style.safetensors", "thumbnail.jpg"


@dataclass(frozen=True)
class OwnStyle:
    """A style that was trained for somebody; `created_at` is in seconds since 1970."""

    id: str
    owner: str
    created_at: float
    title: str
    blends: bool
    facts: Mapping[str, Any]


class OwnStyles:
    """Trained styles by id, below a folder that processes share; none without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._shelf = Shelf(folder) if folder else None

    def entry(self, name: str) -> OwnStyle | None:
        """Return what is known of a style; None where it is not there."""
        if self._shelf is None or not OWN_ID.fullmatch(name):
            return None
        text = self._shelf.text(name, FACTS)
        return None if text is None else OwnStyle(**json.loads(text))

    def every(self, owner: str) -> list[OwnStyle]:
        """Return the styles that were trained for somebody, the oldest first."""
        names = self._shelf.names("sty_") if self._shelf else []
        return of_owner(owner, map(self.entry, names))

    def path(self, name: str, file: str) -> Path:
        """Return where a file of a style is."""
        assert self._shelf is not None, "no style is known without a folder"
        return self._shelf.path(name, file)

    def keep(self, style: OwnStyle, weights: bytes, thumbnail: bytes) -> None:
        """Add a style, unless it is there: its weights, and a JPEG of what it paints.

        Raises:
            OSError: it cannot be stored.
        """
        assert self._shelf is not None, "styles are kept where there is a folder for them"
        facts = json.dumps(vars(style)).encode()
        self._shelf.put(style.id, {WEIGHTS: weights, THUMBNAIL: thumbnail, FACTS: facts})

    def forget(self, name: str) -> bool:
        """Remove a style; False where it is not there."""
        if self._shelf is None or self.entry(name) is None:
            return False
        return self._shelf.remove(name)
