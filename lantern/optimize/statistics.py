"""What photographs have in common, measured once: their colours and their spectrum.

Measured on 500 ImageNet photographs (centre squares of 224 px) in logit space, that is on
`log(x / (1 - x))` of sRGB values clipped to 2/255..253/255.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Mean of each colour channel.
MEAN = (-0.030, -0.238, -0.515)
# Columns: the principal directions of colour times their standard deviations, largest first.
ROOT = (
    (1.612, -0.621, 0.162),
    (1.653, 0.018, -0.360),
    (1.735, 0.559, 0.192),
)
# Mean magnitude of the orthonormal Fourier transform of each principal direction, as a power of
# the frequency in cycles per pixel: `SCALE * f ** -SLOPE`.
SCALE = (0.0369, 0.0383, 0.0451)
SLOPE = (1.377, 1.195, 1.174)


def colours(directions: Tensor) -> Tensor:
    """Turn principal directions `[N,3,H,W]` of unit spread into sRGB `[N,3,H,W]`, 0..1."""
    root, mean = _constants(directions)
    return torch.sigmoid(torch.einsum("ij,njhw->nihw", root, directions) + mean)


def directions(pixels: Tensor) -> Tensor:
    """Undo `colours`; values are clipped to 2/255..253/255 first."""
    root, mean = _constants(pixels)
    logits = torch.logit(pixels.clamp(2 / 255, 253 / 255)) - mean
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(root), logits)


def frequencies(height: int, width: int) -> Tensor:
    """Return the frequency of each entry of a real Fourier transform, `[H,W/2+1]`, cycles/px.

    The constant's is that of the longest wave that fits, so that nothing is divided by zero.
    """
    down = torch.fft.fftfreq(height)[:, None]
    right = torch.fft.rfftfreq(width)[None]
    length: Tensor = (down.square() + right.square()).sqrt()
    return length.clamp_min(1 / max(height, width))


def magnitudes(height: int, width: int) -> Tensor:
    """Return the mean magnitude of a photograph's spectrum, `[3,H,W/2+1]`.

    Source: the role of the ImageNet spectrum in Fel et al. 2023, "Unlocking Feature Visualization
    for Deep Networks with MAgnitude Constrained Optimization", section 3.
    """
    frequency = frequencies(height, width)
    scale, slope = torch.tensor(SCALE)[:, None, None], torch.tensor(SLOPE)[:, None, None]
    magnitude: Tensor = scale * frequency**-slope
    return magnitude


def _constants(like: Tensor) -> tuple[Tensor, Tensor]:
    root = torch.tensor(ROOT, device=like.device)
    return root, torch.tensor(MEAN, device=like.device).view(1, 3, 1, 1)
