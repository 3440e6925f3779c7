"""Telling whether a file is as it was, without reading it."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, ...]


def stamp(path: Path) -> Stamp:
    """Return what changes when a file is replaced: size, time and place; () where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


def is_replaced(path: Path, was: Stamp) -> bool:
    """Tell whether there is another file by now; where it is gone, what was read stays good."""
    return stamp(path) not in ((), was)
