"""A film to paint."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image


def film(
    kind: str = "WEBP",
    count: int = 4,
    size: tuple[int, int] = (64, 48),
    times: Any = 80,
    *,
    loop: int | None = 0,
    opacity: int = 255,
) -> bytes:
    """Return an animation of a bright square that moves over a grey picture.

    With an `opacity` below 255 that is what the square has, and there is nothing behind it.
    """
    frames = []
    for number in range(count):
        pixels = np.full((size[1], size[0], 3), 90, np.uint8)
        left = 4 + 8 * number % (size[0] - 20)
        pixels[8:24, left : left + 16] = (240, 60, 20)
        frames.append(PIL.Image.fromarray(pixels))
        if opacity < 255:
            alpha = np.zeros(size[::-1], np.uint8)
            alpha[8:24, left : left + 16] = opacity
            frames[-1].putalpha(PIL.Image.fromarray(alpha))
    out = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    options |= {} if loop is None else {"loop": loop}
    options |= {"disposal": 1 if kind == "PNG" else 2} if opacity < 255 and kind != "WEBP" else {}
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=times, **options)
    return out.getvalue()
