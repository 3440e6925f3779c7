"""Reading zip archives by their directory; source: PKWARE's APPNOTE.TXT 6.3.10, section 4.3."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from services.archives.parts import BadArchive, Bounds, Damaged, Stored

END = struct.Struct("<4s4H2LH")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
LONGEST_COMMENT = 65_535
ENCRYPTED = 0x1
PLAIN, DEFLATED = 0, 8
DAMAGED = "it is damaged"


class _Entry(NamedTuple):
    """One entry of the directory."""

    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    mode: int
    offset: int
    name: bytes


def files(data: bytes, bounds: Bounds) -> Iterator[Stored]:
    """Go through the files of a zip archive, not through its folders.

    Raises:
        BadArchive: its directory cannot be read.
        ArchiveTooLarge: there are too many entries.
    """
    try:
        yield from _files(data, bounds)
    except struct.error as error:
        raise _bad() from error


def _files(data: bytes, bounds: Bounds) -> Iterator[Stored]:
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - END.size - LONGEST_COMMENT))
    if at < 0:
        raise _bad()
    _, _, _, _, count, size, offset, _ = END.unpack_from(data, at)
    if count == 0xFFFF or 0xFFFFFFFF in (size, offset):  # the true values stand elsewhere
        raise BadArchive("zip64 archives are not read; pack fewer files, or send a tar archive")
    bounds.check_members(count)
    for entry in _entries(data, offset, count):
        if not entry.name.endswith(b"/"):
            read = functools.partial(_read, data, entry)
            yield Stored(_name(entry), entry.size, read, _trouble(entry))


def _entries(data: bytes, at: int, count: int) -> Iterator[_Entry]:
    for _ in range(count):
        (sign, _, _, flags, method, _, _, crc, packed_size, size, name_size, extra_size,
         comment_size, _, _, attributes, offset) = ENTRY.unpack_from(data, at)  # fmt: skip
        if sign != b"PK\x01\x02":
            raise _bad()
        name = data[at + ENTRY.size : at + ENTRY.size + name_size]
        yield _Entry(flags, method, crc, packed_size, size, attributes >> 16, offset, name)
        at += ENTRY.size + name_size + extra_size + comment_size


def _trouble(entry: _Entry) -> str:
    if entry.mode & 0o170000 == 0o120000:
        return "it is a link"
    if entry.flags & ENCRYPTED:
        return "it is encrypted"
    if entry.method not in (PLAIN, DEFLATED):
        return "it is packed by another method than deflate; pack it again"
    return ""


def _read(data: bytes, entry: _Entry) -> bytes:
    try:
        sign, *_, name_size, extra_size = LOCAL.unpack_from(data, entry.offset)
    except struct.error:
        raise Damaged(DAMAGED) from None
    at = entry.offset + LOCAL.size + name_size + extra_size
    packed = memoryview(data)[at : at + entry.packed_size]
    # deflating never makes bytes that are many more
    most = entry.size + entry.size // 512 + 64
    if sign != b"PK\x03\x04" or len(packed) != entry.packed_size or entry.packed_size > most:
        raise Damaged(DAMAGED)
    plain = bytes(packed) if entry.method == PLAIN else _inflate(packed, entry.size)
    if len(plain) != entry.size or zlib.crc32(plain) != entry.crc:
        raise Damaged(DAMAGED)
    return plain


def _inflate(packed: memoryview, size: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error:
        raise Damaged(DAMAGED) from None


def _name(entry: _Entry) -> str:
    """Return the name; many write UTF-8 without saying so."""
    try:
        return entry.name.decode()
    except UnicodeDecodeError:
        return entry.name.decode("cp437")


def _bad() -> BadArchive:
    return BadArchive("the zip archive is damaged or cut short; pack it again")
