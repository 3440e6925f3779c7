"""RISE: what the score owes to each place, by looking through random masks."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.progress import Progress, Step, Told
from lantern.registry import technique
from lantern.scoring import scorer
from lantern.sums import Sums
from lantern.techniques.effort import effort
from lantern.techniques.explained import (
    Attribution,
    ExplainParams,
    explained,
    preview,
    rounding_of_probability,
    turn,
)
from lantern.techniques.target import choose_class
from lantern.vision_model import TOGETHER, VisionModel
from lantern.work import Sizes, Work

# Masks that pass together with their opposites.
PAIRS = TOGETHER // 2
# Fewer pairs say too little of the error.
LEAST_PAIRS = 32


class RiseParams(ExplainParams):
    """How many masks there are, and when they are enough."""

    masks: int = Field(800, ge=64, le=8000, description="most masks; half of them are opposites")
    cells: int = Field(8, ge=2, le=32, description="cells of a mask along a side")
    error: float = Field(
        0.03,
        gt=0,
        le=1,
        description="standard error, as a share of the map's range, at which it ends early",
    )


def _work(params: RiseParams, sizes: Sizes, model: VisionModel) -> Work:
    return effort(params, model, 1 + 2 * (params.masks // 2))


@technique(
    "rise",
    title="RISE",
    family="attribution",
    runs="interactive",
    source="Petsiuk et al. 2018, arXiv:1806.07421, section 3; opposite masks in pairs are ours",
    outputs={"heatmap": "how much the probability owes to each pixel being seen"},
    work=_work,
)
def rise(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    generator: torch.Generator,
    progress: Progress,
    checkpoints: Checkpoints,
    params: RiseParams,
) -> Outcome:
    """Look at the picture through many random masks, and find what helps when it is seen.

    Takes nothing but the network's answers. Masks come in pairs, each with its opposite, whose
    difference tells more than two masks by chance; it ends once the map's error is small.
    """

    told = Told(progress)

    def explain(network: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        _, tell, kept = turn(network, model, told, checkpoints)
        with torch.inference_mode():
            logits = network.logits(pixels)
            target = choose_class(network, logits, target)
            # a random network looks through the same masks: maps are to differ by weights alone
            chance = generator.clone_state()
            field, facts = _through_masks(network, pixels, target, params, chance, tell, kept)
            rounding = rounding_of_probability(network, logits, target)
        return Attribution(field.clone(), logits.clone(), target, facts, rounding=rounding)

    return explained(model, image, params, explain)


def _through_masks(
    model: VisionModel,
    pixels: Tensor,
    target: int,
    params: RiseParams,
    generator: torch.Generator,
    progress: Progress,
    checkpoints: Checkpoints,
) -> tuple[Tensor, dict[str, object]]:
    side, score = pixels.shape[-1], scorer(model, params.masks)
    most = params.masks // 2
    sums = Sums.begun(torch.zeros(side, side, dtype=torch.float64), generator, checkpoints)

    def told() -> float:
        """Tell of the map so far; return its error."""
        error = _error(sums)
        done, batches = -(-sums.count // PAIRS), -(-most // PAIRS)
        progress(Step(done, batches, error, preview(sums.mean, pixels)))
        return error

    # of a run that goes on, where it was
    error = told() if sums.count else 1.0
    while sums.count < most and not (sums.count >= LEAST_PAIRS and error <= params.error):
        count = min(PAIRS, most - sums.count)
        masks = draw_masks(count, params.cells, side, generator).to(pixels)
        both = torch.cat([masks, 1 - masks])
        # what is not seen is grey, which is zero to the network
        seen = model.grey + (pixels - model.grey) * both[:, None]
        probabilities = model.probabilities(score(seen))[:, target]
        gain = (probabilities[:count] - probabilities[count:])[:, None, None]
        sums.add((gain * (2 * masks - 1)).double().cpu())
        error = told()
        sums.keep()
    facts: dict[str, object] = {
        "masks": 2 * sums.count,
        "standard_error": round(error, 4),
        "settled": error <= params.error,
    }
    return sums.mean.float(), facts


def _error(sums: Sums) -> float:
    """Return the standard error of a map, as a share of its range."""
    deviation = sums.variance.clamp_min(0) / sums.count
    width = float(sums.mean.max() - sums.mean.min())
    return float(deviation.sqrt().mean()) / max(width, 1e-12)


def draw_masks(count: int, cells: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw smooth masks `[N,S,S]` in 0..1: coarse ones of 0 and 1, enlarged and shifted."""
    cell = -(-side // cells)
    coarse = (torch.rand(count, 1, cells + 1, cells + 1, generator=generator) < 0.5).float()
    large = torch.nn.functional.interpolate(
        coarse, scale_factor=cell, mode="bilinear", align_corners=False
    )[:, 0]
    shifts = torch.randint(0, cell, (count, 2), generator=generator).tolist()
    return torch.stack(
        [
            mask[down : down + side, right : right + side]
            for mask, (down, right) in zip(large, shifts, strict=True)
        ]
    )
