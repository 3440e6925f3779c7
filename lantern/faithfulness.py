"""Whether a map shows what the network looks at: evidence that no eye can give."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lantern.judging import Through, at_once
from lantern.optimize.regularize import blur
from lantern.vision_model import LOGITS, TOGETHER, VisionModel

# Sigma of the blur that pictures begin from when pixels are put in, px at 224.
BLUR = 5.0
# Rank correlation with a random network's map above which a map tells little of the network.
MOST_ALIKE = 0.4

# Maps that are judged by curves: the method's own, and two to compare it with.
JUDGED = 3

What = Literal["head", "all"]
# Which weights are made random, in words.
RANDOMISED: dict[What, str] = {"head": "the last layer", "all": "every layer"}


def evidence(
    model: VisionModel,
    pixels: Tensor,
    field: Tensor,
    target: int,
    *,
    steps: int,
    through: Through = at_once,
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
    stacked = torch.stack(list(maps.values()))
    inserted, deleted = curves(model, pixels, stacked, target, steps, through)
    return {
        "insertion": {name: round(float(v), 4) for name, v in zip(maps, inserted, strict=True)},
        "deletion": {name: round(float(v), 4) for name, v in zip(maps, deleted, strict=True)},
        "curve_steps": steps,
    }


def curve_batches(steps: int) -> int:
    """Return how many times pictures pass together for the evidence of one map."""
    return 1 + 2 * -(-JUDGED * (steps - 1) // TOGETHER) if steps else 0


@torch.inference_mode()
def curves(
    model: VisionModel,
    pixels: Tensor,
    maps: Tensor,
    target: int,
    steps: int,
    through: Through = at_once,
) -> tuple[Tensor, Tensor]:
    """Return the areas under the insertion and the deletion curves of maps `[M,S,S]`, each `[M]`.

    A curve has `steps` equal shares of the pixels; ties go by their place in the picture. `through`
    goes through the pictures that are looked at together.
    """
    blank = model.grey.expand_as(pixels)
    blurred = blur(pixels, BLUR * pixels.shape[-1] / 224)
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).view(maps.shape).to(pixels.device)
    counts = torch.linspace(0, rank[0].numel(), steps + 1).round()[1:-1].tolist()
    kept = torch.cat([rank < count for count in counts])[:, None] if counts else rank[:0, None]
    # whole, blank and blurred are the ends of all curves

    def of_ends() -> Tensor:
        return torch.cat([_seen(model, end, target) for end in (pixels, blank, blurred)])

    def between(at: int, first: Tensor, second: Tensor) -> Tensor:
        return _seen(model, torch.where(kept[at : at + TOGETHER], first, second), target)

    batches: list[Callable[[], Tensor]] = [of_ends]
    for layers in ((pixels, blurred), (blank, pixels)):
        batches += [partial(between, at, *layers) for at in range(0, len(kept), TOGETHER)]
    probabilities = torch.cat(through(batches))
    whole, empty, dim = probabilities[:3]
    inner = probabilities[3:].view(2, steps - 1, len(maps))
    areas = inner.sum(1) + torch.stack([dim + whole, whole + empty])[:, None] / 2
    return areas[0] / steps, areas[1] / steps


def _seen(model: VisionModel, pixels: Tensor, target: int) -> Tensor:
    return model.probabilities(model.logits(pixels))[:, target]


def _centre(side: int) -> Tensor:
    away = torch.arange(side) - (side - 1) / 2
    return -(away.square()[:, None] + away.square()[None])


def sanity(
    field: Tensor, of_random: Callable[[What], Tensor], through: Through = at_once
) -> tuple[dict[str, float | None], list[str]]:
    """Compare a map with those of a network with random weights, given by `of_random`.

    Return how alike they are, 0..1, None where there is nothing to compare, and what to beware of.
    """
    found: dict[str, float | None] = {}
    warnings = []

    def compared() -> Tensor:
        alikes = [rank_correlation(field, of_random(what)) for what in RANDOMISED]
        known = [math.nan if alike is None else alike for alike in alikes]
        return torch.tensor(known, dtype=torch.double)

    # together, as the second map may go on with the chance that the first has left
    (alikes,) = through([compared])
    for (what, where), one in zip(RANDOMISED.items(), alikes, strict=True):
        alike = None if one.isnan() else float(one)
        found[f"{what}_randomised"] = None if alike is None else round(abs(alike), 4)
        if alike is None:
            warnings.append(
                f"with random weights in {where} the map says the same of every place: the two "
                "cannot be compared"
            )
        elif abs(alike) > MOST_ALIKE:
            warnings.append(
                f"with random weights in {where} the map stays much the same (rank correlation "
                f"{alike:.2f}): it may show the picture rather than what the network has learnt "
                "(Adebayo et al. 2018)"
            )
    return found, warnings


def randomised(model: VisionModel, what: What) -> VisionModel:
    """Return a copy of a network with random weights in its last layer, or in every one.

    They have the spread of those they replace; biases and norms, which are vectors, stay. The last
    layer is all that makes class scores. Source: Adebayo et al. 2018, arXiv:1810.03292, section 3.
    """
    twin = model.copy()
    weights = _head(twin) if what == "head" else twin.network.parameters()
    chance = torch.Generator().manual_seed(0)
    for weight in weights:
        if weight.dim() > 1 and bool((spread := weight.std()) > 0):
            weight.data = torch.randn(weight.shape, generator=chance).to(weight) * spread
    return twin


def _head(model: VisionModel) -> list[Tensor]:
    """Return the weights of the layer that runs last, and of its twins for the same classes."""
    ran = [model.layer(name) for name in model.costs() if name != LOGITS]
    weights = [layer.weight for layer in ran if isinstance(layer, nn.Linear | nn.Conv2d)]
    last = weights[-1:]
    # a distilled network has one for each of its two tokens
    while last and len(last[0]) == model.class_count and len(weights) > len(last):
        before = weights[-len(last) - 1]
        if before.shape != last[0].shape:
            break
        last.insert(0, before)
    return last


def rank_correlation(one: Tensor, other: Tensor) -> float | None:
    """Return Spearman's correlation of two maps, -1..1; None if one is constant or not finite."""
    both = torch.stack([_ranks(one), _ranks(other)])
    is_told = bool((both.std(1) > 0).all() and one.isfinite().all() and other.isfinite().all())
    return float(torch.corrcoef(both)[0, 1]) if is_told else None


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, the mean one where several are equal."""
    place: Tensor
    counts: Tensor
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place.flatten()]
