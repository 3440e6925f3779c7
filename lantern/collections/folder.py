"""A folder of files as a collection."""

from __future__ import annotations

from pathlib import Path

from lantern.collections.collection import POINTER, Collection
from lantern.errors import BadImage, UnknownName
from lantern.image import SUFFIXES


def open_folder(folder: Path, name: str = "") -> Collection:
    """Make a collection of the pictures in a folder and the folders in it.

    Hidden files and folders are left out. Names are paths below the folder, with slashes.

    Raises:
        UnknownName: there is no such folder.
    """
    if not folder.is_dir():
        raise UnknownName(
            "there is no such folder; name one, or a built-in collection",
            pointer=POINTER,
            code="unknown-collection",
        )
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [path.as_posix() for path in paths if _is_shown(path)]

    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise BadImage(f"{name} cannot be read: {error.strerror}", pointer=POINTER) from error

    return Collection(name or folder.resolve().name, names, read)


def _is_shown(path: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not is_hidden
