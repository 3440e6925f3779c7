"""How large a contact sheet may be, known before anything is drawn."""

from __future__ import annotations

import math

from lantern.artifacts.pictures import sheet_size
from lantern.errors import InvalidParameter

# Pixels of the largest sheet: 12 bytes each for the pictures, as many for the sheet, before a file.
LARGEST_SHEET = 32_000_000


def squarish(count: int) -> int:
    """Return how many columns make a sheet of so many tiles nearly square, tile by tile."""
    return math.ceil(math.sqrt(count))


def check_sheet(count: int, height: int, width: int, *, pointer: str, remedy: str) -> None:
    """Make sure that a sheet of `count` tiles of `height` and `width` px is not too large to draw.

    `remedy` says what to lower.

    Raises:
        InvalidParameter: it has more than `LARGEST_SHEET` pixels.
    """
    pixels = math.prod(sheet_size(count, squarish(count), height, width))
    if pixels > LARGEST_SHEET:
        raise InvalidParameter(
            f"the sheet would have {pixels / 1e6:.0f} megapixels ({count} tiles of {width}x{height}"
            f" px); at most {LARGEST_SHEET / 1e6:.0f} are drawn: {remedy}",
            pointer=pointer,
        )
