"""What an optimiser changes in place of bare pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Pyramid:
    """A picture as its start plus a sum of levels, each half the size of the one before.

    A step on a coarse level moves whole regions at once, so that broad strokes and colour come
    before grain. `parameters` are the levels, `[1,3,h,w]`.

    Source: Olah et al. 2017, "Feature Visualization", preconditioning; here in pixels, not in
    frequencies.
    """

    def __init__(self, start: Tensor, *, levels: int) -> None:
        self._start = start
        height, width = start.shape[-2:]
        self.parameters = [
            torch.zeros(
                *start.shape[:2], max(1, height >> n), max(1, width >> n), device=start.device
            ).requires_grad_()
            for n in range(levels)
        ]

    def pixels(self) -> Tensor:
        """Return the picture `[N,3,H,W]`, clipped to 0..1."""
        size = self._start.shape[-2:]
        total = self._start
        for level in self.parameters:
            total = total + F.interpolate(level, size=size, mode="bilinear", align_corners=False)
        return total.clamp(0, 1)
