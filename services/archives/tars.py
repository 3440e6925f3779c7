"""Reading tar archives, packed by gzip or not; source: POSIX.1-2017, pax, and GNU tar's manual."""

from __future__ import annotations

import functools
import re
import tarfile
import zlib
from collections.abc import Iterator

from services.archives.parts import ArchiveTooLarge, BadArchive, Bounds, Stored

BLOCK = tarfile.BLOCKSIZE
LONGEST_HEADER = 64 * 1024
PIECE = 64 * 1024
PATH = re.compile(rb"(?:\A|\n)[0-9]{1,8} path=([^\n]*)\n")
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)
# what they say is of no use here
OTHERS = (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)


def files(data: bytes, bounds: Bounds, *, is_packed: bool) -> Iterator[Stored]:
    """Go through the files of a tar archive, not through its folders.

    The bytes of one are to be read before the next is asked for, or not at all.

    Raises:
        BadArchive: it is damaged.
        ArchiveTooLarge: there are too many members, or too many bytes.
    """
    try:
        yield from _files(_Stream(data, bounds, is_packed=is_packed), bounds)
    except (tarfile.TarError, ValueError) as error:
        raise _bad() from error


def _files(stream: _Stream, bounds: Bounds) -> Iterator[Stored]:
    count, name = 0, ""
    while (block := stream.read(BLOCK)).strip(b"\0"):
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        count += 1
        bounds.check_members(count)
        if header.size < 0:
            raise _bad()
        ends = stream.position + -(-header.size // BLOCK) * BLOCK
        if header.type in NAMING:
            name = _long_name(stream, header) or name
        elif header.type not in OTHERS:
            trouble = "" if header.type in FILES else "it is a link, or no plain file"
            if not header.isdir():
                read = functools.partial(stream.read, header.size)
                yield Stored(name or header.name, header.size, read, trouble)
            name = ""
        stream.skip_to(ends)


def _long_name(stream: _Stream, header: tarfile.TarInfo) -> str:
    """Return the name that a header gives the member behind it, "" where it gives none."""
    if header.size > LONGEST_HEADER:
        raise ArchiveTooLarge(f"a header of the archive has more than {LONGEST_HEADER} bytes")
    text = stream.read(header.size)
    if header.type == tarfile.XHDTYPE:
        found = PATH.search(text)
        text = found[1] if found else b""
    return text.rstrip(b"\0").decode("utf-8", "surrogateescape")


class _Stream:
    """The bytes of a tar archive, unpacked as they are read and no more of them than may be."""

    def __init__(self, data: bytes, bounds: Bounds, *, is_packed: bool) -> None:
        self._data, self._bounds, self._at = memoryview(data), bounds, 0
        self._gzip = zlib.decompressobj(16 + zlib.MAX_WBITS) if is_packed else None
        self.position = 0

    def read(self, size: int) -> bytes:
        """Read so many bytes.

        Raises:
            BadArchive: there are not so many.
            ArchiveTooLarge: they are more than may be read.
        """
        self._bounds.check_bytes(self.position + size)
        pieces, missing = [], size
        while missing:
            piece = self._some(missing)
            if not piece:
                raise _bad()
            pieces.append(piece)
            missing -= len(piece)
        self.position += size
        return b"".join(pieces)

    def skip_to(self, position: int) -> None:
        """Read up to a position and forget it."""
        while self.position < position:
            self.read(min(PIECE, position - self.position))

    def _some(self, most: int) -> bytes:
        """Return some bytes, none at the end."""
        if self._gzip is None:
            return self._next(most)
        piece, packed = b"", b"more"
        while packed and not piece and not self._gzip.eof:
            packed = self._gzip.unconsumed_tail or self._next(PIECE)
            try:
                piece = self._gzip.decompress(packed, most)
            except zlib.error:
                raise _bad() from None
        return piece

    def _next(self, most: int) -> bytes:
        self._at += most
        return bytes(self._data[self._at - most : self._at])


def _bad() -> BadArchive:
    return BadArchive("the tar archive is damaged or cut short; pack it again")
