"""Pictures for the tests: made here, or the sample photographs."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image

Pixels = np.ndarray[Any, Any]


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Pixels:
    """Return smooth noise, uint8 `[H,W,3]`, that JPEG keeps well."""
    random = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(random).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(picture)


def encode(pixels: Pixels | PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a picture's file."""
    picture = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def decode(data: bytes) -> Pixels:
    """Return a file's pixels as uint8 `[H,W,3]`."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def kind_of(data: bytes) -> str:
    """Decode a file wholly; return its format."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return str(picture.format)


def shrunk(data: bytes, longest: int) -> bytes:
    """Return a photograph as a small JPEG."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((longest, longest))
    return encode(small, "JPEG", quality=92)


def png(
    width: int, height: int, *, colour_type: int = 2, depth: int = 8, rows: bytes = b""
) -> bytes:
    """Write a PNG by hand: any size in the header, with `rows` as they are, filter bytes included.

    Source: Portable Network Graphics Specification, section 11.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    check = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def with_chunks(file: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks behind a PNG's header."""
    head = 8 + 25
    return file[:head] + b"".join(chunk(name, data) for name, data in chunks) + file[head:]
