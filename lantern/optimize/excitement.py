"""How strongly a layer answers to pictures, which are looked at whole or tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.optimize import tiles
from lantern.optimize.objectives import Guide, guided
from lantern.optimize.parts import summed
from lantern.optimize.tiles import Tile

# How many of a guide's feature vectors are matched at most, spread evenly over it.
MOST_VECTORS = 1024

Features = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Excitement:
    """What a layer's answer is worth, averaged over positions and pictures.

    A position counts by the mean square over its channels (all, or those chosen) or, where there
    is a guide, by how much of that is in it. Pictures larger than `tile_size` px are looked
    at in tiles.
    """

    features: Features
    layer: str
    stride: int
    tile_size: int
    channels: tuple[int, ...] = ()
    guide: Guide | None = None

    def of(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the excitement by pictures `[N,3,H,W]`, a scalar; tile borders are drawn."""
        height, width = pixels.shape[-2:]
        # drawn also where it is not needed: tiles must not change what else is left to chance
        offset = tiles.draw_offset(self.tile_size, tiles.HALO, generator)
        parts = tiles.laid((height, width), self.tile_size, offset)

        def share(seen: Tensor, tile: Tile) -> Tensor:
            worth = tile.counted(self._worth(seen), self.stride)
            weight = tile.core.area / (height * width * len(pixels))
            return weight * worth.sum() / max(1, worth[0].numel())

        return summed(share, pixels, parts)

    def _worth(self, seen: Tensor) -> Tensor:
        """Return what each position is worth, `[N,1,h,w]`."""
        activation = self.answer(seen)
        if self.guide is None:
            return activation.square().mean(1, keepdim=True)
        return guided(activation, self.guide)[:, None]

    def answer(self, seen: Tensor) -> Tensor:
        """Return the chosen channels of the layer, `[N,C,h,w]`, of pictures `[N,3,H,W]`."""
        activation = self.features(seen)[self.layer]
        if activation.dim() == 2:
            activation = activation[:, :, None, None]
        return activation[:, list(self.channels)] if self.channels else activation


@torch.no_grad()
def guide_of(excitement: Excitement, pixels: Tensor) -> Guide:
    """Make a guide of what the layer answers to a picture `[1,3,H,W]`."""
    flat = excitement.answer(pixels)[0].flatten(1).T
    count = min(MOST_VECTORS, len(flat))
    return Guide.of(flat[torch.linspace(0, len(flat) - 1, count).round().long()])
