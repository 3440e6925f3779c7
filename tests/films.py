"""A film to paint."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image


def film(
    kind: str = "WEBP", count: int = 4, size: tuple[int, int] = (64, 48), times: Any = 80
) -> bytes:
    """Return an animation of a bright square that moves over a grey picture."""
    frames = []
    for number in range(count):
        pixels = np.full((size[1], size[0], 3), 90, np.uint8)
        left = 4 + 8 * number % (size[0] - 20)
        pixels[8:24, left : left + 16] = (240, 60, 20)
        frames.append(PIL.Image.fromarray(pixels))
    out = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(
        out, kind, save_all=True, append_images=frames[1:], duration=times, loop=0, **lossless
    )
    return out.getvalue()
