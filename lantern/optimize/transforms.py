"""Small random movements of a picture, all of them in one resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Movement:
    """How far pictures move at random before each look at them.

    `jitter` in pixels of the picture each way, `scale` as the largest share by which it grows or
    shrinks, `rotate` in degrees each way, `mirror` whether half of them are mirrored.

    Source: Olah et al. 2017, "Feature Visualization", "transformation robustness".
    """

    jitter: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    mirror: bool = False

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw a movement for each of `count` pictures of `size` (height, width), `[N,2,3]`.

        Each is the affine map that `torch.nn.functional.affine_grid` takes.
        """
        chance = torch.rand(count, 5, generator=generator) * 2 - 1
        angle = chance[:, 0] * math.radians(self.rotate)
        zoom = torch.exp(chance[:, 1] * math.log1p(self.scale))
        height, width = size
        right = chance[:, 2] * 2 * self.jitter / width
        down = chance[:, 3] * 2 * self.jitter / height
        flip = torch.where(chance[:, 4] < 0, -1.0, 1.0) if self.mirror else torch.ones(count)
        cos, sin, ratio = angle.cos() / zoom, angle.sin() / zoom, width / height
        across = torch.stack([flip * cos, -sin / ratio, right], 1)
        along = torch.stack([flip * sin * ratio, cos, down], 1)
        return torch.stack([across, along], 1)


def windows(count: int, share: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw windows whose sides are a share (from, to) of the picture's, as maps `[N,2,3]`."""
    chance = torch.rand(count, 3, generator=generator)
    side = share[0] + (share[1] - share[0]) * chance[:, 0]
    centre = (chance[:, 1:] * 2 - 1) * (1 - side)[:, None]
    zero = torch.zeros(count)
    across = torch.stack([side, zero, centre[:, 0]], 1)
    along = torch.stack([zero, side, centre[:, 1]], 1)
    return torch.stack([across, along], 1)


def moved(pixels: Tensor, movements: Tensor, size: tuple[int, int]) -> Tensor:
    """Look at pictures `[N,3,H,W]` moved as drawn, at `size` (height, width); one resampling.

    Beyond its edges a picture is mirrored.
    """
    shape = [len(movements), pixels.shape[1], *size]
    grid = F.affine_grid(movements.to(pixels.device), shape, align_corners=False)
    return F.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
