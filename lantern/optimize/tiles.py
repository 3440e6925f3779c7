"""Tiles of a picture that is too large to be looked at as a whole."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

# Borders lie at multiples of this many pixels, the coarsest stride of the usual networks:
# so a tile's activations lie where those of the whole picture do.
GRID = 32
# What a tile sees around its core, px. At it the gradient of a middle layer agrees with that of
# the whole picture: their cosine was above 0.998 for blocks 4 to 10 of EfficientNet-Lite0.
HALO = 64


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`, ends excluded, px."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def area(self) -> int:
        """Pixels."""
        return self.height * self.width

    def grown(self, by: int, height: int, width: int) -> Box:
        """Return the box with `by` more pixels on every side, as far as a picture goes."""
        return Box(
            max(0, self.top - by),
            max(0, self.left - by),
            min(height, self.bottom + by),
            min(width, self.right + by),
        )

    def of(self, planes: Tensor) -> Tensor:
        """Return this part of `[...,H,W]`, a view."""
        return planes[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Tile:
    """One part of a picture: its `core` counts, and `seen` around it is looked at.

    The cores of all tiles cover the picture and do not overlap; `seen` has the core and its halo,
    as far as the picture goes.
    """

    core: Box
    seen: Box

    def of(self, planes: Tensor) -> Tensor:
        """Return what is seen of `[...,H,W]`, a view."""
        return self.seen.of(planes)

    def counted(self, activation: Tensor, stride: int) -> Tensor:
        """Return the positions of `[N,C,h,w]`, made of what is seen, that belong to the core.

        `stride` is how many pixels a position stands for; borders are multiples of it. What has no
        positions, `[N,C]` or a single one, counts as a whole.
        """
        if activation.dim() < 4 or activation.shape[2:] == (1, 1):
            return activation
        core, seen = self.core, self.seen
        down = _positions(core.top - seen.top, core.bottom - seen.top, seen.height, stride)
        right = _positions(core.left - seen.left, core.right - seen.left, seen.width, stride)
        return activation[..., down, right]


def _positions(first: int, last: int, length: int, stride: int) -> slice:
    # the last position of a picture may stand for less than a stride
    return slice(first // stride, None if last == length else last // stride)


def cut(
    height: int, width: int, *, side: int, halo: int, offset: tuple[int, int] = (0, 0)
) -> list[Tile]:
    """Cut a picture into tiles of which none sees more than `side` pixels a side.

    Borders between cores lie at `offset` (down, right) and every `side - 2 * halo` pixels from it.

    Raises:
        ValueError: no core is left, or a border would be off the grid.
    """
    step = side - 2 * halo
    if step < GRID or any(pixels % GRID for pixels in (step, halo, *offset)):
        raise ValueError(
            f"side {side}, halo {halo}, offset {offset}: side - 2 * halo must be at least {GRID}, "
            f"it, halo and offset multiples of {GRID}"
        )
    cores = [
        Box(top, left, bottom, right)
        for top, bottom in _spans(height, step, offset[0])
        for left, right in _spans(width, step, offset[1])
    ]
    return [Tile(core, core.grown(halo, height, width)) for core in cores]


def laid(size: tuple[int, int], side: int, offset: tuple[int, int] = (0, 0)) -> list[Tile]:
    """Return a picture of a size (height, width) as one tile, or cut where it is over `side` px."""
    height, width = size
    if max(size) > side:
        return cut(height, width, side=side, halo=HALO, offset=offset)
    whole = Box(0, 0, height, width)
    return [Tile(whole, whole)]


def _spans(length: int, step: int, offset: int) -> list[tuple[int, int]]:
    cuts = [0, *range(offset % step or step, length, step), length]
    return list(itertools.pairwise(cuts))


def draw_offset(side: int, halo: int, generator: torch.Generator) -> tuple[int, int]:
    """Draw an offset for `cut`, so that those of many steps leave no seam."""
    choices = (side - 2 * halo) // GRID
    down, right = (torch.rand(2, generator=generator) * choices).long().tolist()
    return down * GRID, right * GRID
