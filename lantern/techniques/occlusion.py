"""Occlusion: how the score falls where a patch covers the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.local_change import Box, LocalChange, covered
from lantern.optimize.regularize import blur
from lantern.patches import coarse_to_fine, patches, spread
from lantern.progress import Progress, Told
from lantern.registry import technique
from lantern.scoring import Scorer, compiled_scorer
from lantern.techniques.effort import effort
from lantern.techniques.explained import (
    ROUNDING,
    Attribution,
    explained,
    rounding_of_logits,
    rounding_of_probability,
    turn,
)
from lantern.techniques.neuron import NeuronParams, Watched, neuron_facts
from lantern.techniques.target import choose_class, require_whole
from lantern.techniques.trials import Trials
from lantern.vision_model import TOGETHER, VisionModel
from lantern.work import Sizes, Work

# Sigma of the blur that covers, px at 224.
BLUR = 12.0
# Patches of a step: as many as LocalChange takes together, so that steps change no rounding.
STEP = 16


class OcclusionParams(NeuronParams):
    """What covers the picture, and what is watched."""

    patch: int | None = Field(
        None,
        ge=1,
        le=512,
        description="side of the patch, px of the network's view; a seventh of its side if absent",
    )
    stride: int | None = Field(
        None,
        ge=1,
        le=512,
        description="step from patch to patch, px of the view; a fourteenth of its side if absent",
    )
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
        description="take the network's own arithmetic, at two thirds of the speed; without it "
        "scores may differ by 1e-5 of the largest",
    )
    coarse: float = Field(
        0,
        ge=0,
        le=1,
        description="take every second patch first, and those between only where the score moves "
        "by this share of its largest move; 0 takes all",
    )

    def steps_over(self, side: int) -> tuple[int, int]:
        """Return the patch and the stride for a network that looks at so many px."""
        # 32 and 16 of the usual 224
        patch, stride = max(1, round(side / 7)), max(1, round(side / 14))
        return self.patch or patch, self.stride or stride


def _work(params: OcclusionParams, sizes: Sizes, model: VisionModel) -> Work:
    side = model.input_size
    return effort(params, model, 1 + len(patches(side, *params.steps_over(side))))


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
    checkpoints: Checkpoints,
    params: OcclusionParams,
) -> Outcome:
    """Cover one part of the picture after the other and watch the score.

    Where it falls, the network has looked; where it rises, what was there spoke against the class.
    With a layer, one of its neurons is watched: that at a place of a channel, or the strongest.
    """
    params.check()
    patch, stride = params.steps_over(model.input_size)
    boxes = patches(model.input_size, patch, stride)
    told, watched = Told(progress), Watched(params)

    def explain(network: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        filling = _filling(network, pixels, params)

        def shown(last: Box) -> Image:
            return Image(covered(pixels, filling, [last])[0].cpu())

        with torch.inference_mode():
            logits = network.logits(pixels)
            chosen = choose_class(network, logits, target)
            _, tell, kept = turn(network, model, told, checkpoints)
            neuron = _neuron(network, pixels, params.layer, watched)
            total = _most_steps(len(boxes), params.coarse)
            steps = Trials.begun(tell, kept, total, STEP, shown, pixels.device)

            def fall(some: list[Box]) -> Tensor:
                if neuron is not None:
                    return _by_answers(network, neuron, pixels, filling, some, steps)

                def scores(logits: Tensor) -> Tensor:
                    is_logit = params.score == "logit"
                    return (logits if is_logit else network.probabilities(logits))[:, chosen]

                return _by_logits(network, scores, pixels, filling, some, steps, quick=quick)

            # one arithmetic for all, however many there will be
            plainly = params.exact or neuron is not None
            quick = None if plainly else compiled_scorer(network, len(boxes))
            falls, taken = coarse_to_fine(fall, boxes, params.coarse)
            field = spread(falls, boxes, pixels.shape[-1])
            rounding = _rounding(network, logits, chosen, neuron, params)
        facts = {"patch": patch, "stride": stride, "patches": len(boxes), "taken": taken}
        return Attribution(
            field.clone(), logits.clone(), chosen, facts, neuron=neuron, rounding=rounding
        )

    return explained(model, image, params, explain)


def _rounding(
    model: VisionModel,
    logits: Tensor,
    target: int,
    neuron: Mapping[str, Any] | None,
    params: OcclusionParams,
) -> float:
    """Return how far apart two scores may lie by rounding alone."""
    if neuron is not None:
        return ROUNDING * abs(float(neuron["value"]))
    if params.score == "logit":
        return rounding_of_logits(logits)
    return rounding_of_probability(model, logits, target)


def _most_steps(count: int, coarse: float) -> int:
    """Return how many steps there are at most: coarse and fine patches begin one each."""
    return -(-count // STEP) + bool(coarse)


def _by_logits(
    model: VisionModel,
    scores: Callable[[Tensor], Tensor],
    pixels: Tensor,
    filling: Tensor,
    boxes: list[Box],
    steps: Trials[Box],
    *,
    quick: Scorer | None,
) -> Tensor:
    """Return how far the score of logits falls under each patch, `[P]`."""
    if quick is None:
        change = LocalChange(model, pixels, boxes)
        hidden = steps.scored(boxes, lambda some: scores(change.logits(filling, some)))
        return scores(model.logits(pixels)) - hidden

    def score(some: list[Box]) -> Tensor:
        return scores(torch.cat([quick(covered(pixels, filling, few)) for few in _few(some)]))

    # all of one kind: what rounding adds to each is nearly the same, and falls out of differences
    return scores(quick(pixels)) - steps.scored(boxes, score)


def _by_answers(
    model: VisionModel,
    neuron: Mapping[str, Any],
    pixels: Tensor,
    filling: Tensor,
    boxes: list[Box],
    steps: Trials[Box],
) -> Tensor:
    """Return how far the value of one neuron falls under each patch, `[P]`."""
    layer, index = neuron["layer"], neuron["index"]
    with model.capture([layer]) as features:

        def answer(pictures: Tensor) -> Tensor:
            return features(pictures)[layer][:, *index]

        def score(some: list[Box]) -> Tensor:
            return torch.cat([answer(covered(pixels, filling, few)) for few in _few(some)])

        return answer(pixels) - steps.scored(boxes, score)


def _few(boxes: list[Box]) -> Iterator[list[Box]]:
    """Part patches into those that pass through the network together."""
    return (boxes[at : at + TOGETHER] for at in range(0, len(boxes), TOGETHER))


@torch.inference_mode()
def _neuron(
    model: VisionModel, pixels: Tensor, layer: str | None, watched: Watched
) -> dict[str, Any] | None:
    """Say which neuron is watched, found on the picture while nothing covers it.

    Raises:
        InvalidParameter: the layer has no such channel or place, or runs on parts of the picture.
    """
    if layer is None:
        return None
    with model.capture([layer]) as features:
        made = features(pixels)[layer]
    require_whole(made, layer, 1)
    return neuron_facts(layer, watched.index(made[0], layer), made[0])


def _filling(model: VisionModel, pixels: Tensor, params: OcclusionParams) -> Tensor:
    if params.fill == "blur":
        return blur(pixels, BLUR * pixels.shape[-1] / 224)
    level = {"grey": model.grey, "mean": pixels.mean((2, 3), keepdim=True)}.get(params.fill)
    return torch.zeros_like(pixels) if level is None else level.expand_as(pixels)
