"""What is taken from paintings: the statistics of their features, blended or each in its region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.optimize.objectives import gram, relative_error

Statistic = Literal["gram", "sliced-wasserstein"]
# Random directions that features are projected on, and the quantiles compared along each.
DIRECTIONS, QUANTILES = 64, 512


class Style(Protocol):
    """A style as a loss on activations."""

    def loss(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return how far each sample is from the style, `[N]`; the paintings' own is 0."""
        ...


def smoothed(seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn each position's features into a softmax over the channels, times their number.

    The peaks of residual networks otherwise drown every other feature's statistics.

    Source: Wang et al. 2021, "Rethinking and Improving the Robustness of Image Style Transfer",
    section 4; times the number of channels, so that values stay near one.
    """
    return {name: act.softmax(1) * act.shape[1] for name, act in seen.items()}


class Grams:
    """The Gram matrices of several paintings, blended by weights.

    Without weights each sample has a painting of its own.

    Source: Gatys et al. 2016, equations 3 to 5; relative errors as in `style_loss`.
    """

    def __init__(
        self, paintings: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None
    ) -> None:
        self._targets = {
            name: _blended([gram(p[name]) for p in paintings], weights) for name in paintings[0]
        }

    def loss(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return the mean relative error of the Gram matrices over the layers."""
        errors = [
            relative_error(gram(seen[name]), target.expand(len(seen[name]), -1, -1))
            for name, target in self._targets.items()
        ]
        return torch.stack(errors).mean(0)


class Regions:
    """A painting for each region of the picture.

    `masks` are `[H,W]`, 0..1, in the picture's own coordinates; soft edges are soft.

    Source: Gatys et al. 2017, "Controlling Perceptual Factors in Neural Style Transfer",
    section 4.1, guided Gram matrices.
    """

    def __init__(
        self,
        paintings: Sequence[Mapping[str, Tensor]],
        masks: Sequence[Tensor],
        weights: Sequence[float],
    ) -> None:
        self._shares = [weight / sum(weights) for weight in weights]
        self._targets = [{n: gram(a) for n, a in painting.items()} for painting in paintings]
        self._masks = [mask[None, None] for mask in masks]

    def moved(self, shift: Sequence[int]) -> Regions:
        """Return the same with the masks rolled, for a picture that was."""
        made = Regions.__new__(Regions)
        made._shares, made._targets = self._shares, self._targets
        made._masks = [mask.roll(tuple(shift), (2, 3)) for mask in self._masks]
        return made

    def loss(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return the mean relative error over layers and regions."""
        total: Tensor = torch.zeros(())
        for share, targets, mask in zip(self._shares, self._targets, self._masks, strict=True):
            errors = [
                relative_error(_guided(seen[name], mask), target)
                for name, target in targets.items()
            ]
            total = total.to(errors[0].device) + share * torch.stack(errors).mean(0)
        return total


class SlicedWasserstein:
    """The distributions of the paintings' features, compared along random directions.

    Weights as those of `Grams`.

    Source: Heitz et al. 2021, "A Sliced Wasserstein Loss for Neural Texture Synthesis",
    equation 3; the paper draws new directions at every step, here they are drawn once, so that the
    loss is the same function throughout, and quantiles are compared, so that sizes may differ.
    """

    def __init__(
        self,
        paintings: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float] | None,
        generator: torch.Generator,
    ) -> None:
        self._directions = {
            name: _directions(act.shape[1], generator).to(act.device)
            for name, act in paintings[0].items()
        }
        self._targets = {
            name: _blended([self._quantiles(name, p[name]) for p in paintings], weights)
            for name in paintings[0]
        }

    def loss(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return the mean relative distance of the quantiles over the layers."""
        errors = [
            relative_error(
                self._quantiles(name, seen[name]), target.expand(len(seen[name]), -1, -1)
            )
            for name, target in self._targets.items()
        ]
        return torch.stack(errors).mean(0)

    def _quantiles(self, name: str, activation: Tensor) -> Tensor:
        along = torch.einsum("dc,ncp->ndp", self._directions[name], activation.flatten(2))
        ordered = along.sort(dim=2).values
        if ordered.shape[2] == QUANTILES:
            return ordered
        return F.interpolate(ordered, size=QUANTILES, mode="linear", align_corners=True)


def _blended(values: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    if weights is None:
        return torch.cat(list(values))
    parts = [weight * value for weight, value in zip(weights, values, strict=True)]
    return torch.stack(parts).sum(0) / sum(weights)


def _directions(channels: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(DIRECTIONS, channels, generator=generator), dim=1)


def _guided(activation: Tensor, mask: Tensor) -> Tensor:
    """Return the Gram matrix `[N,C,C]` of the positions under a mask, each counting by it."""
    guide = F.interpolate(mask, size=activation.shape[-2:], mode="area")
    weight = guide.flatten(1)[:, None]
    flat = activation.flatten(2)
    total = weight.sum().clamp_min(1e-6)
    return torch.bmm(flat * weight, flat.transpose(1, 2)) / (activation.shape[1] * total)
