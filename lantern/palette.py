"""Whose colours a stylised picture has: the painting's or the photograph's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lantern.image import Image

# Luma and chroma of BT.601, on which both published ways of keeping colours work.
_LUMA = (0.299, 0.587, 0.114)
# The highest level where histograms are matched.
_LEVELS = 2**16 - 1


def luma(pixels: Tensor) -> Tensor:
    """Return the luma `[...,1,H,W]` of sRGB pixels `[...,3,H,W]`."""
    weights = torch.tensor(_LUMA, device=pixels.device).view(3, 1, 1)
    return (pixels * weights).sum(-3, keepdim=True)


def grey(image: Image) -> Image:
    """Take the colours out, three equal channels."""
    return dataclasses.replace(image, pixels=luma(image.pixels).expand(3, -1, -1).contiguous())


def with_colours_of(image: Image, photo: Image) -> Image:
    """Keep a picture's luma and give it the chroma of a photograph of the same size.

    Source: Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer", section 4.2.
    """
    pixels = photo.pixels - luma(photo.pixels) + luma(image.pixels)
    return dataclasses.replace(image, pixels=pixels.clamp(0, 1))


def luma_matched(painting: Image, photo: Image) -> Image:
    """Shift and stretch a grey painting's luma to the mean and spread of a photograph's.

    Source: Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer", equation 12.
    """
    own, wanted = luma(painting.pixels), luma(photo.pixels)
    spread = wanted.std() / own.std().clamp_min(1e-6)
    return dataclasses.replace(
        painting, pixels=((painting.pixels - own.mean()) * spread + wanted.mean()).clamp(0, 1)
    )


def recoloured(painting: Image, photo: Image) -> Image:
    """Give a painting the histogram of a photograph, channel by channel.

    Source: Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer", section 4.1.
    """
    from skimage.exposure import match_histograms

    # counting levels takes a fraction of the time that sorting values does
    matched = match_histograms(_levels(painting), _levels(photo), channel_axis=0)
    pixels = torch.from_numpy(matched.astype(np.float32)).div_(_LEVELS)
    return dataclasses.replace(painting, pixels=pixels)


def _levels(image: Image) -> np.ndarray[Any, Any]:
    """Return the levels of a picture `[3,H,W]`, 256 for each of those that files hold."""
    levels = image.pixels.clamp(0, 1).mul(_LEVELS).round_()
    return levels.numpy().astype(np.uint16)
