"""What keeps optimised pictures natural."""

from __future__ import annotations

from torch import Tensor


def total_variation(pixels: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels of each sample, `[N]`.

    Source: Mahendran and Vedaldi 2015, section 2.2, with beta = 2.
    """
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).square().flatten(1).mean(1)
    right = (pixels[..., :, 1:] - pixels[..., :, :-1]).square().flatten(1).mean(1)
    return down + right
