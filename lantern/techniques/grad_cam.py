"""Grad-CAM and its family: where in the picture a class is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.progress import Progress, Told
from lantern.registry import technique
from lantern.scoring import scorer
from lantern.techniques.effort import effort
from lantern.techniques.explained import Attribution, ExplainParams, explained, resized, turn
from lantern.techniques.guided_backprop import WARNING, rule_gradient
from lantern.techniques.target import choose_class, require_grid
from lantern.techniques.trials import Trials
from lantern.vision_model import TOGETHER, VisionModel
from lantern.work import Sizes, Work

Method = Literal[
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "score-cam",
    "ablation-cam",
    "guided-grad-cam",
]


class GradCamParams(ExplainParams):
    """What to explain, at which layer and how."""

    method: Method = Field("grad-cam", description="how the layer's channels are weighed")
    layer: str | None = Field(
        None, max_length=200, description="layer to weigh; the last convolution if absent"
    )
    relu: bool = Field(True, description="keep only what speaks for the class, as the paper does")
    channels: int = Field(
        128,
        ge=1,
        le=4096,
        description="most channels, the strongest first, that score-cam and ablation-cam try",
    )


def _work(params: GradCamParams, sizes: Sizes, model: VisionModel) -> Work:
    tries = params.method in ("score-cam", "ablation-cam")
    count = model.channel_count(params.layer or model.cam_layer) if tries else 0
    return effort(params, model, 2 + min(params.channels, count))


@technique(
    "grad-cam",
    title="Grad-CAM",
    family="attribution",
    runs="interactive",
    source="Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2; the others as the "
    "functions of their names say",
    outputs={
        "heatmap": "evidence for the class at each pixel, in logit units of the layer",
        "signed": "the same before `relu`, where that is on; negative speaks against the class",
    },
    work=_work,
)
def grad_cam(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    progress: Progress,
    checkpoints: Checkpoints,
    params: GradCamParams,
) -> Outcome:
    """Show the regions that speak for a class.

    Weighs the channels of a layer by what they mean for the class, and sums them: by their mean
    gradient (Grad-CAM) or by one of the rules that came after it. `signed` also shows what
    speaks against the class; with `relu=false` the map itself does.
    """

    told = Told(progress)

    def explain(network: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        layer = params.layer or network.cam_layer
        with _gradient_network(network, layer).tail(layer) as tail:
            activation, logits = tail(pixels)
            target = choose_class(network, logits, target)
            require_grid(activation, layer)
            (gradient,) = torch.autograd.grad(logits[0, target], activation)
        logits, activation = logits.detach(), activation.detach()
        facts: dict[str, object] = {"layer": layer, "grid": list(activation.shape[2:])}
        if rule := BY_GRADIENT.get(params.method):
            field = rule(activation, gradient)
        else:
            weigh, few = BY_TRIAL[params.method]
            tried = _strongest(activation, params.channels)
            _, tell, kept = turn(network, model, told, checkpoints)
            total = -(-len(tried) // few)
            shown = partial(_seen_through, network, pixels, activation)
            steps = Trials.begun(tell, kept, total, few, shown, pixels.device)
            weights = weigh(network, pixels, activation, tried, target, layer, steps)
            field = torch.einsum("k,khw->hw", weights, activation[0, tried])
            facts["channels"] = {"tried": len(tried), "of": activation.shape[1]}
        maps = {"heatmap": field.relu(), "signed": field} if params.relu else {"heatmap": field}
        if params.method == "guided-grad-cam":
            maps = _with_detail(network, pixels, target, maps)
        heatmap = maps.pop("heatmap")
        return Attribution(heatmap, logits, target, facts, maps, warnings=warnings)

    warnings = (WARNING,) if params.method == "guided-grad-cam" else ()
    return explained(model, image, params, explain)


def _gradient_network(model: VisionModel, layer: str) -> VisionModel:
    """Return the network whose layer is looked at."""
    # rounding switches few units behind the last convolution, but many behind an earlier layer
    return model.quick([layer]) if layer == model.cam_layer else model


def _with_detail(
    model: VisionModel, pixels: Tensor, target: int, maps: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Multiply maps `[h,w]` by guided backpropagation, each `[S,S]`."""
    fine, _, _ = rule_gradient(model, pixels, target, "guided", pointer="/params/method")
    detail = fine.abs().amax(0)
    size = (pixels.shape[2], pixels.shape[3])
    return {name: resized(field, size) * detail for name, field in maps.items()}


def class_activation(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the sum `[h,w]` of channels `[1,C,h,w]` weighed by their mean gradient, signed."""
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * activation).sum(1)[0]


def plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weigh positive gradients by how much their place matters, so that several objects count.

    Source: Chattopadhay et al. 2018, arXiv:1710.11063, equation 19.
    """
    square, cube = gradient.square(), gradient.pow(3)
    share = square / (2 * square + activation.sum((2, 3), keepdim=True) * cube + 1e-6)
    weights = (share.where(gradient != 0, 0.0) * gradient.relu()).sum((2, 3), keepdim=True)
    return (weights * activation).sum(1)[0]


def high_resolution(activation: Tensor, gradient: Tensor) -> Tensor:
    """Multiply place by place: what the layer really used. Source: Draelos 2020, arXiv:2011.08891.

    Where the head pools and is linear, it is Grad-CAM.
    """
    return (activation * gradient).sum(1)[0]


def by_layer(activation: Tensor, gradient: Tensor) -> Tensor:
    """Multiply by positive gradients place by place: also early layers give fine maps.

    Source: Jiang et al. 2021, LayerCAM, IEEE TIP 30, equation 5.
    """
    return (activation * gradient.relu()).sum(1)[0]


def score_weights(
    model: VisionModel,
    pixels: Tensor,
    activation: Tensor,
    tried: list[int],
    target: int,
    layer: str,
    steps: Trials[int],
) -> Tensor:
    """Weigh channels by the class score of the picture seen through each.

    Source: Wang et al. 2020, arXiv:1910.01279, algorithm 1.
    """
    score = scorer(model, len(tried))

    @torch.inference_mode()
    def of(some: list[int]) -> Tensor:
        return score(_through(model, pixels, activation, some))[:, target]

    # compiled scores are float64
    return steps.scored(tried, of).softmax(0).to(activation)


def _through(model: VisionModel, pixels: Tensor, activation: Tensor, some: list[int]) -> Tensor:
    """Return the picture `[N,3,S,S]` as it is seen through each channel, grey where that is low."""
    # corners on corners, as its authors do
    masks = torch.nn.functional.interpolate(
        activation[:, some], size=pixels.shape[2:], mode="bilinear", align_corners=True
    )[0]
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    masks = ((masks - low) / (high - low).clamp_min(1e-8))[:, None]
    return model.grey + (pixels - model.grey) * masks


def _seen_through(model: VisionModel, pixels: Tensor, activation: Tensor, channel: int) -> Image:
    return Image(_through(model, pixels, activation, [channel])[0].cpu())


def ablation_weights(
    model: VisionModel,
    pixels: Tensor,
    activation: Tensor,
    tried: list[int],
    target: int,
    layer: str,
    steps: Trials[int],
) -> Tensor:
    """Weigh channels by how far the class score falls without each, as a share of its size.

    The paper divides by the score itself, which it takes for positive; where it is negative, that
    would turn the map upside down.

    Source: Desai and Ramaswamy 2020, Ablation-CAM, WACV, equation 3.
    """
    with torch.inference_mode(), model.substitute(layer) as tail:
        whole = tail(pixels, activation)[0, target]

        def of(some: list[int]) -> Tensor:
            without = activation.repeat(len(some), 1, 1, 1)
            without[torch.arange(len(some)), some] = 0
            return tail(pixels, without)[:, target]

        left = steps.scored(tried, of)
    return (whole - left) / whole.abs().clamp_min(1e-8)


def _strongest(activation: Tensor, count: int) -> list[int]:
    """Return the numbers of the channels with the largest mean."""
    strength = activation[0].mean((1, 2))
    found: list[int] = strength.topk(min(count, len(strength))).indices.sort().values.tolist()
    return found


BY_GRADIENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": class_activation,
    "guided-grad-cam": class_activation,
    "grad-cam++": plus_plus,
    "hires-cam": high_resolution,
    "layer-cam": by_layer,
}
# How channels are weighed by trying them, and how many pass together: whole pictures, or
# activations from their layer on.
BY_TRIAL = {"score-cam": (score_weights, TOGETHER), "ablation-cam": (ablation_weights, 32)}
