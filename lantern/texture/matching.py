"""Finding the places of an exemplar that look like what is already known of a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# How much worse than the best a match may be: the papers' error tolerance.
SLACK = 0.1
# What rounding may add to a mean squared difference: a quarter of one of 256 levels, squared.
ROUNDING = 1e-6


def window_distances(exemplar: Tensor, patches: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean squared difference of each patch to each place of the exemplar.

    `exemplar` `[C,h,w]`, `patches` `[N,C,k,l]`, `weights` `[N,1,k,l]`, not all zero for any patch;
    the result is `[N,h-k+1,w-l+1]`. The square is multiplied out, sum(W(p-n)^2) = sum(W p^2)
    - 2 sum(W n p) + sum(W n^2), so that all patches at all places are one correlation, which never
    lays the exemplar's patches out in memory.
    """
    # around zero the terms are smaller and cancel with less rounding
    middle = exemplar.mean((1, 2), keepdim=True)
    exemplar, patches = exemplar - middle, patches - middle
    planes = torch.cat([exemplar.square().sum(0, keepdim=True), exemplar])
    weighted = weights * patches
    cross = F.conv2d(planes[None], torch.cat([weights, -2 * weighted], dim=1))[0]
    own = (weighted * patches).sum((1, 2, 3))
    total = weights.sum((1, 2, 3)) * len(exemplar)
    distances: Tensor = (cross + own[:, None, None]) / total[:, None, None]
    return distances.clamp_min_(0)


class BlockDistances:
    """The weighted squared differences of one block after another to each place of an exemplar.

    As `window_distances`, but by Fourier transform, whose time does not grow with the block, and
    with weights for each plane. `exemplar` is `[C,h,w]`.
    """

    def __init__(self, exemplar: Tensor) -> None:
        self._middle = exemplar.mean((1, 2), keepdim=True)
        self._size = (exemplar.shape[1], exemplar.shape[2])
        self._planes = torch.fft.rfft2(exemplar - self._middle)
        self._squares = torch.fft.rfft2((exemplar - self._middle).square())

    def squares(self, weights: Tensor) -> Tensor:
        """Return sum(W p^2) at each place, `[h-k+1,w-l+1]`: the same for all blocks of a shape."""
        return self._correlate(self._squares, weights)

    def __call__(self, block: Tensor, weights: Tensor, squares: Tensor) -> Tensor:
        """Return sum(W(p-n)^2) at each place; `block` and `weights` are `[C,k,l]`."""
        block = block - self._middle
        weighted = weights * block
        cross = self._correlate(self._planes, weighted)
        distances: Tensor = squares - 2 * cross + (weighted * block).sum()
        return distances.clamp_min(0)

    def _correlate(self, spectrum: Tensor, kernel: Tensor) -> Tensor:
        # places where the kernel would wrap around are the ones that are cut off
        product = (spectrum * torch.fft.rfft2(kernel, s=self._size).conj()).sum(0)
        rows, cols = (s - k + 1 for s, k in zip(self._size, kernel.shape[1:], strict=True))
        correlation: Tensor = torch.fft.irfft2(product, s=self._size)
        return correlation[:rows, :cols]


def near_best(distances: Tensor, draws: Tensor) -> Tensor:
    """Return for each row of `distances` `[N,P]` the index of a place drawn among the near-best.

    Near-best are those within `1 + SLACK` of the least distance; `draws` `[N]`, 0..1, choose among
    them with equal chances.
    """
    is_near = distances <= (1 + SLACK) * distances.amin(1, keepdim=True) + ROUNDING
    counts = is_near.sum(1)
    chosen = (draws * counts).long().clamp(max=counts - 1)
    return is_near.nonzero()[counts.cumsum(0) - counts + chosen, 1]
