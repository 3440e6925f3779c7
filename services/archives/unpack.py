"""Going through an archive, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lantern.image import SUFFIXES
from services.archives import tars, zips
from services.archives.names import Unfit, is_ignored, picture_name
from services.archives.parts import BadArchive, Bounds, Damaged, Member, Skipped, Stored

PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


def kind_of(data: bytes) -> Literal["zip", "tar", "gzip"] | None:
    """Tell an archive by its first bytes."""
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if data[:2] == b"\x1f\x8b":
        return "gzip"
    return "tar" if data[257:262] == b"ustar" else None


def unpack(data: bytes, bounds: Bounds) -> Iterator[Member | Skipped]:
    """Go through what is in an archive, one file in memory at a time.

    Hidden files and folders are left out without a word, what is no picture by its name is not
    read.

    Raises:
        BadArchive: it is no zip, tar or tar.gz archive, or is damaged.
        ArchiveTooLarge: it goes beyond the bounds.
    """
    total = 0
    for file in _files(data, bounds):
        if is_ignored(file.name):
            continue
        if reason := file.trouble or _unwanted(file, bounds):
            yield Skipped(file.name, reason)
            continue
        total += file.size
        bounds.check_bytes(total)
        try:
            yield Member(picture_name(file.name), file.read())
        except (Unfit, Damaged) as error:
            yield Skipped(file.name, str(error))


def _files(data: bytes, bounds: Bounds) -> Iterator[Stored]:
    kind = kind_of(data)
    if kind is None:
        raise BadArchive("the body is no zip, tar or tar.gz archive; send one of these")
    if kind == "zip":
        return zips.files(data, bounds)
    return tars.files(data, bounds, is_packed=kind == "gzip")


def _unwanted(file: Stored, bounds: Bounds) -> str:
    """Say why a file is not read, "" where it is."""
    name = file.name.lower()
    if name.endswith(PACKED):
        return "an archive in an archive is not opened; unpack it first"
    if not name.endswith(tuple(SUFFIXES)):
        return f"its name ends in none of {', '.join(SUFFIXES)}"
    if file.size > bounds.member_bytes:
        return f"it has more than {bounds.member_bytes} bytes"
    return ""
