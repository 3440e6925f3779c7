"""How pictures differ, and how natural they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lantern.image import Image


def psnr(one: Tensor, other: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two pictures in 0..1, dB; infinite if they agree."""
    error = float((one - other).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(one: Image, other: Image) -> float:
    """Return the structural similarity of two pictures of one size, -1..1.

    Source: Wang et al. 2004, with the Gaussian window of 1.5 px of the paper.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            one.pixels.cpu().numpy(), other.pixels.cpu().numpy(), channel_axis=0, data_range=1.0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
    )  # fmt: skip


def high_frequency_share(pixels: Tensor, *, above: float = 0.25) -> Tensor:
    """Return each picture's share of spectral energy above a frequency (cycles per pixel), `[N]`.

    The constant part does not count; photographs lie near 0.03.
    """
    centred = pixels - pixels.mean((2, 3), keepdim=True)
    height, width = pixels.shape[-2:]
    energy = torch.fft.fft2(centred).abs().square().sum(1)
    down = torch.fft.fftfreq(height, device=pixels.device)[:, None]
    right = torch.fft.fftfreq(width, device=pixels.device)[None]
    is_high = (down.square() + right.square()).sqrt() > above
    share: Tensor = energy[:, is_high].sum(1) / energy.flatten(1).sum(1).clamp_min(1e-12)
    return share
