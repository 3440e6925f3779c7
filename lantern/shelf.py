"""A folder that processes share, in which each entry is a folder that comes and goes as a whole."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

# After so long nobody is at work on what is half written any more.
LEFT_S = 3600.0


class Owned(Protocol):
    """What somebody has put on a shelf, and when."""

    @property
    def owner(self) -> str:
        """Whose it is."""

    @property
    def created_at(self) -> float:
        """When it came, in seconds since 1970."""


OwnedT = TypeVar("OwnedT", bound=Owned)


def of_owner(owner: str, entries: Iterable[OwnedT | None]) -> list[OwnedT]:
    """Return the entries of an owner, the oldest first."""
    found = [entry for entry in entries if entry is not None and entry.owner == owner]
    return sorted(found, key=lambda entry: entry.created_at)


@dataclass(frozen=True)
class Shelf:
    """Entries by name below `folder`; what is known under a name never changes."""

    folder: Path

    def path(self, name: str, file: str) -> Path:
        """Return where a file of an entry is."""
        return self.folder / name / file

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin so."""
        return sorted(path.name for path in self.folder.glob(f"{prefix}*"))

    def text(self, name: str, file: str) -> str | None:
        """Return a text file of an entry; None where the entry is not there."""
        try:
            return self.path(name, file).read_text()
        except FileNotFoundError:
            return None

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        """Add an entry, unless it is there.

        Raises:
            OSError: it cannot be stored.
        """
        self._sweep()
        passing = self.folder / f"new-{secrets.token_hex(8)}"
        passing.mkdir(parents=True)
        try:
            for file, data in files.items():
                (passing / file).write_bytes(data)
            passing.rename(self.folder / name)
        except OSError:
            shutil.rmtree(passing, ignore_errors=True)
            if not (self.folder / name).is_dir():  # else another has just added the same
                raise

    def remove(self, name: str) -> bool:
        """Remove an entry; False where it is not there."""
        gone = self.folder / f"gone-{secrets.token_hex(8)}"
        try:
            (self.folder / name).rename(gone)  # at one blow: nobody reads what is half there
        except FileNotFoundError:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _sweep(self) -> None:
        """Remove what a process that was killed has left half written or half removed."""
        for path in [*self.folder.glob("new-*"), *self.folder.glob("gone-*")]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > LEFT_S:
                    shutil.rmtree(path, ignore_errors=True)
