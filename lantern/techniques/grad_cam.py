"""Grad-CAM: where in the picture a class is found."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Heatmap, Outcome
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.params import Params
from lantern.registry import technique
from lantern.techniques.classify import Fit
from lantern.techniques.saliency import degenerate
from lantern.techniques.target import LARGEST_MAP, choose_class, class_facts
from lantern.vision_model import VisionModel


class GradCamParams(Params):
    """What to explain, and at which layer."""

    target: int | None = Field(
        None, ge=0, le=100_000, description="class to explain; the network's first choice if absent"
    )
    layer: str | None = Field(
        None, max_length=200, description="layer to weigh; the last convolution if absent"
    )
    relu: bool = Field(True, description="keep only what speaks for the class, as the paper does")
    fit: Fit = Field("squash", description="show the network the whole squashed, or the centre")


@technique(
    "grad-cam",
    title="Grad-CAM",
    family="attribution",
    runs="interactive",
    source="Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2",
    outputs={"heatmap": "evidence for the class at each pixel, in logit units of the layer"},
)
def grad_cam(
    model: VisionModel, image: Annotated[Image, "picture to explain"], params: GradCamParams
) -> Outcome:
    """Show the regions that speak for a class.

    Weighs the channels of a layer by the mean gradient of the class score and sums them. With
    `relu=false` the map keeps its sign and also shows what speaks against the class.
    """
    image = image.fit(LARGEST_MAP)
    framing = model.frame(image, params.fit)
    layer = params.layer or model.cam_layer
    with model.tail(layer) as tail:
        activation, logits = tail(framing.pixels)
        target = choose_class(model, logits, params.target)
        field = class_activation(activation, logits[0, target], layer)
    if params.relu:
        field = field.relu()
    heatmap = Heatmap("heatmap", framing.to_picture(field.cpu()), image)
    facts = class_facts(model, logits, target) | degenerate(heatmap)
    return Outcome((heatmap,), facts | {"layer": layer, "grid": list(field.shape)})


def class_activation(activation: Tensor, score: Tensor, layer: str) -> Tensor:
    """Return the weighted sum of channels `[H,W]` for an activation `[1,C,H,W]`, signed.

    Raises:
        InvalidParameter: the layer has no rows and columns, or the score does not depend on it.
    """
    if activation.dim() != 4:
        raise InvalidParameter(
            f"layer {layer} has no rows and columns; choose a convolutional layer",
            pointer="/params/layer",
        )
    (gradient,) = torch.autograd.grad(score, activation)
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * activation.detach()).sum(1)[0]
