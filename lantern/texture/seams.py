"""Where one block ends and the next begins: along the path on which they differ least."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


class Sides(NamedTuple):
    """The sides on which a block overlaps what is there already."""

    left: bool = False
    top: bool = False
    right: bool = False
    bottom: bool = False


def boundary_cut(error: Array) -> Array:
    """Return the column of the least-error path from the first row of `error` `[n,o]` to the last.

    The path moves by at most one column from a row to the next; among equals it keeps to the left.

    Source: Efros and Freeman 2001, "Image Quilting", section 2.1.
    """
    cost = error.astype(np.float64)
    rows, columns = cost.shape
    above = np.full(columns + 2, np.inf)
    for row in range(1, rows):
        above[1:-1] = cost[row - 1]
        cost[row] += np.minimum(np.minimum(above[:-2], above[2:]), above[1:-1])
    cut = np.empty(rows, dtype=np.int64)
    cut[-1] = cost[-1].argmin()
    for row in range(rows - 2, -1, -1):
        left = max(0, cut[row + 1] - 1)
        cut[row] = left + cost[row, left : cut[row + 1] + 2].argmin()
    return cut


def from_block(error: Tensor, overlap: int, sides: Sides) -> Tensor:
    """Return which pixels to take from a block, bool `[k,l]`, rather than leave as they are.

    `error` `[k,l]` is the squared difference of the block and what is there; it overlaps that by
    `overlap` pixels on each of its `sides`, and is taken wherever it lies inside all their cuts.
    """
    inside = np.ones(error.shape, dtype=bool)
    strips = zip(sides, _strips(error.numpy(), overlap), _strips(inside, overlap), strict=True)
    for is_overlapping, differences, strip in strips:
        if is_overlapping:
            strip[np.arange(strip.shape[1]) < boundary_cut(differences)[:, None]] = False
    return torch.from_numpy(inside)


def _strips(block: Array, overlap: int) -> tuple[Array, Array, Array, Array]:
    """Return views of a block's strips, as `Sides`, each as if it were the left one."""
    return (
        block[:, :overlap],
        block.T[:, :overlap],
        block[:, ::-1][:, :overlap],
        block.T[:, ::-1][:, :overlap],
    )
