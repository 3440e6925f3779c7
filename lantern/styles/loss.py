"""What a style network is trained for: a painting's statistics, and the photograph's content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from lantern.optimize.objectives import content_loss, gram, style_loss
from lantern.optimize.regularize import total_variation
from lantern.params import Params
from lantern.vision_model import VisionModel

Features = Callable[[Tensor], Mapping[str, Tensor]]


class PaintingLossParams(Params):
    """What weighs how much, against style = 1."""

    content_weight: float = Field(
        0.15, ge=0, le=100, description="how much of the photograph is kept, against style = 1"
    )
    tv_weight: float = Field(0.3, ge=0, le=100, description="weight of the smoothness of pixels")


@dataclass(frozen=True)
class Losses:
    """Relative Gram error, relative feature error and total variation of each picture, `[N]`."""

    style: Tensor
    content: Tensor
    variation: Tensor

    def total(self, params: PaintingLossParams) -> Tensor:
        """Return the weighted sum, the mean over the pictures."""
        kept = params.content_weight * self.content + params.tv_weight * self.variation
        return (self.style + kept).mean()


@dataclass(frozen=True)
class PaintingLoss:
    """Judges painted photographs by a vision network.

    Source: Johnson et al. 2016, section 3, with relative losses in place of weighed ones.
    """

    features: Features
    style: tuple[str, ...]
    content: tuple[str, ...]

    @staticmethod
    @contextmanager
    def by(model: VisionModel) -> Iterator[PaintingLoss]:
        """Judge by a network's own layers for style and content."""
        style, content = tuple(model.style_layers), tuple(model.content_layers)
        with model.quick((*style, *content)).capture((*style, *content)) as features:
            yield PaintingLoss(features, style, content)

    @torch.no_grad()
    def hand(self, paintings: Tensor) -> dict[str, Tensor]:
        """Return the Gram matrices of paintings `[N,3,H,W]`, by layer."""
        seen = self.features(paintings)
        return {name: gram(seen[name]) for name in self.style}

    def __call__(self, painted: Tensor, photos: Tensor, hands: Mapping[str, Tensor]) -> Losses:
        """Judge pictures `[N,3,H,W]` painted from photographs of the same shape."""
        with torch.no_grad():
            seen = self.features(photos)
            wanted = {name: seen[name] for name in self.content}
        got = self.features(painted)
        return Losses(style_loss(got, hands), content_loss(got, wanted), total_variation(painted))
