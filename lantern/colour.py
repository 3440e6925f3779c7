"""Colour maps for numbers: perceptual for one-sided fields, diverging for signed ones."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Colormap = Literal["auto", "inferno", "viridis", "diverging", "grey"]

# Evenly spaced sRGB anchors, 0..255; straight lines between them come close to the published
# maps.
_ANCHORS: dict[str, list[tuple[int, int, int]]] = {
    "inferno": [
        (0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70),
        (237, 105, 37), (251, 155, 6), (247, 209, 61), (252, 255, 164),
    ],
    "viridis": [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37),
    ],
    "diverging": [
        (33, 102, 172), (103, 169, 207), (209, 229, 240), (247, 247, 247), (253, 219, 199),
        (239, 138, 98), (178, 24, 43),
    ],
    "grey": [(0, 0, 0), (255, 255, 255)],
}  # fmt: skip


# Of a large map as many values as this tell where its quantiles lie.
LOOKED_AT = 100_000


def colourise(values: Tensor, colormap: Colormap, *, quantile: float = 1.0) -> Tensor:
    """Colour a signed map `[H,W]` as `[3,H,W]`, sRGB 0..1.

    The diverging map is symmetric about zero; the others run from zero (or the smallest value,
    where there are negative ones) to the largest. A constant map takes the lowest colour, of the
    diverging one the middle: it says nothing of any place. Values beyond the `quantile` take its
    colour, as a few extremes would leave nothing to see of the rest.
    """
    values = values.detach().float().cpu()
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high, values = 0.0, 0.0, torch.zeros_like(values)
    if quantile < 1:
        reach = _quantile(values.abs(), quantile)
        low, high = max(low, -reach), min(high, reach)
    if colormap == "auto":
        colormap = "diverging" if low < 0 else "inferno"
    if colormap == "diverging":
        reach = max(abs(low), abs(high)) or 1.0
        level = (values / reach + 1) / 2
    else:
        floor = min(low, 0.0)
        level = (values - floor) / ((high - floor) or 1.0)
    return _ramp(level.clamp(0, 1), colormap)


def _quantile(values: Tensor, share: float) -> float:
    """Return a quantile of non-negative values; the largest where that is zero."""
    flat = values.flatten()
    some = flat[:: max(1, len(flat) // LOOKED_AT)]
    return float(torch.quantile(some, share)) or float(flat.max())


def _ramp(level: Tensor, colormap: str) -> Tensor:
    anchors = torch.tensor(_ANCHORS[colormap], dtype=torch.float32).T / 255
    table = F.interpolate(anchors[None], size=256, mode="linear", align_corners=True)[0]
    return table[:, (level * 255).round().long()]
