"""Whether a map shows what the network looks at: evidence that no eye can give."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lantern.optimize.regularize import blur
from lantern.vision_model import TOGETHER, VisionModel

# Sigma of the blur that pictures begin from when pixels are put in, px at 224.
BLUR = 5.0


def evidence(
    model: VisionModel, pixels: Tensor, field: Tensor, target: int, *, steps: int
) -> dict[str, Any]:
    """Judge a map `[S,S]` of a class for pixels `[1,3,S,S]` by insertion and deletion.

    Both are areas under a curve, 0..1: the mean probability of the class while pixels, the most
    important first, are put into a blurred picture, or replaced by grey. High is good for the
    first, low for the second. Beside the map's own stand those of pixels in random order, and of
    the centre first, which is a strong guess for photographs.

    Source: Petsiuk et al. 2018, arXiv:1806.07421, section 4; the baselines are ours.
    """
    side = pixels.shape[-1]
    chance = torch.Generator().manual_seed(0)
    maps = {
        "auc": field.detach().cpu(),
        "random": torch.rand(side, side, generator=chance),
        "centre": _centre(side),
    }
    inserted, deleted = curves(model, pixels, torch.stack(list(maps.values())), target, steps)
    return {
        "insertion": {name: round(float(v), 4) for name, v in zip(maps, inserted, strict=True)},
        "deletion": {name: round(float(v), 4) for name, v in zip(maps, deleted, strict=True)},
        "curve_steps": steps,
    }


@torch.inference_mode()
def curves(
    model: VisionModel, pixels: Tensor, maps: Tensor, target: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Return the areas under the insertion and the deletion curves of maps `[M,S,S]`, each `[M]`.

    A curve has `steps` equal shares of the pixels; ties go by their place in the picture.
    """
    blank = model.grey.expand_as(pixels)
    blurred = blur(pixels, BLUR * pixels.shape[-1] / 224)
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).view(maps.shape).to(pixels.device)
    counts = torch.linspace(0, rank[0].numel(), steps + 1).round()[1:-1].tolist()
    kept = torch.cat([rank < count for count in counts])[:, None] if counts else rank[:0, None]
    # whole, blank and blurred are the ends of all curves
    ends = torch.cat([pixels, blank, blurred])
    probabilities = torch.cat(
        [_seen(model, ends[at : at + 1], target) for at in range(3)]
        + [
            _seen(model, torch.where(kept[at : at + TOGETHER], *layers), target)
            for layers in ((pixels, blurred), (blank, pixels))
            for at in range(0, len(kept), TOGETHER)
        ]
    )
    whole, empty, dim = probabilities[:3]
    inner = probabilities[3:].view(2, steps - 1, len(maps))
    areas = inner.sum(1) + torch.stack([dim + whole, whole + empty])[:, None] / 2
    return areas[0] / steps, areas[1] / steps


def _seen(model: VisionModel, pixels: Tensor, target: int) -> Tensor:
    return model.probabilities(model.logits(pixels))[:, target]


def _centre(side: int) -> Tensor:
    away = torch.arange(side) - (side - 1) / 2
    return -(away.square()[:, None] + away.square()[None])


def randomised(model: VisionModel, what: Literal["head", "all"]) -> VisionModel:
    """Return a copy of a network with random weights in its last layer, or in every one.

    They have the spread of those they replace. Source: Adebayo et al. 2018, arXiv:1810.03292,
    section 3.
    """
    twin = model.copy()
    layers = [m for m in twin.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    chance = torch.Generator().manual_seed(0)
    for layer in layers if what == "all" else layers[-1:]:
        weight = layer.weight
        drawn = torch.randn(weight.shape, generator=chance).to(weight) * weight.std()
        layer.weight = nn.Parameter(drawn, requires_grad=False)
    return twin


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's correlation of two maps, -1..1; 0 where one of them is constant."""
    both = torch.stack([_ranks(one), _ranks(other)])
    spread = both.std(1)
    return 0.0 if not bool((spread > 0).all()) else float(torch.corrcoef(both)[0, 1])


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, the mean one where several are equal."""
    place: Tensor
    counts: Tensor
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place.flatten()]
