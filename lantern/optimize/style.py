"""What is taken from paintings: the statistics of their features, blended or each in its region."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.optimize.objectives import relative_error
from lantern.optimize.tiles import Box

Statistic = Literal["gram", "sliced-wasserstein"]
# Random directions that features are projected on, and the quantiles compared along each.
DIRECTIONS, QUANTILES = 64, 512
# What sorting a value takes for each halving of its row, the way back included, as operations
# of a network that take as long (measured on a core).
SORTING = 90.0


class Style(Protocol):
    """A style as a loss on activations."""

    def loss(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return how far each sample is from the style, `[N]`; the paintings' own is 0."""
        ...

    def moved(self, by: tuple[int, int]) -> Style:
        """Return the same for a picture that was rolled by some pixels (down, right)."""
        ...


def smoothed(seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn each position's features into a softmax over the channels, times their number.

    The peaks of residual networks otherwise drown every other feature's statistics.

    Source: Wang et al. 2021, "Rethinking and Improving the Robustness of Image Style Transfer",
    section 4; times the number of channels, so that values stay near one.
    """
    return {name: act.softmax(1) * act.shape[1] for name, act in seen.items()}


@dataclass(frozen=True)
class Moments:
    """Products of features `[N,C,C]`, summed over positions, and how much these count together.

    Those of a picture's tiles add up to those of the picture.
    """

    products: Tensor
    weight: Tensor

    @staticmethod
    def of(activation: Tensor, mask: Tensor | None = None) -> Moments:
        """Sum over the positions of `[N,C,h,w]`, each counting by what `mask` `[1,1,H,W]` shows."""
        flat = activation.flatten(2)
        if mask is None or not flat.numel():  # the end of a picture may be less than a position
            return Moments(torch.bmm(flat, flat.transpose(1, 2)), flat.new_tensor(flat.shape[2]))
        guide = F.interpolate(mask, size=activation.shape[-2:], mode="area")
        weight = guide.flatten(1)[:, None]
        return Moments(torch.bmm(flat * weight, flat.transpose(1, 2)), weight.sum())

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.products + other.products, self.weight + other.weight)

    def gram(self) -> Tensor:
        """Return the Gram matrices, as `objectives.gram` does."""
        return self.products / (self.products.shape[1] * self.weight.clamp_min(1e-6))


@dataclass(frozen=True)
class _Region:
    """What is wanted where a mask `[1,1,H,W]` is white, and its share of the loss."""

    targets: Mapping[str, Tensor]
    share: float = 1.0
    mask: Tensor | None = None


def _over_layers(errors: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
    """Return the mean of the layers' errors, each counting by its share, 1 if it has none."""
    weights = [shares.get(name, 1.0) for name in errors]
    parts = [weight * error for weight, error in zip(weights, errors.values(), strict=True)]
    return torch.stack(parts).sum(0) / sum(weights)


class Grams:
    """The Gram matrices of paintings, by layer: blended, or each in a region of the picture.

    Source: Gatys et al. 2016, equations 3 to 5; relative errors as in `style_loss`. Gatys et al.
    2017, "Controlling Perceptual Factors in Neural Style Transfer", section 4.1, for regions.
    """

    def __init__(
        self, regions: Sequence[_Region], shares: Mapping[str, float] | None = None
    ) -> None:
        self._regions, self._shares = tuple(regions), shares or {}

    @staticmethod
    def blended(
        paintings: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float] | None,
        shares: Mapping[str, float] | None = None,
    ) -> Grams:
        """Blend paintings by weights; without these each sample has a painting of its own.

        `shares` say how much a layer counts, 1 where they say nothing.
        """
        blend = {name: _blended([p[name] for p in paintings], weights) for name in paintings[0]}
        return Grams([_Region(blend)], shares)

    @staticmethod
    def by_region(
        paintings: Sequence[Mapping[str, Tensor]],
        masks: Sequence[Tensor],
        weights: Sequence[float],
        shares: Mapping[str, float] | None = None,
    ) -> Grams:
        """Give each painting where its mask `[H,W]`, 0..1, is white; soft edges are soft."""
        return Grams(
            [
                _Region(painting, weight / sum(weights), mask[None, None])
                for painting, mask, weight in zip(paintings, masks, weights, strict=True)
            ],
            shares,
        )

    def moved(self, by: tuple[int, int]) -> Grams:
        """Return the same with the masks rolled."""
        if by == (0, 0) or all(region.mask is None for region in self._regions):
            return self
        return Grams(
            [
                dataclasses.replace(r, mask=None if r.mask is None else r.mask.roll(by, (2, 3)))
                for r in self._regions
            ],
            self._shares,
        )

    def loss(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return the relative error of the Gram matrices over layers and regions, `[N]`."""
        return self.judged(self.moments(seen))

    def moments(self, seen: Mapping[str, Tensor], core: Box | None = None) -> list[Moments]:
        """Sum up activations of a picture, or of one `core` of it, for each region and layer."""
        return [
            Moments.of(seen[name], _part(region.mask, core))
            for region in self._regions
            for name in region.targets
        ]

    def judged(self, moments: Sequence[Moments]) -> Tensor:
        """Return the loss of a picture whose `moments` these are, `[N]`."""
        found = iter(moments)
        losses = []
        for region in self._regions:
            grams = {name: next(found).gram() for name in region.targets}
            errors = {
                name: relative_error(grams[name], target.expand_as(grams[name]))
                for name, target in region.targets.items()
            }
            losses.append(region.share * _over_layers(errors, self._shares))
        return torch.stack(losses).sum(0)


def _part(mask: Tensor | None, core: Box | None) -> Tensor | None:
    return mask if mask is None or core is None else core.of(mask)


class SlicedWasserstein:
    """The distributions of the paintings' features, compared along random directions.

    Blended by weights; without these each sample has a painting of its own.

    Source: Heitz et al. 2021, "A Sliced Wasserstein Loss for Neural Texture Synthesis",
    equation 3; the paper draws new directions at every step, here they are drawn once, so that the
    loss is the same function throughout, and quantiles are compared, so that sizes may differ.
    """

    def __init__(
        self,
        paintings: Iterable[Mapping[str, Tensor]],
        weights: Sequence[float] | None,
        generator: torch.Generator,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self._shares = shares or {}
        self._directions: dict[str, Tensor] = {}
        found: list[dict[str, Tensor]] = []
        for painting in paintings:  # one at a time: of large ones there is much
            if not found:
                self._directions = {
                    name: _directions(act.shape[1], generator).to(act.device)
                    for name, act in painting.items()
                }
            found.append({name: self._quantiles(name, act) for name, act in painting.items()})
        self._targets = {
            name: _blended([quantiles[name] for quantiles in found], weights) for name in found[0]
        }

    def loss(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return the mean relative distance of the quantiles over the layers."""
        errors = {
            name: relative_error(
                self._quantiles(name, seen[name]), target.expand(len(seen[name]), -1, -1)
            )
            for name, target in self._targets.items()
        }
        return _over_layers(errors, self._shares)

    def moved(self, by: tuple[int, int]) -> SlicedWasserstein:
        """Return the same: distributions forget where things are."""
        return self

    def _quantiles(self, name: str, activation: Tensor) -> Tensor:
        along = torch.einsum("dc,ncp->ndp", self._directions[name], activation.flatten(2))
        ordered = along.sort(dim=2).values
        if ordered.shape[2] == QUANTILES:
            return ordered
        return F.interpolate(ordered, size=QUANTILES, mode="linear", align_corners=True)


def sorting(positions: float) -> float:
    """Return the operations of comparing the distributions of so many positions, and back."""
    return SORTING * DIRECTIONS * positions * math.log2(max(2.0, positions))


def sorted_bytes(positions: float) -> float:
    """Return the bytes that are kept of so many positions: values, their order and gradients."""
    return 16.0 * DIRECTIONS * positions


def _blended(values: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    if weights is None:
        return torch.cat(list(values))
    parts = [weight * value for weight, value in zip(weights, values, strict=True)]
    return torch.stack(parts).sum(0) / sum(weights)


def _directions(channels: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(DIRECTIONS, channels, generator=generator), dim=1)
