"""Colours of pictures that let through what is behind them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A place that is as opaque as this has a colour of its own. Below, files hold what was rounded
# away, or whatever an editor left behind.
COVERED = 0.25


def over_white(colours: Tensor, alpha: Tensor) -> Tensor:
    """Lay colours `[3,H,W]` of opacity `alpha` `[H,W]` over white."""
    return colours * alpha + (1 - alpha)


def without_white(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Undo `over_white`; where nothing is left of a colour, it stays white."""
    own = (pixels - (1 - alpha)) / alpha.clamp_min(1 / 255)
    return torch.where(alpha > 0, own, pixels).clamp(0, 1)


def opaque(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Undo `over_white` and fill what is transparent, smoothly, with the colours around it."""
    return _filled(without_white(pixels, alpha), (alpha / COVERED).clamp(max=1))


def _filled(colours: Tensor, cover: Tensor) -> Tensor:
    """Fill colours `[3,H,W]` where `cover` `[H,W]`, 0..1, lacks something: pull and push.

    Source: Gortler et al. 1996, The Lumigraph, section 3.4.
    """
    if bool(cover.min() == 1) or cover.numel() == 1:
        return colours
    planes = torch.cat([colours * cover, cover[None]])[None]
    means = F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)[0]
    small = means[:3] / means[3].clamp_min(1e-12)
    # one pixel of the four is enough to give the larger one its colour
    around = _filled(small, (4 * means[3]).clamp(max=1))
    size = (cover.shape[0], cover.shape[1])
    return torch.lerp(F.interpolate(around[None], size, mode="bilinear")[0], colours, cover)
