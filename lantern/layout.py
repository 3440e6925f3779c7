"""How a layer lays out what it makes: as maps, with channels last, or as a row of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Tokens that stand for no patch, as of the class, of a teacher, or registers.
MOST_EXTRA = 8


@dataclass(frozen=True)
class Layout:
    """Turns a layer's output into maps `[N,C,h,w]` and back; maps and vectors are left as they are.

    `channels_last` is of `[N,h,w,C]`; `side` of tokens `[N,extra+side*side,C]`, row by row behind
    `extra` ones that stand for no patch.
    """

    channels_last: bool = False
    side: int = 0
    extra: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """Return the maps; tokens that stand for no patch are left out."""
        if self.channels_last:
            return output.permute(0, 3, 1, 2)
        if self.side:
            patches = output[:, self.extra :].transpose(1, 2)
            return patches.reshape(*patches.shape[:2], self.side, self.side)
        return output

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """Undo `maps`; tokens that stand for no patch are those of `like`."""
        if self.channels_last:
            return maps.permute(0, 2, 3, 1)
        if self.side:
            extra = like[:, : self.extra].expand(len(maps), -1, -1)
            return torch.cat([extra, maps.flatten(2).transpose(1, 2)], 1)
        return maps


MAPS = Layout()


def has_tokens(network: nn.Module) -> bool:
    """Tell whether layers may make others than maps: where single tokens are normalised."""
    return any(isinstance(module, nn.LayerNorm) for module in network.modules())


def layout_of(shape: Sequence[int]) -> Layout:
    """Tell from the shape of an output, without the batch, for a square picture."""
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:
        return Layout(channels_last=True)
    if len(shape) == 2:
        side = math.isqrt(shape[0])
        if side > 1 and shape[0] - side**2 <= MOST_EXTRA:
            return Layout(side=side, extra=shape[0] - side**2)
    return MAPS
