"""The names of pictures in collections: paths with slashes that lead nowhere else."""

from __future__ import annotations

import re
import unicodedata

LONGEST_NAME = 255
DRIVE = re.compile(r"[A-Za-z]:")


class Unfit(ValueError):
    """A name cannot be a picture's; the message says why."""


def picture_name(raw: str) -> str:
    """Return the name a file has in a collection; its folders are part of it.

    Raises:
        Unfit: the path leads out of where it is, is too long, or cannot be shown.
    """
    path = unicodedata.normalize("NFC", raw.replace("\\", "/"))
    parts = [part for part in path.split("/") if part not in ("", ".")]
    name = "/".join(parts)
    if path.startswith("/") or ".." in parts or DRIVE.match(path):
        raise Unfit("its path leads out of the upload")
    if not parts or not name.isprintable():
        raise Unfit("its name is empty or has characters that cannot be shown")
    if len(name.encode()) > LONGEST_NAME:
        raise Unfit(f"its name has more than {LONGEST_NAME} bytes")
    return name


def is_ignored(raw: str) -> bool:
    """Tell whether a file is hidden, or left there by macOS."""
    parts = raw.replace("\\", "/").split("/")
    return "__MACOSX" in parts or any(
        part.startswith(".") and part not in (".", "..") for part in parts
    )
