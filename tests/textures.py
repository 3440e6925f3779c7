"""Exemplars to make texture of, and how unlike its exemplar a texture is."""

from __future__ import annotations

import torch
from torch import Tensor

from lantern import samples
from lantern.image import Image
from lantern.texture.matching import window_distances

# Colours of a pattern's dark and light parts, different in each channel.
COLOURS = torch.tensor([[0.2, 0.9], [0.1, 0.6], [0.7, 0.1]])


def sample(name: str, side: int) -> Tensor:
    """A square of a sample texture at half its size, `[3,side,side]`."""
    pixels = Image.decode(samples.textures()[name].read_bytes()).fit(256).pixels
    return pixels[:, 40 : 40 + side, 40 : 40 + side].contiguous()


def stripes(height: int, width: int, *, light: int = 3, dark: int = 3) -> Tensor:
    """Upright stripes of that many pixels."""
    is_light = torch.arange(width) % (light + dark) < light
    return COLOURS[:, is_light.long()][:, None].expand(3, height, width).contiguous()


def checkerboard(height: int, width: int, *, cell: int = 3) -> Tensor:
    """Squares of `cell` pixels a side."""
    is_light = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2
    return COLOURS[:, is_light]


def unlikeness(picture: Tensor, exemplar: Tensor, side: int) -> Tensor:
    """How much each square of a picture differs from the exemplar's likest, `[H-side+1,..]`."""
    height, width = (length - side + 1 for length in picture.shape[1:])
    squares = torch.stack(
        [picture[:, y : y + side, x : x + side] for y in range(height) for x in range(width)]
    )
    weights = torch.ones(256, 1, side, side)
    found = [
        window_distances(exemplar, some, weights[: len(some)]).flatten(1).amin(1)
        for some in torch.split(squares, 256)
    ]
    return torch.cat(found).reshape(height, width)
