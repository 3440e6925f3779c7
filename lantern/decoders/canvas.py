"""Pictures as codes that a decoder draws."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.decoders.decoder import Decoder

# How far a unit of a code may go from its mean, in standard deviations.
FARTHEST = 3.0


class Codes:
    """Pictures `[N,3,size,size]` as the codes `[N,*code]` of a decoder that is not changed.

    The parameter is in standard deviations of each unit from its mean.

    Source: Nguyen et al. 2016, "Synthesizing the preferred inputs for neurons in neural networks
    via deep generator networks" (DGN-AM), section 2; codes begin near their mean, and are kept
    within 3 standard deviations of it on both sides instead of between 0 and 3.
    """

    def __init__(self, decoder: Decoder, count: int, size: int, generator: torch.Generator) -> None:
        self._decoder, self._size = decoder, size
        start = 0.3 * torch.randn(count, *decoder.mean.shape, generator=generator)
        self.parameters = [start.to(decoder.mean.device).requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the pictures, enlarged from what the decoder draws."""
        return self.draw(self.parameters[0])

    def draw(self, shares: Tensor) -> Tensor:
        """Return the pictures of codes `[n,*code]`."""
        drawn = self._decoder.pictures(shares)
        size = (self._size, self._size)
        return F.interpolate(drawn, size=size, mode="bilinear", align_corners=False)

    def project(self) -> None:
        """Keep each unit within 3 standard deviations of its mean."""
        with torch.no_grad():
            self.parameters[0].clamp_(-FARTHEST, FARTHEST)
