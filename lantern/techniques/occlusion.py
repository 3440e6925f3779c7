"""Occlusion: how the score falls where a patch covers the picture."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.image import Image
from lantern.local_change import Box, LocalChange, covered
from lantern.optimize.regularize import blur
from lantern.patches import coarse_to_fine, patches, spread
from lantern.progress import Progress, Step, Told
from lantern.registry import technique
from lantern.scoring import Scorer, compiled_scorer
from lantern.techniques.effort import effort
from lantern.techniques.explained import Attribution, explained
from lantern.techniques.neuron import NeuronParams, find_neuron, neuron_facts
from lantern.techniques.target import choose_class, require_whole
from lantern.vision_model import TOGETHER, VisionModel
from lantern.work import Sizes, Work

# Sigma of the blur that covers, px at 224.
BLUR = 12.0
# Patches of a step: as many as LocalChange takes together, so that steps change no rounding.
STEP = 16

Parts = Callable[[list[Box]], Iterator[list[Box]]]
"""Goes through patches a few at a time, and tells of it."""


class OcclusionParams(NeuronParams):
    """What covers the picture, and what is watched."""

    patch: int = Field(32, ge=1, le=512, description="side of the patch, px of the network's view")
    stride: int = Field(16, ge=1, le=512, description="step from patch to patch, px of the view")
    fill: Literal["grey", "mean", "blur", "black"] = Field(
        "grey",
        description="what covers: the network's grey, the picture's mean colour, the picture "
        "blurred, or black",
    )
    score: Literal["probability", "logit"] = Field(
        "probability",
        description="which score of the class is watched; of a neuron it is its value",
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


def _work(params: OcclusionParams, sizes: Sizes, model: VisionModel) -> Work:
    return effort(params, model, 1 + len(patches(model.input_size, params.patch, params.stride)))


@technique(
    "occlusion",
    family="attribution",
    runs="interactive",
    source="Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2",
    outputs={
        "heatmap": "how far the score falls where it is covered, the mean of all patches there"
    },
    work=_work,
)
def occlusion(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    progress: Progress,
    params: OcclusionParams,
) -> Outcome:
    """Cover one part of the picture after the other and watch the score.

    Where it falls, the network has looked; where it rises, what was there spoke against the class.
    With a layer, one of its neurons is watched: that at a place of a channel, or the strongest.
    """
    params.check()
    boxes = patches(model.input_size, params.patch, params.stride)
    told = Told(progress)

    def explain(network: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        filling = _filling(network, pixels, params)
        with torch.inference_mode():
            logits = network.logits(pixels)
            chosen = choose_class(network, logits, target)
            tell = told.step if network is model else told.again
            neuron = _neuron(network, pixels, params)
            parts = _telling(tell, pixels, filling, _most_steps(len(boxes), params.coarse))

            def fall(some: list[Box]) -> Tensor:
                if neuron is None:
                    seen = _logits(network, pixels, filling, some, parts, quick=quick)
                    is_logit = params.score == "logit"
                    scores = (seen if is_logit else network.probabilities(seen))[:, chosen]
                else:
                    scores = _answers(network, neuron, pixels, filling, some, parts)
                return scores[0] - scores[1:]

            # one arithmetic for all, however many there will be
            plainly = params.exact or neuron is not None
            quick = None if plainly else compiled_scorer(network, len(boxes))
            falls, taken = coarse_to_fine(fall, boxes, params.coarse)
            field = spread(falls, boxes, pixels.shape[-1])
        facts = {"patches": len(boxes), "taken": taken}
        return Attribution(field.clone(), logits.clone(), chosen, facts, neuron=neuron)

    return explained(model, image, params, explain)


def _most_steps(count: int, coarse: float) -> int:
    """Return how many steps there are at most: coarse and fine patches begin one each."""
    return -(-count // STEP) + bool(coarse)


def _telling(progress: Progress, pixels: Tensor, filling: Tensor, total: int) -> Parts:
    """Return what goes through patches and tells of each few, with the picture under the last."""
    done = itertools.count(1)

    def parts(boxes: list[Box]) -> Iterator[list[Box]]:
        for at in range(0, len(boxes), STEP):
            some = boxes[at : at + STEP]
            yield some
            progress(Step(next(done), total, 0.0, functools.partial(shown, some[-1:])))

    def shown(boxes: list[Box]) -> Image:
        return Image(covered(pixels, filling, boxes)[0].cpu())

    return parts


def _logits(
    model: VisionModel,
    pixels: Tensor,
    filling: Tensor,
    boxes: list[Box],
    parts: Parts,
    *,
    quick: Scorer | None,
) -> Tensor:
    """Return the logits `[1+P,C]` of the picture, and of it under each patch."""
    if quick is None:
        change = LocalChange(model, pixels, boxes)
        hidden = [change.logits(filling, some) for some in parts(boxes)]
        return torch.cat([model.logits(pixels), *hidden])
    # all of one kind: what rounding adds to each is nearly the same, and falls out of differences
    seen = (quick(covered(pixels, filling, few)) for some in parts(boxes) for few in _few(some))
    return torch.cat([quick(pixels), *seen])


def _answers(
    model: VisionModel,
    neuron: Mapping[str, Any],
    pixels: Tensor,
    filling: Tensor,
    boxes: list[Box],
    parts: Parts,
) -> Tensor:
    """Return the value of one neuron for the picture and under each patch, `[1+P]`."""
    layer, index = neuron["layer"], neuron["index"]
    with model.capture([layer]) as features:

        def answer(pictures: Tensor) -> Tensor:
            return features(pictures)[layer][:, *index]

        hidden = (covered(pixels, filling, few) for some in parts(boxes) for few in _few(some))
        return torch.cat([answer(pixels), *map(answer, hidden)])


def _few(boxes: list[Box]) -> Iterator[list[Box]]:
    """Part patches into those that pass through the network together."""
    return (boxes[at : at + TOGETHER] for at in range(0, len(boxes), TOGETHER))


@torch.inference_mode()
def _neuron(model: VisionModel, pixels: Tensor, params: OcclusionParams) -> dict[str, Any] | None:
    """Say which neuron is watched, found on the picture while nothing covers it.

    Raises:
        InvalidParameter: the layer has no such channel or place, or runs on parts of the picture.
    """
    if params.layer is None:
        return None
    with model.capture([params.layer]) as features:
        made = features(pixels)[params.layer]
    require_whole(made, params.layer, 1)
    found = find_neuron(made[0], params, params.layer)
    return neuron_facts(params.layer, found, made[0])


def _filling(model: VisionModel, pixels: Tensor, params: OcclusionParams) -> Tensor:
    if params.fill == "blur":
        return blur(pixels, BLUR * pixels.shape[-1] / 224)
    level = {"grey": model.grey, "mean": pixels.mean((2, 3), keepdim=True)}.get(params.fill)
    return torch.zeros_like(pixels) if level is None else level.expand_as(pixels)
