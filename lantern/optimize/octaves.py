"""Sizes a picture is worked on at, and what is carried from one to the next."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.optimize.transforms import moved

Size = tuple[int, int]


def fitted(size: Size, longest: int) -> Size:
    """Return height and width of a picture once its longer side is at most so many pixels."""
    share = min(1.0, longest / max(size))
    return round(size[0] * share), round(size[1] * share)


def octaves(size: Size, *, count: int, scale: float, smallest: int) -> list[Size]:
    """Return height and width of each octave of a picture, small to full.

    Each is `scale` times the one before; those with a side under `smallest` px are left out, but
    for the last.
    """
    height, width = size
    scales = [scale**-n for n in reversed(range(count))]
    sizes = [(round(height * s), round(width * s)) for s in scales]
    return [smaller for smaller in sizes[:-1] if min(smaller) >= smallest] + [size]


def enlarged(detail: Tensor, size: Size) -> Tensor:
    """Carry what was added to pictures `[N,3,h,w]` to another size, `[N,3,H,W]`."""
    return F.interpolate(detail, size=size, mode="bilinear", align_corners=False)


def zoomed(pixels: Tensor, zoom: float) -> Tensor:
    """Enlarge pictures `[N,3,H,W]` around their centre; the size stays, the border is lost."""
    closer = torch.tensor([[1 / zoom, 0.0, 0.0], [0.0, 1 / zoom, 0.0]])
    return moved(pixels, closer.expand(len(pixels), 2, 3), (pixels.shape[2], pixels.shape[3]))
