"""The decoder's own network: a code in, a small picture out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a code may be, so that neither training nor reading a file needs much memory.
MOST_CHANNELS, MOST_SIDE, MOST_UNITS = 4096, 32, 16_384
# Channels a code is first brought to, in widths.
ENTRY = 8


@dataclass(frozen=True)
class Architecture:
    """Shape of a decoder.

    `code` is the shape of a code, `(C,)` or `(C,h,w)`; `size` the side of a picture, px, a multiple
    of 16; `width` the channels of the last layer but one.
    """

    code: tuple[int, ...]
    size: int
    width: int

    def is_legal(self) -> bool:
        """Tell whether such a decoder may be made."""
        channels, *sides = self.code or (0,)
        return (
            len(sides) in (0, 2)
            and 1 <= channels <= MOST_CHANNELS
            and all(1 <= side <= min(MOST_SIDE, self.size) for side in sides)
            and channels * (sides[0] * sides[1] if sides else 1) <= MOST_UNITS
            and self.size % 16 == 0
            and 16 <= self.size <= 128
            and self.width % 4 == 0
            and 4 <= self.width <= 64
        )

    @property
    def sides(self) -> list[int]:
        """The sides of the maps behind each convolution, each twice the one before, px."""
        begin = max(self.code[1:], default=self.size // 16)
        sides = [self.size]
        while sides[0] // 2 > begin:
            sides.insert(0, sides[0] // 2)
        return sides

    @property
    def channels(self) -> list[int]:
        """The channels in front of the first convolution and behind each."""
        last = len(self.sides) - 1
        behind = [min(ENTRY, 2 ** (last - n)) * self.width for n in range(last + 1)]
        return [ENTRY * self.width, *behind]

    @property
    def operations(self) -> float:
        """Floating-point operations of drawing a picture, but for its first, smallest layers."""
        widths = itertools.pairwise([*self.channels, 3])
        sides = [*self.sides, self.size]
        return sum(
            18.0 * side**2 * before * after
            for side, (before, after) in zip(sides, widths, strict=True)
        )

    @property
    def tape(self) -> float:
        """Bytes that a gradient needs of drawing a picture, but for its first, smallest layers."""
        ends = [*self.channels[1:], 3]
        # of each convolution what it was given, without its edges and with them, and what it made
        return 4.0 * sum(
            (side**2 + (side + 2) ** 2) * before + side**2 * after
            for side, before, after in zip(
                [*self.sides, self.size], self.channels, ends, strict=True
            )
        )


# The one that takes most to draw with.
LARGEST = Architecture((MOST_CHANNELS, 1, 1), 128, 64)


class DecoderNetwork(nn.Module):
    """Codes in standard deviations from their mean `[N,*code]` to pixels `[N,3,S,S]` in 0..1.

    Source: Dosovitskiy and Brox 2016, "Generating Images with Perceptual Similarity Metrics based
    on Deep Networks", table 1, with nearest-neighbour upsampling in place of strided transposed
    convolutions, which leave grids, and with a bottleneck in place of three wide fully connected
    layers. Nothing is normalised, as that would take brightness and colour away.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width, channels = architecture.width, architecture.code[0]
        entry, first = ENTRY * width, architecture.size // 16
        self.entry: nn.Module = nn.Conv2d(channels, entry, 1)
        if len(architecture.code) == 1:
            self.entry = nn.Sequential(
                nn.Linear(channels, entry),
                nn.LeakyReLU(0.2),
                nn.Linear(entry, 2 * width * first**2),
                nn.Unflatten(1, (2 * width, first, first)),
                nn.Conv2d(2 * width, entry, 1),
            )
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, padding_mode="reflect"),
                nn.LeakyReLU(0.2),
            )
            for before, after in itertools.pairwise(architecture.channels)
        )
        self.exit = nn.Conv2d(width, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, codes: Tensor) -> Tensor:
        """Draw a picture for each code."""
        maps = F.leaky_relu(self.entry(codes), 0.2)
        for side, stage in zip(self.architecture.sides, self.stages, strict=True):
            maps = stage(F.interpolate(maps, size=(side, side), mode="nearest"))
        return torch.sigmoid(self.exit(maps))
