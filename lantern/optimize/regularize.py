"""What keeps optimised pictures natural."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def total_variation(pixels: Tensor, *, beta: float = 2.0) -> Tensor:
    """Return the mean of each sample's squared pixel differences to the power `beta / 2`, `[N]`.

    Source: Mahendran and Vedaldi 2015, section 2.2.
    """
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).square()
    right = (pixels[..., :, 1:] - pixels[..., :, :-1]).square()
    if beta == 2:
        return down.flatten(1).mean(1) + right.flatten(1).mean(1)
    both = down[..., :, :-1] + right[..., :-1, :]
    # the slope of a root is infinite at zero
    return (both + 1e-8).pow(beta / 2).flatten(1).mean(1)


def alpha_norm(pixels: Tensor, *, alpha: float = 6.0) -> Tensor:
    """Return the mean of each sample's distances from grey (0.5) to the power `alpha`, `[N]`.

    Distances are doubled, so that black and white are 1 away. Source: Mahendran and Vedaldi 2015,
    section 2.2.
    """
    return (2 * pixels - 1).abs().pow(alpha).flatten(1).mean(1)


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Blur pictures `[N,C,H,W]` by a Gaussian of `sigma` pixels; they are mirrored at the edges."""
    radius = min(math.ceil(3 * sigma), min(pixels.shape[-2:]) - 1)
    if sigma <= 0 or radius < 1:
        return pixels
    at = torch.arange(-radius, radius + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, -1)
    padded = F.pad(pixels, [radius] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, None, :], groups=pixels.shape[1])
    return F.conv2d(rows, kernel[:, :, :, None], groups=pixels.shape[1])


def keep_largest(pixels: Tensor, size: Tensor, percentile: float, grey: Tensor) -> Tensor:
    """Turn the pixels `[N,3,H,W]` grey whose `size` `[N,H,W]` lies below its percentile.

    Source: Yosinski et al. 2015, "Understanding Neural Networks Through Deep Visualization",
    section 3: clipping pixels with small norm, and with small contribution.
    """
    if percentile <= 0:
        return pixels
    flat = size.flatten(1)
    rank = min(flat.shape[1], max(1, round(flat.shape[1] * percentile / 100)))
    threshold = flat.kthvalue(rank, dim=1).values
    return torch.where((size > threshold[:, None, None])[:, None], pixels, grey)


def around_centre(size: int, sigma: float) -> Tensor:
    """Return a Gaussian `[size,size]` around the centre, 1 there; `sigma` in sides."""
    at = (torch.arange(size) + 0.5) / size - 0.5
    across = torch.exp(-at.square() / (2 * sigma**2))
    return across[:, None] * across[None]
