"""Which pixels of a growing picture come next, and which of them may be found at once."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def frontier(known: Tensor, generator: torch.Generator, *, tileable: bool) -> Tensor:
    """Return the unknown pixels beside known ones, `[N,2]` rows and columns, in paint order.

    Those with most known among their eight neighbours come first, equal ones in random order.
    """
    mode = "circular" if tileable else "constant"
    framed = F.pad(known.float()[None, None], (1, 1, 1, 1), mode=mode)
    neighbours = F.avg_pool2d(framed, 3, stride=1, divisor_override=1)[0, 0]
    found = ((neighbours > 0) & ~known).nonzero()
    # counts are whole numbers, so a draw below one only orders equals
    rank = neighbours[found[:, 0], found[:, 1]] + torch.rand(len(found), generator=generator)
    return found[rank.argsort(descending=True)]


def turns(order: Tensor, height: int, width: int, reach: int, *, tileable: bool) -> list[Tensor]:
    """Split the pixels `order` `[N,2]` into turns, each the indices of pixels to find at once.

    A pixel's turn comes after those of all pixels that precede it in `order` and lie within
    `reach` rows and columns, so that what it sees is what it would see if they were taken one by
    one.
    """
    turn = np.zeros((height, width), dtype=np.int32)
    steps = np.arange(-reach, reach + 1)
    own = np.empty(len(order), dtype=np.int32)
    for index, (row, column) in enumerate(order.tolist()):
        if tileable:
            seen = turn[(row + steps)[:, None] % height, (column + steps) % width]
        else:
            top, left = max(0, row - reach), max(0, column - reach)
            seen = turn[top : row + reach + 1, left : column + reach + 1]
        own[index] = turn[row, column] = seen.max() + 1
    return [torch.from_numpy(np.flatnonzero(own == n + 1)) for n in range(own.max(initial=0))]
