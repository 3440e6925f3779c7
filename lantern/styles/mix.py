"""Several styles at once, as a caller writes them: `starry-night:0.6,great-wave:0.4`."""

from __future__ import annotations

import math

from lantern.errors import InvalidParameter
from lantern.styles.files import POINTER

MOST = 8


def read_mix(text: str) -> dict[str, float]:
    """Return the styles and their weights, which add up to 1; a style without a weight has 1.

    Raises:
        InvalidParameter: a weight is no positive number, or a name is missing or there twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST:
        raise _refusal(f"{len(parts)} styles are too many; mix at most {MOST}")
    mix: dict[str, float] = {}
    for number, part in enumerate(parts, 1):
        name, colon, weight = (piece.strip() for piece in part.partition(":"))
        if not name:
            raise _refusal(f"style {number} lacks a name; write starry-night:0.6,great-wave:0.4")
        if name in mix:
            raise _refusal(f"style {number} was named before; give each style one weight")
        mix[name] = _weight(number, weight) if colon else 1.0
    total = sum(mix.values())
    return {name: weight / total for name, weight in mix.items()}


def _weight(number: int, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= 1000:
        raise _refusal(f"the weight of style {number} is no number above 0 and up to 1000")
    return weight


def _refusal(detail: str) -> InvalidParameter:
    return InvalidParameter(detail, pointer=POINTER)
