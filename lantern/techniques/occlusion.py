"""Occlusion: how the score falls where a patch covers the picture."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.image import Image
from lantern.local_change import Box, LocalChange, covered
from lantern.optimize.regularize import blur
from lantern.patches import coarse_to_fine, patches, spread
from lantern.registry import technique
from lantern.scoring import Scorer, compiled_scorer
from lantern.techniques.explained import Attribution, ExplainParams, explained
from lantern.techniques.target import check_channel, choose_class, strongest
from lantern.vision_model import TOGETHER, VisionModel

# Sigma of the blur that covers, px at 224.
BLUR = 12.0


class OcclusionParams(ExplainParams):
    """What covers the picture, and what is watched."""

    patch: int = Field(32, ge=1, le=512, description="side of the patch, px of the network's view")
    stride: int = Field(16, ge=1, le=512, description="step from patch to patch, px of the view")
    fill: Literal["grey", "mean", "blur", "black"] = Field(
        "grey",
        description="what covers: the network's grey, the picture's mean colour, the picture "
        "blurred, or black",
    )
    score: Literal["probability", "logit"] = Field(
        "probability", description="which score of the class is watched"
    )
    exact: bool = Field(
        False,
        description="take the network's own arithmetic, at less than half the speed; without it "
        "scores may differ by 1e-5 of the largest",
    )
    coarse: float = Field(
        0,
        ge=0,
        le=1,
        description="take every second patch first, and those between only where the score moves "
        "by this share of its largest move; 0 takes all",
    )
    layer: str | None = Field(
        None, max_length=200, description="watch a channel of this layer instead of the class"
    )
    channel: int = Field(
        0, ge=0, le=100_000, description="its channel; the largest value of its map is watched"
    )


@technique(
    "occlusion",
    family="attribution",
    runs="interactive",
    source="Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2",
    outputs={
        "heatmap": "how far the score falls where it is covered, the mean of all patches there"
    },
)
def occlusion(
    model: VisionModel, image: Annotated[Image, "picture to explain"], params: OcclusionParams
) -> Outcome:
    """Cover one part of the picture after the other and watch the score.

    Where it falls, the network has looked; where it rises, what was there spoke against the class.
    """
    boxes = patches(model.input_size, params.patch, params.stride)

    def explain(model: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        filling = _filling(model, pixels, params)
        with torch.inference_mode():
            logits = model.logits(pixels)
            chosen = choose_class(model, logits, target)

            def fall(some: list[Box]) -> Tensor:
                if params.layer is None:
                    seen = _logits(model, pixels, filling, some, quick=quick)
                    scores = (seen if params.score == "logit" else seen.softmax(1))[:, chosen]
                else:
                    scores = _answers(model, params.layer, params.channel, pixels, filling, some)
                return scores[0] - scores[1:]

            # one arithmetic for all, however many there will be
            quick = None if params.exact else compiled_scorer(model, len(boxes))
            falls, taken = coarse_to_fine(fall, boxes, params.coarse)
            field = spread(falls, boxes, pixels.shape[-1])
        facts = {"patches": len(boxes), "taken": taken}
        neuron = _neuron(model, pixels, params)
        return Attribution(field.clone(), logits.clone(), chosen, facts, neuron=neuron)

    return explained(model, image, params, explain)


def _logits(
    model: VisionModel, pixels: Tensor, filling: Tensor, boxes: list[Box], *, quick: Scorer | None
) -> Tensor:
    """Return the logits `[1+P,C]` of the picture, and of it under each patch."""
    if quick is None:
        hidden = LocalChange(model, pixels, boxes).logits(filling, boxes)
        return torch.cat([model.logits(pixels), hidden])
    parts = [boxes[at : at + TOGETHER] for at in range(0, len(boxes), TOGETHER)]
    # all of one kind: what rounding adds to each is nearly the same, and falls out of differences
    return torch.cat([quick(pixels), *(quick(covered(pixels, filling, part)) for part in parts)])


def _answers(
    model: VisionModel, layer: str, channel: int, pixels: Tensor, filling: Tensor, boxes: list[Box]
) -> Tensor:
    """Return the largest value of a channel for the picture, and for it under each patch, `[1+P]`.

    Raises:
        InvalidParameter: the layer has no such channel.
    """
    check_channel(channel, model.channel_count(layer), layer)
    with model.capture([layer]) as features:

        def answer(pictures: Tensor) -> Tensor:
            return features(pictures)[layer][:, channel].reshape(len(pictures), -1).amax(1)

        parts = [boxes[at : at + TOGETHER] for at in range(0, len(boxes), TOGETHER)]
        return torch.cat([answer(pixels), *(answer(covered(pixels, filling, p)) for p in parts)])


@torch.inference_mode()
def _neuron(model: VisionModel, pixels: Tensor, params: OcclusionParams) -> dict[str, Any] | None:
    """Say which neuron of the watched channel is the largest for the picture."""
    if params.layer is None:
        return None
    with model.capture([params.layer]) as features:
        activation = features(pixels)[params.layer][0]
    index = strongest(activation, params.channel, params.layer)
    return {"layer": params.layer, "index": list(index), "value": float(activation[index])}


def _filling(model: VisionModel, pixels: Tensor, params: OcclusionParams) -> Tensor:
    if params.fill == "blur":
        return blur(pixels, BLUR * pixels.shape[-1] / 224)
    level = {"grey": model.grey, "mean": pixels.mean((2, 3), keepdim=True)}.get(params.fill)
    return torch.zeros_like(pixels) if level is None else level.expand_as(pixels)
